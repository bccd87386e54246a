//! TLS 1.3 records (RFC 8446 §5) with keys that a handshake has left behind,
//! key updates of either side included (§4.6.3, §7.2).
//!
//! A direction is its traffic secret, the key and the nonce made of it: 150
//! bytes, where a prepared AES-GCM context takes 600. Bounds how many records
//! without data a peer may send ([`IDLE_RECORDS_MAX`]) and how much one key
//! seals ([`RENEW_AT`]). Handshakes are left to `engine/tls.rs`.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};

use super::secret::{Secret, Suite};
use super::{Alert, Framing, Opened, RecordError, TAG_LEN};

/// Bytes of type, version and length in front of a record.
const HEADER_LEN: usize = Framing::TLS.header();

/// Longest body of a record (RFC 8446 §5.2): 2^14 and 256 for expansion.
const BODY_MAX: usize = 16_384 + 256;

/// Records without data that a peer may send beyond one for each
/// [`IDLE_RECORD_PER`] bytes. Honest peers send two tickets, or a key update in
/// 2^24 records. go gives up after 16 in a row, OpenSSL after 32.
const IDLE_RECORDS_MAX: u8 = 16;

/// Bytes of data that earn a peer another record without data.
const IDLE_RECORD_PER: u32 = 1 << 20;

/// Records that one key seals before we take another. AES-GCM may be trusted
/// with 2^24.5 full ones (RFC 8446 §5.5).
const RENEW_AT: u64 = 1 << 24;

/// Content types of records.
mod content {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const DATA: u8 = 23;
}

/// Types of handshake messages that may come behind the handshake.
mod message {
    pub(super) const NEW_SESSION_TICKET: u8 = 4;
    pub(super) const KEY_UPDATE: u8 = 24;
}

/// One direction: its secret, and what is made of it.
struct Direction {
    suite: Suite,
    secret: Secret,
    key: [u8; 32],
    iv: [u8; 12],
    counter: u64,
}

impl Direction {
    fn new(suite: Suite, secret: Secret) -> Self {
        let (mut key, mut iv) = ([0; 32], [0; 12]);
        secret.expand_label(suite, b"key", &mut key[..suite.key_len()]);
        secret.expand_label(suite, b"iv", &mut iv);
        Self {
            suite,
            secret,
            key,
            iv,
            counter: 0,
        }
    }

    /// What follows this one when a side updates its key.
    fn next(&self) -> Self {
        Self::new(self.suite, self.secret.next(self.suite, b"traffic upd"))
    }

    fn expand(&self) -> Result<LessSafeKey, RecordError> {
        self.suite
            .prepare(&self.key)
            .ok_or(RecordError::Authentication)
    }

    /// RFC 8446 §5.3: the counter, big-endian, over the end of the vector.
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        let current = self.counter;
        self.counter = current.checked_add(1).ok_or(RecordError::Exhausted)?;
        let mut nonce = self.iv;
        for (byte, counted) in nonce[4..].iter_mut().zip(current.to_be_bytes()) {
            *byte ^= counted;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// The record at the front of `bytes`, which has to look like all records do
/// once keys are there.
#[inline]
pub(super) fn announced(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    if kind != content::DATA {
        return Err(RecordError::Unexpected);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > BODY_MAX {
        return Err(RecordError::TooLarge);
    }
    Ok(Some(HEADER_LEN + length))
}

/// The header of a record with a body of that length; authenticated, too.
fn header(body: usize) -> Result<[u8; HEADER_LEN], RecordError> {
    if body > BODY_MAX {
        return Err(RecordError::TooLarge);
    }
    let [high, low] = u16::try_from(body)
        .map_err(|_| RecordError::TooLarge)?
        .to_be_bytes();
    Ok([content::DATA, 3, 3, high, low])
}

/// The peer's direction.
pub(super) struct TlsOpen {
    direction: Direction,
    /// Records without data that the peer may still send.
    idle_left: u8,
    /// Bytes of data on the way to one more.
    earning: u32,
}

impl TlsOpen {
    pub(super) fn new(suite: Suite, secret: &Secret) -> Self {
        Self {
            direction: Direction::new(suite, *secret),
            idle_left: IDLE_RECORDS_MAX,
            earning: 0,
        }
    }

    fn earn(&mut self, bytes: usize) {
        self.earning = self
            .earning
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.earning >= IDLE_RECORD_PER {
            self.earning = 0;
            self.idle_left = IDLE_RECORDS_MAX.min(self.idle_left + 1);
        }
    }

    fn spend(&mut self) -> Result<(), RecordError> {
        self.idle_left = self.idle_left.checked_sub(1).ok_or(RecordError::Flood)?;
        Ok(())
    }
}

/// A [`TlsOpen`] at work.
pub(super) struct TlsOpener<'k> {
    aead: LessSafeKey,
    keys: &'k mut TlsOpen,
}

impl<'k> TlsOpener<'k> {
    pub(super) fn new(keys: &'k mut TlsOpen) -> Result<Self, RecordError> {
        let aead = keys.direction.expand()?;
        Ok(Self { aead, keys })
    }

    #[inline]
    pub(super) fn open<'a>(&mut self, body: &'a mut [u8]) -> Result<Opened<'a>, RecordError> {
        if body.len() <= TAG_LEN {
            return Err(RecordError::Authentication);
        }
        let aad = Aad::from(header(body.len())?);
        let nonce = self.keys.direction.nonce()?;
        let inner = self
            .aead
            .open_in_place(nonce, aad, body)
            .map_err(|_| RecordError::Authentication)?;
        // The last byte that is not padding is the type of what it follows.
        let end = inner.iter().rposition(|byte| *byte != 0);
        let (plaintext, kind) = inner.split_at_mut(end.ok_or(RecordError::Unexpected)?);
        match kind[0] {
            content::DATA if plaintext.is_empty() => {
                self.keys.spend()?;
                Ok(Opened::Nothing)
            }
            content::DATA => {
                self.keys.earn(plaintext.len());
                Ok(Opened::Plaintext(plaintext))
            }
            content::HANDSHAKE => self.message(plaintext),
            content::ALERT => match *plaintext {
                // The level says nothing that the reason does not.
                [_, reason] => self.alert(Alert(reason)),
                _ => Err(RecordError::Unexpected),
            },
            _ => Err(RecordError::Unexpected),
        }
    }

