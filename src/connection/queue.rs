//! Bytes that wait on their way through a stream.
//!
//! Owns that their memory is counted, whatever becomes of the stream. How many
//! may wait is decided by who puts them in.

use std::collections::VecDeque;

use super::pool;

/// A queue of bytes.
#[derive(Default)]
pub(super) struct Queue(VecDeque<u8>);

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let before = self.0.capacity();
        self.0.extend(bytes);
        pool::held(self.0.capacity() - before);
    }

    pub(super) fn as_slices(&self) -> (&[u8], &[u8]) {
        self.0.as_slices()
    }

    /// Everything, in one piece.
    pub(super) fn make_contiguous(&mut self) -> &[u8] {
        self.0.make_contiguous()
    }

    /// Takes bytes off the front; the memory stays until the queue goes.
    pub(super) fn drop_front(&mut self, bytes: usize) {
        self.0.drain(..bytes);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        pool::released(self.0.capacity());
    }
}
