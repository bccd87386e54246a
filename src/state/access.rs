//! Who may use the relay: the operator's lists of peers.
//!
//! Fixed at the start and read without a lock. How many may use it, and how
//! much, is left to the limits.

use std::collections::HashSet;

use libp2p_identity::PeerId;

use crate::config::RelayConfig;

/// The operator's word on peers. Denial always wins.
pub struct Access {
    deny: HashSet<PeerId>,
    allow: HashSet<PeerId>,
}

impl Access {
    /// The lists as configured.
    #[must_use]
    pub fn new(config: &RelayConfig) -> Self {
        Self {
            deny: config.deny_peers.iter().copied().collect(),
            allow: config.allow_peers.iter().copied().collect(),
        }
    }

    /// Whether the peer may hold a reservation: not denied, and on the list of
    /// allowed peers if there is one.
    #[must_use]
    pub fn may_reserve(&self, peer: &PeerId) -> bool {
        !self.deny.contains(peer) && (self.allow.is_empty() || self.allow.contains(peer))
    }

    /// Whether the peer's connections are kept before all others.
    #[must_use]
    pub fn is_protected(&self, peer: &PeerId) -> bool {
        self.allow.contains(peer)
    }

    /// Whether the peer may be an end of a circuit.
    #[must_use]
    pub fn may_connect(&self, peer: &PeerId) -> bool {
        !self.deny.contains(peer)
    }
}
