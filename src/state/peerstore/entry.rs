//! What is kept of one peer, and how it changes as the peer comes, speaks and
//! goes.
//!
//! Bounds the addresses of one peer in number and bytes, in an order that puts
//! the best first, so that whatever has to go is cut off at the end. Pure:
//! locking, the order of expiry and the totals' owner are elsewhere.

use std::cmp::Reverse;
use std::mem;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::state::connections::ConnectionId;

use super::budget::Weight;
use super::order::{BUCKET_SECONDS, UNQUEUED};
use super::packed::{Class, Held, NEVER, Packed, Seconds, Source};

/// Addresses kept of a connected peer (go-libp2p's address book).
pub const ADDRESSES_MAX: usize = 64;

/// Addresses kept of a peer that has left (go-libp2p's identify).
pub const ADDRESSES_KEPT: usize = 20;

/// Bytes of addresses kept of a connected peer: 64 of usual length.
const PACKED_MAX: usize = 4096;

/// Bytes of addresses kept of a peer that has left.
const PACKED_KEPT: usize = 1024;

/// What a signed record takes beside its bytes: its box, and rounding.
const RECORD_COST: usize = 48;

type List<'a> = SmallVec<[Held<'a>; 16]>;

/// How long the addresses of a peer that has left are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent {
    /// However short its visit was.
    pub(super) min: Seconds,
    /// For each second that it was connected.
    pub(super) per_second: Seconds,
    /// However long it stayed.
    pub(super) max: Seconds,
}

/// A signed peer record as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) seq: u64,
    pub(super) envelope: Box<[u8]>,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Entry {
    weight: Weight,
    pub(super) addresses: Packed,
    pub(super) agent: Option<Arc<str>>,
    /// Protocol ids, one a line.
    pub(super) protocols: Option<Arc<str>>,
    pub(super) record: Option<Box<Record>>,
    /// The newest connection it has spoken on or opened.
    newest: ConnectionId,
    /// Since when it is connected; 0: it is not.
    since: Seconds,
    /// When a signature of it was verified last; 0: never.
    pub(super) checked: Seconds,
    /// The bucket in which it stands in the order of expiry.
    pub(super) queued: u32,
}

impl Entry {
    pub(super) fn new(weight: Weight) -> Self {
        Self {
            weight,
            addresses: Packed::default(),
            agent: None,
            protocols: None,
            record: None,
            newest: ConnectionId::default(),
            since: 0,
            checked: 0,
            queued: UNQUEUED,
        }
    }

