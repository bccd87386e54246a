//! Who has to go when there are too many, and who is kept.

use std::time::Duration;

use crate::hop;
use crate::peer::{Kind, Muxer, Peer};
use crate::server::Server;

const CONNECTIONS: &str = "waystation_connections";
const VICTIMS: &str = r#"waystation_trim_victims_total{cause="high_water"}"#;
const TRIMMED: &str = r#"waystation_connections_closed_total{reason="trimmed"}"#;

over_both_muxers! {
    at_high_water_idle_peers_go_and_those_with_a_reservation_or_a_circuit_stay
    a_peer_in_its_grace_period_stays
}

async fn at_high_water_idle_peers_go_and_those_with_a_reservation_or_a_circuit_stay(muxer: Muxer) {
    let server = Server::start(&[
        "connections.max=40",
        "connections.high_water=12",
        "connections.low_water=8",
        "connections.grace_period=0",
    ]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    let mut reserved = hop::connected(&server, muxer).await;
    hop::reserved(&reserved, &server).await;
    let mut idle = Vec::new();
    for _ in 0..9 {
        idle.push(hop::connected(&server, muxer).await);
    }
    // The twelfth crosses high water; four go.
    server.until(VICTIMS, 4.0).await;
    server.until(CONNECTIONS, 8.0).await;
    server.until(TRIMMED, 4.0).await;
    server.until("waystation_peers", 8.0).await;
    // Those that matter have not noticed.
    hop::carries(&mut near, &mut far, b"still here").await;
    hop::carries(&mut far, &mut near, b"here too").await;
    reserved.until_pinged(server.peer_id(), 3).await;
    let metrics = server.metrics().await;
    assert_eq!(metrics.value("waystation_relay_reservations"), 2.0);
    assert_eq!(
        metrics.value(r#"waystation_peers_protected{reason="reservation"}"#),
        2.0
    );
    assert_eq!(
        metrics.value(r#"waystation_peers_protected{reason="circuit"}"#),
        2.0
    );
    // Whoever was sent away may come back: there is room up to high water.
    let mut again = Peer::new(Kind::Bare, muxer);
    again.connect(&server).await;
    again.until_pinged(server.peer_id(), 1).await;
    drop((source, target, offers, near, far, reserved, idle, again));
    server.until_nothing_is_held().await;
}

async fn a_peer_in_its_grace_period_stays(muxer: Muxer) {
    let server = Server::start(&[
        "connections.max=6",
        "connections.high_water=4",
        "connections.low_water=2",
        "connections.grace_period=1h",
    ]);
    let mut peers = Vec::new();
    for _ in 0..6 {
        peers.push(hop::connected(&server, muxer).await);
    }
    // Looked at several times, and each stays.
    let short = "waystation_trims_short_total";
    server.until(short, 1.0).await;
    for peer in &mut peers {
        peer.until_pinged(server.peer_id(), 2).await;
    }
    assert_eq!(server.metrics().await.value(CONNECTIONS), 6.0);
    // The hard maximum holds for those who come then.
    let refused = r#"waystation_sockets_refused_total{reason="total"}"#;
    let late = Peer::new(Kind::Bare, muxer);
    late.dial(server.address());
    let looked = tokio::time::timeout(crate::PROMPT, async {
        while server.metrics().await.value(refused) < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    looked.await.unwrap();
    assert_eq!(server.metrics().await.value(CONNECTIONS), 6.0);
}
