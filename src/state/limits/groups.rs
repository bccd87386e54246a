//! Count and rate for each of very many groups, in bounded memory.
//!
//! Owns one table of groups (hosts, networks, peers) with a fixed number of
//! places. A group has a place while it has connections or a bucket that is
//! not full; one step of sweeping rides on the arrival of a new group. When no
//! place is free, all further groups together are one: they share a single
//! count, under the limit of one, and a single bucket.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::striped::{Capacity, Permit, StripedMap};
use super::{Level, TableUsage};
use crate::engine::token_bucket::{Rate, TokenBucket};

/// Least time between two steps of sweeping. A step walks one stripe; with 16
/// stripes and 66,000 entries that is some 4,000 entries (about 20 µs), so
/// sweeping takes 0.1 % of one core at the most and passes over the whole
/// table in a third of a second, about the time a single connection's token
/// takes to come back.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);

/// The groups of one kind.
#[derive(Debug)]
pub(super) struct GroupTable<K: Hash + Eq> {
    entries: StripedMap<K, Entry>,
    places: Arc<Capacity>,
    /// The groups without a place, as one. `None` until there is one.
    overflow: Mutex<Option<Group>>,
    sweep: Mutex<Sweep>,
    count_max: usize,
    rate: Rate,
    /// The rate of those without a place, together.
    shared: Rate,
    /// Tokens asked for without a place, since the table last had one free.
    placeless: AtomicUsize,
}

/// Which limit of a group was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupRefusal {
    Count,
    Rate,
}

/// One connection of a group; drop takes it off the count.
#[derive(Debug)]
pub(super) struct GroupPermit<K: Hash + Eq> {
    table: Arc<GroupTable<K>>,
    key: K,
    place: Place,
}

/// Where a connection was counted. Stays the same for its life, even if its
/// group gets a place of its own meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Own,
    Overflow,
}

#[derive(Debug)]
struct Entry {
    group: Group,
    _place: Permit,
}

#[derive(Debug)]
struct Group {
    count: usize,
    bucket: TokenBucket,
}

#[derive(Debug, Default)]
struct Sweep {
    stripe: usize,
    due: Option<Instant>,
}

impl<K: Hash + Eq + Copy> GroupTable<K> {
    /// A table of `places` groups, each with at most `count_max` connections
    /// that come at most at `rate`.
    pub(super) fn new(places: usize, count_max: usize, rate: Rate) -> Arc<Self> {
        Arc::new(Self::build(places, count_max, rate, rate))
    }

    /// A table of `places` groups without connections, each of which takes
    /// tokens at `rate`, and all others together at `shared`.
    pub(super) fn of_rates(places: usize, rate: Rate, shared: Rate) -> Arc<Self> {
        Arc::new(Self::build(places, usize::MAX, rate, shared))
    }

    fn build(places: usize, count_max: usize, rate: Rate, shared: Rate) -> Self {
        Self {
            entries: StripedMap::new(),
            places: Capacity::new(places),
            overflow: Mutex::new(None),
            sweep: Mutex::default(),
            count_max,
            rate,
            shared,
            placeless: AtomicUsize::new(0),
        }
    }

    /// Counts one more connection of the group of `key`.
    pub(super) fn acquire(
        self: &Arc<Self>,
        key: K,
        now: Instant,
    ) -> Result<GroupPermit<K>, GroupRefusal> {
        let known = self.entries.with(&key, |entry| {
            entry.map(|entry| self.count_one(&mut entry.group, &self.rate, now))
        });
        let place = match known {
            Some(outcome) => outcome.map(|()| Place::Own),
            None => self.enter(key, now, |group, rate| self.count_one(group, rate, now)),
        }?;
        Ok(GroupPermit {
            table: Arc::clone(self),
            key,
            place,
        })
    }

    /// Takes a token of the group of `key` for something that is over at once.
    pub(super) fn take(&self, key: K, now: Instant) -> Result<(), GroupRefusal> {
        let known = self.entries.with(&key, |entry| {
            entry.map(|entry| take_one(&mut entry.group, &self.rate, now))
        });
        match known {
            Some(outcome) => outcome,
            None => {
                let entered = self.enter(key, now, |group, rate| take_one(group, rate, now));
                if !matches!(entered, Ok(Place::Own)) {
                    self.placeless.fetch_add(1, Ordering::Relaxed);
                }
                entered.map(|_| ())
            }
        }
    }

