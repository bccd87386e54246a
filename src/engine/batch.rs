//! The bytes that a connection is about to send: muxer frames laid out where
//! they will be sealed in place.
//!
//! A [`Batch`] is one buffer, cut into records: room for the record's length,
//! plaintext, room for its tag. Frames are appended to the last record; a
//! frame that does not fit continues in the next one, because a muxer reads
//! its frames from a stream of bytes. Owns no key, no socket and no pool: who
//! seals it gets the buffer, record by record.

use crate::engine::record::{HEADER_LEN, MAX_PLAINTEXT, MAX_RECORD, RecordError, SealKey, TAG_LEN};

/// Frames waiting to be sealed and written, in the order they were appended.
#[derive(Default)]
pub struct Batch {
    /// Closed records, and at the end the open one without its tag.
    buffer: Vec<u8>,
    /// Where the open record starts in `buffer`.
    open: usize,
    frames: u32,
}

impl Batch {
    /// An empty batch that fills `buffer`, whose contents are discarded.
    #[must_use]
    pub fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            buffer,
            open: 0,
            frames: 0,
        }
    }

    /// Whether nothing has been appended.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes that a write of this batch would take, tags of the open record
    /// left aside.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Room in the buffer before it has to grow.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Number of frames appended.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes of buffer that appending `length` more bytes needs at most.
    #[must_use]
    pub fn needed(&self, length: usize) -> usize {
        let records = length / MAX_PLAINTEXT + 2;
        self.buffer.len() + length + records * (HEADER_LEN + TAG_LEN)
    }

    /// Replaces the buffer by a larger one that starts with the same bytes
    /// and returns the old one, to be used again.
    pub fn grow_into(&mut self, mut larger: Vec<u8>) -> Vec<u8> {
        larger.clear();
        larger.extend_from_slice(&self.buffer);
        std::mem::replace(&mut self.buffer, larger)
    }

    /// The buffer, whatever is in it.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Appends a frame: its header and the payload behind it.
    #[inline]
    pub fn append_frame(&mut self, header: &[u8], payload: &[u8]) {
        self.frames += 1;
        self.append(header);
        self.append(payload);
    }

    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.buffer.len() == self.open {
                self.buffer.extend_from_slice(&[0; HEADER_LEN]);
            }
            let room = self.open + HEADER_LEN + MAX_PLAINTEXT - self.buffer.len();
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(part);
            bytes = rest;
            if part.len() == room {
                self.close_record();
            }
        }
    }

    fn close_record(&mut self) {
        self.buffer.extend_from_slice(&[0; TAG_LEN]);
        self.open = self.buffer.len();
    }

    /// Seals every record in place and returns the bytes to write, and how
    /// many records they are.
    ///
    /// # Errors
    /// [`RecordError`] when the key's counter is spent.
    pub fn seal(mut self, key: &mut SealKey) -> Result<(Vec<u8>, u32), RecordError> {
        if self.buffer.len() > self.open {
            self.close_record();
        }
        let mut records = 0;
        for record in self.buffer.chunks_mut(MAX_RECORD) {
            key.seal(record)?;
            records += 1;
        }
        Ok((self.buffer, records))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::engine::record::OpenKey;
    use proptest::prelude::*;

    fn opened(mut sealed: Vec<u8>) -> (Vec<u8>, usize) {
        let mut key = OpenKey::new([3; 32]);
        let (mut rest, mut plaintext, mut records) = (&mut sealed[..], Vec::new(), 0);
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            let (record, after) = rest.split_at_mut(HEADER_LEN + length);
            plaintext.extend_from_slice(key.open(&mut record[HEADER_LEN..]).unwrap());
            rest = after;
            records += 1;
        }
        (plaintext, records)
    }

    proptest! {
        /// Whatever is appended comes out of the records in order, in as few
        /// records as can hold it, and within the room that was announced.
        #[test]
        fn records_hold_what_was_appended(
            frames in prop::collection::vec((1usize..20, 0usize..90_000), 1..6),
        ) {
            let mut batch = Batch::new(vec![9; 40]);
            let mut expected = Vec::new();
            for (index, (header, payload)) in frames.iter().enumerate() {
                let byte = u8::try_from(index).unwrap();
                let (header, payload) = (vec![byte; *header], vec![!byte; *payload]);
                let needed = batch.needed(header.len() + payload.len());
                batch.append_frame(&header, &payload);
                prop_assert!(batch.len() <= needed);
                expected.extend(header);
                expected.extend(payload);
            }
            prop_assert_eq!(batch.frames() as usize, frames.len());
            let (sealed, records) = batch.seal(&mut SealKey::new([3; 32])).unwrap();
            let (plaintext, opened) = opened(sealed);
            prop_assert_eq!(&plaintext, &expected);
            prop_assert_eq!(opened, expected.len().div_ceil(MAX_PLAINTEXT));
            prop_assert_eq!(records as usize, opened);
        }
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut batch = Batch::new(Vec::new());
        batch.append_frame(b"head", b"payload");
        let old = batch.grow_into(Vec::with_capacity(1 << 17));
        assert!(old.capacity() < 1 << 17);
        assert!(batch.capacity() >= 1 << 17);
        let (sealed, _) = batch.seal(&mut SealKey::new([3; 32])).unwrap();
        assert_eq!(opened(sealed).0, b"headpayload");
    }
}
