//! The stream table: the receiving half of each open stream, and what runs on
//! it.
//!
//! Owned by the connection's task, so nothing in here is locked. Bounded by
//! `connections.streams_max` for streams that the peer opens, by circuits for
//! those that we open, and all of them by `streams.max`. Empty, and without an allocation, while the
//! connection is idle.

use std::time::Instant;

use crate::engine::{
    demux::StreamId,
    negotiate::{Dialer, Responder},
};
use crate::metrics::StreamGuard;
use crate::service::{gather::Gather, identify, ping, stop::Offer};
use crate::state::leg::StreamKey;
use crate::state::limits::StreamPermit;
use crate::wire::yamux::INITIAL_WINDOW;

use super::{
    circuit::{Bound, Waiting},
    outbound::Question,
};

/// What runs on a stream.
pub(super) enum Handler {
    /// The peer has opened it and is choosing a protocol.
    Negotiating(Box<Responder>),
    /// ping, echoing.
    Ping(Box<ping::Echo>),
    /// identify/push, listening.
    Push(Box<identify::Listener>),
    /// hop, its request incomplete.
    Hop(Box<Gather>),
    /// identify, asked by us.
    Question(Box<Question>),
    /// identify/push, ours, until the peer agrees to hear it.
    Telling(Box<Dialer>),
    /// stop, asked by us.
    Offer(Box<Offer>),
    /// hop, waiting for the target's answer.
    Waiting(Box<Waiting>),
    /// One end of a circuit.
    Circuit(Box<Bound>),
    /// Everything has been said; the peer has yet to end its direction.
    Spent,
}

/// The receiving half of one stream.
pub(super) struct Entry {
    pub(super) key: StreamKey,
    origin: Origin,
    /// Bytes the peer may still send. Below zero only for mplex, whose peers
    /// do not know of it.
    pub(super) window: i64,
    /// Bytes consumed here and not yet granted again.
    pub(super) consumed: u32,
    /// The peer has opened it and it runs nothing: no protocol has been agreed
    /// on yet, or everything has been said.
    idle: bool,
    /// The peer has ended its direction.
    pub(super) finished: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) handler: Handler,
    pub(super) guard: StreamGuard,
    pub(super) permit: StreamPermit,
}

impl Entry {
    pub(super) fn new(
        key: StreamKey,
        origin: Origin,
        handler: Handler,
        guard: StreamGuard,
        permit: StreamPermit,
    ) -> Self {
        Self {
            key,
            origin,
            window: i64::from(INITIAL_WINDOW),
            consumed: 0,
            idle: matches!(handler, Handler::Negotiating(_)),
            finished: false,
            deadline: None,
            handler,
            guard,
            permit,
        }
    }
}

/// The open streams of one connection, by id.
#[derive(Default)]
pub(super) struct Table {
    /// Sorted by id: a few entries are found fastest so, and a peer that picks
    /// its ids can do no worse than the bound on their number.
    entries: Vec<Entry>,
    /// How many of them the peer has opened.
    accepted: usize,
    /// How many of those run nothing.
    idle: usize,
}

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Streams that the peer has opened.
    pub(super) fn accepted(&self) -> usize {
        self.accepted
    }

    /// Streams that the peer has opened and that run nothing.
    pub(super) fn idle(&self) -> usize {
        self.idle
    }

    /// Notes whether the stream runs nothing; returns its entry.
    pub(super) fn set_idle(&mut self, key: StreamKey, idle: bool) -> Option<&mut Entry> {
        let index = self.position(key.id).ok()?;
        let entry = self.entries.get_mut(index)?;
        if entry.key != key {
            return None;
        }
        let idle = idle && entry.origin == Origin::Peer;
        self.idle -= usize::from(std::mem::replace(&mut entry.idle, idle));
        self.idle += usize::from(idle);
        Some(entry)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Entry> {
        let index = self.position(id).ok()?;
        Some(&mut self.entries[index])
    }

    /// The entry, if the id has not been used for another stream since.
    #[inline]
    pub(super) fn find_mut(&mut self, key: StreamKey) -> Option<&mut Entry> {
        self.get_mut(key.id).filter(|entry| entry.key == key)
    }

    pub(super) fn contains(&self, id: StreamId) -> bool {
        self.position(id).is_ok()
    }

    /// Adds a stream whose id is not in use.
    pub(super) fn insert(&mut self, entry: Entry) {
        if let Err(index) = self.position(entry.key.id) {
            self.accepted += usize::from(entry.origin == Origin::Peer);
            self.idle += usize::from(entry.idle);
            self.entries.insert(index, entry);
        }
    }

    pub(super) fn remove(&mut self, id: StreamId) -> Option<Entry> {
        let index = self.position(id).ok()?;
        let entry = self.entries.remove(index);
        self.accepted -= usize::from(entry.origin == Origin::Peer);
        self.idle -= usize::from(entry.idle);
        if self.entries.is_empty() {
            self.entries = Vec::new();
        }
        Some(entry)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<Entry> {
        self.accepted = 0;
        self.idle = 0;
        std::mem::take(&mut self.entries)
    }

    fn position(&self, id: StreamId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.key.id)
    }
}

/// Who opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Peer,
    Us,
}
