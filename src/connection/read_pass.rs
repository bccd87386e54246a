//! A read pass: one read, every record in it opened in place, every frame in
//! them handed on in place.
//!
//! The read buffer belongs to the thread and is borrowed for the pass; what
//! stays with the connection is at most one incomplete record. A pass takes
//! at most [`READ_MAX`] bytes and then yields, so that one busy connection
//! does not keep a worker from the others.

use std::{
    cell::RefCell,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use tokio::io::ReadBuf;

use crate::engine::{
    demux::{Event, StreamId},
    muxer::Muxer,
    record::{HEADER_LEN, MAX_RECORD},
};
use crate::metrics::{Direction, Service};
use crate::state::leg::{Effects, Link, StreamKey, reset_code};
use crate::state::limits::StreamRefusal;

use super::{
    carrier::layer::{self, Asides, Decoded},
    closed::Closed,
    pool,
    stream::{Entry, Handler, Origin},
    task::{Connection, HOLD_MAX, Hold, NEGOTIATION_MAX},
};

/// Most bytes that one pass reads.
pub(super) const READ_MAX: usize = 256 * 1024;

/// What a thread lends to the pass that it runs.
struct Scratch {
    read: Box<[u8]>,
    output: Vec<u8>,
    effects: Effects,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        read: vec![0; READ_MAX + MAX_RECORD + layer::KEPT_MAX].into_boxed_slice(),
        output: Vec::with_capacity(4096),
        effects: Effects::default(),
    });
}

/// What is at hand during one pass.
pub(super) struct Pass<'a> {
    /// What is left to do with other connections, settled at the end.
    pub(super) effects: &'a mut Effects,
    /// A buffer for answers; whoever writes one clears it first.
    pub(super) output: &'a mut Vec<u8>,
    /// When the pass began.
    pub(super) now: Instant,
}

/// Lends the thread's buffers, and settles the effects afterwards.
pub(super) fn with_pass<T>(now: Instant, run: impl FnOnce(&mut Pass<'_>, &mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch {
            read,
            output,
            effects,
        } = scratch;
        let result = run(
            &mut Pass {
                effects,
                output,
                now,
            },
            read,
        );
        effects.settle();
        result
    })
}

