//! The peers we have met: where they can be reached, what they say of
//! themselves, their signed records; for as long as that is worth something.
//!
//! Bounds peers, addresses and bytes in all (`budget`), and each per peer
//! (`entry`, `signed`). A peer that is connected or permanent is never evicted;
//! of the others, the one that expires first goes when there is no room. Time is
//! passed in. Writing to disk is left to `app`, dialling to nobody yet.

mod announce;
mod budget;
mod entry;
mod filter;
mod intern;
mod known;
mod order;
mod packed;
mod refusal;
mod saved;
mod signed;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

use crate::config::PeerstoreConfig;
use crate::metrics::PeerstoreMetrics;
use crate::state::{
    addresses::Reach, connections::ConnectionId, peer_key::PeerKey, striped::StripedMap,
};

pub use announce::{Announcement, Speaker};
pub use entry::{ADDRESSES_KEPT, ADDRESSES_MAX};
pub use known::{Known, KnownAddress};
pub use order::Changes;
pub use packed::{ADDRESS_BYTES_MAX, Class, Source};
pub use refusal::Refusal;
pub use saved::{LoadError, Wall};
pub use signed::RECORD_BYTES_MAX;

use budget::{Budget, Weight};
use entry::{Entry, Recent};
use intern::Interner;
use order::{Beside, UNQUEUED};
use packed::Seconds;

/// Bytes of agents and of protocol lists that are kept in all, each.
const INTERNED_MAX: usize = 8 * 1024 * 1024;

/// How long a peer is remembered after the shortest visit (go-libp2p's
/// `RecentlyConnectedAddrTTL`).
const RECENT_MIN: Duration = Duration::from_secs(15 * 60);

/// For how long one second of visit is remembered. A flood of new identities
/// that come and go expires, and is evicted, before peers that have stayed.
const RECENT_PER_SECOND: Seconds = 8;

/// What is known of peers, shared by all workers.
pub struct Peerstore {
    peers: StripedMap<PeerKey, Entry>,
    /// One for each stripe of `peers`.
    beside: Box<[Beside]>,
    agents: Interner,
    protocols: Interner,
    budget: Arc<Budget>,
    scale: Scale,
    recent: Recent,
    discovered: Seconds,
    metrics: Arc<PeerstoreMetrics>,
}

/// How much of each total is taken, and how much may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Peers.
    pub peers: (usize, usize),
    /// Addresses.
    pub addresses: (usize, usize),
    /// Bytes, counted with what allocations cost.
    pub bytes: (usize, usize),
    /// Different protocol lists.
    pub protocols: usize,
    /// Different agents.
    pub agents: usize,
    /// Peers that wait to be written.
    pub changed: usize,
}

impl Peerstore {
    /// An empty peerstore.
    #[must_use]
    pub fn new(config: &PeerstoreConfig, metrics: Arc<PeerstoreMetrics>, now: Instant) -> Self {
        let peers = StripedMap::new();
        let beside = std::iter::repeat_with(Beside::default)
            .take(peers.stripe_count())
            .collect();
        let bytes_max = config.memory_max.unwrap_or(u64::MAX);
        Self {
            peers,
            beside,
            agents: Interner::new(INTERNED_MAX),
            protocols: Interner::new(INTERNED_MAX),
            budget: Budget::new(
                config.peers_max,
                config.addresses_max,
                usize::try_from(bytes_max).unwrap_or(usize::MAX),
            ),
            scale: Scale { base: now },
            recent: Recent {
                min: seconds(RECENT_MIN.min(config.recent_ttl)),
                per_second: RECENT_PER_SECOND,
                max: seconds(config.recent_ttl),
            },
            discovered: seconds(config.discovered_ttl),
            metrics,
        }
    }

    /// A peer has opened a connection: nothing of it expires from now on.
    pub fn connected(&self, peer: &PeerId, connection: ConnectionId, now: Instant) {
        let Some(key) = PeerKey::new(peer) else {
            return;
        };
        let now = self.scale.at(now);
        self.edit(key, |entry| entry.connected(connection, now));
    }

    /// A peer's last connection has ended; `newest` is the newest one it may
    /// have had by then, and `remote` where the ended one came from. What it
    /// said since, over a newer one, stays.
    pub fn disconnected(
        &self,
        peer: &PeerId,
        newest: ConnectionId,
        remote: SocketAddr,
        now: Instant,
    ) {
        let Some(key) = PeerKey::new(peer) else {
            return;
        };
        let (now, seen_at) = (self.scale.at(now), seen_at(remote));
        let stripe = self.peers.stripe_of(&key);
        let gone = self.peers.remove_if(&key, |entry| {
            entry.left(newest, &seen_at, self.recent, now);
            self.settle(stripe, key, entry, now)
        });
        drop(gone);
    }

