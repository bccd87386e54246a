//! The egress of a QUIC connection as its own session sees it: opening,
//! accepting, crediting and ending its streams.

use std::mem;

use quinn_proto::{Dir, VarInt};

use crate::clock;
use crate::connection::{closed::Closed, egress::SendHalf, session::Sending};
use crate::engine::{demux::StreamId, muxer::Muxer};
use crate::state::leg::{Command, Effects, Gone, Leg, StreamKey};

use super::{
    egress::{ANSWERS_MAX, QuicEgress},
    streams::{After, id_of},
    windows,
};

impl Sending for QuicEgress {
    fn muxer(&self) -> Option<Muxer> {
        None
    }

    /// Nothing is sent before the first byte on it.
    fn open_stream(&self) -> Option<StreamKey> {
        let mut state = self.lock();
        let stream = state.transport.streams().open(Dir::Bi)?;
        Some(state.insert(id_of(stream)))
    }

    fn accept_stream(&self, id: StreamId) -> StreamKey {
        let mut state = self.lock();
        let key = state.insert(id);
        windows::opened(&mut state.transport);
        // It was opened by its first bytes.
        state.readable(id);
        key
    }

    fn refuse_stream(&self, id: StreamId, code: u32, effects: &mut Effects) {
        let mut state = self.lock();
        state.reset_wire(id, code);
        self.touch(&mut state, effects);
    }

    fn answer(&self, stream: StreamKey, answer: &[u8], effects: &mut Effects) -> Result<(), Gone> {
        let mut state = self.lock();
        let index = state.find(stream)?;
        if state.streams[index].stopped {
            // Asked by somebody who does not want to hear the answer: rust-libp2p
            // stops the other direction of a stream that it only writes to.
            return Ok(());
        }
        if state.streams[index].queue.len() >= ANSWERS_MAX {
            return Err(Gone);
        }
        let pushed = state.push(index, answer, effects);
        pushed.map_err(|_| Gone)?;
        self.touch(&mut state, effects);
        Ok(())
    }

    fn collect_granted(&self, _stream: StreamKey) -> u32 {
        // The transport keeps the windows.
        0
    }

    fn hold(&self, _stream: StreamKey, window: i64) -> i64 {
        window
    }

    fn attach(&self, stream: StreamKey, upstream: Leg) -> bool {
        let mut state = self.lock();
        let Ok(index) = state.find(stream) else {
            return false;
        };
        state.attach_to(index, upstream);
        true
    }

    fn pace(&self, stream: StreamKey) {
        let mut state = self.lock();
        if let Ok(index) = state.find(stream) {
            state.streams[index].paced = true;
        }
    }

    fn release(&self, stream: StreamKey, bytes: u32, _effects: &mut Effects) {
        let mut state = self.lock();
        if let Ok(index) = state.find(stream) {
            self.pass_on(&mut state, index, bytes);
        }
    }

    fn receive_closed(&self, stream: StreamKey) -> SendHalf {
        let mut state = self.lock();
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
        let mut state = self.lock();
        let Ok(index) = state.find(stream) else {
            return SendHalf::Ended;
        };
        let gone = state.end(index, After::Finish);
        self.touch(&mut state, effects);
        if gone {
            SendHalf::Ended
        } else {
            SendHalf::Open
        }
    }

    fn reset_own(&self, stream: StreamKey, code: u32, effects: &mut Effects) {
        let mut state = self.lock();
        if let Ok(index) = state.find(stream) {
            state.streams[index].queue = Default::default();
            state.end(index, After::Reset(code));
            self.touch(&mut state, effects);
        }
    }

    fn reset_unless_draining(
        &self,
        stream: StreamKey,
        code: u32,
        effects: &mut Effects,
    ) -> SendHalf {
        let mut state = self.lock();
        let Ok(index) = state.find(stream) else {
            return SendHalf::Ended;
        };
        if matches!(state.streams[index].after, After::Reset(_)) {
            return SendHalf::Open;
        }
        state.streams[index].queue = Default::default();
        state.end(index, After::Reset(code));
        self.touch(&mut state, effects);
        SendHalf::Ended
    }

    fn drop_stream(&self, stream: StreamKey) {
        let mut state = self.lock();
        if let Ok(index) = state.find(stream) {
            // What the peer has reset is its own direction; ours goes too.
            state.reset_wire(stream.id, 0);
            state.remove(index);
            self.ring(&mut state);
        }
    }

    fn close(&self, closed: Closed, _effects: &mut Effects) -> Vec<Command> {
        let mut state = self.lock();
        state.closed = true;
        let code = VarInt::from_u32(closed.connection_code());
        // Does nothing if the connection has ended by itself.
        state
            .transport
            .close(clock::now(), code, bytes::Bytes::new());
        state.streams = Vec::new();
        state.readable = Vec::new();
        state.draining = Vec::new();
        self.ring(&mut state);
        mem::take(&mut state.inbox)
    }
}
