//! Private networks (libp2p's "pnet"): a key that all members hold, and the
//! cipher that it makes for each direction of a connection.
//!
//! Spec: libp2p specs, "Private Networks" 1.0.0; the key file and fingerprint
//! as go-libp2p has them. Each side sends [`NONCE_LEN`] random bytes and then
//! everything under XSalsa20. It keeps strangers out and authenticates nobody:
//! that is left to what runs inside. Keys are wiped when they are dropped and
//! never shown; a fingerprint is.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use salsa20::cipher::{KeyIvInit as _, StreamCipher as _};
use salsa20::{Salsa20, XSalsa20};
use shake::{ExtendableOutput as _, Shake128, Update as _, XofReader as _};
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Bytes that each side sends in front, once.
pub const NONCE_LEN: usize = 24;
/// Longest key file: two headers and a key in base16, with room for line ends.
pub const FILE_MAX: usize = 256;

const FILE_KIND: &[u8] = b"/key/swarm/psk/1.0.0/";
/// Under this nonce the key says nothing but who it is.
const FINGERPRINT_NONCE: &[u8; 8] = b"finprint";

/// The key of a private network.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; KEY_LEN]>);

/// Why a file holds no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not such a file at all.
    #[error("does not begin with the line /key/swarm/psk/1.0.0/")]
    Kind,
    /// Nobody writes keys like this.
    #[error("names no encoding in its second line: expected /base16/, /base64/ or /bin/")]
    Encoding,
    /// What is there is no key in the encoding it names.
    #[error("holds no key of 32 bytes in {0} behind its second line")]
    Key(&'static str),
}

/// The cipher of one direction has carried all that it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key stream of the private network is spent")]
pub struct Spent;

/// One direction of a connection: what is sent, or what is received.
pub struct Cipher(XSalsa20);

impl PrivateKey {
    /// This key.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a key file (`swarm.key`). Lines may end as on Windows, as for
    /// go-libp2p; other than there, nothing but line ends may follow the key,
    /// so that one that is too long is not taken for another.
    ///
    /// # Errors
    /// [`KeyFileError`] says what is wrong, and nothing of the key.
    pub fn from_file(text: &[u8]) -> Result<Self, KeyFileError> {
        let (kind, rest) = line(text).ok_or(KeyFileError::Kind)?;
        if kind != FILE_KIND {
            return Err(KeyFileError::Kind);
        }
        let (encoding, rest) = line(rest).ok_or(KeyFileError::Encoding)?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        match encoding {
            b"/base16/" => base16(rest.trim_ascii(), &mut key),
            b"/base64/" => {
                // The decoder asks for room for what the length alone allows.
                let mut bytes = Zeroizing::new([0; KEY_LEN + 2]);
                let decoded = STANDARD.decode_slice(rest.trim_ascii(), &mut *bytes);
                (decoded == Ok(KEY_LEN))
                    .then(|| key.copy_from_slice(&bytes[..KEY_LEN]))
                    .ok_or(KeyFileError::Key("base64"))
            }
            b"/bin/" => match rest.split_at_checked(KEY_LEN) {
                Some((bytes, behind)) if behind.trim_ascii().is_empty() => {
                    key.copy_from_slice(bytes);
                    Ok(())
                }
                _ => Err(KeyFileError::Key("binary")),
            },
            _ => Err(KeyFileError::Encoding),
        }?;
        Ok(Self(key))
    }

    /// What members of one network can compare, as go-libp2p shows it: tells
    /// nothing of the key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut stream = [0; 64];
        Salsa20::new((&*self.0).into(), FINGERPRINT_NONCE.into()).apply_keystream(&mut stream);
        let mut hash = Shake128::default();
        hash.update(&stream);
        let mut fingerprint = [0; 16];
        hash.finalize_xof().read(&mut fingerprint);
        fingerprint
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The cipher of the direction that begins with `nonce`.
    #[must_use]
    pub fn cipher(&self, nonce: &[u8; NONCE_LEN]) -> Cipher {
        Cipher(XSalsa20::new((&*self.0).into(), nonce.into()))
    }
}

