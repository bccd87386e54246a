//! Circuits through the relay, the answers to CONNECT, and the bytes relayed.
//!
//! A guard for each open circuit counts it in and, with its cause, out. Bytes
//! are counted in shards, since every worker adds to them in every pass.

use std::sync::Arc;
use std::time::Instant;

use prometheus::{Histogram, IntGauge, exponential_buckets};

use super::declare::{Counters, Declarations, Kind};
use super::pulled::Pulled;
use super::relay::{Answers, OUTCOMES, REJECTIONS, STATUSES};
use super::sharded::ShardedCounter;
use super::{Usage, gauge_value};

const REFUSED: &[&str] = &[
    "no_reservation",
    "total",
    "per_peer_source",
    "per_peer_destination",
    "rate_per_peer",
    "bandwidth",
    "bandwidth_per_peer",
    "memory",
    "streams",
    "denied",
    "connection_failed",
    "malformed",
    "unexpected",
    "draining",
];

const CAUSES: &[&str] = &[
    "finished",
    "byte_limit",
    "duration_limit",
    "source_reset",
    "destination_reset",
    "source_closed",
    "destination_closed",
    "stalled",
    "memory",
    "shutdown",
    "dropped",
];

const RATES: &[&str; 3] = &["total", "per_peer", "per_circuit"];

const DIRECTIONS: &[&str; 2] = &["source_to_destination", "destination_to_source"];

/// Circuits of the relay service.
#[derive(Debug)]
pub struct CircuitMetrics {
    open: IntGauge,
    max: IntGauge,
    answers: Answers,
    refused: Counters,
    events: Counters,
    ended: Counters,
    duration: Histogram,
    withheld: Counters,
    rates: [IntGauge; 3],
    metered_peers: IntGauge,
    to_destination: ShardedCounter,
    to_source: ShardedCounter,
}

impl CircuitMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let (to_destination, to_source) = declare_bytes(declare);
        Self {
            open: declare.gauge("waystation_relay_circuits", "Open circuits."),
            max: declare.gauge(
                "waystation_relay_circuits_max",
                "Most circuits that may be open at once (relay.circuits_max).",
            ),
            answers: declare_answers(declare),
            refused: declare.counters(
                "waystation_relay_circuits_refused_total",
                "CONNECT requests refused, by the limit or rule that refused them.",
                "reason",
                REFUSED,
            ),
            events: declare.counters(
                "libp2p_relaysvc_connections_total",
                "Circuits opened and closed.",
                "type",
                &["opened", "closed"],
            ),
            ended: declare.counters(
                "waystation_relay_circuits_ended_total",
                "Circuits that ended, by cause.",
                "cause",
                CAUSES,
            ),
            duration: declare.histogram(
                "libp2p_relaysvc_connection_duration_seconds",
                "How long ended circuits were open.",
                // A hole-punch exchange to a day of unlimited relaying.
                exponential_buckets(0.125, 2.0, 20).expect("positive, growing buckets"),
            ),
            withheld: declare.counters(
                "waystation_relay_credit_withheld_total",
                "Times that a circuit's sender was made to wait, by the rate it had used up.",
                "limit",
                RATES,
            ),
            rates: declare.gauges(
                "waystation_relay_bandwidth_max_bytes",
                "Bytes a second that circuits may carry (relay.bandwidth_…); 0 is no limit.",
                "limit",
                RATES,
            ),
            metered_peers: declare.gauge(
                "waystation_relay_bandwidth_peers",
                "Peers whose circuits are charged against a rate of their own.",
            ),
            to_destination,
            to_source,
        }
    }

    /// The configured rates: in total, for a peer, for a circuit.
    pub fn set_rates(&self, rates: [Option<u64>; 3]) {
        for (gauge, rate) in self.rates.iter().zip(rates) {
            gauge.set(i64::try_from(rate.unwrap_or(0)).unwrap_or(i64::MAX));
        }
    }

    /// Peers that have a meter.
    pub fn set_metered_peers(&self, peers: usize) {
        self.metered_peers.set(gauge_value(peers));
    }

    /// A sender waits for this rate.
    pub fn credit_withheld(&self, limit: &'static str) {
        self.withheld.inc(limit);
    }

    /// Counts of waits, for tests of the layer that makes senders wait.
    #[must_use]
    pub const fn waits(&self) -> &Counters {
        &self.withheld
    }

    pub fn set_max(&self, max: usize) {
        self.max.set(gauge_value(max));
    }

    /// A CONNECT was granted; the circuit counts as open until the guard drops.
    #[must_use]
    pub fn opened(self: &Arc<Self>, now: Instant) -> CircuitGuard {
        self.answers.count("ok");
        self.events.inc("opened");
        self.open.inc();
        CircuitGuard {
            metrics: Arc::clone(self),
            opened: now,
            cause: "dropped",
        }
    }

    /// A CONNECT was refused; `reason` is the label of the rule and `status`
    /// that of the answer.
    pub fn refused(&self, reason: &'static str, status: &'static str) {
        self.refused.inc(reason);
        self.answers.count(status);
    }

    /// The source sent this many bytes towards its destination.
    pub fn relayed_to_destination(&self, bytes: usize) {
        self.to_destination.add(bytes as u64);
    }

    /// The destination sent this many bytes back.
    pub fn relayed_to_source(&self, bytes: usize) {
        self.to_source.add(bytes as u64);
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::of(&self.open, &self.max)
    }

    /// Counts of refusals, for tests of the service that refuses.
    #[must_use]
    pub const fn refusals(&self) -> &Counters {
        &self.refused
    }

    /// Counts of endings, for tests of the service that ends circuits.
    #[must_use]
    pub const fn endings(&self) -> &Counters {
        &self.ended
    }
}

