//! The only reader of time in this crate.
//!
//! Engines take `Instant` as an argument; everything else asks here. Reading
//! through tokio lets a test pause and advance time for a whole server.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Seconds since the Unix epoch, as reservations and vouchers put them on the
/// wire (circuit relay v2, `Reservation.expire`).
#[must_use]
pub fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}

/// Nanoseconds since the Unix epoch, as go-libp2p numbers its signed records
/// (RFC 3, "seq"): of two nodes with one key, the later one's record wins.
#[must_use]
pub fn unix_nanos() -> u64 {
    u64::try_from(since_epoch().as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "this module is the one reader")]
fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
