//! The record layer of a connection after its handshake: framing plus one
//! AEAD key for each direction, sealing and opening in place.
//!
//! Noise transport messages (noise spec, "libp2p noise wire format"): a
//! big-endian u16 length, then ciphertext and a 16-byte tag. A key is kept as
//! its 32 bytes and expanded for each record: ring's ChaCha20 key *is* those
//! bytes, while a prepared context would cost every idle connection more than
//! half a KiB for each direction.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

/// Bytes of framing in front of a record.
pub const HEADER_LEN: usize = 2;
/// Bytes of authentication behind a record's plaintext.
pub const TAG_LEN: usize = 16;
/// Most plaintext that fits one record: 65535 less the tag.
pub const MAX_PLAINTEXT: usize = 65_519;
/// Longest record on the wire, framing included.
pub const MAX_RECORD: usize = HEADER_LEN + MAX_PLAINTEXT + TAG_LEN;

/// Why a record could not be opened or sealed. Either ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its own tag, or the tag does not match.
    #[error("record failed authentication")]
    Authentication,
    /// The counter has no next value; a key never repeats a nonce.
    #[error("record counter exhausted")]
    Exhausted,
    /// A plaintext longer than one record holds.
    #[error("record too large")]
    TooLarge,
}

/// Opens the records of one direction, in order.
pub struct OpenKey {
    key: [u8; 32],
    counter: u64,
}

impl OpenKey {
    /// A key that has opened nothing yet.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, counter: 0 }
    }

    /// Opens one record (the body, without its length) in place and returns
    /// the plaintext inside it.
    ///
    /// # Errors
    /// [`RecordError`] if the record is not authentic or the counter is spent.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<&'a mut [u8], RecordError> {
        let nonce = next_nonce(&mut self.counter)?;
        expand(&self.key)?
            .open_in_place(nonce, Aad::empty(), record)
            .map_err(|_| RecordError::Authentication)
    }
}

/// Seals the records of one direction, in order.
pub struct SealKey {
    key: [u8; 32],
    counter: u64,
}

impl SealKey {
    /// A key that has sealed nothing yet.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, counter: 0 }
    }

    /// Seals one frame in place: two bytes for the length, the plaintext, and
    /// sixteen bytes of room for the tag.
    ///
    /// # Errors
    /// [`RecordError`] if the frame cannot be a record or the counter is spent.
    pub fn seal(&mut self, frame: &mut [u8]) -> Result<(), RecordError> {
        let body = frame
            .len()
            .checked_sub(HEADER_LEN)
            .filter(|body| *body >= TAG_LEN)
            .ok_or(RecordError::TooLarge)?;
        let length = u16::try_from(body).map_err(|_| RecordError::TooLarge)?;
        let nonce = next_nonce(&mut self.counter)?;
        let (header, body) = frame.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&length.to_be_bytes());
        let end = body.len() - TAG_LEN;
        let (plaintext, room) = body.split_at_mut(end);
        let tag: Tag = expand(&self.key)?
            .seal_in_place_separate_tag(nonce, Aad::empty(), plaintext)
            .map_err(|_| RecordError::TooLarge)?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }
}

fn expand(key: &[u8; 32]) -> Result<LessSafeKey, RecordError> {
    UnboundKey::new(&CHACHA20_POLY1305, key)
        .map(LessSafeKey::new)
        .map_err(|_| RecordError::Authentication)
}

/// Noise §5.1 and §12.3: four zero bytes, then the counter little-endian; the
/// value 2^64-1 is reserved.
fn next_nonce(counter: &mut u64) -> Result<Nonce, RecordError> {
    let current = *counter;
    *counter = current.checked_add(1).ok_or(RecordError::Exhausted)?;
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&current.to_le_bytes());
    Ok(Nonce::assume_unique_for_key(nonce))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn sealed(key: &mut SealKey, plaintext: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LEN];
        frame.extend_from_slice(plaintext);
        frame.extend_from_slice(&[0; TAG_LEN]);
        key.seal(&mut frame).unwrap();
        frame
    }

    #[test]
    fn opens_what_was_sealed_in_order_only() {
        let mut seal = SealKey::new([7; 32]);
        let mut first = sealed(&mut seal, b"first");
        let mut second = sealed(&mut seal, b"second");
        assert_eq!(first[..2], [0, 21]);

        let mut open = OpenKey::new([7; 32]);
        assert_eq!(open.open(&mut first[2..]).unwrap(), b"first");
        assert_eq!(open.open(&mut second[2..]).unwrap(), b"second");

        let mut replayed = sealed(&mut SealKey::new([7; 32]), b"first");
        assert_eq!(
            open.open(&mut replayed[2..]),
            Err(RecordError::Authentication)
        );
    }

    #[test]
    fn refuses_a_record_shorter_than_its_tag() {
        for length in 0..TAG_LEN {
            let mut short = vec![0; length];
            assert_eq!(
                OpenKey::new([7; 32]).open(&mut short),
                Err(RecordError::Authentication)
            );
        }
    }

    #[test]
    fn carries_the_longest_plaintext_and_nothing_longer() {
        let mut seal = SealKey::new([7; 32]);
        let mut longest = sealed(&mut seal, &vec![1; MAX_PLAINTEXT]);
        assert_eq!(longest.len(), MAX_RECORD);
        let mut open = OpenKey::new([7; 32]);
        assert_eq!(open.open(&mut longest[2..]).unwrap().len(), MAX_PLAINTEXT);

        let mut over = vec![0; MAX_RECORD + 1];
        assert_eq!(seal.seal(&mut over), Err(RecordError::TooLarge));
    }
}
