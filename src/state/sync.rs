//! What the striped tables are made of: the lock, the atomics, the hash.
//!
//! In a file of its own so that the same tables can be checked over every
//! interleaving with a model's lock and atomics (`tests/striped_model/`). The
//! lock tells how long it was waited for: time is read only where a thread
//! finds it taken, so a lock that is free costs nothing more. Bounds nothing.

pub(super) use std::collections::hash_map::RandomState;
pub(super) use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) use parking_lot::MutexGuard;

use crate::{clock, metrics};

/// A lock that is held for the time of one closure.
#[derive(Debug, Default)]
pub(super) struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Waits for the lock; counts the wait if there was one.
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.try_lock().unwrap_or_else(|| self.wait())
    }

    #[cold]
    fn wait(&self) -> MutexGuard<'_, T> {
        let since = clock::now();
        let guard = self.0.lock();
        metrics::lock_waited(clock::now().saturating_duration_since(since));
        guard
    }
}
