//! QUIC without a Swarm: what a well-behaved peer does not do, or keeps to
//! itself (the cases QUIC-1 to QUIC-6 of the reference, and moving).

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};

use crate::server::{QUIC_ONLY, Server};
use crate::{PROMPT, pattern, within};

const CONNECTIONS: &str = "waystation_connections";
const HANDED_OVER: &str = "waystation_quic_handed_over_total";
const PING: &[u8] = b"\x13/multistream/1.0.0\n\x11/ipfs/ping/1.0.0\n";

/// Streams that a peer may open at first.
const STREAMS_FIRST: usize = 8;

/// QUIC-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_application_is_told_that_it_is_not_spoken_here() {
    let server = Server::start(&[QUIC_ONLY]);
    let mut tls = tls();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let refused = connect(&server, config(tls)).await.unwrap_err().to_string();
    assert!(
        refused.contains("120"),
        "not no_application_protocol: {refused}"
    );
}

/// QUIC-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_is_refused() {
    let server = Server::start(&[QUIC_ONLY]);
    let mut tls = tls();
    tls.client_auth_cert_resolver = Arc::new(Nothing);
    // A client may take itself for connected before it hears.
    let refused = match connect(&server, config(tls)).await {
        Err(error) => error.to_string(),
        Ok((_endpoint, connection)) => connection.closed().await.to_string(),
    };
    assert!(
        refused.contains("116"),
        "not certificate_required: {refused}"
    );
    server.until(CONNECTIONS, 0.0).await;
}

/// QUIC-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unidirectional_streams_are_not_allowed_and_nothing_else_suffers() {
    let server = Server::start(&[QUIC_ONLY]);
    let (_endpoint, connection) = connect(&server, config(tls())).await.unwrap();
    assert!(connection.open_uni().now_or_never().is_none());
    ping(&connection).await;
}

/// QUIC-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_too_many_waits_until_others_are_used() {
    let server = Server::start(&[QUIC_ONLY]);
    let (_endpoint, connection) = connect(&server, config(tls())).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..STREAMS_FIRST {
        streams.push(connection.open_bi().await.unwrap());
    }
    let one_more = connection.open_bi();
    futures::pin_mut!(one_more);
    assert!(one_more.as_mut().now_or_never().is_none());
    for (send, receive) in &mut streams {
        start_ping(send, receive).await;
    }
    within(PROMPT, "one more stream", one_more).await.unwrap();
}

/// QUIC-4, of a peer that uses as many as there may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_256_streams_in_use_some_have_to_end_before_the_next() {
    let server = Server::start(&[QUIC_ONLY, "streams.ping_per_peer_max=256"]);
    let (_endpoint, connection) = connect(&server, config(tls())).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..256 {
        let opened = within(PROMPT, "a stream", connection.open_bi()).await;
        let (mut send, mut receive) = opened.unwrap();
        start_ping(&mut send, &mut receive).await;
        streams.push((send, receive));
    }
    let one_more = connection.open_bi();
    futures::pin_mut!(one_more);
    assert!(one_more.as_mut().now_or_never().is_none());
    // Whatever the server grants, it has been granted with the last answer.
    let (send, receive) = &mut streams[0];
    echo(send, receive, 1).await;
    assert!(one_more.as_mut().now_or_never().is_none());
    // More is granted for an eighth of them together.
    for (mut send, mut receive) in streams.drain(..40) {
        send.finish().unwrap();
        let rest = within(PROMPT, "its end", receive.read_to_end(1)).await;
        assert_eq!(rest.unwrap(), []);
    }
    let (mut send, mut receive) = within(PROMPT, "one more stream", one_more).await.unwrap();
    start_ping(&mut send, &mut receive).await;
}

