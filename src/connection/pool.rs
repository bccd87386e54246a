//! Buffers for batches and for half-received records, kept by each thread and
//! lent for as long as a connection has bytes in hand.
//!
//! Bounds what a thread keeps: [`KEPT_PER_CLASS`] buffers of each size. A
//! buffer that is drained on another thread than it was lent on goes to that
//! thread's pool.

use std::{cell::RefCell, sync::Arc};

use crate::metrics::PoolMetrics;

/// Sizes that are kept. The largest holds a full egress (high-water mark plus
/// one record); the one before it a whole record, the first an answer or two.
const CLASSES: [usize; 4] = [2 * 1024, 16 * 1024, 80 * 1024, 384 * 1024];

/// Buffers of each size that a thread keeps: 64 of the largest are 24 MiB,
/// reached only when that many connections drained at once.
const KEPT_PER_CLASS: [usize; 4] = [256, 128, 64, 16];

/// The buffers that one thread keeps.
struct Pool {
    classes: [Vec<Vec<u8>>; CLASSES.len()],
    metrics: Option<Arc<PoolMetrics>>,
}

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool {
            classes: [const { Vec::new() }; CLASSES.len()],
            metrics: None,
        })
    };
}

/// Has this thread's pool counted. Called by each worker before its first
/// connection.
pub fn observe_pool(metrics: Arc<PoolMetrics>) {
    POOL.with_borrow_mut(|pool| pool.metrics = Some(metrics));
}

/// An empty buffer with room for at least `capacity` bytes.
#[must_use]
pub(super) fn take(capacity: usize) -> Vec<u8> {
    let Some(class) = CLASSES.iter().position(|size| *size >= capacity) else {
        return Vec::with_capacity(capacity);
    };
    POOL.with_borrow_mut(|pool| {
        let kept = pool.classes[class].pop();
        if let Some(metrics) = &pool.metrics {
            metrics.lent(kept.as_ref().map(Vec::capacity));
        }
        kept.unwrap_or_else(|| Vec::with_capacity(CLASSES[class]))
    })
}

/// Gives a buffer back. One of a size that is not kept is freed, and so is one
/// that comes when its thread ends and has no pool any more.
pub(super) fn give(mut buffer: Vec<u8>) {
    let Some(class) = CLASSES.iter().position(|size| *size == buffer.capacity()) else {
        return;
    };
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let keep = pool.classes[class].len() < KEPT_PER_CLASS[class];
        if let Some(metrics) = &pool.metrics {
            metrics.returned(keep.then_some(CLASSES[class]));
        }
        if keep {
            buffer.clear();
            pool.classes[class].push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_the_same_buffer_again_and_keeps_no_more_than_its_bound() {
        let buffer = take(70_000);
        let address = buffer.as_ptr();
        give(buffer);
        let again = take(80 * 1024);
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty());

        let all: Vec<_> = (0..40).map(|_| take(300_000)).collect();
        all.into_iter().for_each(give);
        let kept = POOL.with_borrow(|pool| pool.classes[3].len());
        assert_eq!(kept, KEPT_PER_CLASS[3]);
    }
}
