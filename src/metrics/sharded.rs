//! Counters for paths that every worker takes for every batch of frames.
//!
//! A shared atomic would move its cache line between cores on each addition.
//! Here each thread adds to a line of its own and a scrape sums the lines; the
//! price is 128 bytes per shard, and at most [`MAX_SHARDS`] of them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// More threads than this share lines: still exact, only slower.
const MAX_SHARDS: usize = 64;

/// Finite buckets of a [`ShardedHistogram`]; with the one for everything above
/// and the sum, a shard fills two cache lines exactly.
pub(super) const MAX_BOUNDS: usize = 14;

/// A count that many threads add to and a scrape reads.
#[derive(Debug, Clone)]
pub struct ShardedCounter(Shards<AtomicU64>);

impl ShardedCounter {
    pub(super) fn new() -> Self {
        Self(Shards::new())
    }

    /// Adds to this thread's share.
    pub fn add(&self, amount: u64) {
        self.0.mine().fetch_add(amount, Relaxed);
    }

    /// The sum, exact once the adding threads are quiet.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.iter().map(|shard| shard.load(Relaxed)).sum()
    }
}

/// A level that one thread may raise and another lower.
///
/// A single shard may be negative; only the sum means something.
#[derive(Debug, Clone)]
pub struct ShardedGauge(Shards<AtomicI64>);

impl ShardedGauge {
    pub(super) fn new() -> Self {
        Self(Shards::new())
    }

    /// Adds to this thread's share; a negative amount lowers the level.
    pub fn add(&self, amount: i64) {
        self.0.mine().fetch_add(amount, Relaxed);
    }

    /// The level, exact once the adding threads are quiet.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.iter().map(|shard| shard.load(Relaxed)).sum()
    }
}

/// A distribution of whole numbers that many threads add to.
///
/// One observation is two relaxed additions; the number of observations and
/// their total follow from the same atomics at a scrape.
#[derive(Debug, Clone)]
pub struct ShardedHistogram {
    bounds: &'static [u64],
    shards: Shards<HistogramShard>,
}

#[derive(Debug, Default)]
struct HistogramShard {
    buckets: [AtomicU64; MAX_BOUNDS + 1],
    sum: AtomicU64,
}

/// What a scrape reads from a [`ShardedHistogram`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HistogramReading {
    /// Upper bound and how many observations were at or below it.
    pub(super) cumulative: Vec<(u64, u64)>,
    pub(super) count: u64,
    pub(super) sum: u64,
}

impl ShardedHistogram {
    /// `bounds` are inclusive upper bounds in ascending order.
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= MAX_BOUNDS && bounds.is_sorted());
        Self {
            bounds,
            shards: Shards::new(),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, value: u64) {
        let shard = self.shards.mine();
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        shard.buckets[bucket].fetch_add(1, Relaxed);
        shard.sum.fetch_add(value, Relaxed);
    }

    pub(super) fn read(&self) -> HistogramReading {
        let mut buckets = [0_u64; MAX_BOUNDS + 1];
        let mut sum = 0;
        for shard in self.shards.iter() {
            for (total, bucket) in buckets.iter_mut().zip(&shard.buckets) {
                *total += bucket.load(Relaxed);
            }
            sum += shard.sum.load(Relaxed);
        }
        let mut count = 0;
        let cumulative = self
            .bounds
            .iter()
            .zip(buckets)
            .map(|(bound, observed)| {
                count += observed;
                (*bound, count)
            })
            .collect();
        count += buckets[self.bounds.len()];
        HistogramReading {
            cumulative,
            count,
            sum,
        }
    }
}

/// One `T` per core, each on cache lines of its own (128 bytes, because
/// neighbouring lines are prefetched in pairs).
#[derive(Debug)]
struct Shards<T>(Arc<[Line<T>]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

impl<T: Default> Shards<T> {
    fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // One more than the workers: the main thread counts too.
        let count = (threads + 1).next_power_of_two().min(MAX_SHARDS);
        Self((0..count).map(|_| Line::default()).collect())
    }
}

impl<T> Shards<T> {
    fn mine(&self) -> &T {
        // The length is a power of two.
        &self.0[thread_number() & (self.0.len() - 1)].0
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|line| &line.0)
    }
}

impl<T> Clone for Shards<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A small number that is this thread's own.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Relaxed));
        }
        mine.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_beyond_the_number_of_shards_lose_nothing() {
        let counter = ShardedCounter::new();
        let gauge = ShardedGauge::new();
        std::thread::scope(|scope| {
            for _ in 0..2 * MAX_SHARDS {
                scope.spawn(|| {
                    for _ in 0..100 {
                        counter.add(3);
                        gauge.add(1);
                    }
                });
            }
        });
        std::thread::scope(|scope| {
            scope.spawn(|| gauge.add(-12_000));
        });
        assert_eq!(counter.get(), 38_400);
        assert_eq!(gauge.get(), 800);
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = ShardedHistogram::new(&[1, 4, 16]);
        for value in [0, 1, 2, 4, 5, 16, 17, 1000] {
            histogram.observe(value);
        }
        assert_eq!(
            histogram.read(),
            HistogramReading {
                cumulative: vec![(1, 2), (4, 4), (16, 6)],
                count: 8,
                sum: 1045,
            }
        );
    }

    #[test]
    fn a_shard_fills_whole_cache_lines() {
        assert_eq!(size_of::<Line<HistogramShard>>(), 128);
        assert_eq!(size_of::<Line<AtomicU64>>(), 128);
    }
}
