//! Secure WebSocket in front of an upgrade: with a client whose TLS is rustls,
//! and over all the layers that there are.

use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore};

use super::websocket::{REQUEST, masked, plain_web};
use super::*;
use crate::certificates::{CHAIN_MAX, Certificates, Files};
use crate::connection::carrier::layer::Asides;

const SECURE: Entrances = Entrances {
    plain: false,
    web_socket: false,
    secure: true,
};
const ALL: Entrances = Entrances {
    plain: true,
    web_socket: true,
    secure: true,
};

const NAME: &str = "relay.example";

/// A server that has a certificate, with `behind` more bytes in its chain, and a
/// client that trusts it.
fn secured(mut context: UpgradeContext, behind: usize) -> (UpgradeContext, ClientConfig) {
    let directory = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([NAME.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let own = certificate.der().len();
    // Nobody looks at what vouches for a certificate that is trusted itself.
    let filler = CertificateDer::from(vec![0; behind.saturating_sub(own)]);
    let pem = |der: &[u8]| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let files = Files {
        chain: directory.path().join("chain"),
        key: directory.path().join("key"),
    };
    let mut chain = pem(certificate.der());
    if !filler.is_empty() {
        chain += &pem(&filler);
    }
    fs::write(&files.chain, chain).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    let certificates = Certificates::load(vec![files], Vec::new(), clock::unix_seconds());
    context.secure = Some(Arc::new(certificates.unwrap()).server_config());

    let mut trusted = RootCertStore::empty();
    trusted.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    (context, client)
}

/// A client whose TLS is rustls.
struct Client<S> {
    tls: ClientConnection,
    wire: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn connect(wire: S, config: ClientConfig) -> Self {
        let mut client = Self::shake(wire, config).await;
        client.flush().await;
        client
    }

    /// Shakes hands; its own end of that is not sent yet.
    async fn shake(wire: S, config: ClientConfig) -> Self {
        let name = NAME.try_into().unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut client = Self { tls, wire };
        while client.tls.is_handshaking() {
            client.flush().await;
            assert!(client.read().await.unwrap(), "closed");
        }
        client
    }

    async fn flush(&mut self) {
        let flight = self.flight();
        self.wire.write_all(&flight).await.unwrap();
    }

    /// What it has to send.
    fn flight(&mut self) -> Vec<u8> {
        let mut flight = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut flight).unwrap();
        }
        flight
    }

    /// Reads once; whether there was anything.
    async fn read(&mut self) -> Result<bool, Error> {
        let mut buffer = vec![0; 64 * 1024];
        let count = self.wire.read(&mut buffer).await.unwrap_or(0);
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            self.tls.process_new_packets()?;
        }
        Ok(count > 0)
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.flush().await;
    }

    /// Listens until what was said ends with these bytes.
    async fn until(&mut self, end: &[u8]) {
        let mut heard = Vec::new();
        loop {
            // It says so when there is nothing to read.
            let _ = self.tls.reader().read_to_end(&mut heard);
            if heard.ends_with(end) {
                return;
            }
            assert!(self.read().await.unwrap(), "closed behind {heard:?}");
        }
    }

    /// Listens to the end; what the server says of it.
    async fn until_closed(&mut self) -> Result<(), Error> {
        while self.read().await? {}
        Ok(())
    }
}

/// What a client of our engine asks for.
fn secure_web(client: &ClientConfig) -> Web {
    let name = NAME.try_into().unwrap();
    Web {
        secure: Some((client.clone(), name)),
        ..plain_web()
    }
}

#[tokio::test(start_paused = true)]
async fn members_of_a_private_network_meet_in_secure_websocket() {
    for network in [false, true] {
        let [ours, theirs] = [(); 2].map(|()| if network { in_network(1) } else { context() });
        let (ours, client) = secured(ours, 0);
        for entrances in [SECURE, ALL] {
            for width in [1, 50, 4096] {
                let (near, far) = duplex(width);
                let accepted = Incoming::new(near, &ours).upgrade(entrances);
                let dialled = dial_web_on(far, secure_web(&client), &theirs);
                let (a, b) = tokio::try_join!(accepted, dialled).unwrap();
                assert_eq!(a.entrance, Entrance::Secure);
                assert!(a.early_muxer && b.early_muxer);
            }
        }
    }
    // A stranger to the network gets no further than the nonces.
    let (ours, client) = secured(in_network(1), 0);
    let theirs = in_network(2);
    let (near, far) = duplex(4096);
    let accepted = Incoming::new(near, &ours).upgrade(SECURE);
    let (a, b) = tokio::join!(accepted, dial_web_on(far, secure_web(&client), &theirs));
    assert_eq!(a.map(|_| ()).unwrap_err().label(), "multistream");
    assert!(b.is_err());
}

