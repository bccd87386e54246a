//! The two fields of a libp2p certificate that a connection needs besides its
//! verification: the key of the certificate, and the identity key in the libp2p
//! extension (protocols.md §3).
//!
//! Reads just enough DER to find them, each value by its exact tag; a length
//! has at most two bytes, which bounds a field to 64 KiB. Proves nothing: whether the certificate is any
//! good is left to whoever verifies it first.

use super::DecodeError;

/// Longest certificate that is looked at. The largest honest one carries an
/// RSA-8192 identity (1 KiB of key, 1 KiB of signature): below 4 KiB.
pub const CERTIFICATE_MAX: usize = 8 * 1024;

/// 1.3.6.1.4.1.53594.1.1, the libp2p extension, as DER has it.
const EXTENSION_OID: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 1, 1];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const ISSUER_ID: u8 = 0x81;
const SUBJECT_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;

/// Where the fields lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// `SubjectPublicKeyInfo`, with its tag and length.
    pub key_info: &'a [u8],
    /// `PublicKey` protobuf of the identity.
    pub identity_key: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Finds both fields in a DER certificate that makes up all of `der`.
    ///
    /// # Errors
    /// `TooLarge` above [`CERTIFICATE_MAX`], `Malformed` for anything that is
    /// no certificate with the libp2p extension.
    pub fn decode(der: &'a [u8]) -> Result<Self, DecodeError> {
        if der.len() > CERTIFICATE_MAX {
            return Err(DecodeError::TooLarge {
                what: "certificate",
                announced: der.len() as u64,
                max: CERTIFICATE_MAX as u64,
            });
        }
        let mut all = Der(der);
        let mut certificate = Der(all.take(SEQUENCE)?);
        all.end()?;
        let mut body = Der(certificate.take(SEQUENCE)?);
        // Algorithm and signature.
        certificate.take(SEQUENCE)?;
        certificate.take(BIT_STRING)?;
        certificate.end()?;
        // Serial number, algorithm, issuer, validity, subject. Each has to be
        // what it is: a value read over in another way than the verifier's would
        // put other fields in the place of those that it has verified.
        body.take_if(VERSION)?;
        body.take(INTEGER)?;
        for _ in 0..4 {
            body.take(SEQUENCE)?;
        }
        let key_info = body.value(SEQUENCE)?;
        // Algorithm and key. Verifiers read as far as these, and no further.
        let mut key = Der(Der(key_info).take(SEQUENCE)?);
        key.take(SEQUENCE)?;
        key.take(BIT_STRING)?;
        key.end()?;
        body.take_if(ISSUER_ID)?;
        body.take_if(SUBJECT_ID)?;
        let mut wrapped = Der(body.take(EXTENSIONS)?);
        body.end()?;
        let mut extensions = Der(wrapped.take(SEQUENCE)?);
        wrapped.end()?;
        let mut identity_key = None;
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.take(SEQUENCE)?);
            let id = extension.take(OBJECT_ID)?;
            extension.take_if(BOOLEAN)?;
            let content = extension.take(OCTET_STRING)?;
            extension.end()?;
            if id != EXTENSION_OID {
                continue;
            }
            let mut wrapped = Der(content);
            let mut signed_key = Der(wrapped.take(SEQUENCE)?);
            wrapped.end()?;
            let key = signed_key.take(OCTET_STRING)?;
            signed_key.take(OCTET_STRING)?;
            signed_key.end()?;
            if identity_key.replace(key).is_some() {
                return Err(DecodeError::Malformed("two libp2p extensions"));
            }
        }
        let identity_key = identity_key.ok_or(DecodeError::Malformed("no libp2p extension"))?;
        Ok(Self {
            key_info,
            identity_key,
        })
    }
}

/// DER values, one behind the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value, which has to have this tag.
    fn take(&mut self, tag: u8) -> Result<&'a [u8], DecodeError> {
        let (header, value) = self.next(tag)?;
        Ok(&value[header..])
    }

    /// The next value, which has to have this tag, with its tag and length.
    fn value(&mut self, tag: u8) -> Result<&'a [u8], DecodeError> {
        Ok(self.next(tag)?.1)
    }

    fn take_if(&mut self, tag: u8) -> Result<(), DecodeError> {
        if self.0.first() == Some(&tag) {
            self.take(tag)?;
        }
        Ok(())
    }

    fn next(&mut self, tag: u8) -> Result<(usize, &'a [u8]), DecodeError> {
        if self.0.first() != Some(&tag) {
            return Err(DecodeError::Malformed("unexpected value in a certificate"));
        }
        let (header, length) = self.header()?;
        let (value, rest) = self.0.split_at(header + length);
        self.0 = rest;
        Ok((header, value))
    }

    /// That nothing is left.
    fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed(
                "more behind a certificate's last value",
            ))
        }
    }

    /// Bytes of tag and length, and of the content behind them, all of which
    /// is there.
    fn header(&self) -> Result<(usize, usize), DecodeError> {
        let (header, length) = match *self.0 {
            [_, length @ 0..=0x7f, ..] => (2, usize::from(length)),
            [_, 0x81, length, ..] => (3, usize::from(length)),
            [_, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            _ => return Err(DecodeError::Malformed("length in a certificate")),
        };
        if self.0.len() - header < length {
            return Err(DecodeError::Malformed("certificate cut short"));
        }
        Ok((header, length))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use libp2p_identity::{Keypair, PublicKey};
    use proptest::prelude::*;

    use super::*;

    fn certificate(identity: &Keypair) -> Vec<u8> {
        let (certificate, _) = libp2p_tls::certificate::generate(identity).unwrap();
        certificate.to_vec()
    }

    #[test]
    fn finds_the_identity_of_every_kind_of_key() {
        for identity in [
            Keypair::generate_ed25519(),
            Keypair::generate_secp256k1(),
            Keypair::generate_ecdsa(),
        ] {
            let der = certificate(&identity);
            let found = Certificate::decode(&der).unwrap();
            let key = PublicKey::try_decode_protobuf(found.identity_key).unwrap();
            assert_eq!(key, identity.public());
            assert_eq!(found.key_info[0], SEQUENCE);
        }
    }

    #[test]
    fn nothing_may_stand_behind_the_key() {
        let mut der = certificate(&Keypair::generate_ed25519());
        // The key of 65 bytes, and no bits of the last one unused.
        let key = [BIT_STRING, 66, 0, 4];
        let at = der.windows(4).position(|bytes| bytes == key).unwrap();
        der[at + 1] = 3;
        let refused = Certificate::decode(&der).unwrap_err();
        assert!(matches!(refused, DecodeError::Malformed(_)), "{refused}");
    }

    #[test]
    fn a_certificate_cut_short_is_none() {
        let der = certificate(&Keypair::generate_ed25519());
        for length in 0..der.len() {
            assert!(Certificate::decode(&der[..length]).is_err());
        }
    }

    #[test]
    fn a_certificate_too_long_is_not_looked_at() {
        assert!(matches!(
            Certificate::decode(&[SEQUENCE; CERTIFICATE_MAX + 1]),
            Err(DecodeError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Certificate::decode(&bytes);
        }

        #[test]
        fn any_change_is_survived(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut der = certificate(&Keypair::generate_ed25519());
            let at = at.index(der.len());
            der[at] = byte;
            let _ = Certificate::decode(&der);
        }
    }
}
