//! What comes in on a connection's streams: opened, bytes, ended, reset.
//!
//! Whoever drives the transport tells each event as it finds it. Here windows
//! are kept and streams looked up; what a stream is for is told to its service
//! or circuit.

use crate::engine::{demux::StreamId, muxer::Muxer};
use crate::metrics::{Direction, Service};
use crate::state::leg::{StreamKey, reset_code};
use crate::state::limits::StreamRefusal;

use super::{
    closed::Closed,
    pool,
    read_pass::Pass,
    session::{HOLD_MAX, Hold, NEGOTIATION_MAX, Sending, Session},
    stream::{Entry, Handler, Origin},
};

impl<E: Sending> Session<E> {
    #[inline]
    pub(super) fn on_data(
        &mut self,
        id: StreamId,
        payload: &[u8],
        pass: &mut Pass<'_>,
    ) -> Result<(), Closed> {
        let Some(entry) = self.table.get_mut(id) else {
            // It has just been reset, and the peer did not know (both muxers:
            // ignore).
            return Ok(());
        };
        if entry.finished {
            let key = entry.key;
            self.reset_stream(key, reset_code::PROTOCOL_VIOLATION, pass);
            return Ok(());
        }
        let length = u32::try_from(payload.len()).expect("a slice of one record");
        let key = entry.key;
        if let Some(muxer) = self.egress.muxer() {
            entry.window -= i64::from(length);
            if entry.window < 0 {
                entry.window += i64::from(self.egress.collect_granted(key));
            }
            if entry.window < 0 {
                self.overdrawn(muxer, key, pass)?;
            }
        }
        let Some(entry) = self.table.get_mut(id) else {
            return Ok(());
        };
        if let Handler::Circuit(bound) = &mut entry.handler {
            let metrics = &self.context.metrics.circuits;
            return match bound.forward(payload, metrics, pass) {
                Ok(()) => Ok(()),
                Err(broken) => {
                    self.circuit_broken(key, broken, pass);
                    Ok(())
                }
            };
        }
        self.serve(key, payload, pass);
        Ok(())
    }

    /// A stream has used up its window: a violation for yamux, a reason to
    /// hold up reading for mplex.
    fn overdrawn(
        &mut self,
        muxer: Muxer,
        stream: StreamKey,
        pass: &mut Pass<'_>,
    ) -> Result<(), Closed> {
        match muxer {
            Muxer::Yamux => {
                self.context.metrics.muxers.window_violated();
                Err(Closed::WindowOverrun)
            }
            Muxer::Mplex => {
                if self.hold.is_none() {
                    self.context.metrics.muxers.mplex_stalled();
                    self.hold = Some(Hold {
                        stream,
                        until: pass.now + HOLD_MAX,
                    });
                }
                Ok(())
            }
        }
    }

