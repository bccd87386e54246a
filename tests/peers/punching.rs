//! Direct connections that are arranged through the relay.

use libp2p::dcutr;
use libp2p::swarm::SwarmEvent;

use crate::peer::{BehaviourEvent, Kind, Muxer, Peer};
use crate::server::Server;

over_both_muxers! {
    a_relayed_connection_is_upgraded_to_a_direct_one
}

async fn a_relayed_connection_is_upgraded_to_a_direct_one(muxer: Muxer) {
    let server = Server::start(&[]);
    let mut target = listening(muxer).await;
    target.reserve(&server).await;
    until_observed(&mut target).await;
    let mut source = listening(muxer).await;
    source.connect(&server).await;
    until_observed(&mut source).await;
    source.dial(server.address_of(target.id()));
    assert!(source.until_connected(target.id()).await, "directly");
    let upgraded = source
        .until("upgraded", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(dcutr::Event {
                remote_peer_id,
                result,
            })) if *remote_peer_id == target.id() => {
                Some(*result.as_ref().expect("a direct connection"))
            }
            _ => None,
        })
        .await;
    let relayed = source
        .until("connected", |event| match event {
            SwarmEvent::ConnectionEstablished {
                connection_id,
                endpoint,
                ..
            } if *connection_id == upgraded => Some(endpoint.is_relayed()),
            _ => None,
        })
        .await;
    assert!(!relayed);
    source.until_pinged(target.id(), 2).await;
}

/// A peer that listens, so that it dials from the address it is reached at.
async fn listening(muxer: Muxer) -> Peer {
    let mut peer = Peer::new(Kind::Puncher, muxer);
    peer.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap());
    peer.until("listening", |event| match event {
        SwarmEvent::NewListenAddr { .. } => Some(()),
        _ => None,
    })
    .await;
    peer
}

/// Waits until the server has told the peer its address, which is what it
/// offers for the direct connection.
async fn until_observed(peer: &mut Peer) {
    peer.until("observed", |event| match event {
        SwarmEvent::NewExternalAddrCandidate { .. } => Some(()),
        _ => None,
    })
    .await;
}
