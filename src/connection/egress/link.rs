//! The egress as other connections, and the end of a read pass, see it:
//! appending, granting, ending, flushing, delivering.
//!
//! Each method takes the lock once, or once around each write; what it finds
//! out about other connections goes into [`Effects`].

use std::mem;

use parking_lot::MutexGuard;

use crate::engine::{batch::Batch, frames, muxer::Muxer};
use crate::state::leg::{Command, Effects, Gone, Leg, Link, StreamKey, Untaken};

use super::{
    Egress, OFFERS_MAX, Phase, State, signal,
    streams::After,
    write::{Outcome, Writer},
};

impl Link for Egress {
    fn carry(
        &self,
        stream: StreamKey,
        payload: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Untaken> {
        let mut state = self.state.lock();
        let index = state.find(stream)?;
        state.push(self.muxer, index, payload)?;
        self.touch(&mut state, effects);
        Ok(())
    }

    fn grant(&self, stream: StreamKey, bytes: u32, effects: &mut Effects) {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return;
        };
        if state.streams[index].paced {
            state.inbox.push(Command::Credit { stream, bytes });
            drop(state);
            self.signal(signal::INBOX);
        } else {
            self.pass_on(state, index, bytes, effects);
        }
    }

    fn join(
        &self,
        stream: StreamKey,
        first: &[u8],
        upstream: Leg,
        effects: &mut Effects,
    ) -> Result<(), Gone> {
        let mut state = self.state.lock();
        let index = state.find(stream)?;
        let pushed = state.push(self.muxer, index, first);
        pushed.map_err(|_| Gone)?;
        state.streams[index].upstream = Some(upstream);
        self.touch(&mut state, effects);
        Ok(())
    }

    fn finish(&self, stream: StreamKey, effects: &mut Effects) {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return;
        };
        if state.end(self.muxer, index, After::Finish) {
            self.forget(&mut state, stream);
        }
        self.touch(&mut state, effects);
    }

    fn reset(&self, stream: StreamKey, code: u32, drain: bool, effects: &mut Effects) {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return;
        };
        if !drain {
            state.clear_queue(index);
        }
        if state.end(self.muxer, index, After::Reset(code)) {
            self.forget(&mut state, stream);
        }
        self.touch(&mut state, effects);
    }

    fn flush(&self, effects: &mut Effects) {
        loop {
            let (mut writer, batch, asides) = {
                let mut state = self.state.lock();
                state.touched = false;
                if state.blocked || state.idle() {
                    return;
                }
                let Some(mut writer) = state.writer.take() else {
                    // Another thread is writing and will come back for this.
                    return;
                };
                // What the socket has refused goes first; until it has left,
                // new frames join the batch instead of a queue behind it.
                if writer.has_pending() {
                    (writer, Batch::default(), None)
                } else {
                    mem::swap(&mut writer.carried, &mut state.carried);
                    state.of_circuits = 0;
                    (writer, state.batch.take(), state.asides.take())
                }
            };
            let outcome = writer.write(batch, asides, &self.metrics);
            if !self.settle_write(writer, outcome, effects) {
                return;
            }
        }
    }

    fn deliver(&self, command: Command) -> Result<(), Command> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(command);
        }
        if matches!(command, Command::Offer { .. }) {
            if usize::from(state.offers) >= OFFERS_MAX {
                return Err(command);
            }
            state.offers += 1;
        }
        state.inbox.push(command);
        drop(state);
        self.signal(signal::INBOX);
        Ok(())
    }
}

impl Egress {
    /// Credit for a stream, to the peer or to what holds up reading.
    pub(super) fn pass_on(
        &self,
        mut state: MutexGuard<'_, State>,
        index: usize,
        bytes: u32,
        effects: &mut Effects,
    ) {
        let entry = &mut state.streams[index];
        entry.granted += bytes;
        match self.muxer {
            Muxer::Yamux => {
                let (id, greeting) = (entry.key.id, entry.greet());
                state.reserve(64);
                frames::credit(self.muxer, id, greeting, bytes, &mut state.batch);
                self.touch(&mut state, effects);
            }
            Muxer::Mplex => {
                if mem::take(&mut state.holding) {
                    drop(state);
                    self.signal(signal::RESUME);
                }
            }
        }
    }

    /// Takes the writer back after a write; whether to go on with another.
    fn settle_write(&self, writer: Box<Writer>, outcome: Outcome, effects: &mut Effects) -> bool {
        let mut state = self.state.lock();
        let closed = state.phase == Phase::Closed;
        state.written = writer.total;
        match outcome {
            Outcome::Failed => {
                state.phase = Phase::Closed;
                drop(state);
                drop(writer);
                self.signal(signal::FAILED);
                false
            }
            Outcome::Full if !closed => {
                state.blocked = true;
                state.writer = Some(writer);
                drop(state);
                self.metrics.socket_full();
                self.signal(signal::BLOCKED);
                false
            }
            Outcome::Done if !closed => {
                let mut writer = writer;
                for (stream, bytes) in writer.carried.drain(..) {
                    state.left(stream, bytes, effects);
                }
                state.writer = Some(writer);
                for stream in state.refill(self.muxer) {
                    self.forget(&mut state, stream);
                }
                state.touched = false;
                !state.batch.is_empty() || state.asides.is_some()
            }
            Outcome::Full | Outcome::Done => {
                drop(state);
                drop(writer);
                false
            }
        }
    }
}
