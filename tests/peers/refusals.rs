//! What is refused, and the status that says so.

use libp2p::PeerId;
use libp2p::identity::Keypair;

use crate::hop::{self, Target};
use crate::peer::{Kind, Muxer, Peer};
use crate::server::Server;

const CIRCUITS: &str = "waystation_relay_circuits";

over_both_muxers! {
    a_target_without_a_reservation_is_not_reached
    reservations_above_the_maximum_are_refused
    circuits_above_a_peers_maximum_are_refused
    circuits_above_the_total_are_refused
    connections_above_a_peers_maximum_are_closed
    denied_peers_get_and_give_nothing
    only_allowed_peers_reserve
    a_target_that_does_not_take_the_circuit_is_told
    malformed_requests_are_answered_and_harm_nothing
}

async fn a_target_without_a_reservation_is_not_reached(muxer: Muxer) {
    let server = Server::start(&[]);
    let (source, target, offers) = hop::pair(&server, muxer).await;
    let other = hop::connected(&server, muxer).await;
    for unreserved in [PeerId::random(), other.id()] {
        let (answer, _) = hop::connect(&source, &server, unreserved).await;
        assert_eq!(answer.status, hop::NO_RESERVATION);
    }
    // A reservation does not outlive the peer's connection.
    let key = Keypair::generate_ed25519();
    let mut returning = Peer::with_key(&key, Kind::Bare, muxer);
    returning.connect(&server).await;
    hop::reserved(&returning, &server).await;
    server.until("waystation_relay_reservations", 2.0).await;
    drop(returning);
    server.until("waystation_relay_reservations", 1.0).await;
    let mut returning = Peer::with_key(&key, Kind::Bare, muxer);
    returning.connect(&server).await;
    let (answer, _) = hop::connect(&source, &server, returning.id()).await;
    assert_eq!(answer.status, hop::NO_RESERVATION);
    drop((target, offers));
}

async fn reservations_above_the_maximum_are_refused(muxer: Muxer) {
    let server = Server::start(&[
        "relay.reservations_max=1",
        "relay.reservations_per_ip_max=1",
        "relay.reservations_per_prefix_max=1",
    ]);
    let first = hop::connected(&server, muxer).await;
    let second = hop::connected(&server, muxer).await;
    hop::reserved(&first, &server).await;
    let refused = hop::reserve(&second, &server).await;
    assert_eq!(refused.status, hop::RESERVATION_REFUSED);
    assert!(refused.reservation.is_none());
    drop(first);
    server.until("waystation_relay_reservations", 0.0).await;
    hop::reserved(&second, &server).await;
}

