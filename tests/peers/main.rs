//! What Waystation promises to peers, shown with peers of another making.
//!
//! Each test starts the real program on a free port of the loopback interface
//! and talks to it with unmodified rust-libp2p Swarms, over yamux and over
//! mplex where the muxer makes a difference, over TLS where the cipher does. `server` runs the program, `peer`
//! is a Swarm that `driven` drives, `hop` speaks the relay protocol by hand for what a Swarm would
//! hide (status codes, vouchers, the bare circuit). The other modules are the
//! tests, by what they are about.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "peers start their own tasks and read their own clock"
)]

/// Makes two tests of each function named: one per muxer.
macro_rules! over_both_muxers {
    ($($name:ident)*) => {$(
        mod $name {
            use crate::peer::Muxer;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn over_yamux() {
                Box::pin(super::$name(Muxer::Yamux)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn over_mplex() {
                Box::pin(super::$name(Muxer::Mplex)).await;
            }
        }
    )*};
}

/// Makes one more test of each function named: over TLS.
macro_rules! over_tls {
    ($($name:ident)*) => {
        mod over_tls {
            use crate::peer::{Muxer, Way};

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    Box::pin(super::$name(Way::tls(Muxer::Yamux))).await;
                }
            )*
        }
    };
}

/// As [`over_both_muxers`], and one over QUIC, which needs none.
macro_rules! over_muxers_and_quic {
    ($($name:ident)*) => {
        over_both_muxers! { $($name)* }
        mod over_quic {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                Box::pin(super::$name(crate::peer::Muxer::Quic)).await;
            }
        )*}
    };
}

mod authority;
mod driven;
mod hop;
mod peer;
mod server;

mod access;
mod addresses;
mod connect;
mod identify;
mod leaving;
mod limits;
mod matrix;
mod nginx;
mod private;
mod punching;
mod quic;
mod quic_client;
mod quic_closes;
mod quic_keys;
mod refusals;
mod remembering;
mod reserve;
mod secure_websocket;
mod shutdown;
mod stalling;
mod store;
mod trimming;
mod websocket;

use std::time::Duration;

/// How long anything may take that is promised to happen promptly, on a machine
/// that runs all the other tests at the same time.
const PROMPT: Duration = Duration::from_secs(20);

/// Fails the test, by name, when `what` does not come about in time.
async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Bytes that are different at every offset (splitmix64 of the position).
fn pattern(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let words = (offset / 8..).take(length.div_ceil(8));
    let mut bytes: Vec<u8> = words
        .flat_map(|word| {
            let mut mixed = (seed << 48 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ mixed >> 31).to_le_bytes()
        })
        .collect();
    bytes.truncate(length);
    bytes
}
