//! How often one peer may ask for something.
//!
//! Owns a bucket for each peer that has asked lately, in a table with a fixed
//! number of places; peers beyond it share one bucket. Peer ids are kept as 64
//! bits under a random key: a peer cannot choose with whom it shares, and of a
//! million peers hardly two do.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;

use super::groups::GroupTable;
use super::origins::TableUsage;
use crate::engine::token_bucket::Rate;

/// Peers that have a bucket of their own: all that can be connected by default
/// and those that have just left, in 4 MiB.
const PEERS_MAX: usize = 65_536;

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
    /// `per_second` requests of each peer, of which `burst` can be saved up.
    #[must_use]
    pub fn new(per_second: f64, burst: usize) -> Self {
        let burst = u32::try_from(burst).unwrap_or(u32::MAX);
        Self {
            buckets: GroupTable::new(PEERS_MAX, usize::MAX, Rate::new(per_second, burst)),
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
        let rates = PeerRates::new(0.5, 2);
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
        let rates = PeerRates::new(0.001, 2);
        let known = PeerId::random();
        assert_eq!(rates.take(&known, now), Ok(()));
        for key in 0..70_000_u64 {
            let _ = rates.buckets.take(key, now);
        }
        assert_eq!(rates.usage().groups.taken, PEERS_MAX);
        assert_eq!(rates.take(&PeerId::random(), now), Err(TooOften));
        assert_eq!(rates.take(&known, now), Ok(()));
    }
}
