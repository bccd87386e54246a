//! QUIC below its connections: datagrams, system calls, and what is done about
//! datagrams that belong to no connection.
//!
//! Every worker comes here for each batch of datagrams, so those counters are
//! sharded; what only attacks and restarts cause is not.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::declare::{Counters, Declarations, Kind};
use super::pulled::Pulled;
use super::sharded::{ShardedCounter, ShardedHistogram};

/// One datagram up to what the kernel cuts up in one call.
const BATCH: &[u64] = &[1, 2, 4, 8, 16, 32, 64];

/// Answers to datagrams that belong to no connection.
const RESPONSES: &[&str] = &["reset", "version", "refusal"];

/// What the loops over UDP sockets do.
#[derive(Debug)]
pub struct QuicMetrics {
    received: ShardedCounter,
    received_bytes: ShardedCounter,
    sent: ShardedHistogram,
    sent_bytes: ShardedCounter,
    full: ShardedCounter,
    retries: IntCounter,
    ignored: IntCounter,
    responses: Counters,
    handed_over: IntCounter,
    handover_dropped: IntCounter,
    ending: IntGauge,
}

impl QuicMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let counter = |declare: &mut Declarations, name, help| {
            let counter = ShardedCounter::new();
            let read = counter.clone();
            let kind = Kind::Counter;
            declare.pulled([Pulled { kind, name, help }], move || {
                [Some(read.get() as f64)]
            });
            counter
        };
        Self {
            received: counter(
                declare,
                "waystation_quic_received_datagrams_total",
                "UDP datagrams received.",
            ),
            received_bytes: counter(
                declare,
                "waystation_quic_received_bytes_total",
                "Bytes of UDP datagrams received.",
            ),
            sent: declare.sharded_histogram(
                "waystation_quic_sent_datagrams",
                "UDP datagrams that one system call sent; the count is the number of calls.",
                BATCH,
            ),
            sent_bytes: counter(
                declare,
                "waystation_quic_sent_bytes_total",
                "Bytes of UDP datagrams sent.",
            ),
            full: counter(
                declare,
                "waystation_quic_socket_full_total",
                "Sends that the kernel had no room for.",
            ),
            retries: declare.counter(
                "waystation_quic_retries_total",
                "Handshakes that were told to show first that their address is theirs.",
            ),
            ignored: declare.counter(
                "waystation_quic_initials_ignored_total",
                "Beginnings of handshakes that got no answer, for want of room.",
            ),
            responses: declare.counters(
                "waystation_quic_responses_total",
                "Datagrams that belong to no connection and were answered, by what they were told: that their connection is gone (a stateless reset), which versions there are, that it may not begin.",
                "kind",
                RESPONSES,
            ),
            handed_over: declare.counter(
                "waystation_quic_handed_over_total",
                "Datagrams that arrived on another worker than their connection's.",
            ),
            handover_dropped: declare.counter(
                "waystation_quic_handover_dropped_total",
                "Such datagrams that were dropped because that worker had too many waiting.",
            ),
            ending: declare.gauge(
                "waystation_quic_ending",
                "Closed connections whose peers may not have heard of it yet.",
            ),
        }
    }

    pub fn received(&self, datagrams: usize, bytes: usize) {
        self.received.add(datagrams as u64);
        self.received_bytes.add(bytes as u64);
    }

    pub fn sent(&self, datagrams: usize, bytes: usize) {
        self.sent.observe(datagrams as u64);
        self.sent_bytes.add(bytes as u64);
    }

    pub fn socket_full(&self) {
        self.full.add(1);
    }

    pub fn retried(&self) {
        self.retries.inc();
    }

    pub fn ignored(&self) {
        self.ignored.inc();
    }

    /// A datagram that belongs to no connection was answered with this one.
    pub fn responded(&self, answer: &[u8]) {
        const LONG: u8 = 0x80;
        let kind = match answer {
            [first, ..] if first & LONG == 0 => "reset",
            [_, 0, 0, 0, 0, ..] => "version",
            _ => "refusal",
        };
        self.responses.inc(kind);
    }

    pub fn handed_over(&self) {
        self.handed_over.inc();
    }

    pub fn handover_dropped(&self) {
        self.handover_dropped.inc();
    }

    /// A connection is closed and its transport kept until the guard drops.
    #[must_use]
    pub fn ending(self: &Arc<Self>) -> LingerGuard {
        self.ending.inc();
        LingerGuard(Arc::clone(self))
    }
}

/// One closed connection whose transport is kept.
#[derive(Debug)]
pub struct LingerGuard(Arc<QuicMetrics>);

impl Drop for LingerGuard {
    fn drop(&mut self) {
        self.0.ending.dec();
    }
}