/// The fingerprint alone.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.fingerprint())
    }
}

impl Cipher {
    /// Encrypts or decrypts in place what comes next.
    ///
    /// # Errors
    /// [`Spent`] after 2^70 bytes.
    #[inline]
    pub fn apply(&mut self, bytes: &mut [u8]) -> Result<(), Spent> {
        self.0.try_apply_keystream(bytes).map_err(|_| Spent)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

/// A line without its end, and what is behind it.
fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some((text[..end].trim_ascii_end(), &text[end + 1..]))
}

fn base16(digits: &[u8], key: &mut [u8; KEY_LEN]) -> Result<(), KeyFileError> {
    const FAULT: KeyFileError = KeyFileError::Key("base16");
    let (pairs, odd) = digits.as_chunks::<2>();
    if pairs.len() != KEY_LEN || !odd.is_empty() {
        return Err(FAULT);
    }
    for (byte, pair) in key.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        let value = high.zip(low).map(|(high, low)| high << 4 | low);
        *byte = value
            .and_then(|value| u8::try_from(value).ok())
            .ok_or(FAULT)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::wire::hex;
    use proptest::prelude::*;

    const KEY: &str = "6189c5cf0b87fb800c1a9feeda73c6ab5e998db48fb9e6a978575c770ceef683";

    fn key() -> PrivateKey {
        PrivateKey::new(hex(KEY).try_into().unwrap())
    }

    #[test]
    fn the_fingerprint_is_that_of_other_implementations() {
        assert_eq!(key().fingerprint(), "45fc986bbc9388a11d939df26f730f0c");
        assert!(!format!("{:?}", key()).contains("6189c5"));
    }

    #[test]
    fn key_files_are_read_in_every_encoding_and_with_either_line_end() {
        let bytes = hex(KEY);
        let base64 = STANDARD.encode(&bytes);
        for (encoding, body) in [
            ("/base16/", KEY.as_bytes()),
            ("/base16/", KEY.to_uppercase().as_bytes()),
            ("/base64/", base64.as_bytes()),
            ("/bin/", &bytes),
        ] {
            for end in ["\n", "\r\n"] {
                for last in ["", end] {
                    let head = format!("/key/swarm/psk/1.0.0/{end}{encoding}{end}");
                    let file = [head.as_bytes(), body, last.as_bytes()].concat();
                    assert!(file.len() <= FILE_MAX);
                    assert_eq!(PrivateKey::from_file(&file), Ok(key()));
                }
            }
        }
    }

    #[test]
    fn what_is_no_key_file_is_told_without_showing_it() {
        let file = |encoding: &str, body: &str| {
            let text = format!("/key/swarm/psk/1.0.0/\n{encoding}\n{body}\n");
            PrivateKey::from_file(text.as_bytes()).unwrap_err()
        };
        for text in ["", KEY, "/key/swarm/psk/2.0.0/\n/base16/\n"] {
            let error = PrivateKey::from_file(text.as_bytes()).unwrap_err();
            assert_eq!(error, KeyFileError::Kind);
        }
        assert_eq!(file("/base32/", KEY), KeyFileError::Encoding);
        let long = format!("{KEY}00");
        for body in ["", &KEY[1..], &KEY[2..], &long, &KEY.replace('6', "g")] {
            assert_eq!(file("/base16/", body), KeyFileError::Key("base16"));
        }
        assert_eq!(file("/base64/", KEY), KeyFileError::Key("base64"));
        assert_eq!(file("/bin/", "short"), KeyFileError::Key("binary"));
    }

    proptest! {
        /// However a stream is cut, the other side reads what was written.
        #[test]
        fn a_stream_survives_any_cut(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec(1usize..80, 1..20),
        ) {
            let nonce = [5; NONCE_LEN];
            let mut sent = bytes.clone();
            key().cipher(&nonce).apply(&mut sent).unwrap();
            let (mut receiving, mut rest) = (key().cipher(&nonce), &mut sent[..]);
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at_mut((*cut).min(rest.len()));
                receiving.apply(part).unwrap();
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&sent, &bytes);
        }
    }
}
