//! The keys of QUIC connections, with every suite of TLS 1.3: made, renewed by
//! the peer, and told apart where many connections take turns.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedCipherSuite};

use crate::quic_client::{connect, echo, start_ping, tls};
use crate::server::{QUIC_ONLY, Server};

const SUITES: [SupportedCipherSuite; 3] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
];

/// Three times the longest wait for an acknowledgement on loopback.
const FORGOTTEN: Duration = Duration::from_millis(300);

/// More than a worker keeps prepared keys for.
const MANY: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_renews_its_keys_as_often_as_it_likes_with_every_suite() {
    let server = Server::start(&[QUIC_ONLY]);
    let renewing = SUITES.map(async |suite| {
        let mut pinging = Pinging::connect(&server, suite).await;
        for update in 0..5 {
            pinging.connection.force_key_update();
            pinging.echo(update).await;
            pinging.echo(update + 100).await;
            // The client asks for no new key before it has forgotten the old one.
            tokio::time::sleep(FORGOTTEN).await;
        }
    });
    futures::future::join_all(renewing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_take_turns_and_each_keeps_its_keys() {
    let server = Server::start(&[QUIC_ONLY, "runtime.workers=1"]);
    let mut all = Vec::new();
    for index in 0..MANY {
        all.push(Pinging::connect(&server, SUITES[index % SUITES.len()]).await);
    }
    for turn in 0..3 {
        for pinging in &mut all {
            pinging.echo(turn).await;
        }
    }
}

/// A stream that is served for long gets credit for what it has sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_never_run_out_of_credit() {
    const BYTES: usize = 300 * 1024;
    let server = Server::start(&[QUIC_ONLY]);
    let mut pinging = Pinging::connect(&server, TLS13_AES_128_GCM_SHA256).await;
    for turn in 0..BYTES as u64 / 32 {
        pinging.echo(turn).await;
    }
}

struct Pinging {
    _endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
}

impl Pinging {
    async fn connect(server: &Server, suite: SupportedCipherSuite) -> Self {
        let (endpoint, connection) = connect(server, config(suite)).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        start_ping(&mut send, &mut receive).await;
        Self {
            _endpoint: endpoint,
            connection,
            send,
            receive,
        }
    }

    async fn echo(&mut self, seed: u64) {
        echo(&mut self.send, &mut self.receive, seed).await;
    }
}

/// A client that offers this suite only. What everybody's first packets are
/// protected with is no matter of suites.
fn config(suite: SupportedCipherSuite) -> ClientConfig {
    let whose = tls();
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..default_provider()
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(whose.client_auth_cert_resolver);
    tls.alpn_protocols = whose.alpn_protocols;
    let first = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let first = first.quic_suite().unwrap();
    let crypto = QuicClientConfig::with_initial(Arc::new(tls), first).unwrap();
    ClientConfig::new(Arc::new(crypto))
}

/// Whom the server shows to be is asked elsewhere.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
