//! An ordered index of deadlines: the earliest is found without a scan.
//!
//! One per connection, keyed by stream. Holds at most one deadline for each
//! key and nothing at all while no stream waits for anything, which is what an
//! idle connection's memory depends on.

use std::{collections::BTreeSet, time::Instant};

/// Deadlines by key, earliest first.
pub struct Deadlines<K> {
    index: BTreeSet<(Instant, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self {
            index: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Copy> Deadlines<K> {
    /// Moves the deadline of `key` from `old`, as the owner of the key has
    /// kept it, to `new`.
    pub fn change(&mut self, key: K, old: Option<Instant>, new: Option<Instant>) {
        if let Some(old) = old {
            self.index.remove(&(old, key));
            self.shrink();
        }
        if let Some(new) = new {
            self.index.insert((new, key));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.index.first().map(|(at, _)| *at)
    }

    /// Takes out one key whose deadline is not after `now`.
    pub fn expired(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let expired = self.index.pop_first().map(|(_, key)| key);
        self.shrink();
        expired
    }

    /// An emptied tree keeps a node of 280 bytes, which every idle connection
    /// would hold.
    fn shrink(&mut self) {
        if self.index.is_empty() {
            self.index = BTreeSet::new();
        }
    }

    /// Whether no key has a deadline.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}
