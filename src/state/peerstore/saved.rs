//! Peers as they are kept across restarts: one value per peer, with times as
//! the wall clock tells them.
//!
//! Reading trusts nothing but the store's own checksum: what cannot be read is
//! refused, what has expired is not taken, and an expiry that a wrong clock put
//! too far ahead is brought down to what it could be at most.

use std::time::Instant;

use super::entry::Entry;
use super::order::{Changes, UNQUEUED};
use super::packed::{Class, Held, NEVER, Seconds, Source};
use super::{PeerKey, Peerstore};
use crate::wire::varint;

/// The first byte of each value.
const VERSION: u8 = 1;

/// Longest value that is read: texts, a record and addresses at their bounds.
const VALUE_MAX: usize = 24 * 1024;

/// The same moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Wall {
    /// On the one that never jumps.
    pub now: Instant,
    /// On the wall, in seconds since 1970.
    pub unix_seconds: u64,
}

/// Why a saved peer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Its key or its value cannot be read.
    #[error("not a saved peer")]
    Malformed,
    /// Nothing of it counts any more.
    #[error("expired")]
    Expired,
    /// There is no room for it.
    #[error("no room")]
    Full,
}

impl Peerstore {
    /// Takes out which peers of a stripe have changed since this was last
    /// asked.
    #[must_use]
    pub fn take_changes(&self, stripe: usize) -> Changes {
        self.beside(stripe).take_changes()
    }

    /// Puts changes back that could not be written.
    pub fn put_back(&self, stripe: usize, changes: Changes) {
        self.beside(stripe).put_back(changes);
    }

    /// The peers of one stripe.
    #[must_use]
    pub fn peers_in(&self, stripe: usize) -> Vec<PeerKey> {
        let mut keys = Vec::new();
        self.peers.for_each_in(stripe, |key, _| keys.push(*key));
        keys
    }

    /// Whether the peer with this saved key is known.
    #[must_use]
    pub fn is_known(&self, key: &[u8]) -> bool {
        PeerKey::from_bytes(key).is_some_and(|key| self.peers.with(&key, |entry| entry.is_some()))
    }

    /// What to save of a peer; `None` if there is nothing.
    #[must_use]
    pub fn save(&self, key: &PeerKey, wall: Wall) -> Option<Vec<u8>> {
        let clock = Clock::new(self, wall);
        self.peers.with(key, |entry| {
            let entry = entry?;
            entry.live(clock.now).next()?;
            Some(write(entry, clock))
        })
    }

    /// Takes a saved peer back. One that was connected counts as having left
    /// just now: for how long we were away, nobody knows.
    ///
    /// # Errors
    /// [`LoadError`]; then it is better not saved any more.
    pub fn load(&self, key: &[u8], value: &[u8], wall: Wall) -> Result<(), LoadError> {
        let key = PeerKey::from_bytes(key).ok_or(LoadError::Malformed)?;
        let clock = Clock::new(self, wall);
        let saved = read(value, clock).ok_or(LoadError::Malformed)?;
        let longest = clock.now.saturating_add(self.recent.max);
        let was_connected = saved
            .addresses
            .iter()
            .any(|held| held.class == Class::Connected);
        let live: Vec<Held<'_>> = saved
            .addresses
            .into_iter()
            .filter_map(|held| revive(held, longest))
            .filter(|held| held.is_live(clock.now))
            .collect();
        if live.is_empty() {
            return Err(LoadError::Expired);
        }
        let stripe = self.peers.stripe_of(&key);
        // In place of nobody: what is there is newer.
        let weight = super::Weight::of_entry(&self.budget).ok_or(LoadError::Full)?;
        let agent = saved.agent.and_then(|text| self.agents.intern(text));
        let protocols = saved.protocols.and_then(|text| self.protocols.intern(text));
        self.peers.update(key, |slot| {
            if slot.is_some() {
                return;
            }
            let entry = slot.insert(Entry::new(weight));
            (entry.agent, entry.protocols) = (agent, protocols);
            if let Some((seq, envelope)) = saved.record {
                entry.certify(seq, envelope);
            }
            entry.restore(&live);
            let fits = entry.settle();
            entry.queued = entry.bucket();
            if !entry.is_worth_keeping(clock.now) {
                *slot = None;
                return;
            }
            if was_connected {
                // To be written as what it is now: else its time would begin anew
                // at each start.
                self.beside(stripe).changed(key, UNQUEUED, entry.queued);
            } else {
                self.beside(stripe).loaded(key, entry.queued);
            }
            debug_assert!(fits || entry.queued != UNQUEUED);
        });
        Ok(())
    }
}

