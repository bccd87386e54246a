//! The egress of a QUIC connection as other connections see it: appending,
//! granting, ending, flushing, delivering.
//!
//! Each method takes the lock once; what it finds out about other connections
//! goes into [`Effects`]. Flushing is ringing: the worker's loop makes and sends
//! the packets of all its connections.

use crate::state::leg::{Command, Effects, Gone, Leg, Link, StreamKey, Untaken};

use super::{
    egress::{Locked, OFFERS_MAX, QuicEgress},
    streams::After,
    windows,
};

impl Link for QuicEgress {
    fn carry(
        &self,
        stream: StreamKey,
        payload: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Untaken> {
        let mut state = self.lock();
        let index = state.find(stream)?;
        state.push(index, payload, effects)?;
        self.touch(&mut state, effects);
        Ok(())
    }

    fn grant_at(&self) -> u32 {
        windows::AHEAD / 2
    }

    fn grant(&self, stream: StreamKey, bytes: u32, _effects: &mut Effects) {
        let mut state = self.lock();
        let Ok(index) = state.find(stream) else {
            return;
        };
        if state.streams[index].paced {
            state.inbox.push(Command::Credit { stream, bytes });
            self.ring(&mut state);
        } else {
            self.pass_on(&mut state, index, bytes);
        }
    }

    fn join(
        &self,
        stream: StreamKey,
        first: &[u8],
        upstream: Leg,
        effects: &mut Effects,
    ) -> Result<(), Gone> {
        let mut state = self.lock();
        let index = state.find(stream)?;
        let pushed = state.push(index, first, effects);
        pushed.map_err(|_| Gone)?;
        state.attach_to(index, upstream);
        self.touch(&mut state, effects);
        Ok(())
    }

    fn finish(&self, stream: StreamKey, effects: &mut Effects) {
        let mut state = self.lock();
        let Ok(index) = state.find(stream) else {
            return;
        };
        if state.end(index, After::Finish) {
            self.forget(&mut state, stream);
        }
        self.touch(&mut state, effects);
    }

    fn reset(&self, stream: StreamKey, code: u32, drain: bool, effects: &mut Effects) {
        let mut state = self.lock();
        let Ok(index) = state.find(stream) else {
            return;
        };
        if !drain {
            state.streams[index].queue = Default::default();
        }
        let gone = if drain && state.streams[index].queue.is_empty() {
            state.end_drained(index, code);
            true
        } else {
            state.end(index, After::Reset(code))
        };
        if gone {
            self.forget(&mut state, stream);
        }
        self.touch(&mut state, effects);
    }

    fn flush(&self, _effects: &mut Effects) {
        let mut state = self.lock();
        state.touched = false;
        self.ring(&mut state);
    }

    fn deliver(&self, command: Command) -> Result<(), Command> {
        let mut state = self.lock();
        if state.closed {
            return Err(command);
        }
        if matches!(command, Command::Offer { .. }) {
            if usize::from(state.offers) >= OFFERS_MAX {
                return Err(command);
            }
            state.offers += 1;
        }
        state.inbox.push(command);
        self.ring(&mut state);
        Ok(())
    }
}

impl QuicEgress {
    /// Lets a stream be read further. The peer learns of it from the transport,
    /// which grants what has been read.
    pub(super) fn pass_on(&self, state: &mut Locked<'_>, index: usize, bytes: u32) {
        let half = &mut state.streams[index];
        let before = half.allowance;
        half.allowance += bytes as usize;
        if before == 0 {
            let id = half.key.id;
            state.readable(id);
            self.ring(state);
        }
    }
}
