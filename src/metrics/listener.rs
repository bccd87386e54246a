//! Sockets from `accept` to the end of their upgrade, and those turned away.
//!
//! A guard counts each socket that is being upgraded. The levels of the tables
//! that limit by origin are copied in before a scrape.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::{IntCounter, IntGauge};

use super::declare::{Counters, Declarations, Kind};
use super::gauge_value;
use super::pulled::Pulled;

const REFUSED: &[&str] = &[
    "total",
    "transient",
    "per_ip",
    "per_prefix",
    "rate_per_ip",
    "rate_per_prefix",
    "draining",
];

const ORIGINS: &[&str; 2] = &["host", "prefix"];

/// What the acceptors do.
#[derive(Debug)]
pub struct ListenerMetrics {
    accepted: IntCounter,
    refused: Counters,
    accept_errors: IntCounter,
    upgrading: IntGauge,
    upgrading_max: IntGauge,
    origins: Arc<OriginTables>,
}

/// Levels of the tables that limit by origin, copied before a scrape.
#[derive(Debug, Default)]
struct OriginTables {
    tracked: [AtomicU64; 2],
    overflowed: [AtomicU64; 2],
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
                "Sockets closed before any handshake, by the limit that refused them.",
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
            origins: declare_origins(declare),
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

    /// How many hosts and network prefixes the limits keep track of.
    pub fn set_origins_tracked(&self, hosts: usize, prefixes: usize) {
        self.origins.tracked[0].store(hosts as u64, Relaxed);
        self.origins.tracked[1].store(prefixes as u64, Relaxed);
    }

    /// How often, since the start, a host or prefix found its table full.
    pub fn set_origins_overflowed(&self, hosts: u64, prefixes: u64) {
        self.origins.overflowed[0].store(hosts, Relaxed);
        self.origins.overflowed[1].store(prefixes, Relaxed);
    }

    /// Counts of refusals, for tests of the layers that refuse.
    #[must_use]
    pub const fn refusals(&self) -> &Counters {
        &self.refused
    }
}

fn declare_origins(declare: &mut Declarations) -> Arc<OriginTables> {
    let tables = Arc::new(OriginTables::default());
    let read = |of: &[AtomicU64; 2]| of.each_ref().map(|value| value.load(Relaxed) as f64);
    let tracked = Arc::clone(&tables);
    declare.pulled_by_label(
        Pulled {
            kind: Kind::Gauge,
            name: "waystation_origins_tracked",
            help: "Remote hosts and network prefixes in the tables that limit by origin.",
        },
        "by",
        ORIGINS,
        move || read(&tracked.tracked),
    );
    let overflowed = Arc::clone(&tables);
    declare.pulled_by_label(
        Pulled {
            kind: Kind::Counter,
            name: "waystation_origins_overflowed_total",
            help: "Times that a table that limits by origin had no room for a newcomer.",
        },
        "by",
        ORIGINS,
        move || read(&overflowed.overflowed),
    );
    tables
}

/// One socket that is being upgraded.
#[derive(Debug)]
pub struct SocketGuard(Arc<ListenerMetrics>);

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.0.upgrading.dec();
    }
}
