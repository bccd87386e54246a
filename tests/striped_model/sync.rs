//! The model's lock and atomics in place of the real ones (`src/state/sync.rs`).
//!
//! Each operation is a point at which the checker may switch threads. The hash
//! is fixed, since every run of a model has to do the same things.

use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;

pub(super) use loom::sync::MutexGuard;
pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};

pub(super) type RandomState = BuildHasherDefault<DefaultHasher>;

#[derive(Debug, Default)]
pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0
            .lock()
            .expect("the model does not panic under a lock")
    }
}
