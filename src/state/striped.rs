//! The table under every shared table: a hash map cut into stripes, each with
//! its own lock on its own cache lines.
//!
//! It owns placement, locking and the count of its entries. It bounds nothing
//! by itself: a capped table keeps a [`Permit`] of a [`Capacity`] in each
//! value, so the total is taken before insertion and given back by drop.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, RandomState};

pub use self::capacity::{Capacity, Permit};
pub use self::counts::{Full, KeyPermit, KeyedCounts};

mod capacity;
mod counts;

/// Stripes per core: with four, two threads that both hold a lock meet on the
/// same stripe in one of eight tries on two cores, and ever less on more.
const STRIPES_PER_CORE: usize = 4;
/// Small hosts still get enough stripes that a walk holds each one briefly.
const STRIPES_MIN: usize = 16;
/// Two bytes of the hash choose the stripe, and no host has use for more.
const STRIPES_MAX: usize = 1 << 12;
/// A stripe whose table has room for fewer entries than this never shrinks.
const SHRINK_FLOOR: usize = 64;

/// A hash map shared by all workers.
///
/// Entries are reached through closures only, so no guard escapes and none can
/// be held across an await. A closure runs under its stripe's lock: it must not
/// call out, send, log, or touch another table (see the lock table in
/// `state.rs`); a value whose drop takes a lock has to be moved out of the
/// closure and dropped by the caller.
///
/// | operation | cost | lock |
/// |---|---|---|
/// | `with`, `update`, `insert`, `remove`, `remove_if` | O(1), one hash | one stripe, once |
/// | `len` | O(stripes) | none |
/// | `for_each`, `retain` | O(entries) | each stripe in turn, O(entries / stripes) each |
/// | growth and shrinking of a stripe | O(entries / stripes), amortised O(1) | that stripe |
///
/// Keys are peer ids and addresses, chosen by whoever connects, so the hash is
/// std's SipHash-1-3 under a random key: a pseudo-random function, for which
/// no one can aim keys at one stripe or one probe chain. Faster hashes
/// (foldhash, ahash) promise less than that; these tables are asked per
/// connection, reservation and circuit, never per packet, and some 25 ns do
/// not show there.
#[derive(Debug)]
pub struct StripedMap<K, V> {
    stripes: Box<[Stripe<K, V>]>,
    hasher: RandomState,
}

/// Two cache lines: x86 fetches them in pairs, so 64 bytes would still share.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe<K, V> {
    /// Size of the table, written under the lock, read without.
    len: AtomicUsize,
    table: Mutex<HashTable<(K, V)>>,
}

