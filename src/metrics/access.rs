//! The operator's rules: how many there are and whom they turned away.
//!
//! Labels say where, never whom.

use prometheus::{IntCounter, IntGauge};

use super::declare::{Counters, Declarations};
use super::gauge_value;

const GATES: &[&str] = &["accept", "authentication", "reserve", "connect"];
const VERDICTS: &[&str] = &["deny", "allow"];

/// What rules of access do.
#[derive(Debug)]
pub struct AccessMetrics {
    denied: Counters,
    closed: IntCounter,
    expired: IntCounter,
    /// Denying, allowing.
    rules: [IntGauge; 2],
    rules_max: IntGauge,
    configured: [IntGauge; 2],
}

impl AccessMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let mut by_verdict = |name, help| {
            let family = declare.gauge_vec(name, help, &[("verdict", VERDICTS)]);
            [0, 1].map(|index: usize| family.with_label_values(&[VERDICTS[index]]))
        };
        Self {
            rules: by_verdict(
                "waystation_access_rules",
                "Rules of the operator that were made at run time, by what they say.",
            ),
            configured: by_verdict(
                "waystation_access_configured",
                "Entries of the lists in the configuration and its files, by what they say.",
            ),
            rules_max: declare.gauge(
                "waystation_access_rules_max",
                "Most rules that can be made at run time (access.rules_max).",
            ),
            denied: declare.counters(
                "waystation_access_denied_total",
                "Sockets, connections and requests turned away by a rule of the operator, by where.",
                "gate",
                GATES,
            ),
            closed: declare.counter(
                "waystation_access_closed_total",
                "Open connections told to close by a rule of the operator when it was made.",
            ),
            expired: declare.counter(
                "waystation_access_rules_expired_total",
                "Rules of the operator that reached their end.",
            ),
        }
    }

    /// Somebody was turned away at this gate.
    pub fn denied(&self, gate: &'static str) {
        self.denied.inc(gate);
    }

    /// Connections were told to close.
    pub fn closed(&self, connections: usize) {
        self.closed.inc_by(connections as u64);
    }

    /// A rule reached its end.
    pub fn expired(&self) {
        self.expired.inc();
    }

    /// Rules made at run time.
    pub fn set_rules(&self, denying: usize, allowing: usize) {
        self.rules[0].set(gauge_value(denying));
        self.rules[1].set(gauge_value(allowing));
    }

    pub fn set_rules_max(&self, max: usize) {
        self.rules_max.set(gauge_value(max));
    }

    /// Entries of the configured lists.
    pub fn set_configured(&self, denying: usize, allowing: usize) {
        self.configured[0].set(gauge_value(denying));
        self.configured[1].set(gauge_value(allowing));
    }

    /// Counts of who was turned away, for tests.
    #[must_use]
    pub const fn denials(&self) -> &Counters {
        &self.denied
    }
}
