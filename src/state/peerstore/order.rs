//! What stands beside each stripe of the table: which of its peers expire in
//! which order, and which have changed since they were last written.
//!
//! The order is exact: a peer stands in it once, in the bucket that its entry
//! names, or not at all if it is connected or permanent. So neither a sweep nor
//! an eviction ever looks at a peer that has to stay. The lock is a leaf, taken
//! under its stripe's lock or alone, and held for a few tree operations.

use std::collections::{BTreeSet, HashSet};

use parking_lot::Mutex;

use crate::state::peer_key::PeerKey;

/// Seconds that one bucket spans. A peer that is refreshed within its bucket
/// does not move; a sweep comes at most this much late.
pub(super) const BUCKET_SECONDS: u32 = 60;

/// Changed peers that one stripe names. With more, all of it counts as changed:
/// names of everything would cost more than writing everything.
pub(super) const CHANGED_MAX: usize = 4096;

/// The bucket of an entry that stands in no order.
pub(super) const UNQUEUED: u32 = 0;

/// Everything beside one stripe, on its own cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Beside(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    expiring: BTreeSet<(u32, PeerKey)>,
    changed: HashSet<PeerKey>,
    all_changed: bool,
}

/// What has changed in one stripe since this was last asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Changes {
    /// These peers; some may be gone.
    Peers(Vec<PeerKey>),
    /// More than can be named.
    All,
}

impl Beside {
    /// The peer's entry has changed and stands in bucket `to` from now on.
    pub(super) fn changed(&self, key: PeerKey, from: u32, to: u32) {
        let mut lists = self.0.lock();
        if from != to {
            if from != UNQUEUED {
                lists.expiring.remove(&(from, key));
            }
            if to != UNQUEUED {
                lists.expiring.insert((to, key));
            }
        }
        lists.mark(key);
    }

    /// The peer has not changed, but stands in bucket `to` from now on.
    pub(super) fn loaded(&self, key: PeerKey, to: u32) {
        if to != UNQUEUED {
            self.0.lock().expiring.insert((to, key));
        }
    }

    /// The first `max` peers that stand in buckets before `end`.
    pub(super) fn first(&self, max: usize, end: u32) -> Vec<(u32, PeerKey)> {
        let lists = self.0.lock();
        let before = lists
            .expiring
            .iter()
            .take_while(|(bucket, _)| *bucket < end);
        before.take(max).copied().collect()
    }

    /// Peers that stand in the order.
    #[cfg(test)]
    pub(super) fn expiring(&self) -> usize {
        self.0.lock().expiring.len()
    }

    /// Takes the changes out.
    pub(super) fn take_changes(&self) -> Changes {
        let (changed, all) = {
            let mut lists = self.0.lock();
            let all = std::mem::take(&mut lists.all_changed);
            (std::mem::take(&mut lists.changed), all)
        };
        if all {
            Changes::All
        } else {
            Changes::Peers(changed.into_iter().collect())
        }
    }

    /// Puts changes back that could not be written.
    pub(super) fn put_back(&self, changes: Changes) {
        let mut lists = self.0.lock();
        match changes {
            Changes::All => lists.all_changed = true,
            Changes::Peers(peers) => peers.into_iter().for_each(|peer| lists.mark(peer)),
        }
    }

    /// Peers that have changed, at most.
    pub(super) fn changes(&self) -> usize {
        let lists = self.0.lock();
        if lists.all_changed {
            CHANGED_MAX
        } else {
            lists.changed.len()
        }
    }
}

impl Lists {
    fn mark(&mut self, key: PeerKey) {
        if self.all_changed {
            return;
        }
        self.changed.insert(key);
        if self.changed.len() > CHANGED_MAX {
            self.all_changed = true;
            self.changed = HashSet::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u16) -> PeerKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&index.to_be_bytes());
        PeerKey::Sha256(bytes)
    }

    #[test]
    fn a_peer_stands_in_one_place() {
        let beside = Beside::default();
        beside.changed(key(1), UNQUEUED, 7);
        beside.changed(key(2), UNQUEUED, 5);
        beside.changed(key(1), 7, 3);
        assert_eq!(beside.first(10, 6), [(3, key(1)), (5, key(2))]);
        assert_eq!(beside.first(10, 5), [(3, key(1))], "the end is left out");
        assert_eq!(beside.first(1, u32::MAX).len(), 1);
        beside.changed(key(1), 3, UNQUEUED);
        assert_eq!(beside.expiring(), 1);
    }

    #[test]
    fn changes_are_named_up_to_the_bound() {
        let beside = Beside::default();
        let last = u16::try_from(CHANGED_MAX).expect("small");
        for index in 0..last {
            beside.changed(key(index), UNQUEUED, UNQUEUED);
        }
        let Changes::Peers(peers) = beside.take_changes() else {
            panic!("all of them fit");
        };
        assert_eq!(peers.len(), CHANGED_MAX);
        beside.put_back(Changes::Peers(peers));
        beside.changed(key(last), UNQUEUED, UNQUEUED);
        assert_eq!(beside.take_changes(), Changes::All);
        assert_eq!(beside.take_changes(), Changes::Peers(Vec::new()));
    }
}
