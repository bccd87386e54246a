//! Reservations: what a peer gets, what renewing does, when they end.

use std::time::{SystemTime, UNIX_EPOCH};

use libp2p::multiaddr::Protocol;
use libp2p::relay;
use libp2p::swarm::SwarmEvent;

use crate::hop;
use crate::peer::{BehaviourEvent, Kind, Muxer, Peer};
use crate::server::Server;

const RESERVATIONS: &str = "waystation_relay_reservations";
const OPENED: &str = r#"libp2p_relaysvc_reservations_total{type="opened"}"#;
const RENEWED: &str = r#"libp2p_relaysvc_reservations_total{type="renewed"}"#;

over_muxers_and_quic! {
    a_reservation_comes_with_addresses_a_voucher_and_the_limits
    a_renewal_does_not_count_twice
    a_relay_client_reserves_and_renews
    a_reservation_ends_with_the_last_connection
}

async fn a_reservation_comes_with_addresses_a_voucher_and_the_limits(muxer: Muxer) {
    let server = Server::start_for(
        muxer,
        &[
            "relay.reservation_ttl=10m",
            "relay.circuit_duration_max=90s",
            "relay.circuit_bytes_max=96KiB",
        ],
    );
    let peer = hop::connected(&server, muxer).await;
    let answer = hop::reserve(&peer, &server).await;
    assert_eq!(answer.status, hop::OK);
    let limit = hop::Limit {
        duration: 90,
        data: 96 * 1024,
    };
    assert_eq!(answer.limit, Some(limit));
    let reservation = answer.reservation.expect("a reservation");
    assert_eq!(reservation.addresses, [server.address()]);
    assert_eq!(
        server.address().iter().last(),
        Some(Protocol::P2p(server.peer_id()))
    );
    let left = reservation.expire - now();
    assert!((590..=600).contains(&left), "{left}");
    assert_eq!(
        hop::voucher(&reservation.voucher, server.peer_id()),
        (server.peer_id(), peer.id(), reservation.expire)
    );
    server.until(RESERVATIONS, 1.0).await;
}

async fn a_renewal_does_not_count_twice(muxer: Muxer) {
    // At the cap, so that one that counted twice would be refused.
    let server = Server::start_for(
        muxer,
        &[
            "relay.reservations_max=1",
            "relay.reservations_per_ip_max=1",
            "relay.reservations_per_prefix_max=1",
        ],
    );
    let peer = hop::connected(&server, muxer).await;
    for _ in 0..3 {
        hop::reserved(&peer, &server).await;
        server.until(RESERVATIONS, 1.0).await;
    }
    let metrics = server.metrics().await;
    assert_eq!((metrics.value(OPENED), metrics.value(RENEWED)), (1.0, 2.0));
}

async fn a_relay_client_reserves_and_renews(muxer: Muxer) {
    let server = Server::start_for(muxer, &["relay.reservation_ttl=4s"]);
    let mut peer = Peer::new(Kind::Client, muxer);
    peer.reserve(&server).await;
    let address = peer
        .until("a relayed address", |event| match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(address.clone()),
            _ => None,
        })
        .await;
    assert_eq!(address, server.address_of(peer.id()));
    // It renews at three quarters of the time.
    for _ in 0..2 {
        peer.until("renewed", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { renewal: true, .. },
            )) => Some(()),
            SwarmEvent::ListenerClosed { reason, .. } => panic!("not renewed: {reason:?}"),
            _ => None,
        })
        .await;
    }
    let metrics = server.metrics().await;
    assert_eq!(metrics.value(RESERVATIONS), 1.0);
    assert_eq!((metrics.value(OPENED), metrics.value(RENEWED)), (1.0, 2.0));
}

async fn a_reservation_ends_with_the_last_connection(muxer: Muxer) {
    let server = Server::start_for(muxer, &[]);
    let peer = hop::connected(&server, muxer).await;
    hop::reserved(&peer, &server).await;
    server.until(RESERVATIONS, 1.0).await;
    drop(peer);
    server.until_nothing_is_held().await;
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}