/// WS-5 of the reference, where a proxy cannot help.
#[tokio::test(start_paused = true)]
async fn a_request_that_dribbles_in_within_tls_ends_at_the_deadline() {
    let (context, client) = secured(context(), 0);
    let (near, far) = duplex(4096);
    let begun = clock::now();
    let dribble = async {
        let mut client = Client::connect(far, client).await;
        for byte in REQUEST {
            client.say(&[*byte]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let outcome = tokio::select! {
        outcome = Incoming::new(near, &context).upgrade(ALL) => outcome,
        () = dribble => unreachable!("the request takes minutes"),
    };
    assert!(matches!(outcome, Err(UpgradeError::Timeout(_))));
    let late = clock::now() - begun - DEFAULT_TIMEOUT;
    assert!(late < Duration::from_millis(10), "{late:?}");
}

/// Whoever asks has to hear the answer before it says anything else.
#[tokio::test(start_paused = true)]
async fn a_lone_ping_is_answered_within_tls() {
    let (context, client) = secured(context(), 0);
    let (near, far) = duplex(4096);
    let peer = async {
        let mut client = Client::connect(far, client).await;
        client.say(REQUEST).await;
        client.until(b"\r\n\r\n").await;
        for payload in [&b"there?"[..], b"still?", b""] {
            client.say(&masked(0x89, payload)).await;
            let length = u8::try_from(payload.len()).unwrap();
            client.until(&[&[0x8a, length], payload].concat()).await;
        }
        // Also a key is asked for with nothing behind it.
        client.tls.refresh_traffic_keys().unwrap();
        client.say(&masked(0x89, b"new key")).await;
        client.until(b"new key").await;
    };
    tokio::select! {
        () = peer => {}
        outcome = Incoming::new(near, &context).upgrade(SECURE) => panic!("{:?}", outcome.err()),
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_chain_fits_what_waits_for_a_client() {
    let (context, client) = secured(context(), CHAIN_MAX);
    for width in [16, 4096] {
        let (near, far) = duplex(width);
        let peer = async {
            let mut client = Client::connect(far, client.clone()).await;
            client.say(REQUEST).await;
            client.until(b"\r\n\r\n").await;
        };
        tokio::select! {
            () = peer => {}
            outcome = Incoming::new(near, &context).upgrade(SECURE) => panic!("{:?}", outcome.err()),
        }
        // Our own client takes as much.
        let theirs = super::context();
        let (near, far) = duplex(width);
        let accepted = Incoming::new(near, &context).upgrade(SECURE);
        let dialled = dial_web_on(far, secure_web(&client), &theirs);
        tokio::try_join!(accepted, dialled).unwrap();
    }
}

/// A full record of TLS is longer than what a bare socket is read for at once.
#[tokio::test(start_paused = true)]
async fn a_full_record_is_waited_for_and_read() {
    let (context, client) = secured(context(), 0);
    let length = 16 * 1024 - 8_u16;
    let header = [&[0x82, 0x80 | 126][..], &length.to_be_bytes(), &[0; 4]].concat();
    let frame = [header, vec![0; length.into()]].concat();
    for width in [1, 4096, 64 * 1024] {
        let (near, far) = duplex(width);
        let peer = async {
            let mut client = Client::connect(far, client.clone()).await;
            client.say(REQUEST).await;
            client.until(b"\r\n\r\n").await;
            client.say(&frame).await;
            client
        };
        let upgrade = Incoming::new(near, &context).upgrade(SECURE);
        let (outcome, _client) = tokio::join!(upgrade, peer);
        // It is read, and is no proposal of a protocol.
        assert_eq!(outcome.map(|_| ()).unwrap_err().label(), "multistream");
    }
}

/// On a socket of the system, whose close could overtake what was said.
#[tokio::test]
async fn a_client_is_told_what_was_wrong_with_its_records() {
    let (context, client) = secured(context(), 0);
    let no_tag = [&[23, 3, 3, 0, 20][..], &[0; 20]].concat();
    let wrong = [
        (no_tag, AlertDescription::BadRecordMac),
        (vec![23, 3, 3, 0x41, 1], AlertDescription::RecordOverflow),
        (vec![22, 3, 3, 0, 1, 0], AlertDescription::UnexpectedMessage),
    ];
    for (glued, (said, alert)) in [true, false].into_iter().flat_map(|glued| {
        let wrong = wrong.iter();
        wrong.map(move |wrong| (glued, wrong))
    }) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = async {
            let wire = TcpStream::connect(address).await.unwrap();
            let mut client = Client::shake(wire, client.clone()).await;
            // The server may read it behind the handshake, or in its layer.
            if !glued {
                client.say(REQUEST).await;
                client.until(b"\r\n\r\n").await;
            }
            let said = [&client.flight(), &said[..], &[0; 40_000]].concat();
            // Not all of it is taken.
            let _ = client.wire.write_all(&said).await;
            client.until_closed().await
        };
        let us = async {
            let (socket, _) = listener.accept().await.unwrap();
            Incoming::new(socket, &context).upgrade(SECURE).await
        };
        let (outcome, told) = tokio::join!(us, peer);
        assert_eq!(outcome.map(|_| ()).unwrap_err().label(), "outer_tls");
        assert_eq!(told, Err(Error::AlertReceived(*alert)));
    }
}

/// What it ends is a connection that would otherwise wait for it.
#[tokio::test]
async fn who_leaves_with_its_last_flight_is_gone() {
    let (ours, client) = secured(context(), 0);
    let theirs = context();
    for secure in [true, false] {
        let (near, far) = duplex(64 * 1024);
        let accepted = Incoming::new(near, &ours).upgrade(ALL);
        let leaving = async {
            let web = if secure {
                secure_web(&client)
            } else {
                plain_web()
            };
            let mut dialled = dial_web_on(far, web, &theirs).await.unwrap();
            let mut asides = Asides {
                close: Some(1000),
                ..Asides::default()
            };
            let mut bye = Vec::new();
            let outbound = &mut dialled.layers.outbound;
            outbound.encode(&mut bye, &mut asides).unwrap();
            // Nobody else has had a turn since the last flight was written.
            dialled.socket.write_all(&bye).await.unwrap();
            dialled
        };
        let (outcome, _dialled) = tokio::join!(accepted, leaving);
        assert_eq!(outcome.map(|_| ()).unwrap_err().label(), "eof");
    }
}
