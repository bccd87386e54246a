//! Traffic secrets of TLS 1.3, and the suites that say what is made of them
//! (RFC 8446 §7). QUIC's packets have the same (RFC 9001 §5.1).

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};

/// What records are sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    ChaCha20,
}

impl Suite {
    /// Bytes of a key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 | Self::ChaCha20 => 32,
        }
    }

    /// Bytes of a traffic secret.
    #[must_use]
    pub const fn secret_len(self) -> usize {
        match self {
            Self::Aes128 | Self::ChaCha20 => 32,
            Self::Aes256 => 48,
        }
    }

    /// The key in these bytes, prepared for use; nothing if they are too few.
    #[must_use]
    pub fn prepare(self, key: &[u8]) -> Option<LessSafeKey> {
        let algorithm = match self {
            Self::Aes128 => &AES_128_GCM,
            Self::Aes256 => &AES_256_GCM,
            Self::ChaCha20 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key.get(..self.key_len())?).ok()?;
        Some(LessSafeKey::new(key))
    }
}

/// A traffic secret: as long as the hash of its suite, 48 bytes at most.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Secret(Bytes);

type Bytes = [[u8; 16]; 3];

impl Secret {
    /// The secret in these bytes, if any suite has secrets of that length.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        const SUITES: [Suite; 3] = [Suite::Aes128, Suite::Aes256, Suite::ChaCha20];
        let known = SUITES.iter().any(|suite| suite.secret_len() == bytes.len());
        let mut secret = Self::default();
        let room = secret.0.as_flattened_mut().get_mut(..bytes.len())?;
        room.copy_from_slice(bytes);
        known.then_some(secret)
    }

    /// The secret that follows this one, by the label that the protocol has for
    /// it.
    #[must_use]
    pub fn next(&self, suite: Suite, label: &[u8]) -> Self {
        let mut next = Self::default();
        let bytes = &mut next.0.as_flattened_mut()[..suite.secret_len()];
        self.expand_label(suite, label, bytes);
        next
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
    pub fn expand_label(&self, suite: Suite, label: &[u8], out: &mut [u8]) {
        struct Length(usize);
        impl KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        const PREFIX: &[u8] = b"tls13 ";
        let hash = match suite {
            Suite::Aes128 | Suite::ChaCha20 => HKDF_SHA256,
            Suite::Aes256 => HKDF_SHA384,
        };
        let byte = |length: usize| [u8::try_from(length).expect("labels and keys are short")];
        let info = [
            &[0],
            &byte(out.len())[..],
            &byte(PREFIX.len() + label.len()),
            PREFIX,
            label,
            &[0],
        ];
        Prk::new_less_safe(hash, &self.0.as_flattened()[..suite.secret_len()])
            .expand(&info, Length(out.len()))
            .and_then(|okm| okm.fill(out))
            .expect("a key is shorter than what a hash can be expanded to");
    }
}