fn declare_answers(declare: &mut Declarations) -> Answers {
    Answers {
        by_status: declare.counters(
            "waystation_relay_connect_requests_total",
            "CONNECT requests answered, by the status on the wire.",
            "status",
            STATUSES,
        ),
        by_outcome: declare.counters(
            "libp2p_relaysvc_connection_request_response_status_total",
            "CONNECT requests answered, by go-libp2p's three outcomes.",
            "status",
            OUTCOMES,
        ),
        rejections: declare.counters(
            "libp2p_relaysvc_connection_rejections_total",
            "CONNECT requests rejected, by go-libp2p's word for the status.",
            "reason",
            REJECTIONS,
        ),
    }
}

fn declare_bytes(declare: &mut Declarations) -> (ShardedCounter, ShardedCounter) {
    let (to_destination, to_source) = (ShardedCounter::new(), ShardedCounter::new());
    let both = [to_destination.clone(), to_source.clone()];
    declare.pulled_by_label(
        Pulled {
            kind: Kind::Counter,
            name: "waystation_relay_bytes_total",
            help: "Bytes relayed inside circuits, by direction.",
        },
        "direction",
        DIRECTIONS,
        move || both.each_ref().map(|counter| counter.get() as f64),
    );
    let both = [to_destination.clone(), to_source.clone()];
    declare.pulled(
        [Pulled {
            kind: Kind::Counter,
            name: "libp2p_relaysvc_data_transferred_bytes_total",
            help: "Bytes relayed inside circuits, both directions together.",
        }],
        move || {
            [Some(
                both.iter().map(ShardedCounter::get).sum::<u64>() as f64
            )]
        },
    );
    (to_destination, to_source)
}

/// One open circuit.
#[derive(Debug)]
pub struct CircuitGuard {
    metrics: Arc<CircuitMetrics>,
    opened: Instant,
    cause: &'static str,
}

impl CircuitGuard {
    /// Says why the circuit ends; the first cause given stands, what follows
    /// from it does not replace it.
    pub fn ending(&mut self, cause: &'static str) {
        if self.cause == "dropped" {
            self.cause = cause;
        }
    }
}

impl Drop for CircuitGuard {
    fn drop(&mut self) {
        let open_for = crate::clock::now().saturating_duration_since(self.opened);
        self.metrics.open.dec();
        self.metrics.events.inc("closed");
        self.metrics.ended.inc(self.cause);
        self.metrics.duration.observe(open_for.as_secs_f64());
    }
}
