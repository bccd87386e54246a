//! The bytes of all connections: what reads brought in and flushes sent out.
//!
//! Every worker comes here for every read pass, so all of it is sharded: a
//! flush costs five relaxed additions to lines that the worker's core owns.

use super::declare::{Declarations, Kind};
use super::pulled::Pulled;
use super::sharded::{ShardedCounter, ShardedHistogram};

/// A lone frame up to what fills several records.
const FRAMES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// A ping up to a batch at its high-water mark.
const BYTES: &[u64] = &[
    64, 256, 1024, 4096, 16_384, 65_536, 131_072, 262_144, 524_288, 1_048_576,
];

/// How well writes coalesce, and how much moves.
#[derive(Debug)]
pub struct EgressMetrics {
    frames: ShardedHistogram,
    bytes: ShardedHistogram,
    records: ShardedCounter,
    full: ShardedCounter,
    written: ShardedCounter,
    received: ShardedCounter,
}

impl EgressMetrics {
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
            frames: declare.sharded_histogram(
                "waystation_egress_flush_frames",
                "Muxer frames that one flush sealed; the count is the number of flushes.",
                FRAMES,
            ),
            bytes: declare.sharded_histogram(
                "waystation_egress_flush_bytes",
                "Bytes on the wire that one flush sealed.",
                BYTES,
            ),
            records: counter(
                declare,
                "waystation_egress_records_total",
                "Encrypted records sealed.",
            ),
            full: counter(
                declare,
                "waystation_egress_socket_full_total",
                "Writes that the kernel took only in part or not at all.",
            ),
            written: counter(
                declare,
                "waystation_egress_written_bytes_total",
                "Bytes that the kernel took from us.",
            ),
            received: counter(
                declare,
                "waystation_ingress_received_bytes_total",
                "Bytes read from connections.",
            ),
        }
    }

    /// A flush sealed this many frames into this many records and bytes on the
    /// wire.
    pub fn flushed(&self, frames: usize, records: usize, bytes: usize) {
        self.frames.observe(frames as u64);
        self.bytes.observe(bytes as u64);
        self.records.add(records as u64);
    }

    /// The kernel took this many bytes.
    pub fn written(&self, bytes: usize) {
        self.written.add(bytes as u64);
    }

    /// The kernel took less than was offered.
    pub fn socket_full(&self) {
        self.full.add(1);
    }

    /// A read brought this many bytes.
    pub fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }
}
