//! What a connection waits for, and for how long: deadlines of its streams,
//! signs of life, the end of a hold.

use std::time::{Duration, Instant};

use crate::engine::muxer::Muxer;
use crate::state::{
    circuits::EndCause,
    leg::{StreamKey, reset_code},
};

use super::{
    closed::Closed,
    read_pass::Pass,
    session::{Sending, Session},
    stream::{Entry, Handler},
    task::{Connection, KEEP_ALIVE},
};

/// How long the last bytes before a limit may take to be delivered.
const DRAIN_MAX: Duration = Duration::from_secs(10);

impl Connection {
    /// Acts on what is due; asks a quiet peer for a sign of life.
    pub(super) fn on_deadlines(&mut self, pass: &mut Pass<'_>) -> Result<(), Closed> {
        self.session.on_deadlines(pass);
        if pass.now >= self.keep_alive_at {
            self.keep_alive_at = pass.now + KEEP_ALIVE;
            if std::mem::replace(&mut self.heard, false) || self.session.hold.is_some() {
                // Nobody who is not read from can be heard; a hold ends by itself.
                self.asked = false;
            } else if self.asked || !self.partial.is_empty() || self.inbound.kept() > 0 {
                // Also a record that has not ended for all this time: bytes
                // alone are no sign of life.
                return Err(Closed::KeepAlive);
            } else if self.session.egress.muxer() == Some(Muxer::Yamux) {
                self.asked = true;
                self.session.egress.ping(0, pass.effects);
            }
        }
        Ok(())
    }

    /// The next moment at which there is something to do for a stream, a hold or
    /// the keep-alive.
    pub(super) fn next_deadline(&self) -> Instant {
        let session = self.session.next_deadline();
        session.map_or(self.keep_alive_at, |due| due.min(self.keep_alive_at))
    }
}

impl<E: Sending> Session<E> {
    /// Acts on the deadlines of streams, and on credit that is due.
    pub(super) fn on_deadlines(&mut self, pass: &mut Pass<'_>) {
        while let Some(id) = self.deadlines.expired(pass.now) {
            let Some(entry) = self.table.get_mut(id) else {
                continue;
            };
            entry.deadline = None;
            let stream = entry.key;
            self.timed_out(stream, pass);
        }
        while let Some(id) = self.dues.expired(pass.now) {
            self.credit_due(id, pass);
        }
    }

    fn timed_out(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        match &entry.handler {
            Handler::Circuit(bound) => {
                bound.circuit.ended(EndCause::DurationLimit);
                self.reset_stream(stream, reset_code::RESOURCE_LIMIT, pass);
            }
            Handler::Waiting(waiting) => {
                waiting.withdraw();
                self.refuse_connect(stream, pass);
            }
            Handler::Negotiating(_) => {
                self.context.metrics.streams.refused("timed_out");
                self.reset_stream(stream, reset_code::NONE, pass);
            }
            Handler::Question(_) | Handler::Push(_) => {
                self.context.metrics.identify.failed();
                self.reset_stream(stream, reset_code::NONE, pass);
            }
            Handler::Ping(_)
            | Handler::Hop(_)
            | Handler::Telling(_)
            | Handler::Offer(_)
            | Handler::Spent => {
                self.reset_stream(stream, reset_code::NONE, pass);
            }
        }
    }

    /// Sees to it that a stream being drained ends.
    pub(super) fn draining(&mut self, stream: StreamKey, now: Instant) {
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        let limit = now + DRAIN_MAX;
        let deadline = entry.deadline.map_or(limit, |deadline| deadline.min(limit));
        self.set_deadline(stream, Some(deadline));
    }

    /// The next moment at which there is something to do, if there is one.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let hold = self.hold.map(|hold| hold.until);
        [self.deadlines.next(), self.dues.next(), hold]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn set_deadline(&mut self, stream: StreamKey, deadline: Option<Instant>) {
        if let Some(entry) = self.table.find_mut(stream) {
            let old = std::mem::replace(&mut entry.deadline, deadline);
            self.deadlines.change(stream.id, old, deadline);
        }
    }

    pub(super) fn take_entry(&mut self, stream: StreamKey) -> Option<Entry> {
        let deadline = self.table.find_mut(stream)?.deadline;
        self.deadlines.change(stream.id, deadline, None);
        let entry = self.table.remove(stream.id)?;
        if let Handler::Circuit(bound) = &entry.handler {
            self.dues.change(stream.id, bound.withheld.until(), None);
        }
        Some(entry)
    }
}
