//! Who goes: a copy of what can go, one choice among it, and a last look at
//! each before it is told.
//!
//! The copy is taken stripe by stripe, so that each lock is held for as long
//! as copying its few hundred entries takes. What a peer is worth is worked
//! out once, into the copy: choosing compares numbers that no longer change
//! and takes no lock. What has changed since is seen when the connection is
//! told to end: one that has become better than the plan may touch stays.
//!
//! Order: class, then points, then age. Of equals the newest goes first, so
//! that a flood of strangers pushes out strangers, not who was here before it.

use std::sync::{Arc, atomic::Ordering};
use std::time::Instant;

use libp2p_identity::PeerId;

use crate::state::leg::{Command, Ending};

use super::{
    ConnectionId, Connections, Open, Peer,
    marks::Plan,
    moment::{Moment, tenths},
    protection::Reason,
};

/// How well a connection is protected: the order in which classes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Neither new nor protected: goes at high water.
    Ordinary,
    /// Not protected, in its grace period: goes when memory is short.
    New,
    /// Of a peer with a reservation: goes when the process is over its budget
    /// of memory and nobody unprotected is left.
    Reserved,
    /// Of a peer with a circuit: goes after those.
    Relaying,
    /// Of a peer on the operator's list: goes only when there are more than
    /// the hard maximum, after everybody else.
    Listed,
}

impl Class {
    /// All classes, the first to go first.
    pub const ALL: [Self; 5] = [
        Self::Ordinary,
        Self::New,
        Self::Reserved,
        Self::Relaying,
        Self::Listed,
    ];

    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ordinary => "unprotected",
            Self::New => "grace",
            Self::Reserved => "reservation",
            Self::Relaying => "circuit",
            Self::Listed => "operator",
        }
    }
}

/// A connection that may be told to go.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    class: Class,
    value: u32,
    id: ConnectionId,
    pub(super) peer: PeerId,
}

/// Copies of what can go, as it was when its stripe was looked at.
#[derive(Debug)]
pub struct Snapshot {
    candidates: Vec<Candidate>,
    /// What is being copied out of one stripe: memory that has been written to
    /// before, since a page that the kernel has to find takes longer than all
    /// that is copied into it.
    stripe: Vec<Candidate>,
    reach: Class,
}

/// Room for one stripe beyond four times the average of all.
const STRIPE_SLACK: usize = 64;

/// What came of telling a connection to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has been told.
    Told(Class),
    /// It has left by itself, or may not be touched any more.
    Spared,
    /// As few are left as the plan allows.
    Enough,
}

impl Candidate {
    /// How well it was protected.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// What is compared. No two are equal, so a choice has one outcome.
    fn rank(&self) -> (Class, u32, std::cmp::Reverse<ConnectionId>) {
        (self.class, self.value, std::cmp::Reverse(self.id))
    }
}

impl Snapshot {
    /// Number of connections that can go.
    #[must_use]
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether none can go.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// The `count` that go first, in no particular order; all there are if
    /// they are fewer. O(n).
    #[must_use]
    pub fn select(mut self, count: usize) -> Vec<Candidate> {
        if count < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by_key(count, Candidate::rank);
            self.candidates.truncate(count);
        }
        self.candidates
    }
}

impl Connections {
    /// Number of stripes, each to be given to [`Self::collect`] once.
    #[must_use]
    pub fn stripes(&self) -> usize {
        self.peers.stripe_count()
    }

    /// An empty snapshot with room for any one stripe, so that nothing has to
    /// grow under a lock. It takes some 100 bytes for each connection copied.
    #[must_use]
    pub fn snapshot(&self, reach: Class) -> Snapshot {
        Snapshot {
            candidates: Vec::with_capacity(self.staying()),
            stripe: Vec::with_capacity(self.staying() / self.stripes() * 4 + STRIPE_SLACK),
            reach,
        }
    }

    /// Copies what can go out of one stripe. `is_listed` tells peers on the
    /// operator's list and is asked without a lock.
    pub fn collect(
        &self,
        stripe: usize,
        now: Instant,
        is_listed: impl Fn(&PeerId) -> bool,
        snapshot: &mut Snapshot,
    ) {
        let now = self.epoch.moment(now);
        let Snapshot {
            candidates,
            stripe: copied,
            reach,
        } = snapshot;
        self.peers.for_each_in(stripe, |peer, entry| {
            let mut value = None;
            for open in &entry.connections {
                let class = entry.class(open, self.marks.grace_tenths(), now);
                // What there is no room for is the next trim's.
                let room = copied.len() < copied.capacity();
                if open.closing || class > *reach || !room {
                    continue;
                }
                copied.push(Candidate {
                    class,
                    value: *value.get_or_insert_with(|| entry.tags.value(now)),
                    id: open.id,
                    peer: *peer,
                });
            }
        });
        for mut candidate in copied.drain(..) {
            if is_listed(&candidate.peer) {
                candidate.class = Class::Listed;
            }
            if candidate.class <= *reach {
                candidates.push(candidate);
            }
        }
    }

    /// Tells one connection to end, unless that would leave fewer than the
    /// plan's floor or the connection has become better than its reach.
    pub fn dismiss(
        &self,
        candidate: &Candidate,
        plan: &Plan,
        ending: Ending,
        now: Instant,
    ) -> Outcome {
        let now = self.epoch.moment(now);
        let staying = &self.counts.staying;
        // Taken first and given back if nobody goes: beside those who leave by
        // themselves, no two can take the last place above the floor.
        let taken = staying.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |staying| {
            (staying > plan.floor).then(|| staying - 1)
        });
        if taken.is_err() {
            return Outcome::Enough;
        }
        let link = self.peers.with(&candidate.peer, |entry| {
            let entry = entry?;
            let index = entry
                .connections
                .iter()
                .position(|open| open.id == candidate.id && !open.closing)?;
            let class = entry.class(&entry.connections[index], self.marks.grace_tenths(), now);
            // Who matters more than when it was chosen is no longer next in order.
            if class > candidate.class {
                return None;
            }
            let open = &mut entry.connections[index];
            open.closing = true;
            Some((Arc::clone(&open.link), class.max(candidate.class)))
        });
        let Some((link, class)) = link else {
            staying.fetch_add(1, Ordering::Relaxed);
            return Outcome::Spared;
        };
        // One that has ended by itself meanwhile does not take the command.
        let _ = link.deliver(Command::Close(ending));
        Outcome::Told(class)
    }
}

impl Peer {
    /// The class of one of the peer's connections, lists aside.
    fn class(&self, open: &Open, grace: u32, now: Moment) -> Class {
        if self.protections.has(Reason::Circuit) {
            Class::Relaying
        } else if self.protections.has(Reason::Reservation) {
            Class::Reserved
        } else if grace > 0 && now.since(open.opened) <= grace {
            // Both moments are rounded down: equal may be a tenth too short.
            Class::New
        } else {
            Class::Ordinary
        }
    }
}

impl super::Marks {
    fn grace_tenths(&self) -> u32 {
        tenths(self.grace)
    }
}
