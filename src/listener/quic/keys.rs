//! What the secret of the state directory is used for: resets, tokens and ids,
//! each with a key of its own.
//!
//! Made here and not by quinn, which takes its keys from one library or another
//! depending on what else is built.

use aws_lc_rs::{aead, hkdf, hmac};
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};

/// Length of each key.
const LENGTH: usize = 32;

/// Keys of one server.
pub(super) struct Keys(hkdf::Prk);

impl Keys {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"waystation quic").extract(secret))
    }

    /// Signs stateless resets.
    pub(super) fn reset(&self) -> ResetKey {
        ResetKey(hmac::Key::new(
            hmac::HMAC_SHA256,
            &expand(&self.0, b"reset"),
        ))
    }

    /// Seals tokens.
    pub(super) fn token(&self) -> TokenKey {
        let key = expand(&self.0, b"token");
        TokenKey(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &key))
    }

    /// Marks connection ids.
    pub(super) fn ids(&self) -> [u8; 16] {
        let key = expand(&self.0, b"ids");
        let (half, _) = key.split_at(16);
        half.try_into().expect("16 bytes of 32")
    }
}

/// Key material for one purpose.
fn expand(from: &hkdf::Prk, purpose: &[u8]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    from.expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(&mut bytes))
        .expect("one block of the hash");
    bytes
}

pub(super) struct ResetKey(hmac::Key);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(hmac::sign(&self.0, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        LENGTH
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| CryptoError)
    }
}

pub(super) struct TokenKey(hkdf::Prk);

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, random: &[u8]) -> Box<dyn AeadKey> {
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &expand(&self.0, random));
        Box::new(OneToken(aead::LessSafeKey::new(
            key.expect("a key of the cipher's length"),
        )))
    }
}

/// Seals a single token: its key is made of the token's own random bytes.
struct OneToken(aead::LessSafeKey);

impl AeadKey for OneToken {
    fn seal(&self, data: &mut Vec<u8>, additional: &[u8]) -> Result<(), CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
        self.0
            .seal_in_place_append_tag(nonce, aead::Aad::from(additional), data)
            .map_err(|_| CryptoError)
    }

    fn open<'a>(&self, data: &'a mut [u8], additional: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
        self.0
            .open_in_place(nonce, aead::Aad::from(additional), data)
            .map_err(|_| CryptoError)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn what_one_start_has_sealed_and_signed_the_next_one_knows() {
        let (before, after) = (Keys::new(&[3; 32]), Keys::new(&[3; 32]));
        let mut token = b"address".to_vec();
        before
            .token()
            .aead_from_hkdf(&[1; 32])
            .seal(&mut token, b"")
            .unwrap();
        let key = after.token().aead_from_hkdf(&[1; 32]);
        assert_eq!(key.open(&mut token, b"").unwrap(), b"address");
        let mut signature = [0; 32];
        before.reset().sign(b"id", &mut signature);
        after.reset().verify(b"id", &signature).unwrap();
        assert_eq!(before.ids(), after.ids());
    }

    #[test]
    fn another_secret_opens_nothing() {
        let (ours, theirs) = (Keys::new(&[3; 32]), Keys::new(&[4; 32]));
        let mut token = b"address".to_vec();
        let key = theirs.token().aead_from_hkdf(&[1; 32]);
        key.seal(&mut token, b"").unwrap();
        let key = ours.token().aead_from_hkdf(&[1; 32]);
        assert!(key.open(&mut token, b"").is_err());
        assert_ne!(ours.ids(), theirs.ids());
    }
}
