//! What one circuit may carry, and for how long.

use std::time::{Duration, Instant};

use futures::AsyncWriteExt as _;
use libp2p::Stream;

use crate::hop;
use crate::peer::Muxer;
use crate::server::Server;
use crate::{PROMPT, pattern, within};

const BYTES_MAX: usize = 96 * 1024;
const CIRCUITS: &str = "waystation_relay_circuits";
const BYTE_LIMIT: &str = r#"waystation_relay_circuits_ended_total{cause="byte_limit"}"#;
const DURATION_LIMIT: &str = r#"waystation_relay_circuits_ended_total{cause="duration_limit"}"#;

over_muxers_and_quic! {
    each_direction_carries_exactly_its_bytes
    all_bytes_up_to_the_limit_leave_the_circuit_open
    an_idle_circuit_ends_in_time
    a_busy_circuit_ends_in_time
    bulk_keeps_to_the_bandwidth_and_arrives_whole
}

async fn each_direction_carries_exactly_its_bytes(muxer: Muxer) {
    let server = Server::start_for(muxer, &["relay.circuit_bytes_max=96KiB"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let sent = pattern(1, 0, BYTES_MAX + 5_000);
    for (ended, from_source) in [(1.0, true), (2.0, false)] {
        let (near, far) = hop::circuit(&source, &server, &target, &mut offers).await;
        let (mut sender, mut receiver) = if from_source {
            (near, far)
        } else {
            (far, near)
        };
        // The other direction has a count of its own.
        hop::carries(&mut receiver, &mut sender, &sent[..10_000]).await;
        let (_, received) = futures::join!(push(&mut sender, &sent), hop::drain(&mut receiver));
        assert_eq!(received.len(), BYTES_MAX);
        assert!(received == sent[..BYTES_MAX]);
        hop::until_reset(&mut sender).await;
        hop::until_reset(&mut receiver).await;
        server.until(BYTE_LIMIT, ended).await;
        server.until(CIRCUITS, 0.0).await;
    }
}

async fn all_bytes_up_to_the_limit_leave_the_circuit_open(muxer: Muxer) {
    let server = Server::start_for(muxer, &["relay.circuit_bytes_max=96KiB"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    let all = pattern(1, 0, BYTES_MAX);
    hop::carries(&mut near, &mut far, &all).await;
    hop::carries(&mut far, &mut near, &all).await;
    assert_eq!(server.metrics().await.value(CIRCUITS), 1.0);
    near.write_all(&[0]).await.unwrap();
    near.flush().await.unwrap();
    assert_eq!(hop::drain(&mut far).await, []);
    hop::until_reset(&mut near).await;
    hop::until_reset(&mut far).await;
    server.until(CIRCUITS, 0.0).await;
}

async fn an_idle_circuit_ends_in_time(muxer: Muxer) {
    let server = Server::start_for(muxer, &["relay.circuit_duration_max=1s"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let begun = Instant::now();
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    futures::join!(hop::drain(&mut near), hop::drain(&mut far));
    assert!(begun.elapsed() >= Duration::from_secs(1), "too early");
    hop::until_reset(&mut near).await;
    hop::until_reset(&mut far).await;
    server.until(DURATION_LIMIT, 1.0).await;
    server.until(CIRCUITS, 0.0).await;
}

async fn a_busy_circuit_ends_in_time(muxer: Muxer) {
    let server = Server::start_for(
        muxer,
        &["relay.circuit_duration_max=1s", "relay.circuit_bytes_max=0"],
    );
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let begun = Instant::now();
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    let block = [0; 10_000];
    let pushing = within(PROMPT, "a busy circuit ends", async {
        while near.write_all(&block).await.is_ok() {}
    });
    let (received, ()) = futures::join!(hop::drain(&mut far), pushing);
    assert!(begun.elapsed() >= Duration::from_secs(1), "too early");
    assert!(!received.is_empty());
    hop::until_reset(&mut far).await;
    server.until(DURATION_LIMIT, 1.0).await;
    server.until(CIRCUITS, 0.0).await;
}

/// Sends as much as is taken.
async fn push(stream: &mut Stream, bytes: &[u8]) {
    for piece in bytes.chunks(1_000) {
        if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
}

/// The rate, what is saved up of it, and the windows pass at their own speed;
/// the rest takes its time, and none of it is lost.
async fn bulk_keeps_to_the_bandwidth_and_arrives_whole(muxer: Muxer) {
    const BYTES: usize = 3 << 20;
    const RATE: usize = 1 << 20;
    // What a source may send on credit, and what one read takes of it.
    const AHEAD: usize = 512 * 1024;
    let server = Server::start_for(
        muxer,
        &[
            "relay.circuit_bytes_max=0",
            "relay.bandwidth_per_peer_max=1MiB",
        ],
    );
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    let sent = pattern(7, 0, BYTES);
    let begun = Instant::now();
    hop::carries(&mut near, &mut far, &sent).await;
    let least = Duration::from_secs_f64((BYTES - RATE - AHEAD) as f64 / RATE as f64);
    assert!(begun.elapsed() >= least, "after {:?}", begun.elapsed());
    let waited = server
        .metrics()
        .await
        .value(r#"waystation_relay_credit_withheld_total{limit="per_peer"}"#);
    assert!(waited > 0.0);
}
