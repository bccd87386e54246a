//! Buffer pools: how many buffers wait and how many are out.
//!
//! Told by the pools themselves, which also decide how many may wait.

use super::declare::{Declarations, Kind};
use super::gauge_value;
use super::pulled::Pulled;
use super::sharded::ShardedGauge;

const POOLS: &[&str; 2] = &["batch", "partial_record"];

/// The pools of the process.
#[derive(Debug)]
pub struct PoolsMetrics {
    /// Batches of frames on their way out.
    pub batch: PoolMetrics,
    /// Records of which only the beginning has arrived.
    pub partial_record: PoolMetrics,
}

/// One pool. Sharded, because workers take and give back a buffer in each pass.
#[derive(Debug)]
pub struct PoolMetrics {
    lent: ShardedGauge,
    held: ShardedGauge,
    held_bytes: ShardedGauge,
}

impl PoolsMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        let pools = Self {
            batch: PoolMetrics::new(),
            partial_record: PoolMetrics::new(),
        };
        pools.declare(
            declare,
            "waystation_pool_buffers_lent",
            "Buffers in use by connections, by pool.",
            |pool| &pool.lent,
        );
        pools.declare(
            declare,
            "waystation_pool_buffers_held",
            "Buffers waiting in a pool for use.",
            |pool| &pool.held,
        );
        pools.declare(
            declare,
            "waystation_pool_held_bytes",
            "Memory of the buffers waiting in a pool.",
            |pool| &pool.held_bytes,
        );
        pools
    }

    fn declare(
        &self,
        declare: &mut Declarations,
        name: &'static str,
        help: &'static str,
        level: impl Fn(&PoolMetrics) -> &ShardedGauge,
    ) {
        let levels = [&self.batch, &self.partial_record].map(|pool| level(pool).clone());
        let kind = Kind::Gauge;
        declare.pulled_by_label(Pulled { kind, name, help }, "pool", POOLS, move || {
            levels.each_ref().map(|level| level.get() as f64)
        });
    }
}

impl PoolMetrics {
    fn new() -> Self {
        Self {
            lent: ShardedGauge::new(),
            held: ShardedGauge::new(),
            held_bytes: ShardedGauge::new(),
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

    /// A waiting buffer of this capacity is freed.
    pub fn freed(&self, capacity: usize) {
        self.held.add(-1);
        self.held_bytes.add(-gauge_value(capacity));
    }
}
