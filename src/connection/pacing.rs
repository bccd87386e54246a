//! Shaping: credit that has come back for a circuit's bytes is withheld until
//! they are paid for.
//!
//! What a circuit carries is charged when it is read (`state::bandwidth`); the
//! peer may go on sending what its window allows and gets no more before the
//! charge is due. So a rate costs nothing but waiting: at most one window of
//! each direction is ever owed, and nothing is dropped.

use std::{mem, time::Instant};

use crate::engine::demux::StreamId;
use crate::state::{bandwidth::Due, leg::StreamKey};

use super::{
    read_pass::Pass,
    session::{Sending, Session},
    stream::Handler,
};

/// What one end of a circuit is owed, and since when it may have it.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// When everything that was carried is paid for.
    due: Option<Due>,
    bytes: u32,
    /// What the connection's index of dues has for this stream.
    until: Option<Instant>,
}

impl Withheld {
    /// More was carried, and this is when it is paid for.
    pub(super) fn owed_until(&mut self, due: Due) {
        if self.due.is_none_or(|known| known.at < due.at) {
            self.due = Some(due);
        }
    }

    /// Until when there is credit that the peer has not been given.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

impl<E: Sending> Session<E> {
    /// Bytes of a paced circuit have left at its other end: passes their credit
    /// on, or keeps it until it is due.
    pub(super) fn credit_returned(&mut self, stream: StreamKey, bytes: u32, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        let Handler::Circuit(bound) = &mut entry.handler else {
            return;
        };
        let withheld = &mut bound.withheld;
        withheld.bytes += bytes;
        let due = withheld.due.filter(|due| due.at > pass.now);
        let until = due.map(|due| due.at);
        let before = mem::replace(&mut withheld.until, until);
        self.dues.change(stream.id, before, until);
        match due {
            Some(due) => self
                .context
                .metrics
                .circuits
                .credit_withheld(due.by.label()),
            None => {
                let bytes = mem::take(&mut withheld.bytes);
                withheld.due = None;
                self.egress.release(stream, bytes, pass.effects);
            }
        }
    }

    /// What was withheld is paid for.
    pub(super) fn credit_due(&mut self, id: StreamId, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Handler::Circuit(bound) = &mut entry.handler else {
            return;
        };
        bound.withheld.until = None;
        let bytes = mem::take(&mut bound.withheld.bytes);
        let stream = entry.key;
        self.egress.release(stream, bytes, pass.effects);
    }
}
