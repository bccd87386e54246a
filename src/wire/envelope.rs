//! Signed envelopes (RFC 0002) and the records sealed in them: vouchers of a
//! relay and peer records (protocols.md §8, §11).
//!
//! An envelope stands inside a message that was bounded already and borrows
//! from it. The signer's key is passed in as a closure. Which signer is the
//! right one, and which sequence number is new, is left to the services.

mod peer_record;
mod voucher;

use libp2p_identity::PublicKey;

use super::protobuf::{Fields, put_bytes};
use super::{DecodeError, length_delimited};

pub use peer_record::{
    LEGACY_PEER_RECORD_DOMAIN, LEGACY_PEER_RECORD_TYPE, MAX_RECORD_ADDRS, PEER_RECORD_DOMAIN,
    PEER_RECORD_TYPE, PeerRecord,
};
pub use voucher::{VOUCHER_DOMAIN, VOUCHER_TYPE, Voucher};

/// A payload with the key that signed it. Nothing is verified by decoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `PublicKey` protobuf of the signer.
    pub public_key: &'a [u8],
    /// What kind of record the payload is.
    pub payload_type: &'a [u8],
    /// The record.
    pub payload: &'a [u8],
    /// Signature over [`signed_bytes`].
    pub signature: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads the envelope that makes up all of `input`. Absent fields are
    /// empty, which verifies under no key.
    ///
    /// # Errors
    /// `Malformed` for a broken body or a known field of the wrong wire type.
    pub fn decode(input: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let mut envelope = Self::default();
        for field in Fields::new(input) {
            let field = field?;
            match field.number {
                1 => envelope.public_key = field.value.bytes()?,
                2 => envelope.payload_type = field.value.bytes()?,
                3 => envelope.payload = field.value.bytes()?,
                5 => envelope.signature = field.value.bytes()?,
                _ => {}
            }
        }
        Ok((envelope, input.len()))
    }

    /// Checks the signature for use in `domain` and returns the signer's key.
    /// Its peer id is that of the key, never a hash of the received bytes.
    ///
    /// # Errors
    /// `PublicKey` when the key does not decode, `Signature` when it did not
    /// sign this payload, payload type and domain.
    pub fn verify(&self, domain: &str) -> Result<PublicKey, EnvelopeError> {
        let key = PublicKey::try_decode_protobuf(self.public_key)
            .map_err(|_| EnvelopeError::PublicKey)?;
        let signed = signed_bytes(domain, self.payload_type, self.payload);
        if key.verify(&signed, self.signature) {
            Ok(key)
        } else {
            Err(EnvelopeError::Signature)
        }
    }

    /// Appends the envelope to `out`, without any prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.public_key, out);
        put_bytes(2, self.payload_type, out);
        put_bytes(3, self.payload, out);
        put_bytes(5, self.signature, out);
    }
}

/// Why an envelope or the record in it is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Envelope or record does not decode.
    #[error("envelope does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// The signer's key does not decode.
    #[error("envelope's public key does not decode")]
    PublicKey,
    /// The key did not sign this.
    #[error("envelope's signature is invalid")]
    Signature,
    /// The payload is another kind of record.
    #[error("envelope holds another kind of record")]
    PayloadType,
    /// The record speaks for another peer than its signer.
    #[error("record names another peer than its signer")]
    Signer,
}

/// What a signer signs: domain, payload type and payload, each behind its
/// length.
#[must_use]
pub fn signed_bytes(domain: &str, payload_type: &[u8], payload: &[u8]) -> Vec<u8> {
    let parts = [domain.as_bytes(), payload_type, payload];
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + 3).sum());
    for part in parts {
        length_delimited::encode(part, &mut out);
    }
    out
}

/// Signs `payload` for use in `domain` and returns the encoded envelope.
/// `public_key` is the signer's `PublicKey` protobuf.
pub fn seal(
    domain: &str,
    payload_type: &[u8],
    payload: &[u8],
    public_key: &[u8],
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let Ok(sealed) = try_seal(domain, payload_type, payload, public_key, |bytes| {
        Ok::<_, std::convert::Infallible>(sign(bytes))
    });
    sealed
}

/// As [`seal`], for a signer that may fail.
///
/// # Errors
/// Whatever `sign` returns.
pub fn try_seal<E>(
    domain: &str,
    payload_type: &[u8],
    payload: &[u8],
    public_key: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let signature = sign(&signed_bytes(domain, payload_type, payload))?;
    let mut out = Vec::new();
    Envelope {
        public_key,
        payload_type,
        payload,
        signature: &signature,
    }
    .encode(&mut out);
    Ok(out)
}

#[cfg(test)]
mod tests;
