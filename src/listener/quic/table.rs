//! The connections of one worker's loop, by their place, and when each has
//! something to do.
//!
//! Bounded by the limits on connections and, for those that are closed and
//! linger, by [`ENDING_MAX`]. Deadlines are an ordered index that is touched only
//! when one comes earlier than expected: a timer that fires early finds nothing
//! to do and is set anew.

use std::time::Instant;

use crate::connection::quic::QuicConnection;
use crate::engine::deadlines::Deadlines;
use crate::metrics::{LingerGuard, SocketGuard, UpgradeTimer};
use crate::state::limits::SocketPermit;

/// Closed connections that are kept until their peers have had time to hear of
/// it; of those beyond, a peer hears by a stateless reset.
const ENDING_MAX: usize = 4096;

/// One connection.
pub(super) struct Slot {
    pub(super) connection: QuicConnection,
    /// What it holds while it is no connection yet.
    pub(super) entrance: Option<Box<Entrance>>,
    /// It is kept when it has ended, until its peer has had time to hear of it.
    pub(super) lingers: bool,
    /// While it is none any more.
    ending: Option<LingerGuard>,
    /// The worker's socket through which its peer was last heard.
    pub(super) socket: usize,
    /// What the index of deadlines has for it.
    armed: Option<Instant>,
    /// It is on the list of those to be looked at.
    pub(super) noted: bool,
    /// It is on the list of those that may have something to send.
    pub(super) sending: bool,
}

/// A handshake under way.
pub(super) struct Entrance {
    pub(super) permit: SocketPermit,
    /// The permit counts for where the peer comes from.
    pub(super) placed: bool,
    /// Counts it as under way.
    pub(super) _guard: SocketGuard,
    pub(super) timer: UpgradeTimer,
    /// When the whole of it must be over.
    pub(super) until: Instant,
}

/// The connections of a loop.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Option<Box<Slot>>>,
    deadlines: Deadlines<usize>,
    ending: usize,
}

impl Table {
    pub(super) fn insert(
        &mut self,
        place: usize,
        connection: QuicConnection,
        entrance: Entrance,
        socket: usize,
    ) {
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || None);
        }
        self.slots[place] = Some(Box::new(Slot {
            connection,
            entrance: Some(Box::new(entrance)),
            lingers: true,
            ending: None,
            socket,
            armed: None,
            noted: false,
            sending: false,
        }));
    }

    #[inline]
    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Slot> {
        self.slots.get_mut(place)?.as_deref_mut()
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<Box<Slot>> {
        let slot = self.slots.get_mut(place)?.take()?;
        self.deadlines.change(place, slot.armed, None);
        self.ending -= usize::from(slot.ending.is_some());
        Some(slot)
    }

    /// Notes that only the transport is left; whether there is room to keep it.
    pub(super) fn ends(&mut self, place: usize, guard: impl FnOnce() -> LingerGuard) -> bool {
        let full = self.ending >= ENDING_MAX;
        let Some(slot) = self.get_mut(place) else {
            return true;
        };
        if slot.ending.is_some() {
            return true;
        }
        if full {
            return false;
        }
        slot.ending = Some(guard());
        self.ending += 1;
        true
    }

    /// Sees to it that the connection is looked at when it is due.
    pub(super) fn arm(&mut self, place: usize) {
        let Some(slot) = self.slots.get_mut(place).and_then(Option::as_deref_mut) else {
            return;
        };
        let entrance = slot.entrance.as_ref().map(|entrance| entrance.until);
        let due = [slot.connection.next_timeout(), entrance];
        let Some(due) = due.into_iter().flatten().min() else {
            return;
        };
        if slot.armed.is_none_or(|armed| due < armed) {
            let before = slot.armed.replace(due);
            self.deadlines.change(place, before, Some(due));
        }
    }

    /// Takes out one connection that may be due.
    pub(super) fn expired(&mut self, now: Instant) -> Option<usize> {
        let place = self.deadlines.expired(now)?;
        if let Some(slot) = self.get_mut(place) {
            slot.armed = None;
        }
        Some(place)
    }

    /// When the first of them may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}
