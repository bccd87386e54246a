//! What connected peers say of themselves: agent, protocols, addresses.
//!
//! Bounded by the number of connected peers and, for each, by named limits;
//! agents and protocol lists are kept once however many peers share them, up
//! to [`INTERNED_MAX`] bytes together, beyond which a new one is not kept.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use parking_lot::Mutex;

use crate::state::{connections::ConnectionId, striped::StripedMap};

/// Addresses kept for one peer (go keeps 20 of a peer that has left).
pub const ADDRESSES_MAX: usize = 20;

/// Bytes of addresses kept for one peer.
const ADDRESS_BYTES_MAX: usize = 1024;

/// Bytes of an agent string that are kept.
const AGENT_MAX: usize = 128;

/// Bytes of a protocol list that is kept whole; of a longer one, whole names
/// up to here.
const PROTOCOLS_MAX: usize = 8 * 1024;

/// What one more string costs beside its text: its place in the table, counts
/// and the allocation's rounding.
const ENTRY_COST: usize = 64;

/// Bytes of agents and of protocol lists that are kept in all, each.
const INTERNED_MAX: usize = 8 * 1024 * 1024;

/// What one peer says of itself.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Agent string.
    pub agent: Option<Arc<str>>,
    /// Protocol ids, one a line.
    pub protocols: Option<Arc<str>>,
    /// The connection it said so on.
    connection: ConnectionId,
    /// Addresses, each behind its length in two bytes.
    addresses: Box<[u8]>,
}

impl Known {
    /// The addresses, in the order they were given.
    pub fn addresses(&self) -> impl Iterator<Item = Multiaddr> + '_ {
        let mut rest = &self.addresses[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (address, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
            rest = after;
            Some(address)
        })
        .filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok())
    }
}

/// What connected peers say of themselves, by peer.
#[derive(Default)]
pub struct Peers {
    known: StripedMap<PeerId, Known>,
    agents: Interner,
    protocols: Interner,
}

impl Peers {
    /// Keeps what a peer said, in place of what it said before. Addresses that
    /// cannot be read are left out, the others kept.
    pub fn learn<'a>(
        &self,
        peer: PeerId,
        connection: ConnectionId,
        agent: Option<&str>,
        protocols: impl IntoIterator<Item = &'a str>,
        addresses: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let known = Known {
            connection,
            agent: agent.and_then(|agent| self.agents.intern(truncate(agent, AGENT_MAX))),
            protocols: self.protocols.intern(&lines(protocols)),
            addresses: pack(addresses),
        };
        drop(self.known.insert(peer, known));
    }

    /// Whether a peer's agent string is known to begin like this.
    #[must_use]
    pub fn agent_begins(&self, peer: &PeerId, prefix: &str) -> bool {
        self.known.with(peer, |known| {
            known
                .and_then(|known| known.agent.as_deref())
                .is_some_and(|agent| agent.starts_with(prefix))
        })
    }

    /// What is known of a peer.
    #[must_use]
    pub fn get(&self, peer: &PeerId) -> Option<Known> {
        self.known.with(peer, |known| known.cloned())
    }

    /// The peer has left, and this is the newest connection it may have had.
    /// What it said since, over a newer one, stays.
    pub fn forget(&self, peer: &PeerId, last: ConnectionId) {
        drop(self.known.remove_if(peer, |known| known.connection <= last));
    }

    /// Number of peers of whom something is known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is known of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Number of different protocol lists and agents that are kept.
    #[must_use]
    pub fn interned(&self) -> (usize, usize) {
        (self.protocols.len(), self.agents.len())
    }
}

fn truncate(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn lines<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut lines = String::new();
    for name in names {
        if lines.len() + name.len() + 1 > PROTOCOLS_MAX {
            break;
        }
        lines.push_str(name);
        lines.push('\n');
    }
    lines
}

