//! The egress as its own connection's task sees it: opening, accepting,
//! crediting and ending its streams.

use std::mem;

use crate::engine::{
    demux::StreamId,
    frames::{self, Greeting},
    muxer::Muxer,
};
use crate::state::leg::{Effects, Gone, Leg, StreamKey};

use super::{ANSWERS_MAX, CreditOverflow, Egress, SendHalf, State, streams::After};

/// What the connection's own task does with its streams.
impl Egress {
    /// Opens a stream of ours; `None` when every id has been used. Nothing is
    /// sent before the first byte on it.
    pub(in crate::connection) fn open_stream(&self) -> Option<StreamKey> {
        let mut state = self.state.lock();
        let next = state.next_local;
        let (id, step) = match self.muxer {
            Muxer::Yamux => (StreamId::yamux(u32::try_from(next).ok()?), 2),
            Muxer::Mplex => (StreamId::mplex(next, true), 1),
        };
        state.next_local += step;
        Some(state.insert(id, Greeting::Open))
    }

    /// Takes a service's answer, to be sent in order.
    ///
    /// # Errors
    /// [`Gone`] if the stream has ended, or if so many answers wait already
    /// that the peer asks and does not read.
    pub(in crate::connection) fn answer(
        &self,
        stream: StreamKey,
        answer: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Gone> {
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

    /// Takes up a stream of the peer's.
    pub(in crate::connection) fn accept_stream(&self, id: StreamId) -> StreamKey {
        self.state.lock().insert(id, Greeting::Accept)
    }

    /// Refuses a stream of the peer's that was not taken up.
    pub(in crate::connection) fn refuse_stream(
        &self,
        id: StreamId,
        code: u32,
        effects: &mut Effects,
    ) {
        let muxer = self.muxer;
        self.control(effects, |batch| frames::reset(muxer, id, code, batch));
    }

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

    /// Credit that the other leg has granted since this was last asked.
    pub(in crate::connection) fn collect_granted(&self, stream: StreamKey) -> u32 {
        let mut state = self.state.lock();
        state
            .find(stream)
            .map_or(0, |index| mem::take(&mut state.streams[index].granted))
    }

    /// Adds to `window` what [`Self::collect_granted`] tells. If the stream
    /// still may not send, the task will be woken by the next grant on this
    /// connection.
    pub(in crate::connection) fn hold(&self, stream: StreamKey, window: i64) -> i64 {
        let mut state = self.state.lock();
        let granted = state
            .find(stream)
            .map_or(0, |index| mem::take(&mut state.streams[index].granted));
        let window = window + i64::from(granted);
        state.holding = window <= 0;
        window
    }

    /// Whether bytes carried on the stream from now on are paid for by
    /// returning credit to `upstream`.
    pub(in crate::connection) fn attach(&self, stream: StreamKey, upstream: Leg) -> bool {
        let mut state = self.state.lock();
        let Ok(index) = state.find(stream) else {
            return false;
        };
        state.streams[index].upstream = Some(upstream);
        true
    }

    /// Has the stream's credit go through the connection's task.
    pub(in crate::connection) fn pace(&self, stream: StreamKey) {
        let mut state = self.state.lock();
        if let Ok(index) = state.find(stream) {
            state.streams[index].paced = true;
        }
    }

    /// The peer has ended its direction. Tells what our own is doing; if that
    /// has ended too, the stream is gone.
    pub(in crate::connection) fn receive_closed(&self, stream: StreamKey) -> SendHalf {
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

    /// Ends our direction behind what is queued. Tells whether the stream is
    /// gone, in both directions.
    pub(in crate::connection) fn finish_own(
        &self,
        stream: StreamKey,
        effects: &mut Effects,
    ) -> SendHalf {
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

    /// Resets a stream at once; what is queued for it is dropped.
    pub(in crate::connection) fn reset_own(
        &self,
        stream: StreamKey,
        code: u32,
        effects: &mut Effects,
    ) {
        let mut state = self.state.lock();
        if let Ok(index) = state.find(stream) {
            self.reset_now(&mut state, index, code, effects);
        }
    }

    /// As [`Self::reset_own`], unless a reset is already on its way behind
    /// bytes that are still to be delivered.
    pub(in crate::connection) fn reset_unless_draining(
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

    fn reset_now(&self, state: &mut State, index: usize, code: u32, effects: &mut Effects) {
        state.clear_queue(index);
        state.end(self.muxer, index, After::Reset(code));
        self.touch(state, effects);
    }

    /// The peer has reset the stream: what is queued for it is dropped.
    pub(in crate::connection) fn drop_stream(&self, stream: StreamKey) {
        let mut state = self.state.lock();
        if let Ok(index) = state.find(stream) {
            state.remove(index);
        }
    }
}
