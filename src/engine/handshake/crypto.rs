//! The primitives of `Noise_XX_25519_ChaChaPoly_SHA256` for snow, from
//! aws-lc-rs, and the X25519 key pair that stands for this process.
//!
//! A static key's public half is derived once, not for each handshake, and a
//! cipher is its 32 bytes, expanded at use: snow makes three for a handshake
//! and most of them seal nothing.

use std::sync::Arc;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};

/// Bytes of an X25519 key, public or private.
pub(super) const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
/// FIPS 180-4: SHA-256 works on blocks of 64 bytes and yields 32.
const HASH_BLOCK_LEN: usize = 64;
const HASH_LEN: usize = 32;

/// The random source of the operating system failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key could be generated: the system's random source failed")]
pub struct KeyError;

/// An X25519 key pair.
pub(super) struct KeyPair {
    private: [u8; KEY_LEN],
    public: [u8; KEY_LEN],
    key: PrivateKey,
}

impl KeyPair {
    pub(super) fn generate() -> Result<Self, KeyError> {
        let mut private = [0; KEY_LEN];
        SystemRandom::new()
            .fill(&mut private)
            .map_err(|_| KeyError)?;
        Self::from_private(private)
    }

    pub(super) fn from_private(private: [u8; KEY_LEN]) -> Result<Self, KeyError> {
        let key =
            PrivateKey::from_private_key(&agreement::X25519, &private).map_err(|_| KeyError)?;
        let computed = key.compute_public_key().map_err(|_| KeyError)?;
        let public = computed.as_ref().try_into().map_err(|_| KeyError)?;
        Ok(Self {
            private,
            public,
            key,
        })
    }

    pub(super) fn private(&self) -> &[u8; KEY_LEN] {
        &self.private
    }

    pub(super) fn public(&self) -> &[u8; KEY_LEN] {
        &self.public
    }
}

/// Answers snow's questions for primitives. Knows the process's static key, so
/// that setting it is a reference and no scalar multiplication.
pub(super) struct Resolver {
    pub(super) static_key: Arc<KeyPair>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Rng(SystemRandom::new())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| -> Box<dyn Dh> {
            Box::new(X25519 {
                static_key: Arc::clone(&self.static_key),
                pair: None,
            })
        })
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| -> Box<dyn Hash> { Box::<Sha256>::default() })
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly)
            .then(|| -> Box<dyn Cipher> { Box::<ChaChaPoly>::default() })
    }
}

struct Rng(SystemRandom);

impl Random for Rng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill(dest).map_err(|_| Error::Rng)
    }
}

/// One Diffie-Hellman slot of a handshake: the static or the ephemeral key.
struct X25519 {
    static_key: Arc<KeyPair>,
    pair: Option<Arc<KeyPair>>,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    /// A key that is not one leaves the slot empty, which fails the first
    /// agreement: the trait has no way to say so here.
    fn set(&mut self, private: &[u8]) {
        self.pair = if private == self.static_key.private {
            Some(Arc::clone(&self.static_key))
        } else {
            private
                .try_into()
                .ok()
                .and_then(|private| KeyPair::from_private(private).ok())
                .map(Arc::new)
        };
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = [0; KEY_LEN];
        rng.try_fill_bytes(&mut private)?;
        let pair = KeyPair::from_private(private).map_err(|KeyError| Error::Rng)?;
        self.pair = Some(Arc::new(pair));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.pair
            .as_ref()
            .map_or(&[0; KEY_LEN], |pair| &pair.public)
    }

    fn privkey(&self) -> &[u8] {
        self.pair
            .as_ref()
            .map_or(&[0; KEY_LEN], |pair| &pair.private)
    }

    /// An all-zero secret, from a point of small order, is refused by aws-lc.
    /// snow passes its widest key buffer; the key is at its front.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let pair = self.pair.as_ref().ok_or(Error::Dh)?;
        let public = public.get(..KEY_LEN).ok_or(Error::Dh)?;
        let out = out.get_mut(..KEY_LEN).ok_or(Error::Dh)?;
        let remote = UnparsedPublicKey::new(&agreement::X25519, public);
        agreement::agree(&pair.key, remote, Error::Dh, |secret| {
            out.copy_from_slice(secret);
            Ok(())
        })
    }
}

/// SHA-256 over collected input: at most one handshake message and a hash. One
/// call costs what aws-lc's streaming context does (130 ns for two blocks,
/// measured 2026-11-20), and that would be used up by every result.
#[derive(Default)]
struct Sha256 {
    input: Vec<u8>,
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        HASH_BLOCK_LEN
    }

    fn hash_len(&self) -> usize {
        HASH_LEN
    }

    fn reset(&mut self) {
        self.input.clear();
    }

    fn input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = digest::digest(&digest::SHA256, &self.input);
        out[..HASH_LEN].copy_from_slice(hash.as_ref());
    }
}

#[derive(Default)]
struct ChaChaPoly {
    key: [u8; 32],
}

impl ChaChaPoly {
    fn expand(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.key);
        LessSafeKey::new(key.expect("the algorithm's keys have 32 bytes"))
    }

    /// Noise §12.3: four zero bytes, then the counter little-endian.
    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = *key;
    }

    /// # Panics
    /// If `out` has no room for `plaintext` and tag, as the trait demands.
    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let length = plaintext.len() + TAG_LEN;
        let (body, tag) = out[..length].split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let sealed = self
            .expand()
            .seal_in_place_separate_tag(Self::nonce(nonce), Aad::from(authtext), body)
            .expect("a handshake message is far below the cipher's limit");
        tag.copy_from_slice(sealed.as_ref());
        length
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let length = ciphertext
            .len()
            .checked_sub(TAG_LEN)
            .ok_or(Error::Decrypt)?;
        let (body, tag) = ciphertext.split_at(length);
        let out = out.get_mut(..length).ok_or(Error::Decrypt)?;
        self.expand()
            .open_separate_gather(Self::nonce(nonce), Aad::from(authtext), body, tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(length)
    }
}
