//! What connections share: who is connected, what is reserved, which circuits
//! run, and how one connection reaches another.
//!
//! Lock table, acquired upward only and never while calling out, sending or
//! logging:
//!
//! 1. a stripe of a map in here (connections, reservations, peers, counts)
//! 2. a connection's egress (`connection::egress`)
//!
//! No two locks of one kind are ever held at once, and no lock is held across
//! an await. Totals are counted by reservation beside the stripes, so that a
//! limit is never overshot. Leaf locks, taken under a stripe's and calling nothing:
//! the peerstore's order of expiry beside each of its stripes.

pub mod access;
pub mod addresses;
pub mod bandwidth;
pub mod circuits;
pub mod connections;
pub mod leg;
pub mod limits;
pub mod peer_key;
pub mod peerstore;
pub mod reservations;
pub mod striped;
mod sync;
