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
    stream::{Entry, Handler},
    task::{Connection, KEEP_ALIVE},
};

/// How long the last bytes before a limit may take to be delivered.
const DRAIN_MAX: Duration = Duration::from_secs(10);

impl Connection {
    pub(super) fn on_deadlines(&mut self, pass: &mut Pass<'_>) -> Result<(), Closed> {
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
        if pass.now >= self.keep_alive_at {
            self.keep_alive_at = pass.now + KEEP_ALIVE;
            if std::mem::replace(&mut self.heard, false) {
                self.asked = false;
            } else if self.asked || !self.partial.is_empty() {
                // Also a record that has not ended for all this time: bytes
                // alone are no sign of life.
                return Err(Closed::KeepAlive);
            } else if self.egress.muxer() == Muxer::Yamux {
                self.asked = true;
                self.egress.ping(0, pass.effects);
            }
        }
        Ok(())
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
            Handler::Ping(_) | Handler::Hop(_) | Handler::Offer(_) | Handler::Spent => {
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

    pub(super) fn next_deadline(&self) -> Instant {
        let mut next = self.keep_alive_at;
        if let Some(stream) = self.deadlines.next() {
            next = next.min(stream);
        }
        if let Some(due) = self.dues.next() {
            next = next.min(due);
        }
        if let Some(hold) = &self.hold {
            next = next.min(hold.until);
        }
        next
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
