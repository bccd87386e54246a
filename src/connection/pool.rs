//! Buffers for batches and for half-received records, kept by each thread and
//! lent for as long as a connection has bytes in hand.
//!
//! Bounds what a thread keeps: [`KEPT_PER_CLASS`] buffers of each size. A
//! buffer that is drained on another thread than it was lent on goes to that
//! thread's pool. What is lent, and what queues hold beside it, is told to the
//! server's account of buffers.

use std::{cell::RefCell, sync::Arc};

use crate::metrics::PoolMetrics;
use crate::state::limits::Buffers;

/// Sizes that are kept. The largest holds a full egress (high-water mark plus
/// one record); the one before it a whole record of Noise, the second one of TLS,
/// the first an answer or two.
const CLASSES: [usize; 4] = [2 * 1024, 20 * 1024, 80 * 1024, 384 * 1024];

/// Buffers of each size that a thread keeps: 64 of the largest are 24 MiB,
/// reached only when that many connections drained at once.
const KEPT_PER_CLASS: [usize; 4] = [256, 128, 64, 16];

/// The buffers that one thread keeps.
struct Pool {
    classes: [Vec<Vec<u8>>; CLASSES.len()],
    metrics: Option<Arc<PoolMetrics>>,
    account: Option<Arc<Buffers>>,
    /// Bytes held since the account was last told.
    untold: i64,
}

/// Bytes after which a thread tells the account: so much per worker the
/// account may be off, and so seldom its cache line moves between cores.
const TELL_AT: i64 = 128 * 1024;

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool {
            classes: [const { Vec::new() }; CLASSES.len()],
            metrics: None,
            account: None,
            untold: 0,
        })
    };
}

/// Has this thread's pool counted. Called by each worker before its first
/// connection.
pub fn observe_pool(metrics: Arc<PoolMetrics>, account: Arc<Buffers>) {
    POOL.with_borrow_mut(|pool| {
        pool.metrics = Some(metrics);
        pool.account = Some(account);
        pool.untold = 0;
    });
}

/// Counts memory for bytes on their way that is not from the pool.
pub(super) fn held(bytes: usize) {
    POOL.with_borrow_mut(|pool| pool.hold(bytes));
}

/// Counts such memory off again. Does nothing while the thread ends.
pub(super) fn released(bytes: usize) {
    if bytes > 0 {
        let _ = POOL.try_with(|pool| pool.borrow_mut().release(bytes));
    }
}

/// Whether the memory for bytes on their way is taken, so that nothing should
/// wait that can be refused.
#[must_use]
pub(super) fn is_full() -> bool {
    POOL.with_borrow(|pool| {
        let account = pool.account.as_ref();
        account.is_some_and(|account| account.is_full())
    })
}

/// What this thread has not told the account.
#[cfg(test)]
pub(super) fn untold() -> i64 {
    POOL.with_borrow(|pool| pool.untold)
}

impl Pool {
    fn hold(&mut self, bytes: usize) {
        self.untold += i64::try_from(bytes).unwrap_or(i64::MAX);
        self.tell();
    }

    fn release(&mut self, bytes: usize) {
        self.untold -= i64::try_from(bytes).unwrap_or(i64::MAX);
        self.tell();
    }

    fn tell(&mut self) {
        if self.untold.abs() >= TELL_AT
            && let Some(account) = &self.account
        {
            account.add(std::mem::take(&mut self.untold));
        }
    }
}

/// An empty buffer with room for at least `capacity` bytes.
#[must_use]
pub(super) fn take(capacity: usize) -> Vec<u8> {
    let Some(class) = CLASSES.iter().position(|size| *size >= capacity) else {
        let buffer = Vec::with_capacity(capacity);
        held(buffer.capacity());
        return buffer;
    };
    POOL.with_borrow_mut(|pool| {
        pool.hold(CLASSES[class]);
        let kept = pool.classes[class].pop();
        if let Some(metrics) = &pool.metrics {
            metrics.lent(kept.as_ref().map(Vec::capacity));
        }
        kept.unwrap_or_else(|| Vec::with_capacity(CLASSES[class]))
    })
}

/// Gives a buffer back. One of a size that is not kept is freed, and so are
/// all while the thread ends.
pub(super) fn give(mut buffer: Vec<u8>) {
    let capacity = buffer.capacity();
    released(capacity);
    let Some(class) = CLASSES.iter().position(|size| *size == capacity) else {
        return;
    };
    let _ = POOL.try_with(|pool| {
        let pool = &mut *pool.borrow_mut();
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
