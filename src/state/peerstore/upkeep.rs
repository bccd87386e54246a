//! Letting go: of what has expired, and of what expires first when there is no
//! room for what is new.
//!
//! Both take their victims from the front of a stripe's order of expiry and
//! look at nothing else, so their cost is that of what goes. Each victim is
//! locked by itself; one call takes at most a few thousand.

use std::time::Instant;

use super::budget::Weight;
use super::order::{BUCKET_SECONDS, UNQUEUED};
use super::{PeerKey, Peerstore};

/// Victims that are looked up at once.
const BATCH: usize = 64;

/// Batches in one sweep of one stripe; what is left waits for the next.
const BATCHES_MAX: usize = 128;

/// Peers that make room for one.
const EVICTED_AT_ONCE: usize = 4;

/// Stripes in which a peer is looked for that can go.
const STRIPES_TRIED: usize = 8;

/// What a sweep let go of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Peers of which nothing was left.
    pub peers: usize,
    /// Addresses, those of these peers included.
    pub addresses: usize,
}

impl Peerstore {
    /// Lets go of what has expired in one stripe (taken modulo their number),
    /// up to a minute late.
    pub fn sweep(&self, stripe: usize, now: Instant) -> Swept {
        let stripe = stripe % self.stripes();
        let now = self.scale.at(now);
        let mut swept = Swept::default();
        for _ in 0..BATCHES_MAX {
            let due = self.beside(stripe).first(BATCH, now / BUCKET_SECONDS);
            if due.is_empty() {
                break;
            }
            for (bucket, key) in due {
                let gone = self.peers.remove_if(&key, |entry| {
                    // It may have been refreshed since it was looked up.
                    if entry.queued != bucket {
                        return false;
                    }
                    swept.addresses += entry.prune(now);
                    self.settle(stripe, key, entry, now)
                });
                swept.peers += usize::from(gone.is_some());
            }
        }
        self.agents.collect(stripe);
        self.protocols.collect(stripe);
        self.metrics.swept(swept.peers, swept.addresses);
        swept
    }

    /// Number of stripes to sweep.
    #[must_use]
    pub fn stripes(&self) -> usize {
        self.beside.len()
    }

    /// Makes room in advance, so that a peer that has much to say finds some.
    pub(super) fn make_room(&self, key: &PeerKey) {
        if self.budget.is_tight() {
            let evicted = self.evict(self.peers.stripe_of(key), EVICTED_AT_ONCE);
            self.metrics.evicted("memory", evicted);
        }
    }

    /// The weight of one more entry, if need be in place of others.
    pub(super) fn weigh(&self, stripe: usize) -> Option<Weight> {
        if let Some(weight) = Weight::of_entry(&self.budget) {
            return Some(weight);
        }
        let evicted = self.evict(stripe, 1);
        self.metrics.evicted("peers", evicted);
        Weight::of_entry(&self.budget)
    }

    /// Lets go of up to `count` peers that expire first, in this stripe or, if
    /// none can go there, in one of the next.
    fn evict(&self, stripe: usize, count: usize) -> usize {
        for stripe in (stripe..).take(STRIPES_TRIED.min(self.stripes())) {
            let stripe = stripe % self.stripes();
            let mut evicted = 0;
            for (bucket, key) in self.beside(stripe).first(count, u32::MAX) {
                let gone = self.peers.remove_if(&key, |entry| {
                    // It may have come back since it was looked up.
                    if entry.queued != bucket {
                        return false;
                    }
                    entry.queued = UNQUEUED;
                    self.beside(stripe).changed(key, bucket, UNQUEUED);
                    true
                });
                evicted += usize::from(gone.is_some());
            }
            if evicted > 0 {
                return evicted;
            }
        }
        0
    }
}
