//! What is taken of each limit, and its maximum beside it.
//!
//! Levels that their owners know anyway, copied in before a scrape. Limits are
//! labelled by their configuration key; those that hold for each address or
//! peer apart have a table, whose size and bound are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::declare::{Declarations, Kind};
use super::pulled::Pulled;

/// Limits that hold for the whole server.
const LIMITS: &[&str; 11] = &[
    "connections.max",
    "connections.sockets_max",
    "connections.transient_max",
    "connections.buffers_max",
    "relay.reservations_max",
    "relay.circuits_max",
    "streams.max",
    "streams.ping_max",
    "streams.identify_max",
    "streams.push_max",
    "streams.hop_max",
];

/// Tables of those that limits hold for apart.
const TABLES: &[&str; 6] = &[
    "host",
    "site",
    "prefix",
    "asn",
    "reserving_peer",
    "connecting_peer",
];

/// A level and its maximum.
type Pair = (usize, usize);

/// The limits of the server.
#[derive(Debug)]
pub struct LimitMetrics {
    levels: Arc<Levels>,
}

#[derive(Debug, Default)]
struct Levels {
    used: [AtomicU64; LIMITS.len()],
    max: [AtomicU64; LIMITS.len()],
    entries: [AtomicU64; TABLES.len()],
    entries_max: [AtomicU64; TABLES.len()],
    overflow: [AtomicU64; TABLES.len()],
}

impl LimitMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let levels = Arc::new(Levels::default());
        let mut limits = |name, help, of: fn(&Levels) -> &[AtomicU64; LIMITS.len()]| {
            let levels = Arc::clone(&levels);
            declare.pulled_by_label(gauge(name, help), "limit", LIMITS, move || {
                of(&levels)
                    .each_ref()
                    .map(|value| value.load(Relaxed) as f64)
            });
        };
        limits(
            "waystation_limit_used",
            "What is taken of each limit of the server, by its configuration key; buffers in bytes.",
            |levels| &levels.used,
        );
        limits(
            "waystation_limit_max",
            "The most that may be taken of each limit of the server; 0: without a limit.",
            |levels| &levels.max,
        );
        let mut tables = |name, help, of: fn(&Levels) -> &[AtomicU64; TABLES.len()]| {
            let levels = Arc::clone(&levels);
            declare.pulled_by_label(gauge(name, help), "by", TABLES, move || {
                of(&levels)
                    .each_ref()
                    .map(|value| value.load(Relaxed) as f64)
            });
        };
        tables(
            "waystation_origins_tracked",
            "Hosts, sites, networks, autonomous systems and peers in the tables that limit each of them.",
            |levels| &levels.entries,
        );
        tables(
            "waystation_origins_tracked_max",
            "Places in those tables.",
            |levels| &levels.entries_max,
        );
        tables(
            "waystation_origins_overflowed",
            "Connections that came when their table was full, which together have the share of one; for peers, requests since it was full, which share one bucket.",
            |levels| &levels.overflow,
        );
        Self { levels }
    }

    /// Levels and maxima: connections, sockets that have not authenticated,
    /// bytes in buffers, reservations, circuits, then streams in all and for
    /// ping, identify, push and hop.
    pub fn set_limits(&self, pairs: [Pair; LIMITS.len()]) {
        for (index, (used, max)) in pairs.into_iter().enumerate() {
            self.levels.used[index].store(used as u64, Relaxed);
            self.levels.max[index].store(max as u64, Relaxed);
        }
    }

    /// Entries, places and connections without a place: of hosts, sites,
    /// networks, autonomous systems, peers that reserve and peers that connect.
    pub fn set_tables(&self, tables: [(Pair, usize); TABLES.len()]) {
        for (index, ((entries, max), overflow)) in tables.into_iter().enumerate() {
            self.levels.entries[index].store(entries as u64, Relaxed);
            self.levels.entries_max[index].store(max as u64, Relaxed);
            self.levels.overflow[index].store(overflow as u64, Relaxed);
        }
    }
}

fn gauge(name: &'static str, help: &'static str) -> Pulled {
    Pulled {
        kind: Kind::Gauge,
        name,
        help,
    }
}
