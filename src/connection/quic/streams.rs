//! What a QUIC stream holds beside quinn's own state: bytes that the transport
//! has not taken, credit to read with, and how its sending direction ends.
//!
//! Everything here happens under the egress lock and is bounded by the number
//! of open streams. Bytes count as having left when the transport has taken
//! them, which is bounded by the connection's send window; only then is their
//! sender owed credit.

use std::mem;
use std::time::Duration;

use quinn_proto::{VarInt, WriteError};

use crate::clock;
use crate::connection::{pool, queue::Queue};
use crate::engine::demux::StreamId;
use crate::state::leg::{Command, Effects, Gone, Leg, StreamKey, Untaken};

use super::{egress::State, held::Pieces, windows};

/// Round trips, and time on top, that the last bytes of a stream get before a
/// reset that is to come behind them. A reset tells the peer's transport to
/// drop what it still waits for, so it may not overtake them.
const DRAIN_ROUND_TRIPS: u32 = 4;
const DRAIN_LEAST: Duration = Duration::from_millis(100);
const DRAIN_MOST: Duration = Duration::from_secs(9);

/// What comes after a stream's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Finish,
    /// The peer has been told.
    Finished,
    Reset(u32),
}

/// One stream.
pub(super) struct Half {
    pub(super) key: StreamKey,
    pub(super) after: After,
    /// The peer wants nothing more of what we send.
    pub(super) stopped: bool,
    /// The peer has ended its direction.
    pub(super) receive_closed: bool,
    pub(super) queue: Queue,
    /// What the transport has of it.
    pub(super) pieces: Pieces,
    /// Who sends what is carried here.
    pub(super) upstream: Option<Leg>,
    /// Bytes that have left and whose credit has not been returned.
    owed: u32,
    /// Bytes that may be read before more is granted.
    pub(super) allowance: usize,
    /// Credit goes through the connection's session, which may withhold it.
    pub(super) paced: bool,
}

/// The id by which the rest of the server knows a QUIC stream.
pub(super) fn id_of(stream: quinn_proto::StreamId) -> StreamId {
    StreamId::quic(u64::from(stream))
}

/// The id that is on the wire.
pub(super) fn wire(id: StreamId) -> quinn_proto::StreamId {
    let id = VarInt::from_u64(id.quic_wire()).expect("made from an id of the transport");
    quinn_proto::StreamId::from(id)
}

impl State {
    /// Adds a stream that the transport has just opened.
    pub(super) fn insert(&mut self, id: StreamId) -> StreamKey {
        // The transport uses no id twice.
        let key = StreamKey { id, generation: 0 };
        let half = Half {
            key,
            after: After::Nothing,
            stopped: false,
            receive_closed: false,
            queue: Queue::default(),
            pieces: Pieces::default(),
            upstream: None,
            owed: 0,
            allowance: windows::AHEAD as usize,
            paced: false,
        };
        if let Err(index) = self.position(id) {
            self.streams.insert(index, half);
        }
        key
    }

