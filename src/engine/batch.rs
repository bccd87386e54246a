//! The bytes that a connection is about to send: muxer frames laid out where
//! they will be sealed in place.
//!
//! A [`Batch`] is one buffer, cut into records: room for the record's header,
//! plaintext, room for its tag, as its [`Framing`] has it. Frames are appended to the last record; a
//! frame that does not fit continues in the next one, because a muxer reads
//! its frames from a stream of bytes. Owns no key, no socket and no pool: who
//! seals it gets the buffer, record by record.

use crate::engine::record::{Alert, Framing, RecordError, SealKey};

/// Frames waiting to be sealed and written, in the order they were appended.
#[derive(Default)]
pub struct Batch {
    /// Closed records, and at the end the open one without its tag.
    buffer: Vec<u8>,
    /// Where the open record starts in `buffer`.
    open: usize,
    frames: u32,
    framing: Framing,
    /// A new key is to be taken before anything of this is sealed.
    renews: bool,
    /// Nothing follows behind this, which says why.
    closes: Option<Alert>,
}

/// What stands before a plaintext is sealed, and what it leaves room for.
const ZEROS: [u8; 17] = [0; 17];

/// Room for what the record layer itself may have to say when it is sealed: two
/// new keys and a goodbye.
const OWN_RECORDS_LEN: usize = 96;

