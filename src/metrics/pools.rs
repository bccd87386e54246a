//! Buffer pools: how many buffers wait and how many are out.
//!
//! Told by the pools themselves, which also decide how many may wait.

use super::declare::{Declarations, Kind};
use super::gauge_value;
use super::pulled::Pulled;
use super::sharded::ShardedGauge;

/// The pools of all threads together. Sharded, because workers take and give
/// back a buffer in each pass.
#[derive(Debug)]
pub struct PoolMetrics {
    lent: ShardedGauge,
    held: ShardedGauge,
    held_bytes: ShardedGauge,
}

impl PoolMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let gauge = |declare: &mut Declarations, name, help| {
            let gauge = ShardedGauge::new();
            let read = gauge.clone();
            let kind = Kind::Gauge;
            declare.pulled([Pulled { kind, name, help }], move || {
                [Some(read.get() as f64)]
            });
            gauge
        };
        Self {
            lent: gauge(
                declare,
                "waystation_pool_buffers_lent",
                "Pooled buffers in use: batches on their way out and records of which only the beginning has arrived.",
            ),
            held: gauge(
                declare,
                "waystation_pool_buffers_held",
                "Buffers waiting in the pools for use.",
            ),
            held_bytes: gauge(
                declare,
                "waystation_pool_held_bytes",
                "Memory of the buffers waiting in the pools.",
            ),
        }
    }

    /// A buffer goes out: one of this capacity that waited, or a new one.
    pub fn lent(&self, reused: Option<usize>) {
        self.lent.add(1);
        if let Some(capacity) = reused {
            self.held.add(-1);
            self.held_bytes.add(-gauge_value(capacity));
        }
    }

    /// A buffer comes back: kept with this capacity, or freed.
    pub fn returned(&self, kept: Option<usize>) {
        self.lent.add(-1);
        if let Some(capacity) = kept {
            self.held.add(1);
            self.held_bytes.add(gauge_value(capacity));
        }
    }
}
