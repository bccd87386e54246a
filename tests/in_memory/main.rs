//! A whole server on one thread, without sockets and under virtual time.
//!
//! Listeners, upgrades, connections, services, state, housekeeping, trimming and
//! shutdown are the program's; its peers are unmodified rust-libp2p Swarms whose
//! transport is a pipe in memory. Time stands still while anybody has something
//! to do, and otherwise jumps to the next timer of the server or the test: hours
//! pass at once, and no test waits to be lucky. What a Swarm does by timers of
//! its own (pings, renewals) goes by the real clock, so no test asks for it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "peers start their own tasks and read their own clock"
)]

#[path = "../peers/driven.rs"]
mod driven;
mod peer;
mod server;
mod wire;

mod certificates;
mod doors;
mod lives;
mod shutdown;

use std::time::Duration;

use tokio::time::Instant;

/// Virtual time after which something that has to come about by itself has not:
/// beyond every deadline of the server that a test does not set.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What timers and rounds of the server may be late by.
const SLACK: Duration = Duration::from_secs(2);

/// That `since` is this long ago, as exactly as timers are.
fn assert_passed(since: Instant, expected: Duration) {
    let passed = since.elapsed();
    let range = expected..=expected + SLACK;
    assert!(range.contains(&passed), "{passed:?}, not {expected:?}");
}
