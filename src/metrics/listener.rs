//! Sockets from `accept` to the end of their upgrade, and those turned away.
//!
//! A guard counts each socket that is being upgraded. What is taken of the
//! limits stands in `limits.rs`.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::declare::{Counters, Declarations};
use super::gauge_value;

const REFUSED: &[&str] = &[
    "total",
    "sockets",
    "transient",
    "per_peer",
    "per_ip",
    "per_site",
    "per_prefix",
    "per_asn",
    "rate_per_ip",
    "rate_per_site",
    "rate_per_prefix",
    "rate_per_asn",
    "draining",
];

/// What the acceptors do.
#[derive(Debug)]
pub struct ListenerMetrics {
    accepted: IntCounter,
    refused: Counters,
    accept_errors: IntCounter,
    upgrading: IntGauge,
    upgrading_max: IntGauge,
}

impl ListenerMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        Self {
            accepted: declare.counter(
                "waystation_sockets_accepted_total",
                "Sockets accepted by the kernel and admitted to the upgrade.",
            ),
            refused: declare.counters(
                "waystation_sockets_refused_total",
                "Sockets closed before any handshake, by the limit that refused them; per_peer: connections closed right behind it.",
                "reason",
                REFUSED,
            ),
            accept_errors: declare.counter(
                "waystation_accept_errors_total",
                "Failures of accept itself, such as running out of file descriptors.",
            ),
            upgrading: declare.gauge(
                "waystation_sockets_upgrading",
                "Sockets admitted and not yet authenticated.",
            ),
            upgrading_max: declare.gauge(
                "waystation_sockets_upgrading_max",
                "Most sockets that may be upgrading at once (connections.transient_max).",
            ),
        }
    }

    pub fn set_upgrading_max(&self, max: usize) {
        self.upgrading_max.set(gauge_value(max));
    }

    /// A socket passed admission; it counts as upgrading until the guard drops.
    #[must_use]
    pub fn socket_accepted(self: &Arc<Self>) -> SocketGuard {
        self.accepted.inc();
        self.upgrading.inc();
        SocketGuard(Arc::clone(self))
    }

    /// A socket was turned away; `reason` is the refusal's label.
    pub fn socket_refused(&self, reason: &'static str) {
        self.refused.inc(reason);
    }

    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// Counts of refusals, for tests of the layers that refuse.
    #[must_use]
    pub const fn refusals(&self) -> &Counters {
        &self.refused
    }
}

/// One socket that is being upgraded.
#[derive(Debug)]
pub struct SocketGuard(Arc<ListenerMetrics>);

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.0.upgrading.dec();
    }
}