    /// Forgets all groups that are as good as unknown.
    pub(super) fn sweep(&self, now: Instant) {
        self.entries.retain(|_, entry| !entry.group.is_idle(now));
        if self.places.taken() < self.places.max() {
            self.placeless.store(0, Ordering::Relaxed);
        }
    }

    /// What is taken of the table.
    pub(super) fn usage(&self) -> TableUsage {
        TableUsage {
            groups: Level::of(&self.places),
            overflow: self.overflow.lock().as_ref().map_or(0, |group| group.count)
                + self.placeless.load(Ordering::Relaxed),
        }
    }

    /// A group that has no place yet gets one, if there is one.
    fn enter(
        &self,
        key: K,
        now: Instant,
        count: impl FnOnce(&mut Group, &Rate) -> Result<(), GroupRefusal>,
    ) -> Result<Place, GroupRefusal> {
        self.sweep_step(now);
        let Some(place) = self.places.try_reserve() else {
            let mut overflow = self.overflow.lock();
            let group = overflow.get_or_insert_with(|| Group::new(now));
            return count(group, &self.shared).map(|()| Place::Overflow);
        };
        self.entries.update(key, |slot| {
            // Another worker may have been first; then the place goes back.
            let entry = slot.get_or_insert_with(|| Entry {
                group: Group::new(now),
                _place: place,
            });
            count(&mut entry.group, &self.rate).map(|()| Place::Own)
        })
    }

    fn count_one(&self, group: &mut Group, rate: &Rate, now: Instant) -> Result<(), GroupRefusal> {
        if group.count >= self.count_max {
            return Err(GroupRefusal::Count);
        }
        take_one(group, rate, now)?;
        group.count += 1;
        Ok(())
    }

    /// Sweeps the next stripe if it is time; never waits for another sweeper.
    fn sweep_step(&self, now: Instant) {
        let stripe = {
            let Some(mut sweep) = self.sweep.try_lock() else {
                return;
            };
            if sweep.due.is_some_and(|due| now < due) {
                return;
            }
            sweep.due = now.checked_add(SWEEP_INTERVAL);
            sweep.stripe = sweep.stripe.wrapping_add(1);
            sweep.stripe
        };
        self.entries
            .retain_in(stripe, |_, entry| !entry.group.is_idle(now));
    }
}

fn take_one(group: &mut Group, rate: &Rate, now: Instant) -> Result<(), GroupRefusal> {
    let taken = group.bucket.take(rate, 1, now);
    taken.map_err(|_| GroupRefusal::Rate)
}

impl<K: Hash + Eq> GroupTable<K> {
    fn with_group(&self, key: &K, place: Place, change: impl FnOnce(&mut Group)) {
        match place {
            // A group with connections is never forgotten, so it is there.
            Place::Own => self.entries.with(key, |entry| {
                debug_assert!(entry.is_some(), "a counted group was forgotten");
                if let Some(entry) = entry {
                    change(&mut entry.group);
                }
            }),
            Place::Overflow => {
                if let Some(group) = self.overflow.lock().as_mut() {
                    change(group);
                }
            }
        }
    }
}

impl<K: Hash + Eq> GroupPermit<K> {
    /// Takes the connection off the count and puts its token back, for one
    /// that another limit refused.
    pub(super) fn undo(self) {
        let rate = &self.table.rate;
        self.table.with_group(&self.key, self.place, |group| {
            group.bucket.give_back(rate, 1);
        });
    }
}

impl<K: Hash + Eq> Drop for GroupPermit<K> {
    fn drop(&mut self) {
        self.table
            .with_group(&self.key, self.place, |group| group.count -= 1);
    }
}

impl Group {
    fn new(now: Instant) -> Self {
        Self {
            count: 0,
            bucket: TokenBucket::new(now),
        }
    }

    /// No connections and a full bucket: the same as an unknown group.
    fn is_idle(&self, now: Instant) -> bool {
        self.count == 0 && self.bucket.is_full(now)
    }
}
