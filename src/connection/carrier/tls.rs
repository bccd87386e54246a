//! TLS 1.3 as a layer, around WebSocket: records opened and sealed in place by
//! the same record layer that connections have.
//!
//! Bounds what is kept to one incomplete record. The handshake is over when a
//! layer is made; once it has closed it sends nothing more.

use crate::connection::pool;
use crate::engine::record::{Alert, OpenKey, Opened, RecordError, SealKey};

use super::layer::{Asides, Decoded};

/// Room for the records that carry no bytes: a new key, and the end.
const OWN_MAX: usize = 128;

/// The receiving side.
pub struct RecordDecoder {
    open: OpenKey,
    /// The beginning of a record whose end has not arrived.
    partial: Vec<u8>,
    /// The peer has said that nothing more comes.
    ended: bool,
}

/// The sending side.
pub struct RecordEncoder {
    seal: SealKey,
    closed: bool,
}

impl RecordDecoder {
    /// Opens what comes behind a handshake.
    #[must_use]
    pub const fn new(open: OpenKey) -> Self {
        Self {
            open,
            partial: Vec::new(),
            ended: false,
        }
    }

    pub(super) fn kept(&self) -> usize {
        self.partial.len()
    }

    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        asides: &mut Asides,
    ) -> Result<Decoded, RecordError> {
        let decoded = self.open(bytes, asides);
        decoded.inspect_err(|error| asides.alert = error.alert())
    }

    fn open(&mut self, bytes: &mut [u8], asides: &mut Asides) -> Result<Decoded, RecordError> {
        let kept = self.partial.len();
        bytes[..kept].copy_from_slice(&self.partial);
        pool::give(std::mem::take(&mut self.partial));
        let framing = self.open.framing();
        let mut opener = self.open.expand()?;
        let (mut at, mut length) = (0, 0);
        while !self.ended
            && let Some(record) = framing.announced(&bytes[at..])?
        {
            let body = at + framing.header();
            let Some(record) = bytes.get_mut(body..at + record) else {
                break;
            };
            at = body + record.len();
            match opener.open(record)? {
                Opened::Plaintext(plaintext) => {
                    let end = body + plaintext.len();
                    bytes.copy_within(body..end, length);
                    length += end - body;
                }
                Opened::Nothing => {}
                Opened::Renew => asides.renew = true,
                Opened::Closed => self.ended = true,
            }
        }
        if at < bytes.len() && !self.ended {
            let mut partial = pool::take(bytes.len() - at);
            partial.extend_from_slice(&bytes[at..]);
            self.partial = partial;
        }
        Ok(Decoded {
            length,
            ended: self.ended,
        })
    }
}

/// A connection may end in the middle of a record.
impl Drop for RecordDecoder {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.partial));
    }
}

impl RecordEncoder {
    /// Seals what goes out behind a handshake.
    #[must_use]
    pub const fn new(seal: SealKey) -> Self {
        let closed = false;
        Self { seal, closed }
    }

    pub(super) fn encode(
        &mut self,
        bytes: &mut Vec<u8>,
        asides: &Asides,
    ) -> Result<(), RecordError> {
        if self.closed {
            bytes.clear();
            return Ok(());
        }
        let framing = self.seal.framing();
        let records = bytes.len().div_ceil(framing.plaintext_max());
        let needed = bytes.len() + records * (framing.header() + framing.trailer()) + OWN_MAX;
        let mut sealed = pool::take(needed);
        let outcome = self.append(bytes, asides, &mut sealed);
        pool::give(std::mem::replace(bytes, sealed));
        outcome
    }

