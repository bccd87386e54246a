//! A connection: authenticated, multiplexed, and driven by one task that
//! sleeps on readability.
//!
//! The task owns what comes in (keys to open with, the half-read record, the
//! stream table); what goes out belongs to the [`egress`], which any thread
//! may append to. Nothing is buffered while it sleeps: a read pass borrows its
//! thread's buffer, opens records and parses frames in place, hands payload on
//! as slices, and flushes each connection it touched once at its end.
//!
//! ```text
//! socket ─ read pass ─ record ─ demux ─ stream ─┬─ service ── own egress
//!                                               └─ circuit ── other's egress
//! ```

#[doc(hidden)]
pub mod bench_support;
pub mod carrier;
mod circuit;
mod closed;
pub mod context;
mod egress;
mod events;
mod outbound;
mod pacing;
mod patience;
mod pool;
mod queue;
pub mod quic;
mod read_pass;
mod serve;
mod session;
mod stall;
mod stream;
mod task;
mod turn_away;

pub use closed::{Closed, RESOURCE_LIMIT};
pub use context::{Context, Remote};
pub use egress::CreditOverflow;
pub use pool::observe_pool;
pub use task::{Connection, Handover, Leftover};
pub use turn_away::turn_away;

#[cfg(test)]
pub(crate) mod tests;
