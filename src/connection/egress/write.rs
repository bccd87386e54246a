//! Seals a batch, has the carrier's layers encode it, and hands it to the
//! socket, outside the egress lock.
//!
//! Whoever holds the [`Writer`] is the only one to seal and write, which keeps
//! records in counter order without a lock across the system call.

use std::io;

use crate::connection::carrier::{
    WriteHalf,
    layer::{Asides, Outbound},
};
use crate::connection::pool;
use crate::engine::{batch::Batch, record::SealKey};
use crate::metrics::EgressMetrics;
use crate::state::leg::StreamKey;

/// The key and the socket, and what the socket has not taken yet.
pub(super) struct Writer {
    seal: SealKey,
    outbound: Outbound,
    socket: WriteHalf,
    /// Sealed bytes; the first `written` of them have left.
    pending: Vec<u8>,
    written: usize,
    /// Bytes that the socket has taken from the beginning on.
    pub(super) total: u64,
    /// Stream bytes among the pending ones, whose credit is due when all of
    /// it has left.
    pub(super) carried: Vec<(StreamKey, u32)>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything has left.
    Done,
    /// The socket is full; the rest is kept.
    Full,
    /// The connection cannot be written to any more.
    Failed,
}

impl Writer {
    pub(super) fn new(seal: SealKey, outbound: Outbound, socket: WriteHalf) -> Self {
        Self {
            seal,
            outbound,
            socket,
            pending: Vec::new(),
            written: 0,
            total: 0,
            carried: Vec::new(),
        }
    }

    /// Whether sealed bytes wait for the socket.
    pub(super) fn has_pending(&self) -> bool {
        self.written < self.pending.len()
    }

    /// Writes `batch` and `asides`, or what is pending if there are none. They
    /// never come together: a batch is taken only when nothing is pending.
    pub(super) fn write(
        &mut self,
        batch: Batch,
        asides: Option<Box<Asides>>,
        metrics: &EgressMetrics,
    ) -> Outcome {
        let layered = !self.outbound.is_empty() && (!batch.is_empty() || asides.is_some());
        if !batch.is_empty() {
            debug_assert!(!self.has_pending(), "a batch behind pending bytes");
            let (frames, capacity) = (batch.frames(), batch.capacity());
            let Ok((sealed, records)) = batch.seal(&mut self.seal) else {
                pool::released(capacity);
                return Outcome::Failed;
            };
            metrics.flushed(frames as usize, records as usize, sealed.len());
            self.pending = sealed;
            self.written = 0;
        }
        if layered {
            let mut asides = asides.map_or_else(Asides::default, |asides| *asides);
            let encoded = self.outbound.encode(&mut self.pending, &mut asides);
            if encoded.is_err() {
                return Outcome::Failed;
            }
        }
        while self.has_pending() {
            match self.socket.try_write(&self.pending[self.written..]) {
                Ok(0) => return Outcome::Failed,
                Ok(count) => {
                    metrics.written(count);
                    self.written += count;
                    self.total += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Failed,
            }
        }
        self.written = 0;
        pool::give(std::mem::take(&mut self.pending));
        Outcome::Done
    }
}

/// A connection may end with bytes that the socket has not taken.
impl Drop for Writer {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.pending));
    }
}