    pub(super) fn on_opened(&mut self, id: StreamId, pass: &mut Pass<'_>) -> Result<(), Closed> {
        if self.table.contains(id) {
            return Err(Closed::DuplicateStream);
        }
        let permit = if pool::is_full() {
            Err(StreamRefusal::Memory)
        } else {
            let (open, idle) = (self.table.accepted(), self.table.idle());
            self.context.streams.accept(open, idle)
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal) => {
                self.stream_refused(refusal);
                self.egress
                    .refuse_stream(id, reset_code::RESOURCE_LIMIT, pass.effects);
                return Ok(());
            }
        };
        let stream = self.egress.accept_stream(id);
        let guard = self.context.metrics.streams.opened(Direction::Inbound);
        let handler = Handler::Negotiating(Box::default());
        self.table
            .insert(Entry::new(stream, Origin::Peer, handler, guard, permit));
        self.set_deadline(stream, Some(pass.now + NEGOTIATION_MAX));
        Ok(())
    }

    pub(super) fn on_finished(&mut self, id: StreamId, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut entry.finished, true) {
            return;
        }
        let stream = entry.key;
        match &entry.handler {
            Handler::Circuit(_) => self.circuit_finished(stream, pass),
            Handler::Waiting(_) => {
                // Nothing to end yet: carried through when the circuit stands.
                let _ = self.egress.receive_closed(stream);
            }
            Handler::Negotiating(_)
            | Handler::Ping(_)
            | Handler::Push(_)
            | Handler::Hop(_)
            | Handler::Question(_)
            | Handler::Telling(_)
            | Handler::Offer(_)
            | Handler::Spent => self.served_to_the_end(stream, pass),
        }
    }

    pub(super) fn on_reset(&mut self, id: StreamId, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let stream = entry.key;
        self.context.metrics.streams.reset_by_peer();
        self.egress.drop_stream(stream);
        if let Some(entry) = self.take_entry(stream) {
            self.let_go(entry, None, pass.effects);
        }
    }

    /// What is open goes on; the connection ends with its last stream.
    pub(super) fn on_go_away(&mut self, code: u32) {
        tracing::debug!(peer = %self.remote.peer, code, "peer goes away");
        self.going_away = true;
    }

    /// Looks whether the stream that holds up reading has credit again; one
    /// that has had its time is reset.
    pub(super) fn held(&mut self, pass: &mut Pass<'_>) {
        let Some(Hold { stream, until }) = self.hold else {
            return;
        };
        let Some(entry) = self.table.find_mut(stream) else {
            self.hold = None;
            return;
        };
        let before = entry.window;
        entry.window = self.egress.hold(stream, before);
        // Credit may come in pieces; each piece is a sign of life.
        let until = if entry.window > before {
            pass.now + HOLD_MAX
        } else {
            until
        };
        let until = match &entry.handler {
            // That its bytes are not paid for yet is not the target's fault.
            Handler::Circuit(bound) => bound
                .withheld
                .until()
                .map_or(until, |due| until.max(due + HOLD_MAX)),
            _ => until,
        };
        if entry.window > 0 {
            self.hold = None;
        } else if pass.now < until {
            self.hold = Some(Hold { stream, until });
        } else {
            self.hold = None;
            self.context.metrics.muxers.mplex_stall_reset();
            self.stalled(stream, pass);
        }
    }

    fn stalled(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        use crate::state::circuits::EndCause;
        self.egress
            .reset_own(stream, reset_code::RESOURCE_LIMIT, pass.effects);
        if let Some(entry) = self.take_entry(stream) {
            self.let_go(entry, Some(EndCause::Stalled), pass.effects);
        }
    }

    /// Resets a stream of this connection and lets go of what it had to do
    /// with others.
    pub(super) fn reset_stream(&mut self, stream: StreamKey, code: u32, pass: &mut Pass<'_>) {
        self.context.metrics.streams.reset_by_us();
        self.egress.reset_own(stream, code, pass.effects);
        if let Some(entry) = self.take_entry(stream) {
            self.let_go(entry, None, pass.effects);
        }
    }

    /// Sends what is in `pass.output` on a stream.
    pub(super) fn send(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        let taken = self.egress.answer(stream, pass.output, pass.effects);
        if taken.is_err() {
            // The peer asks and does not read: its queue is at the bound.
            self.reset_stream(stream, reset_code::RESOURCE_LIMIT, pass);
        }
    }

    /// Gives consumed bytes back to the peer as credit, as much at a time as is
    /// worth it.
    pub(super) fn consumed(&mut self, stream: StreamKey, bytes: usize, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        entry.consumed += u32::try_from(bytes).expect("a slice of one record");
        if entry.consumed >= self.egress.grant_at() {
            let bytes = std::mem::take(&mut entry.consumed);
            self.egress.grant(stream, bytes, pass.effects);
        }
    }

    /// Keeps the service label of a stream.
    pub(super) fn serves(&mut self, stream: StreamKey, service: Service, handler: Handler) {
        if let Some(entry) = self.table.find_mut(stream) {
            entry.guard.serves(service);
            entry.handler = handler;
        }
    }
}
