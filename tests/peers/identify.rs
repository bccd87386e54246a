//! What peers learn of the server, and ping.

use libp2p::identify::{Event, Info};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, StreamProtocol};
use libp2p_stream::OpenStreamError;

use crate::hop::HOP;
use crate::peer::{BehaviourEvent, Kind, Muxer, Peer};
use crate::server::Server;

const PING_RTTS: usize = 10;

over_muxers_and_quic! {
    identify_tells_what_the_server_is
    without_the_relay_hop_is_neither_announced_nor_served
    ping_goes_on
}

async fn identify_tells_what_the_server_is(muxer: Muxer) {
    let server = Server::start_for(muxer, &[]);
    let mut peer = Peer::new(Kind::Client, muxer);
    // It dials from the address it listens on, so the two must agree.
    let listen = match muxer {
        Muxer::Yamux | Muxer::Mplex => "/ip4/127.0.0.1/tcp/0",
        Muxer::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
    };
    peer.listen(listen.parse().unwrap());
    let own = peer
        .until("listening", |event| match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(address.clone()),
            _ => None,
        })
        .await;
    peer.connect(&server).await;
    let info = identified(&mut peer, &server).await;
    assert_eq!(info.public_key.to_peer_id(), server.peer_id());
    assert_eq!(info.agent_version, "waystation/0.1.0");
    assert_eq!(info.protocol_version, "ipfs/0.1.0");
    assert_eq!(info.observed_addr, own);
    let bare: Multiaddr = server
        .address()
        .iter()
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .collect();
    assert_eq!(info.listen_addrs, [bare]);
    for protocol in ["/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"] {
        let protocol = StreamProtocol::new(protocol);
        assert!(info.protocols.contains(&protocol), "{:?}", info.protocols);
    }
    assert!(info.protocols.contains(&HOP), "{:?}", info.protocols);
}

async fn without_the_relay_hop_is_neither_announced_nor_served(muxer: Muxer) {
    let server = Server::start_for(muxer, &["relay.enabled=false"]);
    let mut peer = Peer::new(Kind::Bare, muxer);
    peer.connect(&server).await;
    let info = identified(&mut peer, &server).await;
    assert!(!info.protocols.contains(&HOP), "{:?}", info.protocols);
    let refused = peer.streams().open_stream(server.peer_id(), HOP).await;
    assert!(matches!(
        refused,
        Err(OpenStreamError::UnsupportedProtocol(_))
    ));
    peer.until_pinged(server.peer_id(), 1).await;
}

async fn ping_goes_on(muxer: Muxer) {
    let server = Server::start_for(muxer, &[]);
    let mut peer = Peer::new(Kind::Bare, muxer);
    peer.connect(&server).await;
    peer.until_pinged(server.peer_id(), PING_RTTS).await;
    assert_eq!(server.metrics().await.value("waystation_connections"), 1.0);
}

async fn identified(peer: &mut Peer, server: &Server) -> Info {
    peer.until("identified", |event| match event {
        SwarmEvent::Behaviour(BehaviourEvent::Identify(Event::Received {
            peer_id, info, ..
        })) if *peer_id == server.peer_id() => Some(info.clone()),
        SwarmEvent::Behaviour(BehaviourEvent::Identify(Event::Error { error, .. })) => {
            panic!("not identified: {error}")
        }
        _ => None,
    })
    .await
}
