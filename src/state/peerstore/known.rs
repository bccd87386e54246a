//! What is known of a peer, as it is told to others: a copy, with times as
//! spans from now and without what has expired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use super::packed::{Class, NEVER, Packed, Seconds, Source};
use super::{PeerKey, Peerstore};

/// What is known of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Agent string, its first 128 bytes.
    pub agent: Option<Arc<str>>,
    /// Protocol ids, one a line.
    pub protocols: Option<Arc<str>>,
    /// Whether it is connected.
    pub connected: bool,
    /// Where it can be reached, the best first.
    pub addresses: Vec<KnownAddress>,
    /// Its newest signed record: sequence number and envelope.
    pub record: Option<(u64, Vec<u8>)>,
}

/// One address of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAddress {
    /// The address, without the peer's id.
    pub address: Multiaddr,
    /// How long it is kept.
    pub class: Class,
    /// Who said so.
    pub source: Source,
    /// How much longer it is kept, if it expires by itself.
    pub expires_in: Option<Duration>,
    /// How long ago the peer was seen at it.
    pub last_success: Option<Duration>,
}

impl Peerstore {
    /// What is known of a peer. What has expired is not, swept or not.
    #[must_use]
    pub fn get(&self, peer: &PeerId, now: Instant) -> Option<Known> {
        let key = PeerKey::new(peer)?;
        let now = self.scale.at(now);
        let (mut known, packed) = self.peers.with(&key, |entry| {
            let entry = entry.filter(|entry| entry.is_worth_keeping(now))?;
            let record = entry.record.as_ref();
            let known = Known {
                agent: entry.agent.clone(),
                protocols: entry.protocols.clone(),
                connected: entry.is_connected(),
                addresses: Vec::new(),
                record: record.map(|record| (record.seq, record.envelope.to_vec())),
            };
            Some((known, entry.addresses.clone()))
        })?;
        known.addresses = known_addresses(&packed, now);
        Some(known)
    }
}

fn known_addresses(packed: &Packed, now: Seconds) -> Vec<KnownAddress> {
    let span = |seconds: Seconds| Duration::from_secs(seconds.into());
    packed
        .live(now)
        .filter_map(|held| {
            let expiry = held.expiry();
            Some(KnownAddress {
                address: Multiaddr::try_from(held.bytes.to_vec()).ok()?,
                class: held.class,
                source: held.source,
                expires_in: (expiry != NEVER).then(|| span(expiry - now)),
                last_success: (held.success != 0).then(|| span(now.saturating_sub(held.success))),
            })
        })
        .collect()
}
