//! Reservations, and the answers to RESERVE.
//!
//! Beside go-libp2p's names, which derive what is open from opened minus
//! closed and label every limit alike, there are true gauges and reasons.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::circuits::CircuitMetrics;
use super::declare::{Counters, Declarations};
use super::{Usage, gauge_value};

/// Statuses of circuit relay v2 that a relay answers with.
pub(super) const STATUSES: &[&str] = &[
    "ok",
    "reservation_refused",
    "resource_limit_exceeded",
    "permission_denied",
    "connection_failed",
    "no_reservation",
    "malformed_message",
    "unexpected_message",
];

const REFUSED: &[&str] = &[
    "total",
    "per_ip",
    "per_prefix",
    "rate_per_peer",
    "denied",
    "malformed",
    "unexpected",
    "draining",
];

pub(super) fn declare(declare: &mut Declarations) -> (Arc<RelayMetrics>, Arc<CircuitMetrics>) {
    (
        Arc::new(RelayMetrics::new(declare)),
        Arc::new(CircuitMetrics::new(declare)),
    )
}

/// Reservations of the relay service.
#[derive(Debug)]
pub struct RelayMetrics {
    serving: IntGauge,
    open: IntGauge,
    max: IntGauge,
    answers: Answers,
    events: Counters,
    expired: IntCounter,
    refused: Counters,
}

impl RelayMetrics {
    fn new(declare: &mut Declarations) -> Self {
        Self {
            serving: declare.gauge(
                "libp2p_relaysvc_status",
                "1 while the relay service grants reservations, else 0.",
            ),
            open: declare.gauge("waystation_relay_reservations", "Reservations held."),
            max: declare.gauge(
                "waystation_relay_reservations_max",
                "Most reservations that may be held at once (relay.reservations_max).",
            ),
            answers: Answers {
                by_status: declare.counters(
                    "waystation_relay_reservation_requests_total",
                    "RESERVE requests answered, by the status on the wire.",
                    "status",
                    STATUSES,
                ),
                by_outcome: declare.counters(
                    "libp2p_relaysvc_reservation_request_response_status_total",
                    "RESERVE requests answered, by go-libp2p's three outcomes.",
                    "status",
                    OUTCOMES,
                ),
                rejections: declare.counters(
                    "libp2p_relaysvc_reservation_rejections_total",
                    "RESERVE requests rejected, by go-libp2p's word for the status.",
                    "reason",
                    REJECTIONS,
                ),
            },
            events: declare.counters(
                "libp2p_relaysvc_reservations_total",
                "Reservations opened, renewed and closed.",
                "type",
                &["opened", "renewed", "closed"],
            ),
            expired: declare.counter(
                "waystation_relay_reservations_expired_total",
                "Reservations that ended because their peer did not renew them in time.",
            ),
            refused: declare.counters(
                "waystation_relay_reservations_refused_total",
                "RESERVE requests refused, by the limit or rule that refused them.",
                "reason",
                REFUSED,
            ),
        }
    }

    pub fn set_max(&self, max: usize) {
        self.max.set(gauge_value(max));
    }

    /// Whether reservations are granted: enabled and not draining.
    pub fn set_serving(&self, serving: bool) {
        self.serving.set(i64::from(serving));
    }

    /// A reservation was granted to a peer that had none; it counts as held
    /// until the guard drops.
    #[must_use]
    pub fn reservation_opened(self: &Arc<Self>) -> ReservationGuard {
        self.answers.count("ok");
        self.events.inc("opened");
        self.open.inc();
        ReservationGuard(Arc::clone(self))
    }

    /// A peer renewed the reservation it holds.
    pub fn reservation_renewed(&self) {
        self.answers.count("ok");
        self.events.inc("renewed");
    }

    /// A RESERVE was refused; `reason` is the label of the rule and `status`
    /// that of the answer.
    pub fn reservation_refused(&self, reason: &'static str, status: &'static str) {
        self.refused.inc(reason);
        self.answers.count(status);
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::of(&self.open, &self.max)
    }

    /// Counts of refusals, for tests of the service that refuses.
    #[must_use]
    pub const fn refusals(&self) -> &Counters {
        &self.refused
    }
}

/// One reservation held.
#[derive(Debug)]
pub struct ReservationGuard(Arc<RelayMetrics>);

impl ReservationGuard {
    /// The reservation ends because it ran out.
    pub fn expired(self) {
        self.0.expired.inc();
    }
}

impl Drop for ReservationGuard {
    fn drop(&mut self) {
        self.0.open.dec();
        self.0.events.inc("closed");
    }
}

pub(super) const OUTCOMES: &[&str] = &["ok", "rejected", "error"];

pub(super) const REJECTIONS: &[&str] = &[
    "ip constraint violation",
    "resource limit exceeded",
    "permission denied",
    "no reservation",
    "malformed message",
];

/// One request's answer in our words and in go-libp2p's.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) by_status: Counters,
    pub(super) by_outcome: Counters,
    pub(super) rejections: Counters,
}

impl Answers {
    pub(super) fn count(&self, status: &'static str) {
        self.by_status.inc(status);
        match go_rejection(status) {
            Some(reason) => {
                self.by_outcome.inc("rejected");
                self.rejections.inc(reason);
            }
            None if status == "ok" => self.by_outcome.inc("ok"),
            None => self.by_outcome.inc("error"),
        }
    }
}

/// The label under which go-libp2p's relay counts a status that it calls a
/// rejection; it calls the remaining failures errors.
fn go_rejection(status: &str) -> Option<&'static str> {
    match status {
        "reservation_refused" => Some("ip constraint violation"),
        "resource_limit_exceeded" => Some("resource limit exceeded"),
        "permission_denied" => Some("permission denied"),
        "no_reservation" => Some("no reservation"),
        "malformed_message" => Some("malformed message"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;

    #[test]
    fn a_refusal_shows_the_limit_and_gos_word_for_the_status() {
        let metrics = Metrics::new();
        metrics
            .relay
            .reservation_refused("per_ip", "reservation_refused");
        let text = metrics.render();
        for line in [
            r#"waystation_relay_reservations_refused_total{reason="per_ip"} 1"#,
            r#"waystation_relay_reservation_requests_total{status="reservation_refused"} 1"#,
            r#"libp2p_relaysvc_reservation_request_response_status_total{status="rejected"} 1"#,
            r#"libp2p_relaysvc_reservation_rejections_total{reason="ip constraint violation"} 1"#,
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn a_reservation_is_held_until_its_guard_drops_however_it_ends() {
        let metrics = Metrics::new();
        metrics.relay.set_max(10);
        let kept = metrics.relay.reservation_opened();
        let expiring = metrics.relay.reservation_opened();
        metrics.relay.reservation_renewed();
        assert_eq!(metrics.occupancy().reservations.free(), 8);

        expiring.expired();
        drop(kept);
        assert_eq!(metrics.occupancy().reservations.free(), 10);
        let text = metrics.render();
        for line in [
            r#"libp2p_relaysvc_reservations_total{type="opened"} 2"#,
            r#"libp2p_relaysvc_reservations_total{type="renewed"} 1"#,
            r#"libp2p_relaysvc_reservations_total{type="closed"} 2"#,
            "waystation_relay_reservations_expired_total 1",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
