//! Identify messages and the tables that intern what they say.
//!
//! Counts only: what a peer says of itself never becomes a label.

use prometheus::{IntCounter, IntGauge};

use super::declare::{Counters, Declarations};
use super::gauge_value;
use super::labels::Direction;

/// What identify exchanged.
#[derive(Debug)]
pub struct IdentifyMetrics {
    messages: Counters,
    pushes: Counters,
    failed: IntCounter,
    protocols: IntGauge,
    agents: IntGauge,
    announced: IntGauge,
    observed: IntGauge,
    left_out: IntGauge,
}

impl IdentifyMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        Self {
            messages: declare.counters(
                "libp2p_identify_identify_total",
                "Identify messages received (inbound) and sent (outbound).",
                "dir",
                Direction::VALUES,
            ),
            pushes: declare.counters(
                "libp2p_identify_identify_push_total",
                "Identify pushes received (inbound) and sent (outbound).",
                "dir",
                Direction::VALUES,
            ),
            failed: declare.counter(
                "waystation_identify_failed_total",
                "Peers that did not answer identify, or not with a message we accept.",
            ),
            protocols: declare.gauge(
                "waystation_identify_protocols",
                "Distinct protocol lists kept for known peers.",
            ),
            agents: declare.gauge(
                "waystation_identify_agents",
                "Distinct agent versions kept for known peers.",
            ),
            announced: declare.gauge(
                "waystation_identify_announced_addresses",
                "Addresses of ours that any peer is told.",
            ),
            observed: declare.gauge(
                "waystation_identify_observed_addresses",
                "Addresses that peers say they see us under, believed or not (at most 64).",
            ),
            left_out: declare.gauge(
                "waystation_identify_left_out_addresses",
                "Addresses of ours that nobody is told because there are too many.",
            ),
        }
    }

    /// A peer answered our identify.
    pub fn received(&self) {
        self.messages.inc(Direction::Inbound.label());
    }

    /// We answered a peer's identify.
    pub fn sent(&self) {
        self.messages.inc(Direction::Outbound.label());
    }

    /// A peer pushed a change.
    pub fn push_received(&self) {
        self.pushes.inc(Direction::Inbound.label());
    }

    /// A peer was told that our addresses have changed.
    pub fn push_sent(&self) {
        self.pushes.inc(Direction::Outbound.label());
    }

    pub fn failed(&self) {
        self.failed.inc();
    }

    /// How many addresses peers are told, how many they see us under, and how
    /// many are too many to be told.
    pub fn set_addresses(&self, announced: usize, observed: usize, left_out: usize) {
        self.announced.set(gauge_value(announced));
        self.observed.set(gauge_value(observed));
        self.left_out.set(gauge_value(left_out));
    }

    /// Sizes of the tables of interned protocol lists and agent versions.
    pub fn set_interned(&self, protocols: usize, agents: usize) {
        self.protocols.set(gauge_value(protocols));
        self.agents.set(gauge_value(agents));
    }
}
