//! What the peers of QUIC connections are told when the server ends them, in
//! go-libp2p's codes.

use libp2p::identity::Keypair;

use crate::quic_client::{config, connect, ping, socket, tls, tls_of};
use crate::server::{QUIC_ONLY, Server};
use crate::{PROMPT, within};

const CONNECTIONS: &str = "waystation_connections";

/// A limit ended it.
const RESOURCE_LIMIT: u64 = 0x1001;
/// It was trimmed.
const GARBAGE_COLLECTED: u64 = 0x1005;
const SHUTDOWN: u64 = 0x1006;
/// The peer is not wanted.
const GATED: u64 = 0x1007;

/// That the server stops is told, in go-libp2p's code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_server_is_told() {
    let mut server = Server::start(&[QUIC_ONLY]);
    let (_endpoint, connection) = connect(&server, config(tls())).await.unwrap();
    ping(&connection).await;
    server.signal(rustix::process::Signal::TERM);
    let ended = within(PROMPT, "goodbye", connection.closed()).await;
    assert_eq!(code_of(ended), Ok(SHUTDOWN));
    assert!(server.exit().await.success());
}

/// Each of very many peers hears that the server stops, also those whose turn
/// comes when the others have gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_server_is_told_to_everybody() {
    // Each endpoint has a socket, which the kernel lets hold some hundred
    // datagrams, however long this process waits for its turn.
    const ENDPOINTS: usize = 30;
    const EACH: usize = 12;
    let mut server = Server::start(&[QUIC_ONLY]);
    let (mut endpoints, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..ENDPOINTS {
        let (endpoint, first) = connect(&server, config(tls())).await.unwrap();
        let more = (1..EACH).map(|_| async {
            let to = socket(&server.address());
            endpoint.connect_with(config(tls()), to, "l").unwrap().await
        });
        let more = futures::future::try_join_all(more).await.unwrap();
        connections.push(first);
        connections.extend(more);
        endpoints.push(endpoint);
    }
    server.until(CONNECTIONS, (ENDPOINTS * EACH) as f64).await;
    server.signal(rustix::process::Signal::TERM);
    for connection in connections {
        let ended = within(PROMPT, "goodbye", connection.closed()).await;
        assert_eq!(code_of(ended), Ok(SHUTDOWN));
    }
    assert!(server.exit().await.success());
    assert_eq!(server.log_lines("ending without goodbye"), [""; 0]);
}

/// A rule that is made at run time says so to whom it cuts, and to whom it keeps
/// out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_rule_denies_is_told() {
    let server = Server::start(&[QUIC_ONLY]);
    let key = Keypair::generate_ed25519();
    let (_endpoint, connection) = connect(&server, config(tls_of(&key))).await.unwrap();
    ping(&connection).await;
    let peer = key.public().to_peer_id().to_string();
    server.operator(&["deny", &peer]).unwrap();
    let ended = within(PROMPT, "it is cut", connection.closed()).await;
    assert_eq!(code_of(ended), Ok(GATED));
    // The handshake has to show who it is.
    let (_endpoint, again) = connect(&server, config(tls_of(&key))).await.unwrap();
    let ended = within(PROMPT, "it is kept out", again.closed()).await;
    assert_eq!(code_of(ended), Ok(GATED));
    server.until(CONNECTIONS, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_trimmed_is_told() {
    let server = Server::start(&[
        QUIC_ONLY,
        "connections.max=20",
        "connections.high_water=4",
        "connections.low_water=3",
        "connections.grace_period=0",
    ]);
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(connect(&server, config(tls())).await.unwrap());
    }
    let ends = connections
        .iter()
        .map(|(_, connection)| Box::pin(connection.closed()));
    let (ended, ..) = within(PROMPT, "one goes", futures::future::select_all(ends)).await;
    assert_eq!(code_of(ended), Ok(GARBAGE_COLLECTED));
    server.until(CONNECTIONS, 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_all_connections_that_it_may_is_told() {
    let server = Server::start(&[QUIC_ONLY, "connections.per_peer_max=1"]);
    let key = Keypair::generate_ed25519();
    let (_endpoint, first) = connect(&server, config(tls_of(&key))).await.unwrap();
    ping(&first).await;
    let (_endpoint, second) = connect(&server, config(tls_of(&key))).await.unwrap();
    let ended = within(PROMPT, "it is turned away", second.closed()).await;
    assert_eq!(code_of(ended), Ok(RESOURCE_LIMIT));
    ping(&first).await;
}

/// The application's code of a close by the server.
fn code_of(ended: quinn::ConnectionError) -> Result<u64, String> {
    match ended {
        quinn::ConnectionError::ApplicationClosed(close) => Ok(close.error_code.into_inner()),
        other => Err(other.to_string()),
    }
}