async fn circuits_above_a_peers_maximum_are_refused(muxer: Muxer) {
    let server = Server::start(&["relay.circuits_per_peer_max=1"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (other, spare, mut spare_offers) = hop::pair(&server, muxer).await;
    let held = hop::circuit(&source, &server, &target, &mut offers).await;
    let (as_source, _) = hop::connect(&source, &server, spare.id()).await;
    assert_eq!(as_source.status, hop::RESOURCE_LIMIT_EXCEEDED);
    let (as_target, _) = hop::connect(&other, &server, target.id()).await;
    assert_eq!(as_target.status, hop::RESOURCE_LIMIT_EXCEEDED);
    // Only these two peers are at their maximum, and only until it ends.
    let free = hop::circuit(&other, &server, &spare, &mut spare_offers).await;
    drop(held);
    drop(free);
    server.until(CIRCUITS, 0.0).await;
    hop::circuit(&source, &server, &spare, &mut spare_offers).await;
}

async fn circuits_above_the_total_are_refused(muxer: Muxer) {
    let server = Server::start(&["relay.circuits_max=1", "relay.circuits_per_peer_max=1"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (other, spare, mut spare_offers) = hop::pair(&server, muxer).await;
    let held = hop::circuit(&source, &server, &target, &mut offers).await;
    let (refused, _) = hop::connect(&other, &server, spare.id()).await;
    assert_eq!(refused.status, hop::RESOURCE_LIMIT_EXCEEDED);
    drop(held);
    server.until(CIRCUITS, 0.0).await;
    hop::circuit(&other, &server, &spare, &mut spare_offers).await;
}

async fn connections_above_a_peers_maximum_are_closed(muxer: Muxer) {
    let server = Server::start(&["connections.per_peer_max=1"]);
    let key = Keypair::generate_ed25519();
    let mut first = Peer::with_key(&key, Kind::Bare, muxer);
    first.connect(&server).await;
    hop::reserved(&first, &server).await;
    let mut second = Peer::with_key(&key, Kind::Bare, muxer);
    second.connect(&server).await;
    second.until_disconnected(server.peer_id()).await;
    let refused = r#"waystation_sockets_refused_total{reason="per_peer"}"#;
    server.until(refused, 1.0).await;
    // The one that is there goes on, and so does what it holds.
    hop::reserved(&first, &server).await;
    let metrics = server.metrics().await;
    let connections = r#"waystation_limit_used{limit="connections.max"}"#;
    assert_eq!(metrics.value(connections), 1.0);
}

async fn denied_peers_get_and_give_nothing(muxer: Muxer) {
    let key = Keypair::generate_ed25519();
    let denied = key.public().to_peer_id();
    let server = Server::start(&[&format!("access.deny={denied}")]);
    let (other, _target, offers) = hop::pair(&server, muxer).await;
    let mut peer = Peer::with_key(&key, Kind::Bare, muxer);
    peer.connect(&server).await;
    peer.until_disconnected(server.peer_id()).await;
    server
        .until(
            r#"waystation_access_denied_total{gate="authentication"}"#,
            1.0,
        )
        .await;
    let (as_target, _) = hop::connect(&other, &server, denied).await;
    assert_eq!(as_target.status, hop::PERMISSION_DENIED);
    drop(offers);
}

async fn only_allowed_peers_reserve(muxer: Muxer) {
    let key = Keypair::generate_ed25519();
    let allowed = key.public().to_peer_id();
    let server = Server::start(&[
        &format!("access.allow={allowed}"),
        "relay.allowed_only=true",
    ]);
    let mut target = Peer::with_key(&key, Kind::Bare, muxer);
    target.connect(&server).await;
    hop::reserved(&target, &server).await;
    let other = hop::connected(&server, muxer).await;
    let refused = hop::reserve(&other, &server).await;
    assert_eq!(refused.status, hop::PERMISSION_DENIED);
    // Anybody may connect to those who did.
    let mut offers = Target::new(&target);
    hop::circuit(&other, &server, &target, &mut offers).await;
}

async fn a_target_that_does_not_take_the_circuit_is_told(muxer: Muxer) {
    let server = Server::start(&["relay.circuits_per_peer_max=1"]);
    let source = hop::connected(&server, muxer).await;
    let target = hop::connected(&server, muxer).await;
    hop::reserved(&target, &server).await;
    let (unheard, _) = hop::connect(&source, &server, target.id()).await;
    assert_eq!(unheard.status, hop::CONNECTION_FAILED);
    let mut offers = Target::new(&target);
    let ((refused, _), ()) = futures::join!(
        hop::connect(&source, &server, target.id()),
        offers.refuse(hop::PERMISSION_DENIED)
    );
    assert_eq!(refused.status, hop::CONNECTION_FAILED);
    let ((ignored, _), ()) = futures::join!(hop::connect(&source, &server, target.id()), async {
        drop(offers.hold().await);
    });
    assert_eq!(ignored.status, hop::CONNECTION_FAILED);
    let (to_itself, _) = hop::connect(&target, &server, target.id()).await;
    assert_eq!(to_itself.status, hop::CONNECTION_FAILED);
    // None of them is counted: the one circuit that each may have is free.
    hop::circuit(&source, &server, &target, &mut offers).await;
}

async fn malformed_requests_are_answered_and_harm_nothing(muxer: Muxer) {
    let server = Server::start(&[]);
    let peer = hop::connected(&server, muxer).await;
    let too_long = [0x81, 0x20, 0x08, 0x00];
    let empty = [0x00];
    let connect_to_nobody = [0x02, 0x08, 0x01];
    let garbage = [0x04, 0xff, 0xff, 0xff, 0xff];
    for request in [&too_long[..], &empty, &connect_to_nobody, &garbage] {
        let (answer, mut stream) = hop::ask(&peer, &server, request).await;
        assert_eq!(answer.status, hop::MALFORMED_MESSAGE, "{request:x?}");
        assert_eq!(hop::drain(&mut stream).await, []);
    }
    let (answer, mut stream) = hop::ask(&peer, &server, &hop::status_message()).await;
    assert_eq!(answer.status, hop::UNEXPECTED_MESSAGE);
    assert_eq!(hop::drain(&mut stream).await, []);
    hop::reserved(&peer, &server).await;
    assert_eq!(server.metrics().await.value("waystation_connections"), 1.0);
}
