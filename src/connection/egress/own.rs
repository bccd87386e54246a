//! The egress as its own connection's task sees it: opening, accepting,
//! crediting and ending its streams.

use std::mem;

use crate::connection::{closed::Closed, session::Sending};
use crate::engine::{
    demux::StreamId,
    frames::{self, Greeting},
    muxer::Muxer,
};
use crate::state::leg::{Command, Effects, Gone, Leg, StreamKey};

use super::{ANSWERS_MAX, CreditOverflow, Egress, SendHalf, State, streams::After};

/// What the connection's own task does with its streams.
impl Sending for Egress {
    fn muxer(&self) -> Option<Muxer> {
        Some(self.muxer)
    }

    fn open_stream(&self) -> Option<StreamKey> {
        let mut state = self.state.lock();
        let next = state.next_local;
        let (id, step) = match self.muxer {
            Muxer::Yamux => (StreamId::yamux(u32::try_from(next).ok()?), 2),
            Muxer::Mplex => (StreamId::mplex(next, true), 1),
        };
        state.next_local += step;
        Some(state.insert(id, Greeting::Open))
    }

    fn answer(&self, stream: StreamKey, answer: &[u8], effects: &mut Effects) -> Result<(), Gone> {
        let mut state = self.state.lock();
        let index = state.find(stream)?;
        if state.streams[index].queue.len() >= ANSWERS_MAX {
            return Err(Gone);
        }
        let pushed = state.push(self.muxer, index, answer);
        pushed.map_err(|_| Gone)?;
        self.touch(&mut state, effects);
        Ok(())
    }

    fn accept_stream(&self, id: StreamId) -> StreamKey {
        self.state.lock().insert(id, Greeting::Accept)
    }

    fn refuse_stream(&self, id: StreamId, code: u32, effects: &mut Effects) {
        let muxer = self.muxer;
        self.control(effects, |batch| frames::reset(muxer, id, code, batch));
    }

    fn collect_granted(&self, stream: StreamKey) -> u32 {
        let mut state = self.state.lock();
        state
            .find(stream)
            .map_or(0, |index| mem::take(&mut state.streams[index].granted))
    }

    fn hold(&self, stream: StreamKey, window: i64) -> i64 {
        let mut state = self.state.lock();
        let granted = state
            .find(stream)
            .map_or(0, |index| mem::take(&mut state.streams[index].granted));
        let window = window + i64::from(granted);
        state.holding = window <= 0;
        window
    }

    fn attach(&self, stream: StreamKey, upstream: Leg) -> bool {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return false;
        };
        state.streams[index].upstream = Some(upstream);
        true
    }

    fn pace(&self, stream: StreamKey) {
        let mut state = self.state.lock();
        if let Ok(index) = state.find(stream) {
            state.streams[index].paced = true;
        }
    }

    fn receive_closed(&self, stream: StreamKey) -> SendHalf {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return SendHalf::Ended;
        };
        if state.streams[index].after == After::Finished {
            state.remove(index);
            return SendHalf::Ended;
        }
        state.streams[index].receive_closed = true;
        SendHalf::Open
    }

    fn finish_own(&self, stream: StreamKey, effects: &mut Effects) -> SendHalf {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return SendHalf::Ended;
        };
        let gone = state.end(self.muxer, index, After::Finish);
        self.touch(&mut state, effects);
        if gone {
            SendHalf::Ended
        } else {
            SendHalf::Open
        }
    }

    fn reset_own(&self, stream: StreamKey, code: u32, effects: &mut Effects) {
        let mut state = self.state.lock();
        if let Ok(index) = state.find(stream) {
            self.reset_now(&mut state, index, code, effects);
        }
    }

    fn reset_unless_draining(
        &self,
        stream: StreamKey,
        code: u32,
        effects: &mut Effects,
    ) -> SendHalf {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return SendHalf::Ended;
        };
        if matches!(state.streams[index].after, After::Reset(_)) {
            return SendHalf::Open;
        }
        self.reset_now(&mut state, index, code, effects);
        SendHalf::Ended
    }

    fn drop_stream(&self, stream: StreamKey) {
        let mut state = self.state.lock();
        if let Ok(index) = state.find(stream) {
            state.remove(index);
        }
    }

    fn release(&self, stream: StreamKey, bytes: u32, effects: &mut Effects) {
        let state = self.state.lock();
        if let Ok(index) = state.find(stream) {
            self.pass_on(state, index, bytes, effects);
        }
    }

    fn close(&self, closed: Closed, effects: &mut Effects) -> Vec<Command> {
        self.say_goodbye(closed.go_away(), closed.alert(), effects)
    }
}

impl Egress {
    /// The peer takes `bytes` more on the stream.
    ///
    /// # Errors
    /// [`CreditOverflow`] breaks the protocol.
    pub(in crate::connection) fn credit(
        &self,
        stream: StreamKey,
        bytes: u32,
        effects: &mut Effects,
    ) -> Result<(), CreditOverflow> {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return Ok(());
        };
        let entry = &mut state.streams[index];
        entry.credit = entry.credit.checked_add(bytes).ok_or(CreditOverflow)?;
        if !entry.queue.is_empty() {
            for stream in state.refill(self.muxer) {
                self.forget(&mut state, stream);
            }
            self.touch(&mut state, effects);
        }
        Ok(())
    }

    fn reset_now(&self, state: &mut State, index: usize, code: u32, effects: &mut Effects) {
        state.clear_queue(index);
        state.end(self.muxer, index, After::Reset(code));
        self.touch(state, effects);
    }
}