impl Batch {
    /// An empty batch of Noise records that fills `buffer`, whose contents are
    /// discarded.
    #[must_use]
    pub fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            buffer,
            ..Self::default()
        }
    }

    /// An empty batch of records framed like this.
    #[must_use]
    pub fn framed(framing: Framing) -> Self {
        Self {
            framing,
            ..Self::default()
        }
    }

    /// Takes everything out; what is left has the same framing.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let empty = Self::framed(self.framing);
        std::mem::replace(self, empty)
    }

    /// Whether there is nothing to seal.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && !self.renews && self.closes.is_none()
    }

    /// Has what is in here, and what follows, sealed with a new key, and the
    /// peer told so. Asked twice before it is sealed, it is done once.
    pub fn renew_key(&mut self) {
        self.renews = self.framing == Framing::TLS;
    }

    /// Says behind everything else that nothing follows, and why, where the
    /// framing has words for it.
    pub fn close(&mut self, alert: Alert) {
        self.closes = (self.framing == Framing::TLS).then_some(alert);
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
        let records = length / self.framing.plaintext_max() + 2;
        let framing = self.framing.header() + self.framing.trailer();
        self.buffer.len() + length + records * framing + OWN_RECORDS_LEN
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
        let header = self.framing.header();
        while !bytes.is_empty() {
            if self.buffer.len() == self.open {
                self.buffer.extend_from_slice(&ZEROS[..header]);
            }
            let room = self.open + header + self.framing.plaintext_max() - self.buffer.len();
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(part);
            bytes = rest;
            if part.len() == room {
                self.close_record();
            }
        }
    }

    fn close_record(&mut self) {
        self.buffer
            .extend_from_slice(&ZEROS[..self.framing.trailer()]);
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
        debug_assert_eq!(key.framing(), self.framing, "a batch for another key");
        let mut news = Vec::new();
        if self.renews {
            key.renew(&mut news)?;
        }
        let mut records = 0;
        let mut sealer = key.expand()?;
        for record in self.buffer.chunks_mut(self.framing.record_max()) {
            sealer.seal(record)?;
            records += 1;
        }
        self.buffer.splice(..0, news);
        if key.is_worn() {
            key.renew(&mut self.buffer)?;
        }
        if let Some(alert) = self.closes {
            key.close(alert, &mut self.buffer)?;
        }
        Ok((self.buffer, records))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::engine::record::{OpenKey, Opened, Secret, Suite};
    use proptest::prelude::*;

    const SUITE: Suite = Suite::Aes128;

    fn secret() -> Secret {
        Secret::new(&[3; 32]).unwrap()
    }

    fn opened(mut key: OpenKey, mut sealed: Vec<u8>) -> (Vec<u8>, usize) {
        let framing = key.framing();
        let (mut rest, mut plaintext, mut records) = (&mut sealed[..], Vec::new(), 0);
        while !rest.is_empty() {
            let length = framing.announced(rest).unwrap().unwrap();
            let (record, after) = rest.split_at_mut(length);
            plaintext.extend_from_slice(key.open(&mut record[framing.header()..]).unwrap());
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
            tls in any::<bool>(),
        ) {
            let (mut seal, open) = if tls {
                (SealKey::tls(SUITE, &secret()), OpenKey::tls(SUITE, &secret()))
            } else {
                (SealKey::new([3; 32]), OpenKey::new([3; 32]))
            };
            let framing = seal.framing();
            let mut batch = Batch::framed(framing);
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
            let (sealed, records) = batch.seal(&mut seal).unwrap();
            let (plaintext, opened) = opened(open, sealed);
            prop_assert_eq!(&plaintext, &expected);
            prop_assert_eq!(opened, expected.len().div_ceil(framing.plaintext_max()));
            prop_assert_eq!(records as usize, opened);
        }
    }

    /// What each record of `sealed` is to the peer.
    fn told(key: &mut OpenKey, mut sealed: Vec<u8>) -> Vec<String> {
        let framing = key.framing();
        let (mut rest, mut told) = (&mut sealed[..], Vec::new());
        while !rest.is_empty() {
            let length = framing.announced(rest).unwrap().unwrap();
            let (record, after) = rest.split_at_mut(length);
            let mut opener = key.expand().unwrap();
            told.push(
                match opener.open(&mut record[framing.header()..]).unwrap() {
                    Opened::Plaintext(plaintext) => String::from_utf8(plaintext.to_vec()).unwrap(),
                    other => format!("{other:?}"),
                },
            );
            rest = after;
        }
        told
    }

    /// One batch after the other, and what the peer makes of it.
    fn sent(seal: &mut SealKey, open: &mut OpenKey, fill: impl FnOnce(&mut Batch)) -> Vec<String> {
        let mut batch = Batch::framed(seal.framing());
        fill(&mut batch);
        let needed = batch.needed(0);
        let (sealed, _) = batch.seal(seal).unwrap();
        assert!(sealed.len() <= needed, "beyond the room that was announced");
        told(open, sealed)
    }

    #[test]
    fn a_new_key_comes_first_once_and_the_end_last() {
        let mut seal = SealKey::tls(SUITE, &secret());
        let mut open = OpenKey::tls(SUITE, &secret());
        let told = sent(&mut seal, &mut open, |batch| {
            assert!(batch.is_empty());
            batch.append_frame(b"old", b"est");
            batch.renew_key();
            batch.renew_key();
            batch.append_frame(b"new", b"est");
        });
        assert_eq!(told, ["Nothing", "oldestnewest"]);
        // Neither needs anything to go with it.
        let told = sent(&mut seal, &mut open, |batch| {
            batch.renew_key();
            assert!(!batch.is_empty());
        });
        assert_eq!(told, ["Nothing"]);
        let told = sent(&mut seal, &mut open, |batch| {
            batch.append_frame(b"last", b"words");
            batch.close(Alert::CLOSE_NOTIFY);
            assert!(!batch.is_empty());
        });
        assert_eq!(told, ["lastwords", "Closed"]);
    }

    #[test]
    fn a_worn_key_is_replaced_behind_what_it_sealed() {
        let mut seal = SealKey::tls(SUITE, &secret());
        let mut open = OpenKey::tls(SUITE, &secret());
        seal.wear();
        open.wear();
        let told = sent(&mut seal, &mut open, |batch| {
            batch.append_frame(b"", b"old key");
        });
        assert_eq!(told, ["old key", "Nothing"]);
        assert!(!seal.is_worn());
        let told = sent(&mut seal, &mut open, |batch| {
            batch.append_frame(b"", b"new key");
        });
        assert_eq!(told, ["new key"]);
        // Everything at once: the key that was asked for is not worn any more.
        seal.wear();
        open.wear();
        let told = sent(&mut seal, &mut open, |batch| {
            batch.append_frame(b"", b"the rest");
            batch.renew_key();
            batch.close(Alert::CLOSE_NOTIFY);
        });
        assert_eq!(told, ["Nothing", "the rest", "Closed"]);
    }

    #[test]
    fn noise_has_no_words_for_keys_and_ends() {
        let (mut seal, mut open) = (SealKey::new([3; 32]), OpenKey::new([3; 32]));
        let told = sent(&mut seal, &mut open, |batch| {
            batch.renew_key();
            batch.close(Alert::CLOSE_NOTIFY);
            assert!(batch.is_empty());
            batch.append_frame(b"", b"bytes");
        });
        assert_eq!(told, ["bytes"]);
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut batch = Batch::new(Vec::new());
        batch.append_frame(b"head", b"payload");
        let old = batch.grow_into(Vec::with_capacity(1 << 17));
        assert!(old.capacity() < 1 << 17);
        assert!(batch.capacity() >= 1 << 17);
        let (sealed, _) = batch.seal(&mut SealKey::new([3; 32])).unwrap();
        assert_eq!(opened(OpenKey::new([3; 32]), sealed).0, b"headpayload");
    }
}