/// An address as it counts after a restart; permanent ones come from the
/// configuration each time.
fn revive(held: Held<'_>, longest: Seconds) -> Option<Held<'_>> {
    match held.class {
        Class::Permanent => None,
        Class::Connected => Some(Held {
            class: Class::RecentlyConnected,
            expires: longest,
            ..held
        }),
        Class::RecentlyConnected | Class::Discovered => Some(Held {
            expires: held.expires.min(longest),
            ..held
        }),
    }
}

/// Translates between the peerstore's scale and the wall clock.
#[derive(Clone, Copy)]
struct Clock {
    now: Seconds,
    unix: u64,
}

impl Clock {
    fn new(peerstore: &Peerstore, wall: Wall) -> Self {
        Self {
            now: peerstore.scale.at(wall.now),
            unix: wall.unix_seconds.min(varint::MAX / 2),
        }
    }

    /// 0 stays 0: never.
    fn unix_seconds(self, moment: Seconds) -> u64 {
        if moment == 0 {
            return 0;
        }
        let ahead = u64::from(moment.saturating_sub(self.now));
        let behind = u64::from(self.now.saturating_sub(moment));
        (self.unix + ahead).saturating_sub(behind).max(1)
    }

    fn moment(self, unix: u64) -> Seconds {
        if unix == 0 {
            return 0;
        }
        let span = |seconds: u64| Seconds::try_from(seconds).unwrap_or(NEVER);
        let ahead = span(unix.saturating_sub(self.unix));
        let behind = span(self.unix.saturating_sub(unix));
        let moment = self.now.saturating_add(ahead).saturating_sub(behind);
        moment.clamp(1, NEVER - 1)
    }
}

/// A value, read.
struct Saved<'a> {
    agent: Option<&'a str>,
    protocols: Option<&'a str>,
    record: Option<(u64, &'a [u8])>,
    addresses: Vec<Held<'a>>,
}

fn write(entry: &Entry, clock: Clock) -> Vec<u8> {
    let mut out = vec![VERSION];
    let text = |text: &Option<std::sync::Arc<str>>, out: &mut Vec<u8>| {
        put(text.as_deref().unwrap_or_default().as_bytes(), out);
    };
    text(&entry.agent, &mut out);
    text(&entry.protocols, &mut out);
    if let Some(record) = &entry.record {
        put(&record.envelope, &mut out);
        out.extend_from_slice(&record.seq.to_be_bytes());
    } else {
        put(&[], &mut out);
    }
    for held in entry.live(clock.now) {
        out.push((held.class as u8) << 4 | held.source as u8);
        varint::encode(clock.unix_seconds(held.expires), &mut out);
        varint::encode(clock.unix_seconds(held.success), &mut out);
        put(held.bytes, &mut out);
    }
    out
}

fn put(bytes: &[u8], out: &mut Vec<u8>) {
    varint::encode(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn read(value: &[u8], clock: Clock) -> Option<Saved<'_>> {
    let (&VERSION, mut rest) = value.split_first()? else {
        return None;
    };
    if value.len() > VALUE_MAX {
        return None;
    }
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let agent = text(take(&mut rest)?)?;
    let protocols = text(take(&mut rest)?)?;
    let envelope = take(&mut rest)?;
    if envelope.len() > super::RECORD_BYTES_MAX {
        return None;
    }
    let record = if envelope.is_empty() {
        None
    } else {
        let (seq, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some((u64::from_be_bytes(*seq), envelope))
    };
    let mut addresses = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        rest = after;
        let (class, source) = (
            Class::from_number(kind >> 4)?,
            Source::from_number(kind & 0x0f)?,
        );
        let expires = clock.moment(number(&mut rest)?);
        let success = clock.moment(number(&mut rest)?).min(clock.now);
        let bytes = take(&mut rest)?;
        if bytes.len() > super::ADDRESS_BYTES_MAX {
            return None;
        }
        addresses.push(Held {
            bytes,
            class,
            source,
            expires,
            success,
        });
    }
    Some(Saved {
        agent: Some(agent).filter(|text| !text.is_empty()),
        protocols: Some(protocols).filter(|text| !text.is_empty()),
        record,
        addresses,
    })
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (value, used) = varint::decode(rest).ok()?;
    *rest = rest.get(used..)?;
    Some(value)
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}
