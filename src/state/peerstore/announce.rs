//! What a connected peer says of itself, made fit to be kept.
//!
//! Everything is bounded, counted and checked before the peer's stripe is
//! locked; a signature is verified outside of it too. What is refused is left
//! out, the rest is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;

use super::entry::ADDRESSES_MAX;
use super::signed::{self, Before, Claim};
use super::{Peerstore, Refusal, filter, intern::Interner, packed::Seconds, seen_at};
use crate::state::{addresses::Reach, connections::ConnectionId, peer_key::PeerKey};

/// Bytes of an agent string that are kept.
const AGENT_MAX: usize = 128;

/// Bytes of a protocol list that are kept whole; of a longer one, whole names
/// up to here.
const PROTOCOLS_MAX: usize = 8 * 1024;

/// Who speaks, and over which connection.
#[derive(Debug, Clone, Copy)]
pub struct Speaker {
    /// The peer, authenticated.
    pub peer: PeerId,
    /// The connection.
    pub connection: ConnectionId,
    /// Where it comes from.
    pub remote: SocketAddr,
}

/// What it says. What is absent leaves what was said before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Announcement<'a, A> {
    /// Agent string.
    pub agent: Option<&'a str>,
    /// Protocol ids, one a line.
    pub protocols: Option<&'a str>,
    /// Binary multiaddrs.
    pub addresses: A,
    /// Whether these are all: then none at all means that it has none.
    pub complete: bool,
    /// Signed peer record.
    pub record: Option<&'a [u8]>,
}

/// What becomes of a record.
enum Judged<'a> {
    /// Nothing of it counts, or there is none.
    Nothing,
    /// It is the one that is held.
    Held(Claim<'a>),
    /// It is new and verified.
    New(Claim<'a>),
}

impl Peerstore {
    /// Keeps what a peer says of itself.
    pub fn announced<'a, A>(
        &self,
        speaker: &Speaker,
        announcement: Announcement<'a, A>,
        now: Instant,
    ) where
        A: IntoIterator<Item = &'a [u8]>,
    {
        let Some(key) = PeerKey::new(&speaker.peer) else {
            return;
        };
        let now = self.scale.at(now);
        let from = Reach::of(speaker.remote.ip());
        let (agent, protocols) = self.texts(&key, announcement.agent, announcement.protocols);
        let mut checked = false;
        let record = announcement.record.map_or(Judged::Nothing, |bytes| {
            self.judge(&key, bytes, now, &mut checked)
        });
        let certified = match &record {
            Judged::Nothing => None,
            Judged::Held(claim) | Judged::New(claim) => Some(claim.addresses()),
        };
        let addresses = match certified {
            Some(certified) => self.accept(&key, from, certified.iter().copied()),
            None => self.accept(&key, from, announcement.addresses),
        };
        let said_where = announcement.complete || certified.is_some() || !addresses.is_empty();
        let seen_at = seen_at(speaker.remote);
        self.make_room(&key);
        let dropped = self.edit(key, |entry| {
            entry.connected(speaker.connection, now);
            if agent.is_some() {
                entry.agent = agent;
            }
            if protocols.is_some() {
                entry.protocols = protocols;
            }
            if checked {
                entry.checked = now;
            }
            if let (Judged::New(claim), Some(bytes)) = (&record, announcement.record) {
                // Of two at once the newer one stays.
                if entry
                    .record
                    .as_ref()
                    .is_none_or(|held| held.seq < claim.seq())
                {
                    entry.certify(claim.seq(), bytes);
                }
            }
            if said_where {
                entry.announced(&addresses, certified.is_some(), &seen_at, now)
            } else {
                0
            }
        });
        self.refused(Refusal::Addresses, dropped.unwrap_or(0));
    }

    /// The first addresses that are worth keeping, each once; the others are
    /// counted.
    pub(super) fn accept<'a>(
        &self,
        key: &PeerKey,
        from: Reach,
        addresses: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<&'a [u8]> {
        let mut accepted: Vec<&[u8]> = Vec::new();
        let mut rest = addresses.into_iter();
        while accepted.len() < ADDRESSES_MAX {
            let Some(announced) = rest.next() else {
                break;
            };
            match filter::judge(announced, key, from) {
                Ok(bytes) if accepted.contains(&bytes) => {}
                Ok(bytes) => accepted.push(bytes),
                Err(refusal) => self.refused(refusal, 1),
            }
        }
        self.refused(Refusal::Addresses, rest.count());
        accepted
    }

    /// Counts what a peer said beyond what its message may hold.
    pub fn cut(&self, addresses: usize, protocols: usize) {
        self.refused(Refusal::Addresses, addresses);
        self.refused(Refusal::Protocols, protocols);
    }

    /// Judges a record; `checked` tells whether that took a verification.
    fn judge<'a>(
        &self,
        key: &PeerKey,
        bytes: &'a [u8],
        now: Seconds,
        checked: &mut bool,
    ) -> Judged<'a> {
        let judged = signed::read(bytes, key).and_then(|claim| {
            let before = self.peers.with(key, |entry| {
                // Of a peer for which there is no room nothing is verified.
                let entry = entry.ok_or(Refusal::Peer)?;
                Ok(Before::new(entry.record.as_deref(), bytes, entry.checked))
            })?;
            if !claim.is_news(before, now)? {
                return Ok(Judged::Held(claim));
            }
            *checked = true;
            claim.verify()?;
            Ok(Judged::New(claim))
        });
        judged.unwrap_or_else(|refusal| {
            self.refused(refusal, 1);
            Judged::Nothing
        })
    }

    /// The shared copies of an agent and a protocol list; `None` for one that
    /// is absent, that does not fit, or that is what the peer said before.
    fn texts(
        &self,
        key: &PeerKey,
        agent: Option<&str>,
        protocols: Option<&str>,
    ) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let agent = agent.map(|agent| {
            let kept = truncate(agent, AGENT_MAX);
            self.refused(Refusal::Agent, usize::from(kept.len() < agent.len()));
            kept
        });
        let protocols = protocols.map(|lines| {
            let kept = whole_lines(lines, PROTOCOLS_MAX);
            let dropped = lines[kept.len()..].lines().count();
            self.refused(Refusal::Protocols, dropped);
            kept
        });
        // Most who come back say what they said before: the tables that all
        // peers share are asked only about what is new.
        let (same_agent, same_protocols) = self.peers.with(key, |entry| {
            entry.map_or((false, false), |entry| {
                (
                    agent.is_some() && entry.agent.as_deref() == agent,
                    protocols.is_some() && entry.protocols.as_deref() == protocols,
                )
            })
        });
        let agent = agent.filter(|_| !same_agent);
        let protocols = protocols.filter(|_| !same_protocols);
        (
            agent.and_then(|agent| self.text(&self.agents, agent)),
            protocols.and_then(|lines| self.text(&self.protocols, lines)),
        )
    }

    fn text(&self, interner: &Interner, text: &str) -> Option<Arc<str>> {
        let kept = interner.intern(text);
        self.refused(Refusal::Texts, usize::from(kept.is_none()));
        kept
    }
}

fn truncate(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// As many lines from the front as fit.
fn whole_lines(lines: &str, max: usize) -> &str {
    if lines.len() <= max {
        return lines;
    }
    let front = truncate(lines, max);
    front.rfind('\n').map_or("", |end| &front[..=end])
}