impl<K: Hash + Eq, V> StripedMap<K, V> {
    /// An empty map with stripes for the cores of this host.
    #[must_use]
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_stripes((cores * STRIPES_PER_CORE).max(STRIPES_MIN))
    }

    /// An empty map with at least `stripes` stripes (rounded up to a power of
    /// two, at most 4096).
    #[must_use]
    pub fn with_stripes(stripes: usize) -> Self {
        let count = stripes.clamp(1, STRIPES_MAX).next_power_of_two();
        Self {
            stripes: std::iter::repeat_with(Stripe::default)
                .take(count)
                .collect(),
            hasher: RandomState::new(),
        }
    }

    /// Looks at the value of `key`, or at its absence.
    pub fn with<Q, R>(&self, key: &Q, look: impl FnOnce(Option<&mut V>) -> R) -> R
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (hash, stripe) = self.locate(key);
        let mut table = stripe.table.lock();
        look(
            table
                .find_mut(hash, |(candidate, _)| candidate.borrow() == key)
                .map(|(_, value)| value),
        )
    }

    /// Inserts, changes or removes the value of `key`: whatever `change`
    /// leaves in the option is what the map holds afterwards.
    ///
    /// If `change` panics, the entry is gone and the map stays sound.
    pub fn update<R>(&self, key: K, change: impl FnOnce(&mut Option<V>) -> R) -> R {
        let (hash, stripe) = self.locate(&key);
        let mut table = stripe.lock_to_edit();
        let entry = table.guard.entry(
            hash,
            |(candidate, _)| *candidate == key,
            |(candidate, _)| self.hasher.hash_one(candidate),
        );
        match entry {
            Entry::Occupied(occupied) => {
                let ((key, value), vacant) = occupied.remove();
                let mut slot = Some(value);
                let result = change(&mut slot);
                if let Some(value) = slot {
                    vacant.insert((key, value));
                } else {
                    table.shrink(&self.hasher);
                }
                result
            }
            Entry::Vacant(vacant) => {
                let mut slot = None;
                let result = change(&mut slot);
                if let Some(value) = slot {
                    vacant.insert((key, value));
                }
                result
            }
        }
    }

    /// Puts `value` in place and hands back the one that was there.
    pub fn insert(&self, key: K, value: V) -> Option<V> {
        self.update(key, |slot| slot.replace(value))
    }

    /// Takes the value of `key` out of the map.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.remove_if(key, |_| true)
    }

    /// Takes the value of `key` out of the map if `condition` says so; the
    /// condition may change the value either way.
    pub fn remove_if<Q>(&self, key: &Q, condition: impl FnOnce(&mut V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (hash, stripe) = self.locate(key);
        let mut table = stripe.lock_to_edit();
        let mut entry = table
            .guard
            .find_entry(hash, |(candidate, _)| candidate.borrow() == key)
            .ok()?;
        if !condition(&mut entry.get_mut().1) {
            return None;
        }
        let ((_, value), _) = entry.remove();
        table.shrink(&self.hasher);
        Some(value)
    }

    /// Number of entries.
    ///
    /// Every stripe's term is exact; the sum is exact whenever no writer runs
    /// beside it. A cap is enforced by [`Capacity`], never by this.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stripes
            .iter()
            .map(|stripe| stripe.len.load(Ordering::Relaxed))
            .sum()
    }

    /// Whether no stripe holds an entry; as exact as [`len`](Self::len).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits every entry, stripe by stripe. Not a snapshot: entries that
    /// come, go or change in stripes already passed are missed.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &mut V)) {
        for stripe in 0..self.stripe_count() {
            self.for_each_in(stripe, &mut visit);
        }
    }

    /// Keeps the entries for which `keep` is true, stripe by stripe; returns
    /// how many went. What goes is dropped after its stripe's lock.
    pub fn retain(&self, mut keep: impl FnMut(&K, &mut V) -> bool) -> usize {
        (0..self.stripe_count())
            .map(|stripe| self.retain_in(stripe, &mut keep))
            .sum()
    }

    /// Number of stripes, for work that wants to spread a walk over time.
    #[must_use]
    pub fn stripe_count(&self) -> usize {
        self.stripes.len()
    }

    /// The stripe of a key, for what its owner keeps beside each stripe.
    #[must_use]
    pub fn stripe_of<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let [_, high, low, ..] = self.hasher.hash_one(key).to_be_bytes();
        usize::from(u16::from_be_bytes([high, low])) & (self.stripes.len() - 1)
    }

    /// [`for_each`](Self::for_each) over one stripe (an index is taken modulo
    /// the number of stripes).
    pub fn for_each_in(&self, stripe: usize, mut visit: impl FnMut(&K, &mut V)) {
        let mut table = self.stripe(stripe).table.lock();
        for (key, value) in table.iter_mut() {
            visit(key, value);
        }
    }

    /// [`retain`](Self::retain) over one stripe (an index is taken modulo the
    /// number of stripes).
    pub fn retain_in(&self, stripe: usize, mut keep: impl FnMut(&K, &mut V) -> bool) -> usize {
        let mut table = self.stripe(stripe).lock_to_edit();
        let gone: Vec<(K, V)> = table
            .guard
            .extract_if(|(key, value)| !keep(key, value))
            .collect();
        if !gone.is_empty() {
            table.shrink(&self.hasher);
        }
        drop(table);
        gone.len()
    }

    fn locate<Q: Hash + ?Sized>(&self, key: &Q) -> (u64, &Stripe<K, V>) {
        let hash = self.hasher.hash_one(key);
        // Bits 40 to 55: the table below uses the top seven and the low ones.
        let [_, high, low, ..] = hash.to_be_bytes();
        (
            hash,
            self.stripe(usize::from(u16::from_be_bytes([high, low]))),
        )
    }

    fn stripe(&self, index: usize) -> &Stripe<K, V> {
        &self.stripes[index & (self.stripes.len() - 1)]
    }
}

impl<K: Hash + Eq, V: Clone> StripedMap<K, V> {
    /// A copy of the value of `key`; for handles, which are cheap to clone.
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.with(key, |value| value.cloned())
    }
}

impl<K: Hash + Eq, V> Default for StripedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Default for Stripe<K, V> {
    fn default() -> Self {
        Self {
            len: AtomicUsize::new(0),
            table: Mutex::new(HashTable::new()),
        }
    }
}

impl<K, V> Stripe<K, V> {
    fn lock_to_edit(&self) -> Editing<'_, K, V> {
        Editing {
            len: &self.len,
            guard: self.table.lock(),
        }
    }
}

/// A locked stripe whose size may change: publishes the size before it
/// unlocks, also when a closure panics.
struct Editing<'a, K, V> {
    len: &'a AtomicUsize,
    guard: MutexGuard<'a, HashTable<(K, V)>>,
}

impl<K: Hash, V> Editing<'_, K, V> {
    /// Gives memory back after a flood: at an eighth of its room the table is
    /// halved twice over, so that growth and shrinking cannot alternate.
    fn shrink(&mut self, hasher: &RandomState) {
        let capacity = self.guard.capacity();
        if capacity > SHRINK_FLOOR && self.guard.len() < capacity / 8 {
            self.guard
                .shrink_to(capacity / 4, |(key, _)| hasher.hash_one(key));
        }
    }
}

impl<K, V> Drop for Editing<'_, K, V> {
    fn drop(&mut self) {
        self.len.store(self.guard.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
