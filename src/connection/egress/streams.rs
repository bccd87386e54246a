//! The sending half of each open stream: credit, queue, and how it ends.
//!
//! Everything here happens under the egress lock and is bounded by the number
//! of open streams. A queue holds bytes that came in faster than the peer's
//! credit or socket takes them; whoever sent them is owed their credit only
//! when they have left.

use std::mem;

use crate::connection::egress::{HIGH_WATER, QUEUE_MAX, State};
use crate::connection::{pool, queue::Queue};
use crate::engine::{
    demux::StreamId,
    frames::{self, Greeting},
    muxer::Muxer,
};
use crate::state::leg::{Effects, Gone, Leg, StreamKey, Untaken};
use crate::wire::yamux::INITIAL_WINDOW;

/// Most bytes that one stream puts into the batch before the next one's turn.
const TURN: usize = 64 * 1024;

/// A peer's window update went past 2^32 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stream credit overflows")]
pub struct CreditOverflow;

/// What a stream's sending half is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connection) enum SendHalf {
    /// Still open, or still draining.
    Open,
    /// Nothing more will be sent, and nothing is queued.
    Ended,
}

/// What comes after a stream's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Finish,
    /// The peer has been told.
    Finished,
    Reset(u32),
}

pub(super) struct SendStream {
    pub(super) key: StreamKey,
    /// Bytes the peer takes now; not used for mplex, which has no credit.
    pub(super) credit: u32,
    pub(super) greeting: Greeting,
    pub(super) after: After,
    /// The peer has ended its direction.
    pub(super) receive_closed: bool,
    pub(super) queue: Queue,
    /// Who sends what is carried here.
    pub(super) upstream: Option<Leg>,
    /// Bytes that have left and whose credit has not been returned.
    owed: u32,
    /// Credit granted to the peer and not yet collected by the connection's
    /// task, which keeps the receive window.
    pub(super) granted: u32,
    /// Credit goes through the connection's task, which may withhold it.
    pub(super) paced: bool,
}

impl SendStream {
    /// What the next frame on this stream has to say about its opening.
    pub(super) fn greet(&mut self) -> Greeting {
        mem::replace(&mut self.greeting, Greeting::None)
    }

    fn allowance(&self, muxer: Muxer) -> usize {
        match muxer {
            Muxer::Yamux => self.credit as usize,
            Muxer::Mplex => usize::MAX,
        }
    }
}

impl State {
    pub(super) fn insert(&mut self, id: StreamId, greeting: Greeting) -> StreamKey {
        self.generation = self.generation.wrapping_add(1);
        let key = StreamKey {
            id,
            generation: self.generation,
        };
        let entry = SendStream {
            key,
            credit: INITIAL_WINDOW,
            greeting,
            after: After::Nothing,
            receive_closed: false,
            queue: Queue::default(),
            upstream: None,
            owed: 0,
            granted: 0,
            paced: false,
        };
        match self.position(id) {
            // The task forgets a stream before its id is used again, so this
            // is the leftover of one that has ended.
            Ok(index) => {
                self.clear_queue(index);
                self.streams[index] = entry;
            }
            Err(index) => self.streams.insert(index, entry),
        }
        key
    }

