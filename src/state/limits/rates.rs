//! How often one peer may ask for something.
//!
//! Owns a bucket for each peer that has asked lately, in a table with a fixed
//! number of places; peers beyond it share one bucket, larger than that of one
//! peer. Peer ids are kept as 64
//! bits under a random key: a peer cannot choose with whom it shares, and of a
//! million peers hardly two do.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;

use super::groups::GroupTable;
use super::origins::{TABLE_SLACK, TableUsage};
use crate::engine::token_bucket::Rate;

/// How many peers' rate those without a bucket of their own have together: that
/// many can be served at once, while those who filled the table gain little.
const SHARED_BY: u16 = 64;

/// The rate of one kind of request, by peer.
#[derive(Debug)]
pub struct PeerRates {
    buckets: Arc<GroupTable<u64>>,
    hasher: RandomState,
}

/// The peer asks more often than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("asked too often")]
pub struct TooOften;

impl PeerRates {
    /// `per_second` requests of each peer, of which `burst` can be saved up; for
    /// as many peers as `connections` can hold, and those that have just left.
    #[must_use]
    pub fn new(per_second: f64, burst: usize, connections: usize) -> Self {
        let burst = u32::try_from(burst).unwrap_or(u32::MAX);
        Self {
            buckets: GroupTable::of_rates(
                connections.saturating_add(TABLE_SLACK),
                Rate::new(per_second, burst),
                Rate::new(
                    per_second * f64::from(SHARED_BY),
                    burst.saturating_mul(u32::from(SHARED_BY)),
                ),
            ),
            hasher: RandomState::new(),
        }
    }

    /// Counts a request of the peer.
    ///
    /// # Errors
    /// [`TooOften`] if it has to wait.
    pub fn take(&self, peer: &PeerId, now: Instant) -> Result<(), TooOften> {
        let key = self.hasher.hash_one(peer);
        self.buckets.take(key, now).map_err(|_| TooOften)
    }

    /// Forgets peers whose bucket is full again.
    pub fn sweep(&self, now: Instant) {
        self.buckets.sweep(now);
    }

    /// Peers that have a bucket.
    #[must_use]
    pub fn usage(&self) -> TableUsage {
        self.buckets.usage()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn each_peer_has_its_own_rate_and_is_forgotten() {
        let now = clock::now();
        let rates = PeerRates::new(0.5, 2, 100);
        let (one, two) = (PeerId::random(), PeerId::random());
        assert_eq!(rates.take(&one, now), Ok(()));
        assert_eq!(rates.take(&one, now), Ok(()));
        assert_eq!(rates.take(&one, now), Err(TooOften));
        assert_eq!(rates.take(&two, now), Ok(()));
        assert_eq!(rates.usage().groups.taken, 2);
        let later = now + Duration::from_secs(2);
        assert_eq!(rates.take(&one, later), Ok(()));
        assert_eq!(rates.take(&one, later), Err(TooOften));
        rates.sweep(later + Duration::from_secs(4));
        assert_eq!(rates.usage().groups.taken, 0);
    }

    #[test]
    fn peers_beyond_the_table_share_a_bucket_and_known_ones_keep_theirs() {
        let now = clock::now();
        let rates = PeerRates::new(0.001, 2, 100);
        let known = PeerId::random();
        assert_eq!(rates.take(&known, now), Ok(()));
        let places = 100 + TABLE_SLACK;
        for key in 1..places as u64 {
            assert_eq!(rates.buckets.take(key, now), Ok(()));
        }
        assert_eq!(rates.usage().groups.taken, places);
        assert_eq!(rates.usage().overflow, 0);
        for _ in 0..2 * SHARED_BY {
            assert_eq!(rates.take(&PeerId::random(), now), Ok(()));
        }
        assert_eq!(rates.take(&PeerId::random(), now), Err(TooOften));
        assert_eq!(rates.usage().overflow, 2 * usize::from(SHARED_BY) + 1);
        assert_eq!(rates.take(&known, now), Ok(()));
        rates.sweep(now + Duration::from_secs(3_000));
        assert_eq!(rates.usage().overflow, 0);
    }
}
