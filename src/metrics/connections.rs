//! Authenticated connections: open, opened, closed, for how long and why.
//!
//! A guard for each connection counts it in and out. Its label set comes from
//! closed lists and is resolved when it first occurs.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
};

use super::declare::{Counters, Declarations};
use super::labels::{ConnectionLabels, Muxer, Security, Transport};
use super::{Usage, gauge_value};

const REASONS: &[&str] = &[
    "peer",
    "go_away",
    "protocol_violation",
    "io",
    "keep_alive",
    "shutdown",
    "denied",
    "trimmed",
    "memory_short",
    "memory",
    "write_stalled",
    "dropped",
];

/// Position of the reason that stands until another is given.
const DROPPED: u8 = 11;

/// Connections that completed their upgrade.
#[derive(Debug)]
pub struct ConnectionMetrics {
    open: IntGauge,
    max: IntGauge,
    open_by: IntGaugeVec,
    opened: IntCounterVec,
    closed: IntCounterVec,
    duration: HistogramVec,
    closed_because: Arc<Counters>,
    /// One for each label set, resolved when it first occurs.
    series: [OnceLock<Arc<Series>>; ConnectionLabels::COUNT],
}

/// The handles of one label set, with the two that all sets share.
#[derive(Debug)]
struct Series {
    all_open: IntGauge,
    closed_because: Arc<Counters>,
    open: IntGauge,
    closed: IntCounter,
    opened: IntCounter,
    duration: Histogram,
}

impl ConnectionMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        Self {
            open: declare.gauge("waystation_connections", "Open connections."),
            max: declare.gauge(
                "waystation_connections_max",
                "Most connections that may be open at once (connections.max).",
            ),
            open_by: declare.gauge_vec(
                "waystation_connections_by_protocol",
                "Open connections by what they run over.",
                &[
                    ("transport", Transport::VALUES),
                    ("security", Security::VALUES),
                    ("muxer", Muxer::VALUES),
                ],
            ),
            opened: declare.counter_vec(
                "libp2p_swarm_connections_opened_total",
                "Connections opened.",
                &ConnectionLabels::NAMES,
            ),
            closed: declare.counter_vec(
                "libp2p_swarm_connections_closed_total",
                "Connections closed.",
                &ConnectionLabels::NAMES,
            ),
            duration: declare.histogram_vec(
                "libp2p_swarm_connection_duration_seconds",
                "How long closed connections were open.",
                &ConnectionLabels::NAMES,
                // A quarter of a second to twelve days.
                exponential_buckets(0.25, 4.0, 12).expect("positive, growing buckets"),
            ),
            closed_because: Arc::new(declare.counters(
                "waystation_connections_closed_total",
                "Connections closed, by who or what ended them.",
                "reason",
                REASONS,
            )),
            series: [const { OnceLock::new() }; ConnectionLabels::COUNT],
        }
    }

    pub fn set_max(&self, max: usize) {
        self.max.set(gauge_value(max));
    }

    /// A connection is up; it counts as open until the guard drops.
    #[must_use]
    pub fn opened(&self, labels: ConnectionLabels, now: Instant) -> ConnectionGuard {
        let series = self.series[labels.index()].get_or_init(|| Arc::new(self.resolve(labels)));
        series.opened.inc();
        series.open.inc();
        series.all_open.inc();
        ConnectionGuard {
            series: Arc::clone(series),
            opened: now,
            reason: DROPPED,
        }
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::of(&self.open, &self.max)
    }

    /// Counts of closes, for tests of the layer that closes.
    #[must_use]
    pub fn closings(&self) -> &Counters {
        &self.closed_because
    }

    fn resolve(&self, labels: ConnectionLabels) -> Series {
        let values = labels.values();
        let [_, transport, security, muxer, ..] = values;
        Series {
            all_open: self.open.clone(),
            closed_because: Arc::clone(&self.closed_because),
            open: self
                .open_by
                .with_label_values(&[transport, security, muxer]),
            opened: self.opened.with_label_values(&values),
            closed: self.closed.with_label_values(&values),
            duration: self.duration.with_label_values(&values),
        }
    }
}

/// One open connection. Every idle connection holds one, so it is 32 bytes:
/// the handles are shared by all connections of the same labels.
#[derive(Debug)]
pub struct ConnectionGuard {
    series: Arc<Series>,
    opened: Instant,
    reason: u8,
}

impl ConnectionGuard {
    /// Says why the connection ends; the first reason given is the cause, what
    /// follows from it does not replace it.
    pub fn closing(&mut self, reason: &'static str) {
        if self.reason == DROPPED {
            self.reason = self
                .series
                .closed_because
                .position(reason)
                .unwrap_or(DROPPED);
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let open_for = crate::clock::now().saturating_duration_since(self.opened);
        self.series.open.dec();
        self.series.closed.inc();
        self.series.duration.observe(open_for.as_secs_f64());
        self.series.all_open.dec();
        self.series.closed_because.inc_at(self.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_as_small_as_promised_and_starts_as_dropped() {
        assert_eq!(size_of::<ConnectionGuard>(), 32);
        assert_eq!(REASONS[usize::from(DROPPED)], "dropped");
    }
}