    #[inline]
    fn position(&self, id: StreamId) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |entry| entry.key.id)
    }

    #[inline]
    pub(super) fn find(&self, stream: StreamKey) -> Result<usize, Gone> {
        match self.position(stream.id) {
            Ok(index) if self.streams[index].key == stream => Ok(index),
            Ok(_) | Err(_) => Err(Gone),
        }
    }

    /// Takes `payload` for the stream: as much as credit and the high-water
    /// mark allow into the batch, at most one turn of it, the rest into the
    /// queue. While the memory for buffers is taken, nothing may wait: that is
    /// what grows it, and who makes it wait is who is slow.
    #[inline]
    pub(super) fn push(
        &mut self,
        muxer: Muxer,
        index: usize,
        payload: &[u8],
    ) -> Result<(), Untaken> {
        let entry = &self.streams[index];
        if entry.after != After::Nothing {
            return Err(Gone.into());
        }
        let room = self.batch.len() < HIGH_WATER && !(self.blocked && pool::is_full());
        let direct = if entry.queue.is_empty() && room {
            entry.allowance(muxer).min(payload.len()).min(TURN)
        } else {
            0
        };
        let (now, later) = payload.split_at(direct);
        if !later.is_empty() {
            let queued = self.streams[index].queue.len() + later.len();
            if queued > QUEUE_MAX {
                return Err(Gone.into());
            }
            if pool::is_full() {
                return Err(Untaken::Memory);
            }
        }
        if !now.is_empty() {
            self.append(muxer, index, now);
        }
        if !later.is_empty() {
            let queue = &mut self.streams[index].queue;
            if queue.is_empty() {
                self.queued += 1;
            }
            queue.extend(later);
        }
        Ok(())
    }

    /// Puts stream bytes into the batch; the caller has seen that there is
    /// credit.
    #[inline]
    fn append(&mut self, muxer: Muxer, index: usize, bytes: &[u8]) {
        self.reserve(bytes.len() + 64);
        let entry = &mut self.streams[index];
        let greeting = entry.greet();
        let length = u32::try_from(bytes.len()).expect("bounded by a read pass");
        if muxer == Muxer::Yamux {
            entry.credit -= length;
        }
        if entry.upstream.is_some() {
            match self.carried.last_mut() {
                Some((last, bytes)) if *last == entry.key => *bytes += length,
                Some(_) | None => self.carried.push((entry.key, length)),
            }
        }
        let before = self.batch.len();
        frames::data(muxer, entry.key.id, greeting, bytes, &mut self.batch);
        if entry.upstream.is_some() {
            self.of_circuits += self.batch.len() - before;
        }
    }

    /// Bytes of a stream have left: owes its sender their credit.
    pub(super) fn left(&mut self, stream: StreamKey, bytes: u32, effects: &mut Effects) {
        let Ok(index) = self.find(stream) else {
            return;
        };
        let entry = &mut self.streams[index];
        entry.owed += bytes;
        if let Some(upstream) = &entry.upstream
            && entry.owed >= upstream.link.grant_at()
        {
            effects.owe(upstream.clone(), mem::take(&mut entry.owed));
        }
    }

    /// Moves queued bytes into the batch, the streams taking turns, until the
    /// high-water mark. Returns the streams that ended in both directions.
    pub(super) fn refill(&mut self, muxer: Muxer) -> Vec<StreamKey> {
        let mut ended = Vec::new();
        if self.queued == 0 {
            return ended;
        }
        let mut idle = 0;
        while self.queued > 0 && self.batch.len() < HIGH_WATER && idle < self.streams.len() {
            let index = self.turn as usize % self.streams.len();
            self.turn = self.turn.wrapping_add(1);
            let entry = &self.streams[index];
            let amount = entry.queue.len().min(entry.allowance(muxer)).min(TURN);
            if amount == 0 {
                idle += 1;
                continue;
            }
            idle = 0;
            if let Some(stream) = self.unqueue(muxer, index, amount) {
                ended.push(stream);
            }
        }
        ended
    }

    /// Moves `amount` bytes of a queue into the batch, and what comes after
    /// it. Returns the stream if it has ended in both directions.
    fn unqueue(&mut self, muxer: Muxer, index: usize, amount: usize) -> Option<StreamKey> {
        let mut queue = mem::take(&mut self.streams[index].queue);
        let (front, back) = queue.as_slices();
        let first = front.len().min(amount);
        self.append(muxer, index, &front[..first]);
        if amount > first {
            self.append(muxer, index, &back[..amount - first]);
        }
        queue.drop_front(amount);
        if queue.is_empty() {
            self.queued -= 1;
            let after = mem::replace(&mut self.streams[index].after, After::Nothing);
            let stream = self.streams[index].key;
            if after != After::Nothing && self.end(muxer, index, after) {
                return Some(stream);
            }
        } else {
            self.streams[index].queue = queue;
        }
        None
    }

    /// Ends a stream's sending direction behind its queue. Whether the stream
    /// is gone, in both directions.
    pub(super) fn end(&mut self, muxer: Muxer, index: usize, after: After) -> bool {
        let entry = &mut self.streams[index];
        if !matches!(
            (entry.after, after),
            (After::Nothing, _) | (_, After::Reset(_))
        ) {
            return false;
        }
        if !entry.queue.is_empty() {
            entry.after = after;
            return false;
        }
        let stream = entry.key.id;
        self.reserve(64);
        match after {
            After::Nothing | After::Finished => false,
            After::Finish => {
                let entry = &mut self.streams[index];
                entry.after = After::Finished;
                let greeting = entry.greet();
                let gone = entry.receive_closed;
                frames::finish(muxer, stream, greeting, &mut self.batch);
                if gone {
                    self.remove(index);
                }
                gone
            }
            After::Reset(code) => {
                // A stream of ours that the peer has never heard of needs no
                // reset.
                if self.streams[index].greeting != Greeting::Open {
                    frames::reset(muxer, stream, code, &mut self.batch);
                }
                self.remove(index);
                true
            }
        }
    }

    pub(super) fn clear_queue(&mut self, index: usize) {
        let queue = mem::take(&mut self.streams[index].queue);
        if !queue.is_empty() {
            self.queued -= 1;
        }
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.clear_queue(index);
        self.streams.remove(index);
        if self.streams.is_empty() {
            self.streams = Vec::new();
        }
    }
}