    fn alert<'a>(&mut self, alert: Alert) -> Result<Opened<'a>, RecordError> {
        match alert {
            Alert::CLOSE_NOTIFY => Ok(Opened::Closed),
            Alert::USER_CANCELED => self.keys.spend().map(|()| Opened::Nothing),
            Alert(reason) => Err(RecordError::Alert(reason)),
        }
    }

    /// A key update makes up a record by itself, since records behind it have
    /// another key. Tickets are for clients that come back; we do not.
    fn message<'a>(&mut self, message: &[u8]) -> Result<Opened<'a>, RecordError> {
        self.keys.spend()?;
        match *message {
            [message::KEY_UPDATE, 0, 0, 1, request @ (0 | 1)] => {
                self.keys.direction = self.keys.direction.next();
                self.aead = self.keys.direction.expand()?;
                Ok(if request == 1 {
                    Opened::Renew
                } else {
                    Opened::Nothing
                })
            }
            [message::NEW_SESSION_TICKET, ..] => Ok(Opened::Nothing),
            _ => Err(RecordError::Unexpected),
        }
    }
}

/// Our direction.
pub(super) struct TlsSeal {
    direction: Direction,
}

impl TlsSeal {
    pub(super) fn new(suite: Suite, secret: &Secret) -> Self {
        Self {
            direction: Direction::new(suite, *secret),
        }
    }

    pub(super) fn renew(&mut self, output: &mut Vec<u8>) -> Result<(), RecordError> {
        // Never a request: the peer renews when it sees fit.
        self.append(
            content::HANDSHAKE,
            &[message::KEY_UPDATE, 0, 0, 1, 0],
            output,
        )?;
        self.direction = self.direction.next();
        Ok(())
    }

    pub(super) fn close(&mut self, alert: Alert, output: &mut Vec<u8>) -> Result<(), RecordError> {
        self.append(content::ALERT, &alert.message(), output)
    }

    pub(super) fn is_worn(&self) -> bool {
        self.direction.counter >= RENEW_AT
    }

    fn append(
        &mut self,
        kind: u8,
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let start = output.len();
        output.extend_from_slice(&[0; HEADER_LEN]);
        output.extend_from_slice(plaintext);
        output.extend_from_slice(&[0; Framing::TLS.trailer()]);
        TlsSealer::new(self)?.seal_as(kind, &mut output[start..])
    }
}

/// A [`TlsSeal`] at work.
pub(super) struct TlsSealer<'k> {
    aead: LessSafeKey,
    keys: &'k mut TlsSeal,
}

impl<'k> TlsSealer<'k> {
    pub(super) fn new(keys: &'k mut TlsSeal) -> Result<Self, RecordError> {
        let aead = keys.direction.expand()?;
        Ok(Self { aead, keys })
    }

    #[inline]
    pub(super) fn seal(&mut self, frame: &mut [u8]) -> Result<(), RecordError> {
        self.seal_as(content::DATA, frame)
    }

    fn seal_as(&mut self, kind: u8, frame: &mut [u8]) -> Result<(), RecordError> {
        if frame.len() < HEADER_LEN + Framing::TLS.trailer()
            || frame.len() > Framing::TLS.record_max()
        {
            return Err(RecordError::TooLarge);
        }
        let header = header(frame.len() - HEADER_LEN)?;
        let nonce = self.keys.direction.nonce()?;
        frame[..HEADER_LEN].copy_from_slice(&header);
        let end = frame.len() - TAG_LEN;
        frame[end - 1] = kind;
        let (inner, room) = frame[HEADER_LEN..].split_at_mut(end - HEADER_LEN);
        let tag = self
            .aead
            .seal_in_place_separate_tag(nonce, Aad::from(header), inner)
            .map_err(|_| RecordError::TooLarge)?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
