//! The record layer of a connection after its handshake: framing plus one
//! AEAD key for each direction, sealing and opening in place.
//!
//! Two framings: Noise transport messages (a big-endian u16 length, ciphertext,
//! a 16-byte tag) here, TLS 1.3 records in `record/tls.rs`. Keys are kept as
//! their bytes and expanded for a pass over many records: a prepared context
//! would cost every idle connection more than half a KiB for each direction.

mod alert;
mod secret;
mod tls;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

pub use self::alert::Alert;
pub use self::secret::{Secret, Suite};
use self::tls::{TlsOpen, TlsOpener, TlsSeal, TlsSealer};

/// Bytes of framing in front of a Noise record.
pub const HEADER_LEN: usize = 2;
/// Bytes of authentication behind a record's plaintext.
pub const TAG_LEN: usize = 16;
/// Most plaintext that fits one Noise record: 65535 less the tag.
pub const MAX_PLAINTEXT: usize = 65_519;
/// Longest record on the wire in any framing, with all of it.
pub const MAX_RECORD: usize = HEADER_LEN + MAX_PLAINTEXT + TAG_LEN;

/// How a record lies on the wire around its plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    header: u8,
    trailer: u8,
    plaintext_max: u16,
}

impl Framing {
    /// Noise transport messages.
    pub const NOISE: Self = Self {
        header: 2,
        trailer: 16,
        plaintext_max: 65_519,
    };
    /// TLS 1.3 records: a header of five bytes, and behind the plaintext its
    /// type and the tag.
    pub const TLS: Self = Self {
        header: 5,
        trailer: 17,
        plaintext_max: 16_384,
    };

    /// Bytes in front of the plaintext.
    #[must_use]
    #[inline]
    pub const fn header(self) -> usize {
        self.header as usize
    }

    /// Bytes behind the plaintext.
    #[must_use]
    #[inline]
    pub const fn trailer(self) -> usize {
        self.trailer as usize
    }

    /// Most plaintext of one record that we send.
    #[must_use]
    #[inline]
    pub const fn plaintext_max(self) -> usize {
        self.plaintext_max as usize
    }

    /// Longest record that we send.
    #[must_use]
    pub const fn record_max(self) -> usize {
        self.header() + self.plaintext_max() + self.trailer()
    }

    /// Length of the record at the front of `bytes`, framing included, as soon
    /// as its header is there.
    ///
    /// # Errors
    /// [`RecordError`] if no record of a connection begins like this.
    #[inline]
    pub fn announced(self, bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        if self.header == Self::TLS.header {
            return tls::announced(bytes);
        }
        let length = bytes.first_chunk::<HEADER_LEN>();
        Ok(length.map(|length| HEADER_LEN + usize::from(u16::from_be_bytes(*length))))
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::NOISE
    }
}

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
    /// A record of a kind that has no place behind a handshake.
    #[error("unexpected record")]
    Unexpected,
    /// So many records without data of the peer's that it can only mean harm.
    #[error("too many records without data")]
    Flood,
    /// The peer ends the connection and says why, in TLS's words.
    #[error("alert {0}")]
    Alert(u8),
}

/// What was in a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Bytes of the muxer.
    Plaintext(&'a mut [u8]),
    /// Something between the two record layers, seen to already.
    Nothing,
    /// The peer has new keys and asks for new ones of ours
    /// ([`SealKey::renew`]).
    Renew,
    /// The peer sends nothing more.
    Closed,
}

/// Opens the records of one direction, in order.
pub struct OpenKey(Open);

enum Open {
    Noise { key: [u8; 32], counter: u64 },
    // Boxed, so that it costs nobody who speaks Noise.
    Tls(Box<TlsOpen>),
}

impl OpenKey {
    /// A Noise key that has opened nothing yet.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Open::Noise { key, counter: 0 })
    }

    /// A TLS 1.3 key that has opened nothing yet: what the peer's application
    /// traffic secret makes of itself.
    #[must_use]
    pub fn tls(suite: Suite, secret: &Secret) -> Self {
        Self(Open::Tls(Box::new(TlsOpen::new(suite, secret))))
    }

    /// How its records are framed.
    #[must_use]
    #[inline]
    pub fn framing(&self) -> Framing {
        match self.0 {
            Open::Noise { .. } => Framing::NOISE,
            Open::Tls(_) => Framing::TLS,
        }
    }

    /// The key ready for work, for a pass over as many records as there are.
    ///
    /// # Errors
    /// Never in practice: keys have the length of their cipher.
    #[inline]
    pub fn expand(&mut self) -> Result<Opener<'_>, RecordError> {
        Ok(Opener(match &mut self.0 {
            Open::Noise { key, counter } => OpenerOf::Noise(expand(key)?, counter),
            Open::Tls(keys) => OpenerOf::Tls(TlsOpener::new(keys)?),
        }))
    }

    /// Opens one record that has to be plaintext, as [`Opener::open`] does.
    ///
    /// # Errors
    /// [`RecordError`] if the record is not authentic, holds anything else, or
    /// the counter is spent.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<&'a mut [u8], RecordError> {
        match self.expand()?.open(record)? {
            Opened::Plaintext(plaintext) => Ok(plaintext),
            Opened::Nothing | Opened::Renew | Opened::Closed => Err(RecordError::Unexpected),
        }
    }
}

/// An [`OpenKey`] at work.
pub struct Opener<'k>(OpenerOf<'k>);