    fn append(
        &mut self,
        bytes: &[u8],
        asides: &Asides,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        if asides.renew || self.seal.is_worn() {
            self.seal.renew(out)?;
        }
        let framing = self.seal.framing();
        if !bytes.is_empty() {
            let mut sealer = self.seal.expand()?;
            for part in bytes.chunks(framing.plaintext_max()) {
                let start = out.len();
                out.resize(start + framing.header(), 0);
                out.extend_from_slice(part);
                out.resize(out.len() + framing.trailer(), 0);
                sealer.seal(&mut out[start..])?;
            }
        }
        let bye = asides.close.map(|_| Alert::CLOSE_NOTIFY);
        if let Some(alert) = asides.alert.or(bye) {
            self.closed = true;
            self.seal.close(alert, out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::engine::record::{Secret, Suite};

    fn pair() -> (RecordEncoder, RecordDecoder) {
        let secret = Secret::new(&[4; 32]).unwrap();
        (
            RecordEncoder::new(SealKey::tls(Suite::Aes128, &secret)),
            RecordDecoder::new(OpenKey::tls(Suite::Aes128, &secret)),
        )
    }

    fn encoded(encoder: &mut RecordEncoder, bytes: &[u8], asides: &Asides) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        encoder.encode(&mut bytes, asides).unwrap();
        bytes
    }

    /// What comes out of `bytes`, read in pieces, and what is to be said to it.
    fn decoded(
        decoder: &mut RecordDecoder,
        bytes: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, bool, Asides), (RecordError, Asides)> {
        let (mut out, mut ended, mut asides) = (Vec::new(), false, Asides::default());
        for part in bytes.chunks(piece) {
            let mut buffer = vec![0; decoder.kept()];
            buffer.extend_from_slice(part);
            match decoder.decode(&mut buffer, &mut asides) {
                Ok(decoded) => {
                    out.extend_from_slice(&buffer[..decoded.length]);
                    ended = decoded.ended;
                }
                Err(error) => return Err((error, asides)),
            }
        }
        Ok((out, ended, asides))
    }

    #[test]
    fn what_is_sealed_comes_out_however_it_is_cut() {
        let nothing = Asides::default();
        for length in [0, 1, 16_384, 16_385, 100_000] {
            for piece in [1, 1000, usize::MAX] {
                let (mut encoder, mut decoder) = pair();
                let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
                let sealed = encoded(&mut encoder, &bytes, &nothing);
                assert_eq!(sealed.is_empty(), bytes.is_empty());
                let (out, ended, said) = decoded(&mut decoder, &sealed, piece).unwrap();
                assert!(out == bytes, "{length} in pieces of {piece}");
                assert_eq!((ended, said, decoder.kept()), (false, Asides::default(), 0));
            }
        }
    }

    #[test]
    fn a_key_that_is_asked_for_or_worn_is_replaced() {
        let (mut encoder, mut decoder) = pair();
        let renew = Asides {
            renew: true,
            ..Asides::default()
        };
        let sealed = encoded(&mut encoder, b"asked for", &renew);
        assert_eq!(decoded(&mut decoder, &sealed, 7).unwrap().0, b"asked for");
        encoder.seal.wear();
        decoder.open.wear();
        for text in [&b"worn"[..], b"new"] {
            let sealed = encoded(&mut encoder, text, &Asides::default());
            assert_eq!(decoded(&mut decoder, &sealed, 7).unwrap().0, text);
            assert!(!encoder.seal.is_worn());
        }
    }

    #[test]
    fn behind_the_end_nothing_is_sent_or_heard() {
        let (mut encoder, mut decoder) = pair();
        let close = Asides {
            close: Some(1000),
            ..Asides::default()
        };
        let mut sealed = encoded(&mut encoder, b"last", &close);
        assert_eq!(encoded(&mut encoder, b"more", &close), b"");
        sealed.extend_from_slice(b"\x17\x03\x03\xff\xffwhatever");
        for piece in [1, usize::MAX] {
            let (out, ended, _) = decoded(&mut decoder, &sealed, piece).unwrap();
            assert_eq!((&out[..], ended, decoder.kept()), (&b"last"[..], true, 0));
            decoder = pair().1;
        }
    }

    #[test]
    fn a_breach_is_told_to_the_peer_in_place_of_a_goodbye() {
        for (record, error) in [
            (
                &[&[23, 3, 3, 0, 20][..], &[0; 20]].concat()[..],
                RecordError::Authentication,
            ),
            (&[23, 3, 3, 0x41, 1], RecordError::TooLarge),
            (&[22, 3, 3, 0, 1, 0], RecordError::Unexpected),
        ] {
            let (mut encoder, mut decoder) = pair();
            let (found, mut asides) = decoded(&mut decoder, record, usize::MAX).unwrap_err();
            assert_eq!((found, asides.alert), (error, error.alert()));
            asides.close = Some(1000);
            let sealed = encoded(&mut encoder, b"", &asides);
            let (heard, _) = decoded(&mut pair().1, &sealed, usize::MAX).unwrap_err();
            let alert = error.alert().map(|alert| format!("{alert:?}"));
            let RecordError::Alert(code) = heard else {
                panic!("{heard}")
            };
            assert_eq!(Some(format!("Alert({code})")), alert);
        }
    }
}