    /// The peer has opened a connection, or still has this one: what it
    /// announced when it was here last counts again until it speaks.
    pub(super) fn connected(&mut self, connection: ConnectionId, now: Seconds) {
        self.newest = self.newest.max(connection);
        if self.since != 0 {
            return;
        }
        self.since = now;
        let old = mem::take(&mut self.addresses);
        let list = old.live(now).map(|held| match held.class {
            Class::RecentlyConnected => Held {
                class: Class::Connected,
                ..held
            },
            _ => held,
        });
        self.addresses = Packed::new(&list.collect::<List<'_>>());
    }

    /// The peer says where it can be reached. `certified` if it signed that;
    /// then it replaces all that it said before, otherwise what it had not
    /// signed. `seen_at` is where it is connected from. Returns how many of
    /// the new ones had no place.
    pub(super) fn announced(
        &mut self,
        new: &[&[u8]],
        certified: bool,
        seen_at: &[u8],
        now: Seconds,
    ) -> usize {
        let source = if certified {
            Source::Record
        } else {
            Source::Identify
        };
        let old = mem::take(&mut self.addresses);
        let mut list = List::new();
        for held in old.live(now) {
            if held.class == Class::Permanent {
                list.push(held);
            } else if held.source == Source::Record && !certified {
                let repeated = new.contains(&held.bytes);
                list.push(if repeated { held } else { held.not_repeated() });
            }
        }
        list.retain(|held| held.is_live(now));
        let before = list.len();
        for bytes in new {
            if list[..before].iter().any(|held| held.bytes == *bytes) {
                continue;
            }
            let known = old.iter().find(|held| held.bytes == *bytes);
            list.push(Held {
                bytes,
                class: Class::Connected,
                source,
                expires: known.map_or(0, |held| match held.class {
                    Class::Discovered => 0,
                    _ => held.expires,
                }),
                success: known.map_or(0, |held| held.success),
            });
        }
        let wanted = list.len();
        let own = fitting(&list, ADDRESSES_MAX, PACKED_MAX);
        list.truncate(own);
        for held in old.live(now).filter(|held| !held.source.is_own()) {
            if !list.iter().any(|other| other.bytes == held.bytes) {
                list.push(held);
            }
        }
        see(&mut list, seen_at, now);
        self.addresses = packed(&list, ADDRESSES_MAX, PACKED_MAX);
        wanted - own
    }

    /// Somebody else says where the peer can be reached.
    pub(super) fn heard_of(
        &mut self,
        new: &[&[u8]],
        class: Class,
        source: Source,
        expires: Seconds,
        now: Seconds,
    ) {
        let old = mem::take(&mut self.addresses);
        let mut list: List<'_> = old.live(now).collect();
        for bytes in new {
            match list.iter_mut().find(|held| held.bytes == *bytes) {
                // What the peer said itself is worth more than hearsay.
                Some(held) if class == Class::Permanent || held.class == class => {
                    held.class = class;
                    held.expires = held.expires.max(expires);
                }
                Some(_) => {}
                None => list.push(Held {
                    bytes,
                    class,
                    source,
                    expires,
                    success: 0,
                }),
            }
        }
        list.sort_by_key(|held| held.class != Class::Permanent);
        self.addresses = packed(&list, ADDRESSES_MAX, PACKED_MAX);
    }

    /// The peer's last connection has ended; `newest` is the newest one it may
    /// have had by then. Nothing happens if it has spoken on a later one.
    pub(super) fn left(
        &mut self,
        newest: ConnectionId,
        seen_at: &[u8],
        recent: Recent,
        now: Seconds,
    ) {
        if self.newest > newest || self.since == 0 {
            return;
        }
        let stayed = now.saturating_sub(self.since);
        let span = stayed.saturating_mul(recent.per_second);
        let until = now.saturating_add(span.max(recent.min).min(recent.max));
        self.since = 0;
        let old = mem::take(&mut self.addresses);
        let mut list: List<'_> = old.live(now).collect();
        see(&mut list, seen_at, now);
        for held in &mut list {
            if held.class == Class::Connected {
                held.class = Class::RecentlyConnected;
                held.expires = held.expires.max(until);
            }
        }
        list.sort_by_key(|held| {
            let is_permanent = held.class == Class::Permanent;
            (Reverse(is_permanent), Reverse(held.success), held.source)
        });
        self.addresses = packed(&list, ADDRESSES_KEPT, PACKED_KEPT);
    }

    /// Lets go of addresses that have expired; how many.
    pub(super) fn prune(&mut self, now: Seconds) -> usize {
        let old = mem::take(&mut self.addresses);
        let list: List<'_> = old.live(now).collect();
        self.addresses = Packed::new(&list);
        old.iter().count() - list.len()
    }

    /// Takes addresses as they come from a file.
    pub(super) fn restore(&mut self, addresses: &[Held<'_>]) {
        self.addresses = packed(addresses, ADDRESSES_KEPT, PACKED_KEPT);
    }

    /// Keeps a record in place of an older one.
    pub(super) fn certify(&mut self, seq: u64, envelope: &[u8]) {
        self.record = Some(Box::new(Record {
            seq,
            envelope: envelope.into(),
        }));
    }

    /// Pays for what the entry holds now. If that does not fit, lets go of the
    /// record, then of addresses, until it does; whether it did fit.
    pub(super) fn settle(&mut self) -> bool {
        if self.pay() {
            return true;
        }
        self.record = None;
        if !self.pay() {
            let (addresses, bytes) = self.weight.held();
            let old = mem::take(&mut self.addresses);
            let list: List<'_> = old.iter().collect();
            self.addresses = packed(&list, addresses.into(), bytes as usize);
            let paid = self.pay();
            debug_assert!(paid, "no more than what was paid for is left");
        }
        false
    }

    /// Whether there is a reason to keep it: it is connected, or can be
    /// reached.
    pub(super) fn is_worth_keeping(&self, now: Seconds) -> bool {
        self.is_connected() || self.live(now).next().is_some()
    }

    pub(super) const fn is_connected(&self) -> bool {
        self.since != 0
    }

    /// The bucket in which it should stand: that of the first address to
    /// expire, none for a peer that is connected or permanent.
    pub(super) fn bucket(&self) -> u32 {
        if self.is_connected() {
            return UNQUEUED;
        }
        let mut first = NEVER;
        for held in self.addresses.iter() {
            if held.class == Class::Permanent {
                return UNQUEUED;
            }
            first = first.min(held.expiry());
        }
        (first / BUCKET_SECONDS).max(UNQUEUED + 1)
    }

    /// The addresses that count at `now`, the best first.
    pub(super) fn live(&self, now: Seconds) -> impl Iterator<Item = Held<'_>> {
        self.addresses.live(now)
    }

    fn pay(&mut self) -> bool {
        let record = self.record.as_ref();
        let record = record.map_or(0, |record| record.envelope.len() + RECORD_COST);
        let bytes = self.addresses.bytes() + record;
        let addresses = self.addresses.iter().count();
        let (Ok(addresses), Ok(bytes)) = (u16::try_from(addresses), u32::try_from(bytes)) else {
            debug_assert!(false, "an entry is bounded");
            return false;
        };
        self.weight.resize(addresses, bytes)
    }
}

/// The front of a list, as much of it as fits into both bounds.
fn packed(list: &[Held<'_>], count: usize, bytes: usize) -> Packed {
    Packed::new(&list[..fitting(list, count, bytes)])
}

/// How many from the front of a list fit into both bounds.
fn fitting(list: &[Held<'_>], count: usize, bytes: usize) -> usize {
    let mut room = bytes;
    list.iter()
        .take(count)
        .take_while(|held| {
            let left = room.checked_sub(Packed::room(held));
            room = left.unwrap_or(0);
            left.is_some()
        })
        .count()
}

/// The peer is connected from here: whoever announced that was right.
fn see(list: &mut [Held<'_>], seen_at: &[u8], now: Seconds) {
    for held in list {
        if held.bytes == seen_at {
            held.success = now;
        }
    }
}