    #[inline]
    pub(super) fn position(&self, id: StreamId) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |half| half.key.id)
    }

    #[inline]
    pub(super) fn find(&self, stream: StreamKey) -> Result<usize, Gone> {
        self.position(stream.id).map_err(|_| Gone)
    }

    /// From now on what is carried on the stream is paid for by returning
    /// credit to `upstream`.
    pub(super) fn attach_to(&mut self, index: usize, upstream: Leg) {
        if self.streams[index].upstream.replace(upstream).is_none() {
            self.circuits += 1;
            windows::fit(&mut self.transport, self.circuits, &mut self.granted);
        }
    }

    /// Lets windows grow that could not while the memory for buffers was taken.
    pub(super) fn fit_windows(&mut self) {
        if windows::wanted(self.circuits) > self.granted {
            windows::fit(&mut self.transport, self.circuits, &mut self.granted);
        }
    }

    /// Takes `payload` for the stream: as much as the transport takes, the rest
    /// into the queue. While the memory for buffers is taken, nothing may wait.
    pub(super) fn push(
        &mut self,
        index: usize,
        payload: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Untaken> {
        let half = &self.streams[index];
        if half.after != After::Nothing || half.stopped {
            return Err(Gone.into());
        }
        let taken = if half.queue.is_empty() {
            self.write(index, payload)
        } else {
            0
        };
        self.left(index, taken, effects);
        let rest = &payload[taken..];
        if !rest.is_empty() {
            if self.queue_is_full(index, rest.len()) {
                return Err(Gone.into());
            }
            if pool::is_full() {
                return Err(Untaken::Memory);
            }
            self.streams[index].queue.extend(rest);
        }
        Ok(())
    }

    /// Gives the transport what it takes; bytes for a stream that its peer has
    /// stopped are as good as sent.
    fn write(&mut self, index: usize, bytes: &[u8]) -> usize {
        let half = &mut self.streams[index];
        let mut stream = self.transport.send_stream(wire(half.key.id));
        let mut taken = 0;
        // Until it says that it is blocked: only then does it say when it is
        // writable again.
        while taken < bytes.len() {
            if half.pieces.are_too_many() {
                self.crowded = true;
                return taken;
            }
            let mut piece = [half.pieces.next(&bytes[taken..], taken)];
            match stream.write_chunks(&mut piece) {
                Ok(written) => taken += written.bytes,
                Err(WriteError::Blocked) => {
                    half.pieces.took(taken, true);
                    return taken;
                }
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return bytes.len(),
            }
        }
        half.pieces.took(taken, false);
        taken
    }

    /// Goes on with the streams whose pieces were too many.
    pub(super) fn refill_crowded(&mut self, effects: &mut Effects) {
        if !mem::take(&mut self.crowded) {
            return;
        }
        let waiting = self.streams.iter().filter(|half| !half.queue.is_empty());
        let ids: Vec<StreamId> = waiting.map(|half| half.key.id).collect();
        for id in ids {
            let few = self
                .position(id)
                .map(|at| self.streams[at].pieces.are_few());
            match few {
                Ok(true) => self.refill(id, effects),
                // Either it waits for that, or for credit of the peer's.
                Ok(false) => self.crowded = true,
                Err(_) => {}
            }
        }
    }

    /// The transport has taken bytes: owes their sender credit.
    fn left(&mut self, index: usize, bytes: usize, effects: &mut Effects) {
        let half = &mut self.streams[index];
        if let Some(upstream) = &half.upstream {
            half.owed += u32::try_from(bytes).expect("a queue is bounded");
            if half.owed >= upstream.link.grant_at() {
                effects.owe(upstream.clone(), mem::take(&mut half.owed));
            }
        }
    }

    /// The transport takes more for a stream.
    pub(super) fn refill(&mut self, id: StreamId, effects: &mut Effects) {
        let Ok(index) = self.position(id) else {
            return;
        };
        let mut queue = mem::take(&mut self.streams[index].queue);
        while !queue.is_empty() {
            let front = queue.as_slices().0;
            let (taken, offered) = (self.write(index, front), front.len());
            queue.drop_front(taken);
            self.left(index, taken, effects);
            if taken < offered {
                self.streams[index].queue = queue;
                return;
            }
        }
        drop(queue);
        self.emptied(index);
    }

    /// What was to come behind a stream's queue.
    fn emptied(&mut self, index: usize) {
        let after = mem::replace(&mut self.streams[index].after, After::Nothing);
        let stream = self.streams[index].key;
        match after {
            After::Nothing => {}
            After::Finished => self.streams[index].after = after,
            After::Finish => {
                if self.end(index, after) {
                    self.inbox.push(Command::Forget(stream));
                }
            }
            After::Reset(code) => {
                self.end_drained(index, code);
                self.inbox.push(Command::Forget(stream));
            }
        }
    }

    /// The peer wants nothing more on a stream. What waits is dropped, and paid
    /// for so that its sender goes on and finds out.
    pub(super) fn stopped(&mut self, id: StreamId, effects: &mut Effects) {
        let Ok(index) = self.position(id) else {
            return;
        };
        self.streams[index].stopped = true;
        let dropped = mem::take(&mut self.streams[index].queue).len();
        self.left(index, dropped, effects);
        self.emptied(index);
    }

    /// Ends a stream's sending direction behind its queue. Whether the stream
    /// is gone, in both directions.
    pub(super) fn end(&mut self, index: usize, after: After) -> bool {
        let half = &mut self.streams[index];
        if !matches!(
            (half.after, after),
            (After::Nothing, _) | (_, After::Reset(_))
        ) {
            return false;
        }
        if !half.queue.is_empty() {
            half.after = after;
            return false;
        }
        let id = half.key.id;
        match after {
            After::Nothing | After::Finished => false,
            After::Finish => {
                half.after = After::Finished;
                let gone = half.receive_closed;
                // Fails only on a stream that the peer has stopped.
                let _ = self.transport.send_stream(wire(id)).finish();
                if gone {
                    self.remove(index);
                }
                gone
            }
            After::Reset(code) => {
                self.reset_wire(id, code);
                self.remove(index);
                true
            }
        }
    }

    /// Resets a stream when the bytes that the transport has of it have had
    /// time to leave.
    pub(super) fn end_drained(&mut self, index: usize, code: u32) {
        let id = self.streams[index].key.id;
        let patience = (self.transport.rtt() * DRAIN_ROUND_TRIPS + DRAIN_LEAST).min(DRAIN_MOST);
        self.draining.push((id, clock::now() + patience, code));
        self.remove(index);
    }

    /// Resets both directions of a stream on the wire.
    pub(super) fn reset_wire(&mut self, id: StreamId, code: u32) {
        let (stream, code) = (wire(id), VarInt::from_u32(code));
        // Either may have ended by itself.
        let _ = self.transport.send_stream(stream).reset(code);
        let _ = self.transport.recv_stream(stream).stop(code);
    }

    pub(super) fn remove(&mut self, index: usize) {
        let half = self.streams.remove(index);
        if half.upstream.is_some() {
            self.circuits -= 1;
            windows::fit(&mut self.transport, self.circuits, &mut self.granted);
        }
        if self.streams.is_empty() {
            self.streams = Vec::new();
            self.readable = Vec::new();
        }
    }
}