#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack, for one pass"
)]
enum OpenerOf<'k> {
    Noise(LessSafeKey, &'k mut u64),
    Tls(TlsOpener<'k>),
}

impl Opener<'_> {
    /// Opens one record (the body, without its header) in place.
    ///
    /// # Errors
    /// [`RecordError`] if the record is not authentic, has no place here, or
    /// the counter is spent.
    #[inline]
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, RecordError> {
        match &mut self.0 {
            OpenerOf::Noise(key, counter) => {
                let nonce = next_nonce(counter)?;
                key.open_in_place(nonce, Aad::empty(), record)
                    .map(Opened::Plaintext)
                    .map_err(|_| RecordError::Authentication)
            }
            OpenerOf::Tls(opener) => opener.open(record),
        }
    }
}

/// Seals the records of one direction, in order.
pub struct SealKey(Seal);

enum Seal {
    Noise { key: [u8; 32], counter: u64 },
    Tls(Box<TlsSeal>),
}

impl SealKey {
    /// A Noise key that has sealed nothing yet.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Seal::Noise { key, counter: 0 })
    }

    /// A TLS 1.3 key that has sealed nothing yet: what our application traffic
    /// secret makes of itself.
    #[must_use]
    pub fn tls(suite: Suite, secret: &Secret) -> Self {
        Self(Seal::Tls(Box::new(TlsSeal::new(suite, secret))))
    }

    /// How its records are framed.
    #[must_use]
    #[inline]
    pub fn framing(&self) -> Framing {
        match self.0 {
            Seal::Noise { .. } => Framing::NOISE,
            Seal::Tls(_) => Framing::TLS,
        }
    }

    /// The key ready for work, for as many records as there are.
    ///
    /// # Errors
    /// Never in practice: keys have the length of their cipher.
    #[inline]
    pub fn expand(&mut self) -> Result<Sealer<'_>, RecordError> {
        Ok(Sealer(match &mut self.0 {
            Seal::Noise { key, counter } => SealerOf::Noise(expand(key)?, counter),
            Seal::Tls(keys) => SealerOf::Tls(TlsSealer::new(keys)?),
        }))
    }

    /// Seals one frame in place, as [`Sealer::seal`] does.
    ///
    /// # Errors
    /// [`RecordError`] if the frame cannot be a record or the counter is spent.
    pub fn seal(&mut self, frame: &mut [u8]) -> Result<(), RecordError> {
        self.expand()?.seal(frame)
    }

    /// Appends the record that tells the peer of a new key, and takes that key:
    /// the answer to [`Opened::Renew`]. Noise has no such thing.
    ///
    /// # Errors
    /// [`RecordError`] if the counter is spent.
    pub fn renew(&mut self, output: &mut Vec<u8>) -> Result<(), RecordError> {
        match &mut self.0 {
            Seal::Noise { .. } => Ok(()),
            Seal::Tls(keys) => keys.renew(output),
        }
    }

    /// Appends the record behind which nothing follows, and which says why.
    /// Noise has none.
    ///
    /// # Errors
    /// [`RecordError`] if the counter is spent.
    pub fn close(&mut self, alert: Alert, output: &mut Vec<u8>) -> Result<(), RecordError> {
        match &mut self.0 {
            Seal::Noise { .. } => Ok(()),
            Seal::Tls(keys) => keys.close(alert, output),
        }
    }

    /// Whether the key has sealed so much that it is time for another. Noise
    /// keys last as long as their counter.
    #[must_use]
    #[inline]
    pub fn is_worn(&self) -> bool {
        match &self.0 {
            Seal::Noise { .. } => false,
            Seal::Tls(keys) => keys.is_worn(),
        }
    }
}

/// A [`SealKey`] at work.
pub struct Sealer<'k>(SealerOf<'k>);

#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack, for one batch"
)]
enum SealerOf<'k> {
    Noise(LessSafeKey, &'k mut u64),
    Tls(TlsSealer<'k>),
}

impl Sealer<'_> {
    /// Seals one frame in place: room for the header, the plaintext, and room
    /// for what stands behind it.
    ///
    /// # Errors
    /// [`RecordError`] if the frame cannot be a record or the counter is spent.
    #[inline]
    pub fn seal(&mut self, frame: &mut [u8]) -> Result<(), RecordError> {
        match &mut self.0 {
            SealerOf::Noise(key, counter) => seal_noise(key, counter, frame),
            SealerOf::Tls(sealer) => sealer.seal(frame),
        }
    }
}

fn seal_noise(key: &LessSafeKey, counter: &mut u64, frame: &mut [u8]) -> Result<(), RecordError> {
    let body = frame
        .len()
        .checked_sub(HEADER_LEN)
        .filter(|body| *body >= TAG_LEN)
        .ok_or(RecordError::TooLarge)?;
    let length = u16::try_from(body).map_err(|_| RecordError::TooLarge)?;
    let nonce = next_nonce(counter)?;
    let (header, body) = frame.split_at_mut(HEADER_LEN);
    header.copy_from_slice(&length.to_be_bytes());
    let end = body.len() - TAG_LEN;
    let (plaintext, room) = body.split_at_mut(end);
    let tag: Tag = key
        .seal_in_place_separate_tag(nonce, Aad::empty(), plaintext)
        .map_err(|_| RecordError::TooLarge)?;
    room.copy_from_slice(tag.as_ref());
    Ok(())
}

/// ring's ChaCha20 key is its bytes, so that this copies 32 of them.
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
