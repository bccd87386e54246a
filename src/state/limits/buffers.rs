//! Memory held by bytes on their way through the server.
//!
//! One account for all connections: what their batches, queues and half
//! records take. It knows a maximum and tells when it is reached; refusing
//! what would grow it further is left to those who ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::Level;

/// The account. Threads add to it in lumps, so it is exact to what a thread
/// keeps back.
#[derive(Debug)]
#[repr(align(128))]
pub struct Buffers {
    taken: AtomicI64,
    max: i64,
}

impl Buffers {
    /// An empty account of at most `max` bytes; `None`: without a limit.
    #[must_use]
    pub fn new(max: Option<u64>) -> Arc<Self> {
        let max = max.and_then(|max| i64::try_from(max).ok());
        Arc::new(Self {
            taken: AtomicI64::new(0),
            max: max.unwrap_or(i64::MAX),
        })
    }

    /// Adds bytes, or takes them off again. Never refuses: what is counted here
    /// exists already.
    pub fn add(&self, bytes: i64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether nothing more should be let in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.taken() >= self.max
    }

    /// Bytes taken. Below zero while the thread that freed some has told of it
    /// and the one that took them has not.
    #[must_use]
    pub fn taken(&self) -> i64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Bytes taken, of how many; a maximum of 0 is none.
    #[must_use]
    pub fn usage(&self) -> Level {
        let bytes = |count: i64| usize::try_from(count).unwrap_or(0);
        Level {
            taken: bytes(self.taken()),
            max: if self.max == i64::MAX {
                0
            } else {
                bytes(self.max)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_at_the_maximum_and_never_without_one() {
        let buffers = Buffers::new(Some(100));
        buffers.add(99);
        assert!(!buffers.is_full());
        buffers.add(1);
        assert!(buffers.is_full());
        assert_eq!(
            buffers.usage(),
            Level {
                taken: 100,
                max: 100
            }
        );
        buffers.add(-1);
        assert!(!buffers.is_full());
        let endless = Buffers::new(None);
        endless.add(i64::MAX - 1);
        assert!(!endless.is_full());
        assert_eq!(endless.usage().max, 0);
    }
}
