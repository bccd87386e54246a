//! Who is connected and who was sent away: water marks, trims, victims, and
//! the memory that asks for them.
//!
//! Levels are copied here before a scrape; the trimmer tells what it did. What
//! the labels mean is their owner's, `state::connections`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{Histogram, IntCounter, IntGauge, exponential_buckets};

use super::declare::{Counters, Declarations, Kind};
use super::gauge_value;
use super::pulled::Pulled;

/// Why a trim was made.
const CAUSES: &[&str] = &["high_water", "hard_max", "memory", "memory_stall"];

/// How well a victim was protected, the first to go first.
const CLASSES: &[&str] = &["unprotected", "grace", "reservation", "circuit", "operator"];

/// What protects a peer by being counted.
const REASONS: &[&str] = &["reservation", "circuit"];

/// Trims of connections.
#[derive(Debug)]
pub struct TrimMetrics {
    peers: IntGauge,
    closing: IntGauge,
    low_water: IntGauge,
    high_water: IntGauge,
    protected: [IntGauge; REASONS.len()],
    memory_max: IntGauge,
    /// The bits of a float.
    memory_stalled: Arc<AtomicU64>,
    candidates: IntGauge,
    trims: Counters,
    short: IntCounter,
    victims: Counters,
    victims_by_class: Counters,
    selection: Histogram,
    duration: Histogram,
}

impl TrimMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let protected = declare.gauge_vec(
            "waystation_peers_protected",
            "Peers protected from trimming, by reason; one may have both.",
            &[("reason", REASONS)],
        );
        let memory_stalled = declare_stalled(declare);
        Self {
            peers: declare.gauge("waystation_peers", "Peers with an open connection."),
            closing: declare.gauge(
                "waystation_connections_closing",
                "Connections that have been told to end and have not yet.",
            ),
            low_water: declare.gauge(
                "waystation_connections_low_water",
                "Connections that a trim leaves (connections.low_water).",
            ),
            high_water: declare.gauge(
                "waystation_connections_high_water",
                "Connections that start a trim (connections.high_water).",
            ),
            protected: [0, 1].map(|reason| protected.with_label_values(&[REASONS[reason]])),
            memory_max: declare.gauge(
                "waystation_memory_max_bytes",
                "Resident size above which connections are shed (memory.max); 0: without a limit.",
            ),
            memory_stalled,
            candidates: declare.gauge(
                "waystation_trim_candidates",
                "Connections that the last trim could choose from.",
            ),
            trims: declare.counters(
                "waystation_trims_total",
                "Trims, by what asked for them.",
                "cause",
                CAUSES,
            ),
            short: declare.counter(
                "waystation_trims_short_total",
                "Trims that found fewer connections to close than they were to: the rest is protected or new.",
            ),
            victims: declare.counters(
                "waystation_trim_victims_total",
                "Connections told to end by trims, by what asked for it.",
                "cause",
                CAUSES,
            ),
            victims_by_class: declare.counters(
                "waystation_trim_victims_by_protection_total",
                "Connections told to end by trims, by what had protected them.",
                "protection",
                CLASSES,
            ),
            selection: declare.histogram(
                "waystation_trim_selection_seconds",
                "Time from the start of a trim until its victims were chosen.",
                // A tenth of a millisecond to 1.6 s.
                exponential_buckets(1e-4, 4.0, 8).expect("positive, growing buckets"),
            ),
            duration: declare.histogram(
                "waystation_trim_duration_seconds",
                "Time from the start of a trim until its last victim was told.",
                // A millisecond to 65 s.
                exponential_buckets(1e-3, 4.0, 9).expect("positive, growing buckets"),
            ),
        }
    }

    /// The limits that stand beside the levels.
    pub fn set_limits(&self, low_water: usize, high_water: usize, memory_max: Option<u64>) {
        self.low_water.set(gauge_value(low_water));
        self.high_water.set(gauge_value(high_water));
        self.memory_max
            .set(memory_max.map_or(0, |max| i64::try_from(max).unwrap_or(i64::MAX)));
    }

    /// Peers connected, connections that are closing, and peers protected by a
    /// reservation and by a circuit.
    pub fn set_levels(&self, peers: usize, closing: usize, protected: [usize; REASONS.len()]) {
        self.peers.set(gauge_value(peers));
        self.closing.set(gauge_value(closing));
        for (gauge, count) in self.protected.iter().zip(protected) {
            gauge.set(gauge_value(count));
        }
    }

    /// The share of time that the kernel tells, from 0 to 1.
    pub fn set_memory_stalled(&self, share: f64) {
        self.memory_stalled
            .store(share.to_bits(), Ordering::Relaxed);
    }

    /// The victims have been chosen among so many.
    pub fn selected(&self, candidates: usize, seconds: f64) {
        self.candidates.set(gauge_value(candidates));
        self.selection.observe(seconds);
    }

    /// One connection has been told to end.
    pub fn told(&self, cause: &'static str, class: &'static str) {
        self.victims.inc(cause);
        self.victims_by_class.inc(class);
    }

    /// A trim is over; `short` if it could not do all that it was to.
    pub fn trimmed(&self, cause: &'static str, short: bool, seconds: f64) {
        self.trims.inc(cause);
        if short {
            self.short.inc();
        }
        self.duration.observe(seconds);
    }

    /// Trims by cause, for tests of the layer that trims.
    #[must_use]
    pub fn trims(&self) -> &Counters {
        &self.trims
    }

    /// Victims by what had protected them, for the same tests.
    #[must_use]
    pub fn victims_by_class(&self) -> &Counters {
        &self.victims_by_class
    }
}

/// The gauge that the kernel's share of stalls goes to, as the bits of a float.
fn declare_stalled(declare: &mut Declarations) -> Arc<AtomicU64> {
    let memory_stalled = Arc::new(AtomicU64::new(0));
    let stalled = Arc::clone(&memory_stalled);
    let family = Pulled {
        kind: Kind::Gauge,
        name: "waystation_memory_stalled_ratio",
        help: "Share of the last ten seconds in which some task waited for memory, as the kernel tells.",
    };
    declare.pulled([family], move || {
        [Some(f64::from_bits(stalled.load(Ordering::Relaxed)))]
    });
    memory_stalled
}
