//! Peers that the server has met, and what it knows of them after a restart.

use libp2p::swarm::SwarmEvent;
use rustix::process::Signal;

use crate::peer::{Kind, Muxer, Peer};
use crate::server::Server;
use crate::{PROMPT, within};

/// Peers that come by, each with one address.
const COUNT: u8 = 5;
const PEERS: f64 = COUNT as f64;

const PEERS_KNOWN: &str = "waystation_peerstore_peers";
const ADDRESSES_KNOWN: &str = "waystation_peerstore_addresses";
const ROUNDS: &str = "waystation_peerstore_writing_rounds_total";

/// Has peers come by that can be reached, and waits until each is known.
async fn meet(server: &Server) -> Vec<Peer> {
    let mut peers = Vec::new();
    for _ in 0..COUNT {
        let mut peer = Peer::new(Kind::Client, Muxer::Yamux);
        peer.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap());
        peer.until("listening", |event| {
            matches!(event, SwarmEvent::NewListenAddr { .. }).then_some(())
        })
        .await;
        peer.connect(server).await;
        peers.push(peer);
    }
    server.until(PEERS_KNOWN, PEERS).await;
    server.until(ADDRESSES_KNOWN, PEERS).await;
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_known_after_a_restart() {
    let mut server = Server::start(&["peerstore.write_interval=1h"]);
    let _peers = meet(&server).await;
    server.signal(Signal::TERM);
    assert_eq!(server.exit().await.code(), Some(0));
    let server = server.restarted(&[]);
    server.until(PEERS_KNOWN, PEERS).await;
    server.until(ADDRESSES_KNOWN, PEERS).await;
}

/// A crash loses what one interval has brought, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_known_after_a_crash() {
    let mut server = Server::start(&["peerstore.write_interval=100ms"]);
    let _peers = meet(&server).await;
    // Of two rounds that end from now on, the second has begun after this.
    let rounds = server.metrics().await.value(ROUNDS);
    within(PROMPT, "two rounds of writing", async {
        while server.metrics().await.value(ROUNDS) < rounds + 2.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.signal(Signal::KILL);
    server.exit().await;
    let server = server.restarted(&[]);
    server.until(PEERS_KNOWN, PEERS).await;
}
