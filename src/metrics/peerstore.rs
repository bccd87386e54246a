//! The peerstore: how full it is, what it refused and let go of, and what of
//! it has been written.
//!
//! Counts only: no peer, address or agent becomes a label.

use prometheus::{IntCounter, IntGauge};

use super::declare::{Counters, Declarations};
use super::gauge_value;

/// Why something that a peer announced was not kept.
const REASONS: &[&str] = &[
    "malformed",
    "too_long",
    "other_peer",
    "private",
    "unreachable",
    "addresses",
    "protocols",
    "agent",
    "texts",
    "record_malformed",
    "record_too_large",
    "record_foreign",
    "record_signature",
    "record_sequence",
    "record_rate",
    "peer",
    "memory",
];

/// What the peerstore holds and does.
#[derive(Debug)]
pub struct PeerstoreMetrics {
    peers: IntGauge,
    peers_max: IntGauge,
    addresses: IntGauge,
    addresses_max: IntGauge,
    bytes: IntGauge,
    bytes_max: IntGauge,
    changed: IntGauge,
    refused: Counters,
    evicted: Counters,
    expired: Counters,
    sweeps: IntCounter,
    written: Counters,
    rounds: IntCounter,
    loaded: Counters,
}

/// One total of the peerstore: what is taken and what may be.
type Level = (usize, usize);

impl PeerstoreMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        Self {
            peers: declare.gauge("waystation_peerstore_peers", "Peers that are known."),
            peers_max: declare.gauge(
                "waystation_peerstore_peers_max",
                "Peers that may be known: peerstore.peers_max.",
            ),
            addresses: declare.gauge(
                "waystation_peerstore_addresses",
                "Addresses of known peers.",
            ),
            addresses_max: declare.gauge(
                "waystation_peerstore_addresses_max",
                "Addresses that may be known: peerstore.addresses_max.",
            ),
            bytes: declare.gauge(
                "waystation_peerstore_bytes",
                "Memory that known peers take, as the peerstore counts it.",
            ),
            bytes_max: declare.gauge(
                "waystation_peerstore_bytes_max",
                "Memory that known peers may take: peerstore.memory_max.",
            ),
            changed: declare.gauge(
                "waystation_peerstore_unwritten",
                "Peers that have changed since they were last written; a stripe of which all has changed counts as 4096.",
            ),
            refused: declare.counters(
                "waystation_peerstore_refused_total",
                "What peers announced and was not kept, by reason; the rest of the announcement was.",
                "reason",
                REASONS,
            ),
            evicted: declare.counters(
                "waystation_peerstore_evicted_total",
                "Peers that went before their time, by what there was no room for.",
                "reason",
                &["peers", "memory"],
            ),
            expired: declare.counters(
                "waystation_peerstore_expired_total",
                "What has expired.",
                "what",
                &["peer", "address"],
            ),
            sweeps: declare.counter(
                "waystation_peerstore_sweeps_total",
                "Stripes that were swept.",
            ),
            written: declare.counters(
                "waystation_peerstore_written_total",
                "Peers that were written to the store, or taken out of it.",
                "change",
                &["put", "deleted"],
            ),
            rounds: declare.counter(
                "waystation_peerstore_writing_rounds_total",
                "Times that all changes of known peers were written.",
            ),
            loaded: declare.counters(
                "waystation_peerstore_loaded_total",
                "Peers found in the store at the start, by what became of them.",
                "result",
                &["taken", "expired", "malformed", "full"],
            ),
        }
    }

    /// Something that a peer announced was not kept.
    pub fn refused(&self, reason: &'static str, count: usize) {
        if count > 0 {
            self.refused.add(reason, count);
        }
    }

    /// Peers made room for others.
    pub fn evicted(&self, reason: &'static str, peers: usize) {
        self.evicted.add(reason, peers);
    }

    /// One stripe was swept.
    pub fn swept(&self, peers: usize, addresses: usize) {
        self.sweeps.inc();
        self.expired.add("peer", peers);
        self.expired.add("address", addresses);
    }

    /// A batch is on disk.
    pub fn written(&self, put: usize, deleted: usize) {
        self.written.add("put", put);
        self.written.add("deleted", deleted);
    }

    /// All that had changed is on disk.
    pub fn round_written(&self) {
        self.rounds.inc();
    }

    /// A peer was found in the store.
    pub fn loaded(&self, result: &'static str) {
        self.loaded.inc(result);
    }

    /// Copies the totals: peers, addresses, bytes; and peers not yet written.
    pub fn set_usage(&self, peers: Level, addresses: Level, bytes: Level, unwritten: usize) {
        for ((gauge, max), level) in [
            ((&self.peers, &self.peers_max), peers),
            ((&self.addresses, &self.addresses_max), addresses),
            ((&self.bytes, &self.bytes_max), bytes),
        ] {
            gauge.set(gauge_value(level.0));
            max.set(gauge_value(level.1));
        }
        self.changed.set(gauge_value(unwritten));
    }

    /// How often something was refused for this reason.
    #[must_use]
    pub fn refusals(&self, reason: &str) -> u64 {
        self.refused.get(reason)
    }

    /// All reasons: lets the peerstore test that each of its is counted.
    #[must_use]
    pub const fn reasons(&self) -> &'static [&'static str] {
        self.refused.values()
    }
}
