//! How long things last: reservations, circuits, connections, grace.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::peer::Peer;
use crate::server::Server;
use crate::{SLACK, assert_passed};

const RESERVATIONS: &str = "waystation_relay_reservations";
const CIRCUITS: &str = "waystation_relay_circuits";
const CONNECTIONS: &str = "waystation_connections";

const TRIMMED: &str = r#"waystation_connections_closed_total{reason="trimmed"}"#;

/// As the test below sets it.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// What the server asks of a peer that is silent: a sign of life after a
/// minute, an end after two.
const SILENCE_MAX: Duration = Duration::from_secs(120);

#[tokio::test(start_paused = true)]
async fn a_reservation_ends_with_its_time_though_the_peer_stays() {
    let server = Server::start(&["relay.reservation_ttl=3h"]).await;
    let mut target = Peer::connected(&server, 1).await;
    target.reserve(&server).await;
    let reserved = Instant::now();
    sleep(Duration::from_secs(3 * 60 * 60) - SLACK).await;
    assert_eq!(server.value(RESERVATIONS), 1.0);
    sleep(2 * SLACK).await;
    // Nobody can be let in by it any more, whenever it is swept away.
    let mut source = Peer::new(&server, 2);
    source.dial(server.address_of(target.id()));
    let refused = source.until_failed(target.id()).await;
    assert!(refused.contains("NoReservation"), "{refused}");
    server.until(RESERVATIONS, 0.0).await;
    assert!(reserved.elapsed() < Duration::from_secs(4 * 60 * 60));
    assert!(!target.has_lost(server.peer_id()));
}

#[tokio::test(start_paused = true)]
async fn a_circuit_ends_when_its_time_is_up_and_the_reservation_stays() {
    let server = Server::start(&["relay.circuit_duration_max=90s"]).await;
    let (mut source, mut target) = meet(&server).await;
    let met = Instant::now();
    source.until_disconnected(target.id()).await;
    assert_passed(met, Duration::from_secs(90));
    target.until_disconnected(source.id()).await;
    server.until(CIRCUITS, 0.0).await;
    assert_eq!(server.value(RESERVATIONS), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_peer_stays_and_one_that_is_gone_without_a_word_does_not() {
    let server = Server::start(&[]).await;
    let mut quiet = Peer::connected(&server, 1).await;
    let mut gone = Peer::connected(&server, 2).await;
    gone.reserve(&server).await;
    server.until(CONNECTIONS, 2.0).await;
    gone.vanish();
    let vanished = Instant::now();
    server.until(CONNECTIONS, 1.0).await;
    assert!(vanished.elapsed() <= 2 * SILENCE_MAX);
    server.until(RESERVATIONS, 0.0).await;
    let silent = r#"waystation_connections_closed_total{reason="keep_alive"}"#;
    assert_eq!(server.value(silent), 1.0);
    sleep(10 * SILENCE_MAX).await;
    assert!(!quiet.has_lost(server.peer_id()));
    assert_eq!(server.value(CONNECTIONS), 1.0);
}

#[tokio::test(start_paused = true)]
async fn above_high_water_newcomers_are_spared_until_their_grace_is_over() {
    let server = Server::start(&[
        "connections.max=40",
        "connections.high_water=6",
        "connections.low_water=4",
        "connections.grace_period=10m",
    ])
    .await;
    let mut peers = Vec::new();
    for host in 0..6 {
        peers.push(Peer::connected(&server, host).await);
    }
    let connected = Instant::now();
    sleep(GRACE - SLACK).await;
    assert_eq!(server.value(CONNECTIONS), 6.0);
    // Those that are spared no longer are enough then, and nobody has to come.
    server.until(CONNECTIONS, 4.0).await;
    assert!(connected.elapsed() <= GRACE + Duration::from_secs(60));
    assert_eq!(server.value(TRIMMED), 2.0);
}

/// Two peers that have met through the relay: who dialled, and who had
/// reserved.
pub(crate) async fn meet(server: &Server) -> (Peer, Peer) {
    let mut target = Peer::connected(server, 1).await;
    target.reserve(server).await;
    let mut source = Peer::new(server, 2);
    source.dial(server.address_of(target.id()));
    source.until_connected(target.id()).await;
    target.until_connected(source.id()).await;
    (source, target)
}