impl Connection {
    /// Reads once and works through what came. `Ready` means that there may be
    /// more to read at once.
    pub(super) fn read_pass(
        &mut self,
        task: &mut TaskContext<'_>,
        pass: &mut Pass<'_>,
        buffer: &mut [u8],
    ) -> Result<Poll<()>, Closed> {
        let kept = self.partial.len();
        let front = kept + self.inbound.kept();
        let mut read = ReadBuf::new(&mut buffer[front..front + READ_MAX]);
        match self.reader.poll_read(task, &mut read) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) => return Err(Closed::Io(error.kind())),
            Poll::Ready(Ok(())) => {}
        }
        let count = read.filled().len();
        if count == 0 {
            return Err(Closed::Peer);
        }
        self.context.metrics.egress.received(count);
        buffer[..kept].copy_from_slice(&self.partial);
        pool::give(std::mem::take(&mut self.partial));
        let decoded = self.decode(&mut buffer[kept..front + count], pass)?;
        self.records(&mut buffer[..kept + decoded.length], pass)?;
        if decoded.ended {
            return Err(Closed::Peer);
        }
        if count == READ_MAX {
            return Ok(Poll::Ready(()));
        }
        // The read took less than it asked for, so tokio has marked the socket
        // as empty: this registers for the next readiness without a system
        // call.
        match self.reader.poll_read_ready(task) {
            Poll::Ready(Err(error)) => Err(Closed::Io(error.kind())),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Takes what has come through the carrier's layers, if it has any.
    #[inline]
    fn decode(&mut self, bytes: &mut [u8], pass: &mut Pass<'_>) -> Result<Decoded, Closed> {
        if self.inbound.is_empty() {
            let (length, ended) = (bytes.len(), false);
            return Ok(Decoded { length, ended });
        }
        let mut asides = Asides::default();
        let decoded = self.inbound.decode(bytes, &mut asides);
        self.egress.say_aside(asides, pass.effects);
        Ok(decoded?)
    }

    /// Opens every complete record in `bytes`; keeps the beginning of one that
    /// is not.
    pub(super) fn records(&mut self, bytes: &mut [u8], pass: &mut Pass<'_>) -> Result<(), Closed> {
        let mut begin = 0;
        while let Some(length) = bytes[begin..].first_chunk::<HEADER_LEN>() {
            let body = begin + HEADER_LEN;
            let end = body + usize::from(u16::from_be_bytes(*length));
            let Some(record) = bytes.get_mut(body..end) else {
                break;
            };
            let plaintext = self.open.open(record)?;
            self.heard = true;
            self.frames(plaintext, pass)?;
            begin = end;
        }
        let rest = &bytes[begin..];
        self.record_waits(rest.len(), begin > 0, pass.now);
        if !rest.is_empty() {
            let mut partial = pool::take(rest.len());
            partial.extend_from_slice(rest);
            self.partial = partial;
        }
        Ok(())
    }

    /// Takes plaintext apart and acts on each event.
    pub(super) fn frames(
        &mut self,
        mut plaintext: &[u8],
        pass: &mut Pass<'_>,
    ) -> Result<(), Closed> {
        while let Some(event) = self.demux.next(&mut plaintext)? {
            match event {
                Event::Data(id, payload) => self.on_data(id, payload, pass)?,
                Event::Credit(id, bytes) => self.on_credit(id, bytes, pass)?,
                Event::Opened(id) => self.on_opened(id, pass)?,
                Event::Finished(id) => self.on_finished(id, pass),
                Event::Reset(id) => self.on_reset(id, pass),
                Event::Ping(value) => self.egress.pong(value, pass.effects),
                Event::Pong(_) => {}
                Event::GoAway(code) => self.on_go_away(code),
            }
        }
        Ok(())
    }

    #[inline]
    fn on_data(&mut self, id: StreamId, payload: &[u8], pass: &mut Pass<'_>) -> Result<(), Closed> {
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
        entry.window -= i64::from(length);
        if entry.window < 0 {
            entry.window += i64::from(self.egress.collect_granted(entry.key));
        }
        let (key, overdrawn) = (entry.key, entry.window < 0);
        if overdrawn && !self.overdrawn(key, pass) {
            return Err(Closed::WindowOverrun);
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
    /// hold up reading for mplex. Whether the connection may go on.
    fn overdrawn(&mut self, stream: StreamKey, pass: &mut Pass<'_>) -> bool {
        match self.egress.muxer() {
            Muxer::Yamux => {
                self.context.metrics.muxers.window_violated();
                false
            }
            Muxer::Mplex => {
                if self.hold.is_none() {
                    self.context.metrics.muxers.mplex_stalled();
                    self.hold = Some(Hold {
                        stream,
                        until: pass.now + HOLD_MAX,
                    });
                }
                true
            }
        }
    }

    fn on_credit(&mut self, id: StreamId, bytes: u32, pass: &mut Pass<'_>) -> Result<(), Closed> {
        match self.table.get_mut(id) {
            Some(entry) => Ok(self.egress.credit(entry.key, bytes, pass.effects)?),
            None => Ok(()),
        }
    }

    fn on_opened(&mut self, id: StreamId, pass: &mut Pass<'_>) -> Result<(), Closed> {
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

    fn on_finished(&mut self, id: StreamId, pass: &mut Pass<'_>) {
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
            | Handler::Offer(_)
            | Handler::Spent => self.served_to_the_end(stream, pass),
        }
    }

    fn on_reset(&mut self, id: StreamId, pass: &mut Pass<'_>) {
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
    fn on_go_away(&mut self, code: u32) {
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

    /// Gives consumed bytes back to the peer as credit, half a window at a
    /// time.
    pub(super) fn consumed(&mut self, stream: StreamKey, bytes: usize, pass: &mut Pass<'_>) {
        const GRANT_AT: u32 = crate::wire::yamux::INITIAL_WINDOW / 2;
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        entry.consumed += u32::try_from(bytes).expect("a slice of one record");
        if entry.consumed >= GRANT_AT {
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
