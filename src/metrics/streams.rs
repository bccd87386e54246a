//! Streams inside connections: open by service, opened, refused, reset.
//!
//! A guard for each stream counts it in and out under its service. Labels are
//! closed lists: a protocol that nobody serves has no series.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::declare::{Counters, Declarations};
use super::labels::{Direction, Service};

const REFUSED: &[&str] = &[
    "per_connection",
    "idle",
    "total",
    "memory",
    "ping",
    "identify",
    "push",
    "hop",
    "ping_per_peer",
    "identify_per_peer",
    "push_per_peer",
    "hop_per_peer",
    "push_rate",
    "unknown_protocol",
    "negotiation_failed",
    "timed_out",
];

/// Streams of all connections.
#[derive(Debug)]
pub struct StreamMetrics {
    open: Vec<IntGauge>,
    opened: Vec<[IntCounter; 2]>,
    refused: Counters,
    resets: Counters,
}

impl StreamMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let open = declare.gauge_vec(
            "waystation_streams",
            "Open streams by the service they run.",
            &[("service", Service::VALUES)],
        );
        let opened = declare.counter_vec(
            "waystation_streams_opened_total",
            "Streams given to a service, by who opened them; those still negotiating count when their stream opens.",
            &[("service", Service::VALUES), ("dir", Direction::VALUES)],
        );
        Self {
            open: Service::VALUES
                .iter()
                .map(|service| open.with_label_values(&[service]))
                .collect(),
            opened: Service::VALUES
                .iter()
                .map(|service| {
                    [Direction::Inbound, Direction::Outbound]
                        .map(|direction| resolve(&opened, service, direction))
                })
                .collect(),
            refused: declare.counters(
                "waystation_streams_refused_total",
                "Streams that never reached a service, by the limit that refused them or the reason.",
                "reason",
                REFUSED,
            ),
            resets: declare.counters(
                "waystation_streams_reset_total",
                "Streams that ended by a reset, by who sent it.",
                "by",
                &["peer", "us"],
            ),
        }
    }

    /// A stream opens, negotiating; it counts as open until the guard drops.
    #[must_use]
    pub fn opened(self: &Arc<Self>, direction: Direction) -> StreamGuard {
        let guard = StreamGuard {
            metrics: Arc::clone(self),
            direction,
            service: Service::Negotiating,
        };
        guard.count();
        guard
    }

    /// A stream never reached a service: the label of the limit, or
    /// `unknown_protocol`, `negotiation_failed` or `timed_out`.
    pub fn refused(&self, reason: &'static str) {
        self.refused.inc(reason);
    }

    /// The peer reset a stream.
    pub fn reset_by_peer(&self) {
        self.resets.inc("peer");
    }

    /// We reset a stream.
    pub fn reset_by_us(&self) {
        self.resets.inc("us");
    }
}

fn resolve(family: &IntCounterVec, service: &str, direction: Direction) -> IntCounter {
    family.with_label_values(&[service, direction.label()])
}

/// One open stream.
#[derive(Debug)]
pub struct StreamGuard {
    metrics: Arc<StreamMetrics>,
    direction: Direction,
    service: Service,
}

impl StreamGuard {
    /// The stream now runs another service: once after negotiation, and again
    /// when a hop or stop stream becomes an end of a circuit.
    pub fn serves(&mut self, service: Service) {
        self.metrics.open[self.service as usize].dec();
        self.service = service;
        self.count();
    }

    fn count(&self) {
        self.metrics.open[self.service as usize].inc();
        self.metrics.opened[self.service as usize][self.direction as usize].inc();
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.metrics.open[self.service as usize].dec();
    }
}
