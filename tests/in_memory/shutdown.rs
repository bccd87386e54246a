//! Stopping: circuits may finish, up to a deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::lives::meet;
use crate::peer::Peer;
use crate::server::Server;
use crate::{SLACK, assert_passed};

#[tokio::test(start_paused = true)]
async fn it_waits_for_circuits_that_end_by_themselves() {
    let mut server =
        Server::start(&["shutdown.drain_timeout=1h", "relay.circuit_duration_max=5m"]).await;
    let (mut source, target) = meet(&server).await;
    let begun = Instant::now();
    server.signal();
    source.until_disconnected(target.id()).await;
    server.ended().await;
    assert_passed(begun, Duration::from_secs(5 * 60));
    source.until_disconnected(server.peer_id()).await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_circuits_that_outlast_the_deadline() {
    let mut server =
        Server::start(&["shutdown.drain_timeout=1h", "relay.circuit_duration_max=2h"]).await;
    let (mut source, mut target) = meet(&server).await;
    let begun = Instant::now();
    server.signal();
    server.ended().await;
    assert_passed(begun, Duration::from_secs(60 * 60));
    for peer in [&mut source, &mut target] {
        peer.until_disconnected(server.peer_id()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_it_at_once_and_nobody_is_let_in_after_the_first() {
    let mut server = Server::start(&["shutdown.drain_timeout=1h"]).await;
    let (_source, _target) = meet(&server).await;
    let begun = Instant::now();
    server.signal();
    tokio::time::sleep(SLACK / 2).await;
    let mut late = Peer::new(&server, 3);
    late.dial(server.address());
    late.until_failed(server.peer_id()).await;
    server.signal();
    server.ended().await;
    assert!(begun.elapsed() < 2 * SLACK);
}