    /// Somebody else than the peer says where it can be reached: the operator,
    /// for good ([`Class::Permanent`]), or another peer
    /// ([`Class::Discovered`]). Addresses that lead nowhere are left out.
    pub fn heard_of<'a>(
        &self,
        peer: &PeerId,
        class: Class,
        source: Source,
        addresses: impl IntoIterator<Item = &'a [u8]>,
        now: Instant,
    ) {
        let Some(key) = PeerKey::new(peer) else {
            return;
        };
        let from = match source {
            Source::Operator => Reach::Loopback,
            Source::Record | Source::Identify | Source::Other => Reach::Public,
        };
        let accepted = self.accept(&key, from, addresses);
        if accepted.is_empty() {
            return;
        }
        let now = self.scale.at(now);
        let expires = now.saturating_add(self.discovered);
        self.edit(key, |entry| {
            entry.heard_of(&accepted, class, source, expires, now);
        });
    }

    /// Whether a peer's agent string is known to begin like this.
    #[must_use]
    pub fn agent_begins(&self, peer: &PeerId, prefix: &str) -> bool {
        PeerKey::new(peer).is_some_and(|key| {
            self.peers.with(&key, |entry| {
                entry
                    .and_then(|entry| entry.agent.as_deref())
                    .is_some_and(|agent| agent.starts_with(prefix))
            })
        })
    }

    /// Whether a peer may speak a protocol: unless its list is known, and the
    /// protocol is not on it.
    #[must_use]
    pub fn speaks(&self, peer: &PeerId, protocol: &str) -> bool {
        PeerKey::new(peer).is_none_or(|key| {
            self.peers.with(&key, |entry| {
                entry
                    .and_then(|entry| entry.protocols.as_deref())
                    .is_none_or(|lines| lines.lines().any(|line| line == protocol))
            })
        })
    }

    /// Number of peers of whom something is known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nothing is known of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// What is taken of each total.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let budget = &self.budget;
        let of = |total: &budget::Total| (total.taken(), total.max());
        Usage {
            peers: of(&budget.peers),
            addresses: of(&budget.addresses),
            bytes: of(&budget.bytes),
            protocols: self.protocols.len(),
            agents: self.agents.len(),
            changed: self.beside.iter().map(Beside::changes).sum(),
        }
    }

    /// Changes a peer's entry, which is made if there is none and there is room
    /// for it; `None` if there is not.
    fn edit<R>(&self, key: PeerKey, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let stripe = self.peers.stripe_of(&key);
        let mut change = Some(change);
        let changed = self.peers.with(&key, |entry| {
            let (entry, change) = (entry?, change.take()?);
            let result = change(entry);
            self.place(stripe, key, entry);
            Some(result)
        });
        let Some(change) = change else {
            return changed;
        };
        let Some(weight) = self.weigh(stripe) else {
            self.refused(Refusal::Peer, 1);
            return None;
        };
        self.peers.update(key, |slot| {
            // Another thread may have made it meanwhile.
            let entry = slot.get_or_insert_with(|| Entry::new(weight));
            let result = change(entry);
            self.place(stripe, key, entry);
            Some(result)
        })
    }

    /// Pays for what an entry holds and puts it in its place in the order of
    /// expiry. Under the stripe's lock.
    fn place(&self, stripe: usize, key: PeerKey, entry: &mut Entry) {
        if !entry.settle() {
            self.refused(Refusal::Memory, 1);
        }
        let to = entry.bucket();
        let from = std::mem::replace(&mut entry.queued, to);
        self.beside(stripe).changed(key, from, to);
    }

    /// As [`Self::place`], for one that may have nothing left to say; whether
    /// it is to be removed.
    fn settle(&self, stripe: usize, key: PeerKey, entry: &mut Entry, now: Seconds) -> bool {
        if entry.is_worth_keeping(now) {
            self.place(stripe, key, entry);
            return false;
        }
        let from = std::mem::replace(&mut entry.queued, UNQUEUED);
        self.beside(stripe).changed(key, from, UNQUEUED);
        true
    }

    fn beside(&self, stripe: usize) -> &Beside {
        &self.beside[stripe % self.beside.len()]
    }

    fn refused(&self, refusal: Refusal, count: usize) {
        self.metrics.refused(refusal.label(), count);
    }
}

/// Where a peer is seen, as it might announce it.
fn seen_at(remote: SocketAddr) -> Vec<u8> {
    Multiaddr::from(remote.ip().to_canonical())
        .with(Protocol::Tcp(remote.port()))
        .to_vec()
}

/// Moments in whole seconds, four bytes each.
#[derive(Debug, Clone, Copy)]
struct Scale {
    base: Instant,
}

/// Where the scale begins: what a file tells may lie decades before.
const SCALE_START: Seconds = 1 << 30;

impl Scale {
    fn at(self, now: Instant) -> Seconds {
        SCALE_START.saturating_add(seconds(now.saturating_duration_since(self.base)))
    }
}

/// A span in whole seconds, at most a quarter of the scale.
fn seconds(span: Duration) -> Seconds {
    Seconds::try_from(span.as_secs()).map_or(SCALE_START, |span| span.min(SCALE_START))
}

#[cfg(test)]
mod tests;
