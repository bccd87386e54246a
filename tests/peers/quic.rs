//! What is QUIC's own: limits before the handshake, ends that the peer
//! understands.

use std::net::UdpSocket;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;

use crate::peer::{Kind, Muxer, Peer};
use crate::quic_client::initial;
use crate::server::{QUIC_ONLY, Server};

const ONE_WORKER: &str = "runtime.workers=1";

const CONNECTIONS: &str = "waystation_connections";
const UPGRADING: &str = "waystation_sockets_upgrading";
const ENDING: &str = "waystation_quic_ending";
const OVER_QUIC: &str =
    r#"waystation_connections_by_protocol{muxer="",security="",transport="quic-v1"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_connects_pings_and_is_identified() {
    let server = Server::start(&[QUIC_ONLY]);
    let mut peer = Peer::new(Kind::Bare, Muxer::Quic);
    peer.connect(&server).await;
    peer.until_pinged(server.peer_id(), 3).await;
    let identified = r#"libp2p_identify_identify_total{dir="inbound"}"#;
    server.until(identified, 1.0).await;
    server.until(OVER_QUIC, 1.0).await;
    drop(peer);
    server.until(CONNECTIONS, 0.0).await;
}

/// A peer that has died with its server's memory of it hears of that at once,
/// from the next server with the same state directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_peer_learns_that_its_connection_is_gone() {
    let listen = format!(
        r#"listen.addresses=["/ip4/127.0.0.1/udp/{}/quic-v1"]"#,
        free_port()
    );
    let server = Server::start(&[&listen, ONE_WORKER]);
    let mut peer = Peer::new(Kind::Bare, Muxer::Quic);
    peer.connect(&server).await;
    peer.until_pinged(server.peer_id(), 1).await;
    let server = server.restarted(&[&listen, ONE_WORKER]);
    let error = peer
        .until("disconnected", |event| match event {
            SwarmEvent::ConnectionClosed { cause, .. } => Some(format!("{cause:?}")),
            _ => None,
        })
        .await;
    assert!(error.contains("Reset"), "not by a reset: {error}");
    let metrics = server.metrics().await;
    assert!(metrics.value(r#"waystation_quic_responses_total{kind="reset"}"#) >= 1.0);
}

/// With as many handshakes under way as there may be before addresses are asked
/// for, an honest peer still gets in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_a_peer_shows_its_address_first() {
    let server = Server::start(&[QUIC_ONLY, "connections.transient_max=4"]);
    let flood = Flood::of(1, &server);
    server.until(UPGRADING, 1.0).await;
    let mut peer = Peer::new(Kind::Bare, Muxer::Quic);
    peer.connect(&server).await;
    peer.until_pinged(server.peer_id(), 1).await;
    let metrics = server.metrics().await;
    assert!(metrics.value("waystation_quic_retries_total") >= 1.0);
    drop(flood);
}

/// Beginnings of handshakes from many ports leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_initials_is_held_to_the_bound() {
    let server = Server::start(&[
        QUIC_ONLY,
        "connections.transient_max=32",
        "connections.upgrade_timeout=2s",
    ]);
    let mut peer = Peer::new(Kind::Bare, Muxer::Quic);
    peer.connect(&server).await;
    let flood = Flood::of(500, &server);
    for _ in 0..5 {
        peer.until_pinged(server.peer_id(), 1).await;
        let metrics = server.metrics().await;
        assert!(metrics.value(UPGRADING) <= 32.0);
        // Whoever never was a connection leaves nothing that lingers.
        assert!(metrics.value(ENDING) <= 32.0);
    }
    server.until(UPGRADING, 0.0).await;
    server.until(ENDING, 0.0).await;
    assert!(
        server
            .metrics()
            .await
            .value("waystation_quic_retries_total")
            >= 400.0
    );
    drop(flood);
}

fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// First datagrams of handshakes that nobody goes on with, each from a port of
/// its own.
struct Flood {
    _sockets: Vec<UdpSocket>,
}

impl Flood {
    fn of(count: u64, server: &Server) -> Self {
        let target = server.address();
        let port = target.iter().find_map(|part| match part {
            Protocol::Udp(port) => Some(port),
            _ => None,
        });
        let sockets = (0..count).map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let to = ([127, 0, 0, 1], port.unwrap()).into();
            socket.send_to(&initial(to), to).unwrap();
            socket
        });
        Self {
            _sockets: sockets.collect(),
        }
    }
}
