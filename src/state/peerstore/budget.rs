//! What the peerstore may hold in all: peers, addresses, bytes.
//!
//! Each entry holds a [`Weight`], taken before the entry is there and resized
//! before it grows; dropping the entry gives everything back. No total is ever
//! overshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an entry costs beside the bytes it points to: its place in the table
/// and in the order of expiry with their slack, and what its allocations are
/// rounded up by. Measured by `benches/peerstore.rs`, 2026-11-20.
const ENTRY_BYTES: usize = 320;

/// One total on its own cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Total {
    taken: AtomicUsize,
    max: usize,
}

impl Total {
    const fn new(max: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            max,
        }
    }

    /// Takes `more`, or nothing if the cap is in the way.
    fn try_take(&self, more: usize) -> bool {
        if more == 0 {
            return true;
        }
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(more).filter(|sum| *sum <= self.max)
            })
            .is_ok()
    }

    fn give(&self, back: usize) {
        if back > 0 {
            let before = self.taken.fetch_sub(back, Ordering::Relaxed);
            debug_assert!(before >= back, "given back twice");
        }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) const fn max(&self) -> usize {
        self.max
    }

    /// Whether so little is left that room should be made in advance.
    fn is_tight(&self) -> bool {
        self.taken() >= self.max - self.max / 16
    }
}

/// The totals of one peerstore.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) peers: Total,
    pub(super) addresses: Total,
    pub(super) bytes: Total,
}

impl Budget {
    pub(super) fn new(peers: usize, addresses: usize, bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            peers: Total::new(peers),
            addresses: Total::new(addresses),
            bytes: Total::new(bytes),
        })
    }

    /// Whether an entry that grows may soon be refused its growth.
    pub(super) fn is_tight(&self) -> bool {
        self.addresses.is_tight() || self.bytes.is_tight()
    }
}

/// One entry's part of the totals, given back on drop.
#[derive(Debug)]
pub(super) struct Weight {
    budget: Arc<Budget>,
    bytes: u32,
    addresses: u16,
}

impl Weight {
    /// The weight of an empty entry, if it still fits.
    pub(super) fn of_entry(budget: &Arc<Budget>) -> Option<Self> {
        if !budget.peers.try_take(1) {
            return None;
        }
        if !budget.bytes.try_take(ENTRY_BYTES) {
            budget.peers.give(1);
            return None;
        }
        Some(Self {
            budget: Arc::clone(budget),
            bytes: 0,
            addresses: 0,
        })
    }

    /// Changes what the entry holds; `false`, and nothing changes, if its
    /// growth does not fit.
    pub(super) fn resize(&mut self, addresses: u16, bytes: u32) -> bool {
        let more_addresses = usize::from(addresses.saturating_sub(self.addresses));
        let more_bytes = bytes.saturating_sub(self.bytes) as usize;
        if !self.budget.addresses.try_take(more_addresses) {
            return false;
        }
        if !self.budget.bytes.try_take(more_bytes) {
            self.budget.addresses.give(more_addresses);
            return false;
        }
        let fewer_addresses = self.addresses.saturating_sub(addresses);
        self.budget.addresses.give(fewer_addresses.into());
        let fewer_bytes = self.bytes.saturating_sub(bytes);
        self.budget.bytes.give(fewer_bytes as usize);
        (self.addresses, self.bytes) = (addresses, bytes);
        true
    }

    /// Addresses and bytes that are paid for.
    pub(super) const fn held(&self) -> (u16, u32) {
        (self.addresses, self.bytes)
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.budget.peers.give(1);
        self.budget.addresses.give(self.addresses.into());
        self.budget.bytes.give(ENTRY_BYTES + self.bytes as usize);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn no_total_is_overshot_and_all_of_it_comes_back() {
        let budget = Budget::new(2, 10, ENTRY_BYTES * 2 + 100);
        let mut first = Weight::of_entry(&budget).unwrap();
        let second = Weight::of_entry(&budget).unwrap();
        assert!(Weight::of_entry(&budget).is_none());
        assert!(first.resize(10, 50));
        assert!(!first.resize(11, 50), "addresses");
        assert!(!first.resize(10, 101), "bytes");
        assert_eq!(first.held(), (10, 50));
        assert!(first.resize(3, 100));
        assert_eq!((budget.addresses.taken(), budget.peers.taken()), (3, 2));
        drop((first, second));
        assert_eq!(budget.addresses.taken(), 0);
        assert_eq!(budget.bytes.taken(), 0);
        assert_eq!(budget.peers.taken(), 0);
    }

    #[test]
    fn a_refused_entry_takes_nothing() {
        let budget = Budget::new(2, 10, ENTRY_BYTES - 1);
        assert!(Weight::of_entry(&budget).is_none());
        assert_eq!(budget.peers.taken(), 0);
    }
}
