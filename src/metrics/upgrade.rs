//! Handshakes: how long they take and why they fail.
//!
//! A timer for each one; one that is dropped unfinished counts as abandoned.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus::{Histogram, HistogramVec, exponential_buckets};

use super::declare::{Counters, Declarations};
use super::labels::ConnectionLabels;

const CAUSES: &[&str] = &[
    "timeout",
    "eof",
    "io",
    "proxy",
    "outer_tls",
    "http",
    "websocket",
    "private_network",
    "unread",
    "multistream",
    "noise",
    "tls",
    "certificate",
    "identity",
    "signature",
    "record",
    "muxer",
    "quic",
    "refused",
    "abandoned",
];

/// What becomes of the sockets that passed admission.
#[derive(Debug)]
pub struct UpgradeMetrics {
    latency: HistogramVec,
    /// Series of `latency`, resolved when first used.
    resolved: [OnceLock<Histogram>; ConnectionLabels::HANDSHAKES],
    failed: Counters,
    failed_after: Histogram,
}

impl UpgradeMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        // From a loopback handshake to beyond the upgrade's 15 s deadline.
        let buckets = || exponential_buckets(0.001, 2.0, 15).expect("positive, growing buckets");
        Self {
            latency: declare.histogram_vec(
                "libp2p_swarm_handshake_latency_seconds",
                "Time from the start of an upgrade to an authenticated, multiplexed connection.",
                &ConnectionLabels::NAMES[1..],
                buckets(),
            ),
            resolved: [const { OnceLock::new() }; ConnectionLabels::HANDSHAKES],
            failed: declare.counters(
                "waystation_upgrades_failed_total",
                "Upgrades that did not become a connection, by cause.",
                "cause",
                CAUSES,
            ),
            failed_after: declare.histogram(
                "waystation_upgrade_failure_latency_seconds",
                "Time from the start of an upgrade to its failure.",
                buckets(),
            ),
        }
    }

    /// An upgrade begins; the timer must be told how it ends.
    #[must_use]
    pub fn started(self: &Arc<Self>, now: Instant) -> UpgradeTimer {
        UpgradeTimer {
            metrics: Arc::clone(self),
            started: now,
            ended: false,
        }
    }

    /// Counts of failures, for tests of the layer that fails.
    #[must_use]
    pub const fn failures(&self) -> &Counters {
        &self.failed
    }
}

/// One upgrade under way; dropped without a word it counts as abandoned, which
/// is what shutting down does to it.
#[derive(Debug)]
pub struct UpgradeTimer {
    metrics: Arc<UpgradeMetrics>,
    started: Instant,
    ended: bool,
}

impl UpgradeTimer {
    /// The connection is up.
    pub fn completed(mut self, labels: ConnectionLabels, now: Instant) {
        self.ended = true;
        self.metrics.resolved[labels.handshake_index()]
            .get_or_init(|| {
                self.metrics
                    .latency
                    .with_label_values(&labels.values()[1..])
            })
            .observe(now.saturating_duration_since(self.started).as_secs_f64());
    }

    /// The upgrade failed; `cause` is the error's label.
    pub fn failed(mut self, cause: &'static str, now: Instant) {
        self.ended = true;
        self.metrics.failed.inc(cause);
        self.metrics
            .failed_after
            .observe(now.saturating_duration_since(self.started).as_secs_f64());
    }
}

impl Drop for UpgradeTimer {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.failed.inc("abandoned");
        }
    }
}
