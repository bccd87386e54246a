//! Which limit refused a circuit: one value for each, with its words and its
//! label.
//!
//! What it is on the wire is the service's to say.

use crate::state::bandwidth::Shaped;

/// Which limit refused a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CircuitRefusal {
    /// `relay.circuits_max`
    #[error("all circuits are taken (relay.circuits_max)")]
    Total,
    /// `relay.circuits_per_peer_max`, for the peer that asks
    #[error("the source has all its circuits (relay.circuits_per_peer_max)")]
    Source,
    /// `relay.circuits_per_peer_max`, for the peer that is asked for
    #[error("the target has all its circuits (relay.circuits_per_peer_max)")]
    Destination,
    /// `relay.connect_rate_per_peer`, for the peer that asks
    #[error("the source asks too often (relay.connect_rate_per_peer)")]
    Rate,
    /// `relay.bandwidth_max` or `relay.bandwidth_per_peer_max`
    #[error("the bandwidth is used up ({})", .0.key())]
    Bandwidth(Shaped),
    /// `connections.buffers_max`
    #[error("the memory for buffers is taken (connections.buffers_max)")]
    Memory,
    /// `streams.max`, when the target was to be asked
    #[error("too many streams (streams.max)")]
    Streams,
}

impl CircuitRefusal {
    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Source => "per_peer_source",
            Self::Destination => "per_peer_destination",
            Self::Rate => "rate_per_peer",
            Self::Bandwidth(Shaped::Total) => "bandwidth",
            Self::Bandwidth(_) => "bandwidth_per_peer",
            Self::Memory => "memory",
            Self::Streams => "streams",
        }
    }
}