/// QUIC-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_takes_nothing_with_it() {
    let server = Server::start(&[QUIC_ONLY]);
    let (_endpoint, connection) = connect(&server, config(tls())).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    start_ping(&mut send, &mut receive).await;
    send.reset(VarInt::from_u32(0x1001)).unwrap();
    let mut rest = [0; 1];
    within(PROMPT, "the other direction ends", receive.read(&mut rest))
        .await
        .unwrap_err();
    ping(&connection).await;
}

/// QUIC-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_ends_without_a_word() {
    let server = Server::start(&[QUIC_ONLY]);
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(Duration::from_millis(500).try_into().unwrap()));
    let mut config = config(tls());
    config.transport_config(Arc::new(transport));
    let (_endpoint, connection) = connect(&server, config).await.unwrap();
    let ended = within(PROMPT, "time is up", connection.closed()).await;
    assert_eq!(ended, quinn::ConnectionError::TimedOut);
    let silent = r#"waystation_connections_closed_total{reason="keep_alive"}"#;
    server.until(silent, 1.0).await;
}

/// Whatever worker the kernel picks for the new address, the connection and its
/// streams go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_keeps_its_connection() {
    let server = Server::start(&[QUIC_ONLY, "runtime.workers=2"]);
    let (endpoint, connection) = connect(&server, config(tls())).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    start_ping(&mut send, &mut receive).await;
    let mut moves = 0;
    while moves < 4 || server.metrics().await.value(HANDED_OVER) < 1.0 {
        moves += 1;
        assert!(moves < 64, "never to another worker");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        endpoint.rebind(socket).unwrap();
        echo(&mut send, &mut receive, moves).await;
    }
    server.until(CONNECTIONS, 1.0).await;
}

/// A first datagram of a handshake.
pub(crate) fn initial(to: SocketAddr) -> Vec<u8> {
    use quinn_proto::{Endpoint, EndpointConfig};
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    let now = Instant::now();
    let (_, mut connection) = endpoint.connect(now, config(tls()), to, "l").unwrap();
    let mut datagram = Vec::new();
    let transmit = connection.poll_transmit(now, 1, &mut datagram).unwrap();
    datagram.truncate(transmit.size);
    datagram
}

pub(crate) fn tls() -> rustls::ClientConfig {
    tls_of(&Keypair::generate_ed25519())
}

pub(crate) fn tls_of(key: &Keypair) -> rustls::ClientConfig {
    libp2p_tls::make_client_config(key, None).unwrap()
}

pub(crate) fn config(tls: rustls::ClientConfig) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

pub(crate) async fn connect(
    server: &Server,
    config: ClientConfig,
) -> Result<(Endpoint, Connection), quinn::ConnectionError> {
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let to = socket(&server.address());
    let connecting = endpoint.connect_with(config, to, "l").unwrap();
    let connection = within(PROMPT, "a connection", connecting).await?;
    Ok((endpoint, connection))
}

pub(crate) fn socket(address: &Multiaddr) -> SocketAddr {
    let port = address.iter().find_map(|part| match part {
        Protocol::Udp(port) => Some(port),
        _ => None,
    });
    ([127, 0, 0, 1], port.unwrap()).into()
}

/// One ping on a stream of its own.
pub(crate) async fn ping(connection: &Connection) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    start_ping(&mut send, &mut receive).await;
}

pub(crate) async fn start_ping(send: &mut SendStream, receive: &mut RecvStream) {
    send.write_all(PING).await.unwrap();
    let mut agreed = [0; PING.len()];
    within(PROMPT, "ping is spoken", receive.read_exact(&mut agreed))
        .await
        .unwrap();
    assert_eq!(agreed, PING);
    echo(send, receive, 0).await;
}

pub(crate) async fn echo(send: &mut SendStream, receive: &mut RecvStream, seed: u64) {
    let sent = pattern(seed, 0, 32);
    send.write_all(&sent).await.unwrap();
    let mut answer = [0; 32];
    within(PROMPT, "an echo", receive.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer[..], sent);
}

/// A client that has no certificate to show.
#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
