//! What a QUIC connection's transport tells of its streams, and reading them.
//!
//! Everything here happens under the egress lock. Reading is bounded by the
//! turn, and on each stream by the credit that the other end of its circuit has
//! given: what is beyond stays with the transport, within its windows.

use std::{mem, time::Instant};

use quinn_proto::{Dir, StreamEvent};

use crate::connection::{egress::QUEUE_MAX, pool};
use crate::engine::demux::StreamId;
use crate::state::leg::Effects;

use super::{
    egress::{Item, State, Turn},
    streams::{id_of, wire},
    windows,
};

impl State {
    pub(super) fn on_stream(
        &mut self,
        event: &StreamEvent,
        turn: &mut Turn,
        effects: &mut Effects,
    ) {
        match *event {
            StreamEvent::Opened { dir: Dir::Bi } => {
                while let Some(stream) = self.transport.streams().accept(Dir::Bi) {
                    turn.items.push(Item::Opened(id_of(stream)));
                }
            }
            StreamEvent::Readable { id } => self.on_readable(id, turn),
            StreamEvent::Writable { id } => self.refill(id_of(id), effects),
            StreamEvent::Stopped { id, error_code } => {
                // The peer is owed a reset of what it no longer wants. It may
                // come with the request it is about, which is still served.
                let _ = self.transport.send_stream(id).reset(error_code);
                self.stopped(id_of(id), effects);
            }
            // Unidirectional streams are never allowed, and what was finished
            // is forgotten already.
            StreamEvent::Opened { dir: Dir::Uni }
            | StreamEvent::Finished { .. }
            | StreamEvent::Available { .. } => {}
        }
    }

    /// Something has come on a stream. Of bytes without credit nothing is said
    /// before there is some; that the peer has given the stream up is known at
    /// once.
    fn on_readable(&mut self, id: quinn_proto::StreamId, turn: &mut Turn) {
        let stream = id_of(id);
        let held = self
            .position(stream)
            .is_ok_and(|index| self.streams[index].allowance == 0);
        if held && matches!(self.transport.recv_stream(id).received_reset(), Ok(Some(_))) {
            turn.items.push(Item::Reset(stream));
        } else {
            self.readable(stream);
        }
    }

    /// Notes a stream that may have bytes, if it has the credit to read them.
    pub(super) fn readable(&mut self, id: StreamId) {
        if let Ok(index) = self.position(id)
            && self.streams[index].allowance > 0
            && !self.readable.contains(&id)
        {
            self.readable.push(id);
        }
    }

    /// Reads what there is on streams with credit.
    pub(super) fn read(&mut self, read_max: usize, turn: &mut Turn) {
        let streams = mem::take(&mut self.readable);
        for (index, stream) in streams.iter().enumerate() {
            if turn.bytes.len() >= read_max {
                self.readable.extend_from_slice(&streams[index..]);
                return;
            }
            self.read_stream(*stream, read_max, turn);
        }
        if self.readable.is_empty() {
            // The list's memory serves the next turn.
            self.readable = streams;
            self.readable.clear();
        }
    }

    /// Behind reading: tells what is left with the transport.
    pub(super) fn count_unread(&mut self, turn: &mut Turn, now: Instant) {
        if self.closed {
            // It stays there until the transport goes.
            return;
        }
        // What was thrown away unread with its stream is not told either.
        let open = self.streams.iter().filter(|half| !half.receive_closed);
        let opened = turn.items.iter();
        let opened = opened.filter(|item| matches!(item, Item::Opened(_)));
        let most = (open.count() + opened.count()) * windows::STREAM as usize;
        let (transport, window) = (&self.transport, most.min(self.granted as usize));
        let frames = || transport.stats().frame_rx.stream;
        if self.streams.is_empty() && turn.items.is_empty() {
            return self.unread.clear(frames);
        }
        self.unread.turn(frames, turn.bytes.len(), window);
        let full = pool::is_full();
        let excused = if full {
            let held_back = self.streams.iter().filter(|half| half.allowance == 0);
            held_back.count() * windows::STREAM as usize
        } else {
            0
        };
        turn.hoarded = self.unread.is_hoarded(full, excused, now);
    }

    fn read_stream(&mut self, id: StreamId, read_max: usize, turn: &mut Turn) {
        let Ok(index) = self.position(id) else {
            return;
        };
        let half = &mut self.streams[index];
        let mut stream = self.transport.recv_stream(wire(id));
        let Ok(mut chunks) = stream.read(true) else {
            return;
        };
        let start = turn.bytes.len();
        let mut last = None;
        loop {
            let room = half
                .allowance
                .min(read_max.saturating_sub(turn.bytes.len()));
            if room == 0 {
                // Either the next turn or the next grant goes on.
                if half.allowance > 0 {
                    self.readable.push(id);
                }
                break;
            }
            match chunks.next(room) {
                Ok(Some(chunk)) => {
                    half.allowance -= chunk.bytes.len();
                    turn.bytes.extend_from_slice(&chunk.bytes);
                }
                Ok(None) => {
                    last = Some(Item::Finished(id));
                    break;
                }
                Err(quinn_proto::ReadError::Reset(_)) => {
                    last = Some(Item::Reset(id));
                    break;
                }
                Err(quinn_proto::ReadError::Blocked) => break,
            }
        }
        // That a window update is to be sent is found when packets are made.
        let _ = chunks.finalize();
        if turn.bytes.len() > start {
            turn.items.push(Item::Data(id, start..turn.bytes.len()));
        }
        turn.items.extend(last);
    }

    /// Resets streams whose last bytes have had time to leave.
    pub(super) fn reset_drained(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.draining.len() {
            let (id, due, code) = self.draining[index];
            if due > now {
                index += 1;
                continue;
            }
            self.draining.swap_remove(index);
            self.reset_wire(id, code);
        }
    }

    /// Whether so much waits for the stream that no more is taken.
    pub(super) fn queue_is_full(&self, index: usize, more: usize) -> bool {
        self.streams[index].queue.len() + more > QUEUE_MAX
    }
}
