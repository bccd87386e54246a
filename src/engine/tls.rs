//! A TLS 1.3 handshake in either role, in place over the caller's bytes; what it
//! leaves are the keys of the record layer.
//!
//! rustls drives the handshake and is gone after it. Its `kernel` interface
//! would keep some 1.6 KiB for each connection, to compute new keys when one
//! side renews its own; instead we keep both traffic secrets, which it tells to
//! a key log, and renew by ourselves (`record/tls.rs`). Bounds the bytes of a
//! handshake ([`HANDSHAKE_MAX`], [`WEB_HANDSHAKE_MAX`]) and its records. Certificates
//! are left to the configuration, the deadline to the caller.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{CipherSuite, ClientConfig, CommonState, KeyLog, ServerConfig};

use crate::engine::record::{OpenKey, SealKey, Secret, Suite};
use crate::wire::tls::{RECORD_HEADER_LEN, record_len};

/// Most bytes that a peer may send before its handshake is done, and a client of
/// the Web. The largest
/// honest ones are a hello with keys against quantum computers (1.7 KiB) and a
/// certificate of an RSA identity (3 KiB).
pub const HANDSHAKE_MAX: usize = 16 * 1024;

/// Most records in which they may come: an honest handshake takes five or six.
/// rustls looks again at those that it has kept whenever another one comes.
pub const RECORDS_MAX: usize = 64;

/// Most bytes that a server of the Web may send likewise: a long chain of
/// certificates, and what browsers are told beside it.
pub const WEB_HANDSHAKE_MAX: usize = 64 * 1024;

/// Most records in which they may come: some servers begin with small ones.
pub const WEB_RECORDS_MAX: usize = 128;

/// What a peer may send before its handshake is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    bytes: usize,
    records: usize,
}

/// Of peers, and of clients of the Web.
pub const PEER: Bounds = Bounds {
    bytes: HANDSHAKE_MAX,
    records: RECORDS_MAX,
};

/// Of servers of the Web.
const WEB: Bounds = Bounds {
    bytes: WEB_HANDSHAKE_MAX,
    records: WEB_RECORDS_MAX,
};

/// Why a handshake failed. What was put out before is to be sent: its end is
/// the alert that tells the peer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// What the peer said, or its certificate, is no good.
    #[error("tls: {0}")]
    Refused(#[from] rustls::Error),
    /// The peer sends more than any handshake takes.
    #[error("tls handshake exceeds {} bytes or {} records", .0.bytes, .0.records)]
    TooLarge(Bounds),
    /// The handshake came to an end that is none.
    #[error("tls handshake ended before it was done")]
    Ended,
}

/// What a handshake leaves.
pub struct Finished {
    /// Seals what we send next.
    pub seal: SealKey,
    /// Opens what comes next.
    pub open: OpenKey,
    /// The protocol agreed on, if there was a list.
    pub protocol: Option<Vec<u8>>,
    /// The certificates of the peer, verified; empty if it showed none.
    pub chain: Vec<CertificateDer<'static>>,
}