fn pack<'a>(addresses: impl IntoIterator<Item = &'a [u8]>) -> Box<[u8]> {
    let mut packed = Vec::new();
    let readable = addresses
        .into_iter()
        .filter(|bytes| Multiaddr::try_from(bytes.to_vec()).is_ok());
    for address in readable.take(ADDRESSES_MAX) {
        let Ok(length) = u16::try_from(address.len()) else {
            continue;
        };
        if packed.len() + 2 + address.len() > ADDRESS_BYTES_MAX {
            break;
        }
        packed.extend_from_slice(&length.to_be_bytes());
        packed.extend_from_slice(address);
    }
    packed.into_boxed_slice()
}

/// Strings that many peers share, each kept once.
#[derive(Default)]
struct Interner {
    table: Mutex<HashSet<Arc<str>>>,
    bytes: AtomicUsize,
}

impl Interner {
    fn intern(&self, text: &str) -> Option<Arc<str>> {
        let mut table = self.table.lock();
        if let Some(known) = table.get(text) {
            return Some(Arc::clone(known));
        }
        let cost = |text: &str| text.len() + ENTRY_COST;
        if self.bytes.load(Ordering::Relaxed) + cost(text) > INTERNED_MAX {
            table.retain(|entry| Arc::strong_count(entry) > 1);
            let bytes = table.iter().map(|entry| cost(entry)).sum();
            self.bytes.store(bytes, Ordering::Relaxed);
            if bytes + cost(text) > INTERNED_MAX {
                return None;
            }
        }
        let entry: Arc<str> = text.into();
        self.bytes.fetch_add(cost(text), Ordering::Relaxed);
        table.insert(Arc::clone(&entry));
        Some(entry)
    }

    fn len(&self) -> usize {
        self.table.lock().len()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_can_be_read_and_shares_what_is_the_same() {
        let peers = Peers::default();
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse().unwrap();
        let good = address.to_vec();
        let (a, b) = (PeerId::random(), PeerId::random());
        for peer in [a, b] {
            let addresses: [&[u8]; 3] = [&good, b"\xff\xff\xff", &good];
            peers.learn(
                peer,
                ConnectionId::default(),
                Some("agent/1"),
                ["/one", "/two"],
                addresses,
            );
        }
        let (a, b) = (peers.get(&a).unwrap(), peers.get(&b).unwrap());
        assert!(Arc::ptr_eq(
            a.agent.as_ref().unwrap(),
            b.agent.as_ref().unwrap()
        ));
        assert_eq!(a.protocols.as_deref(), Some("/one\n/two\n"));
        assert_eq!(
            a.addresses().collect::<Vec<_>>(),
            [address.clone(), address]
        );
        assert_eq!(peers.interned(), (1, 1));
    }

    #[test]
    fn what_one_peer_can_make_us_keep_is_bounded() {
        let peers = Peers::default();
        let peer = PeerId::random();
        let agent = "é".repeat(1 << 20);
        let names: Vec<String> = (0..10_000).map(|index| format!("/proto/{index}")).collect();
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse().unwrap();
        let bytes = address.to_vec();
        peers.learn(
            peer,
            ConnectionId::default(),
            Some(&agent),
            names.iter().map(String::as_str),
            std::iter::repeat_n(&bytes[..], 5_000),
        );
        let known = peers.get(&peer).unwrap();
        assert_eq!(known.agent.as_ref().unwrap().len(), AGENT_MAX);
        assert!(known.protocols.as_ref().unwrap().len() <= PROTOCOLS_MAX);
        assert!(known.protocols.as_ref().unwrap().ends_with('\n'));
        assert_eq!(known.addresses().count(), ADDRESSES_MAX);
        peers.forget(&peer, ConnectionId::default());
        assert!(peers.is_empty());
    }

    #[test]
    fn different_strings_stop_being_kept_at_the_bound_until_some_are_let_go() {
        let interner = Interner::default();
        let text = |index: usize| format!("{index:0>1024}");
        let mut held: Vec<_> = (0..INTERNED_MAX / (1024 + ENTRY_COST))
            .map(|index| interner.intern(&text(index)).unwrap())
            .collect();
        assert_eq!(interner.intern(&text(usize::MAX)), None);
        held.pop();
        assert!(interner.intern(&text(usize::MAX)).is_some());
    }
}
