//! The TLS of QUIC connections (RFC 9001): rustls as long as a handshake goes
//! on, two secrets after it.
//!
//! A session of rustls keeps the buffer of its handshake, the certificate of
//! the peer and ciphers of records that QUIC does not have: 7 KiB of a
//! connection that is done with all of it. Nothing of TLS may follow in QUIC but
//! tickets, which we neither send nor take; keys are renewed by
//! `protection.rs`.

use std::any::Any;
use std::sync::Arc;

use libp2p_identity::PeerId;
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::quic::{KeyChange, ServerConnection, Version};
use rustls::{AlertDescription, ServerConfig};

use crate::engine::tls::{TrafficSecrets, suite_of};
use crate::identity::certificate;

use super::protection::Secrets;

/// The one version of QUIC that we speak: RFC 9000 and none of its drafts.
pub const VERSION: u32 = 1;

/// How every handshake begins.
pub struct Tls {
    config: ServerConfig,
    /// Keys that everybody knows: of first packets, and of Retry.
    initial: Arc<QuicServerConfig>,
}

/// The TLS configuration cannot serve QUIC.
#[derive(Debug, thiserror::Error)]
pub enum TlsUnfit {
    /// There is no suite to begin with.
    #[error("no cipher suite for QUIC: {0}")]
    Initial(#[from] NoInitialCipherSuite),
    /// rustls does not take it.
    #[error("not fit for QUIC: {0}")]
    Refused(#[from] rustls::Error),
}

impl Tls {
    /// Serves with this certificate and verifier.
    ///
    /// # Errors
    /// [`TlsUnfit`].
    pub fn new(mut config: ServerConfig) -> Result<Self, TlsUnfit> {
        config.send_tls13_tickets = 0;
        let initial = QuicServerConfig::try_from(Arc::new(config.clone()))?;
        ServerConnection::new(Arc::new(config.clone()), Version::V1, Vec::new())?;
        Ok(Self {
            config,
            initial: Arc::new(initial),
        })
    }
}

impl crypto::ServerConfig for Tls {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.initial.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.initial.retry_tag(version, id, packet)
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        let secrets = Arc::new(TrafficSecrets::default());
        let mut config = self.config.clone();
        config.key_log = Arc::clone(&secrets) as _;
        let mut encoded = Vec::new();
        params.write(&mut encoded);
        let connection = ServerConnection::new(Arc::new(config), Version::V1, encoded)
            .expect("one was made of it at the start");
        Box::new(Session {
            initial: Arc::clone(&self.initial),
            handshake: Some(Box::new(Handshake {
                connection,
                secrets,
            })),
            secrets: None,
            peer: None,
        })
    }
}

struct Session {
    initial: Arc<QuicServerConfig>,
    /// Until it is over.
    handshake: Option<Box<Handshake>>,
    /// Behind the last keys that were asked for.
    secrets: Option<Box<Secrets>>,
    /// Whom the handshake has shown.
    peer: Option<PeerId>,
}

struct Handshake {
    connection: ServerConnection,
    secrets: Arc<TrafficSecrets>,
}

impl Handshake {
    /// What rustls has told of the keys behind the handshake.
    fn traffic(&self) -> Option<Secrets> {
        Some(Secrets {
            suite: suite_of(self.connection.negotiated_cipher_suite()?.suite())?,
            local: *self.secrets.server.get()?,
            remote: *self.secrets.client.get()?,
        })
    }

    fn peer(&self) -> Option<PeerId> {
        // Verified in the handshake.
        let key = certificate::peer_key(self.connection.peer_certificates()?).ok()?;
        Some(key.to_peer_id())
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, id: &ConnectionId, _: Side) -> Keys {
        match crypto::ServerConfig::initial_keys(&*self.initial, VERSION, id) {
            Ok(keys) => keys,
            Err(_) => unreachable!("the endpoint speaks this version only"),
        }
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    /// A [`PeerId`], as soon as there is one.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let peer = self.peer?;
        Some(Box::new(peer))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        let handshake = self.handshake.as_ref();
        handshake.is_some_and(|handshake| handshake.connection.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(handshake) = &mut self.handshake else {
            return Err(failed(
                AlertDescription::UnexpectedMessage,
                "behind its end",
            ));
        };
        let connection = &mut handshake.connection;
        connection.read_hs(bytes).map_err(|error| {
            let alert = connection.alert();
            let alert = alert.unwrap_or(AlertDescription::InternalError);
            failed(alert, &error.to_string())
        })?;
        // Nobody asks for what is known of a handshake under way.
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let handshake = self.handshake.as_ref();
        let encoded = handshake.and_then(|one| one.connection.quic_transport_parameters());
        let Some(mut encoded) = encoded else {
            return Ok(None);
        };
        Ok(Some(TransportParameters::read(Side::Server, &mut encoded)?))
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        let handshake = self.handshake.as_mut()?;
        let before = out.len();
        match handshake.connection.write_hs(out) {
            Some(KeyChange::Handshake { keys }) => Some(Keys {
                header: KeyPair {
                    local: Box::new(keys.local.header),
                    remote: Box::new(keys.remote.header),
                },
                packet: KeyPair {
                    local: Box::new(keys.local.packet),
                    remote: Box::new(keys.remote.packet),
                },
            }),
            Some(KeyChange::OneRtt { .. }) => {
                let secrets = handshake.traffic();
                let secrets = secrets.expect("told before keys are made of them");
                let keys = Keys {
                    header: secrets.header_keys(),
                    packet: secrets.packet_keys(),
                };
                self.secrets = Some(Box::new(secrets));
                Some(keys)
            }
            None => {
                if out.len() == before && !handshake.connection.is_handshaking() {
                    self.peer = handshake.peer();
                    self.handshake = None;
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let secrets = self.secrets.as_mut()?;
        **secrets = secrets.next();
        Some(secrets.packet_keys())
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        // Servers are sent none.
        false
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

/// How a handshake fails (RFC 9001 §4.8).
fn failed(alert: AlertDescription, reason: &str) -> TransportError {
    TransportError {
        code: TransportErrorCode::crypto(alert.into()),
        frame: None,
        reason: format!("TLS: {reason}"),
    }
}