/// One handshake under way.
pub struct TlsHandshake {
    side: Side,
    secrets: Arc<TrafficSecrets>,
    /// Bytes at the front of the next input that rustls has seen already: the
    /// beginning of a message that goes on in the next record.
    seen: usize,
    received: usize,
    records: usize,
    bounds: Bounds,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl TlsHandshake {
    /// Awaits the hello of a client. Tickets are never sent, whatever `config`
    /// says: a record of ours would be in front of the first one.
    ///
    /// # Errors
    /// [`TlsError::Refused`] if the configuration is of no use.
    pub fn server(mut config: ServerConfig) -> Result<Self, TlsError> {
        let secrets = Arc::new(TrafficSecrets::default());
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        config.send_tls13_tickets = 0;
        let connection = UnbufferedServerConnection::new(Arc::new(config))?;
        let side = Side::Server(Box::new(connection));
        Ok(Self::new(side, secrets, PEER))
    }

    /// Appends the hello to a peer to `output`. No name is sent.
    ///
    /// # Errors
    /// [`TlsError::Refused`] if the configuration is of no use.
    pub fn client(mut config: ClientConfig, output: &mut Vec<u8>) -> Result<Self, TlsError> {
        config.enable_sni = false;
        let name = ServerName::try_from("peer.invalid").map_err(|_| TlsError::Ended)?;
        Self::client_within(PEER, config, name, output)
    }

    /// Appends the hello to the server of the Web of this name to `output`.
    ///
    /// # Errors
    /// [`TlsError::Refused`] if the configuration is of no use.
    pub fn client_of(
        config: ClientConfig,
        name: ServerName<'static>,
        output: &mut Vec<u8>,
    ) -> Result<Self, TlsError> {
        Self::client_within(WEB, config, name, output)
    }

    fn client_within(
        bounds: Bounds,
        mut config: ClientConfig,
        name: ServerName<'static>,
        output: &mut Vec<u8>,
    ) -> Result<Self, TlsError> {
        let secrets = Arc::new(TrafficSecrets::default());
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let connection = UnbufferedClientConnection::new(Arc::new(config), name)?;
        let side = Side::Client(Box::new(connection));
        let mut handshake = Self::new(side, secrets, bounds);
        handshake.run(&mut [], output)?;
        Ok(handshake)
    }

    fn new(side: Side, secrets: Arc<TrafficSecrets>, bounds: Bounds) -> Self {
        Self {
            side,
            secrets,
            seen: 0,
            received: 0,
            records: 0,
            bounds,
        }
    }

    /// Most bytes of input that it wants at once: all, and the header of the
    /// record that is too much.
    #[must_use]
    pub const fn input_max(&self) -> usize {
        self.bounds.bytes + RECORD_HEADER_LEN
    }

    /// Takes records from the front of `input`, in place, and appends answers
    /// to `output`. Tells how many bytes are done with; the rest has to stand
    /// in front of the next input. Behind the last record of the handshake
    /// nothing is touched.
    ///
    /// # Errors
    /// [`TlsError`]; `output` ends with an alert then.
    pub fn handle_input(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Option<Finished>), TlsError> {
        let mut used = 0;
        loop {
            let begin = used + self.seen;
            let Some(length) = record_len(&input[begin..]) else {
                return Ok((used, None));
            };
            let Bounds { bytes, records } = self.bounds;
            if self.received + length > bytes || self.records == records {
                return Err(TlsError::TooLarge(self.bounds));
            }
            // One record at a time: what stands behind the last one has keys
            // that only the record layer has.
            let Some(records) = input.get_mut(used..begin + length) else {
                return Ok((used, None));
            };
            let held = records.len();
            self.received += length;
            self.records += 1;
            let (done_with, is_done) = self.run(records, output)?;
            used += done_with;
            self.seen = held - done_with;
            if is_done {
                return self.finish().map(|finished| (used, Some(finished)));
            }
        }
    }

    fn run(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> Result<(usize, bool), TlsError> {
        match &mut self.side {
            Side::Server(connection) => run(
                connection,
                UnbufferedConnectionCommon::<ServerConnectionData>::process_tls_records,
                input,
                output,
            ),
            Side::Client(connection) => run(
                connection,
                UnbufferedConnectionCommon::<ClientConnectionData>::process_tls_records,
                input,
                output,
            ),
        }
    }

    fn finish(&self) -> Result<Finished, TlsError> {
        if self.seen > 0 {
            return Err(TlsError::Ended);
        }
        let (state, theirs, ours): (&CommonState, _, _) = match &self.side {
            Side::Server(connection) => (connection, &self.secrets.client, &self.secrets.server),
            Side::Client(connection) => (connection, &self.secrets.server, &self.secrets.client),
        };
        let suite = state
            .negotiated_cipher_suite()
            .and_then(|suite| suite_of(suite.suite()));
        let (Some(suite), Some(theirs), Some(ours)) = (suite, theirs.get(), ours.get()) else {
            return Err(TlsError::Ended);
        };
        Ok(Finished {
            seal: SealKey::tls(suite, ours),
            open: OpenKey::tls(suite, theirs),
            protocol: state.alpn_protocol().map(<[u8]>::to_vec),
            chain: state
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
        })
    }
}

type Process<Data> = for<'c, 'i> fn(
    &'c mut UnbufferedConnectionCommon<Data>,
    &'i mut [u8],
) -> UnbufferedStatus<'c, 'i, Data>;

/// Hands whole records to rustls and takes what it has to say. Tells how many
/// bytes it is done with, and whether the handshake is.
fn run<Data>(
    connection: &mut UnbufferedConnectionCommon<Data>,
    process: Process<Data>,
    input: &mut [u8],
    output: &mut Vec<u8>,
) -> Result<(usize, bool), TlsError> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state } = process(connection, &mut input[used..]);
        let stop = match state {
            Ok(ConnectionState::EncodeTlsData(mut flight)) => {
                append(&mut flight, output)?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(flight)) => {
                flight.done();
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(false),
            Ok(ConnectionState::WriteTraffic(_)) => Some(true),
            // The peer closes, or what comes is no handshake.
            Ok(_) => return Err(TlsError::Ended),
            Err(error) => {
                // What rustls has left to say ends with the alert. Asked for
                // more than it has, it would look at messages that are gone.
                let rest = &mut input[used + discard..];
                while connection.wants_write()
                    && let Ok(ConnectionState::EncodeTlsData(mut flight)) =
                        process(connection, rest).state
                {
                    append(&mut flight, output)?;
                }
                return Err(error.into());
            }
        };
        used += discard;
        if let Some(is_done) = stop {
            return Ok((used, is_done));
        }
    }
}

fn append<Data>(
    flight: &mut EncodeTlsData<'_, Data>,
    output: &mut Vec<u8>,
) -> Result<(), TlsError> {
    let start = output.len();
    if let Err(EncodeError::InsufficientSize(missing)) = flight.encode(&mut []) {
        output.resize(start + missing.required_size, 0);
        flight
            .encode(&mut output[start..])
            .map_err(|_| TlsError::Ended)?;
    }
    Ok(())
}

/// The suite by that name, if it is one of TLS 1.3.
#[must_use]
pub fn suite_of(suite: CipherSuite) -> Option<Suite> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Suite::Aes128),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Suite::Aes256),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(Suite::ChaCha20),
        _ => None,
    }
}

/// The traffic secrets of one connection, as rustls tells them to a key log.
#[derive(Default)]
pub struct TrafficSecrets {
    /// What the client seals with.
    pub client: OnceLock<Secret>,
    /// What the server seals with.
    pub server: OnceLock<Secret>,
}

impl TrafficSecrets {
    fn slot(&self, label: &str) -> Option<&OnceLock<Secret>> {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(&self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&self.server),
            _ => None,
        }
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if let (Some(slot), Some(secret)) = (self.slot(label), Secret::new(secret)) {
            slot.get_or_init(|| secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        self.slot(label).is_some()
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecrets")
    }
}

#[cfg(test)]
mod tests;
