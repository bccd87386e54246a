//! Peers that leave in the middle of a circuit, and what stays behind: nothing.

use crate::hop;
use crate::peer::{Muxer, meet};
use crate::server::Server;

const CIRCUITS: &str = "waystation_relay_circuits";
const RESERVATIONS: &str = "waystation_relay_reservations";
const CONNECTIONS: &str = "waystation_connections";

over_both_muxers! {
    a_target_that_leaves_ends_its_circuits
    a_source_that_leaves_ends_its_circuits
    a_relay_client_learns_that_the_other_has_left
    a_target_that_leaves_while_it_is_asked_is_reported
}

async fn a_target_that_leaves_ends_its_circuits(muxer: Muxer) {
    let server = Server::start(&[]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    hop::carries(&mut near, &mut far, b"here").await;
    let left = target.id();
    drop((target, offers, far));
    assert_eq!(hop::drain(&mut near).await, []);
    hop::until_reset(&mut near).await;
    server.until(CIRCUITS, 0.0).await;
    server.until(RESERVATIONS, 0.0).await;
    server.until(CONNECTIONS, 1.0).await;
    // The source has lost nothing but the circuit.
    let (answer, _) = hop::connect(&source, &server, left).await;
    assert_eq!(answer.status, hop::NO_RESERVATION);
    drop((source, near));
    server.until_nothing_is_held().await;
}

async fn a_source_that_leaves_ends_its_circuits(muxer: Muxer) {
    let server = Server::start(&["relay.circuits_per_peer_max=1"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    hop::carries(&mut near, &mut far, b"here").await;
    drop((source, near));
    assert_eq!(hop::drain(&mut far).await, []);
    hop::until_reset(&mut far).await;
    server.until(CIRCUITS, 0.0).await;
    server.until(CONNECTIONS, 1.0).await;
    // The target can be reached again at once.
    assert_eq!(server.metrics().await.value(RESERVATIONS), 1.0);
    let other = hop::connected(&server, muxer).await;
    hop::circuit(&other, &server, &target, &mut offers).await;
    drop((other, target, offers, far));
    server.until_nothing_is_held().await;
}

async fn a_relay_client_learns_that_the_other_has_left(muxer: Muxer) {
    let server = Server::start(&[]);
    let (mut source, target) = meet(&server, muxer).await;
    let left = target.id();
    drop(target);
    source.until_disconnected(left).await;
    server.until(CIRCUITS, 0.0).await;
    drop(source);
    server.until_nothing_is_held().await;
}

async fn a_target_that_leaves_while_it_is_asked_is_reported(muxer: Muxer) {
    let server = Server::start(&[]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let id = target.id();
    let ((answer, _), ()) = futures::join!(hop::connect(&source, &server, id), async {
        let offer = offers.hold().await;
        drop((target, offers, offer));
    });
    assert_eq!(answer.status, hop::CONNECTION_FAILED);
    drop(source);
    server.until_nothing_is_held().await;
}
