//! Private keys as other implementations write them.
//!
//! Accepted: the `PrivateKey` protobuf (go, rust, js and our own file), its
//! base64 text, and a kubo configuration (JSON with `Identity.PrivKey`). Each
//! ends in the protobuf form that everybody reads. Input is bounded by the
//! caller; nothing here allocates more than a few times its length.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libp2p_identity::{Keypair, PeerId};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use super::KeyFault;

/// `KeyType` of the protobuf (peer id spec, "Keys").
const TYPE_RSA: u64 = 0;
/// As above.
const TYPE_ED25519: u64 = 1;
/// Lengths of RSA modulus that both ends accept: peers from 2048 bits on, and
/// our signing library up to 4096, in primes of whole 512 bits.
const RSA_BITS: [usize; 3] = [2048, 3072, 4096];

/// A private key and its encoding for our key file.
pub(super) struct Key {
    pub(super) keypair: Keypair,
    pub(super) encoded: Zeroizing<Vec<u8>>,
}

/// Reads a key in any of the accepted forms.
pub(super) fn decode(bytes: &[u8]) -> Result<Key, KeyFault> {
    let Some(text) = std::str::from_utf8(bytes).ok().map(str::trim) else {
        return decode_protobuf(bytes);
    };
    if text.starts_with('{') {
        return decode_kubo(text);
    }
    if text.starts_with("-----BEGIN") {
        let reason = "PEM is not a form in which libp2p nodes keep their key";
        return Err(KeyFault::NotAKey(reason.to_owned()));
    }
    // The protobuf begins with byte 8, a control character, so it is no base64.
    match decode_base64(text) {
        Some(protobuf) => decode_protobuf(&protobuf),
        None => decode_protobuf(bytes),
    }
}

/// Reads the `PrivateKey` protobuf, with the Ed25519 form of 96 bytes that old
/// nodes wrote.
pub(super) fn decode_protobuf(bytes: &[u8]) -> Result<Key, KeyFault> {
    if bytes.is_empty() {
        return Err(KeyFault::NotAKey("it is empty".to_owned()));
    }
    let message = PrivateKey::decode(bytes)
        .ok_or_else(|| KeyFault::NotAKey("it is no PrivateKey protobuf".to_owned()))?;
    let material = match message.kind {
        TYPE_ED25519 => ed25519_material(message.material)?,
        TYPE_RSA => {
            check_rsa_bits(message.material)?;
            message.material
        }
        _ => message.material,
    };
    let canonical = PrivateKey {
        kind: message.kind,
        material,
    }
    .encode();
    let keypair = Keypair::from_protobuf_encoding(&canonical)
        .map_err(|error| KeyFault::NotAKey(one_line(&error)))?;
    Ok(Key {
        keypair,
        encoded: canonical,
    })
}

/// The part of a kubo configuration that matters here.
#[derive(Deserialize)]
struct KuboConfig {
    #[serde(rename = "Identity")]
    identity: KuboIdentity,
}

#[derive(Deserialize)]
struct KuboIdentity {
    #[serde(rename = "PeerID")]
    peer_id: Option<String>,
    #[serde(rename = "PrivKey")]
    private_key: String,
}

impl Drop for KuboIdentity {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

fn decode_kubo(text: &str) -> Result<Key, KeyFault> {
    // serde's message could repeat a piece of the input.
    let config: KuboConfig = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        KeyFault::NotAKey(format!(
            "expected JSON with Identity.PrivKey, line {line} column {column} is something else"
        ))
    })?;
    let protobuf = decode_base64(config.identity.private_key.trim())
        .ok_or_else(|| KeyFault::NotAKey("Identity.PrivKey is not base64".to_owned()))?;
    let key = decode_protobuf(&protobuf)?;
    let actual = key.keypair.public().to_peer_id();
    match &config.identity.peer_id {
        Some(noted) if noted.parse::<PeerId>().ok() != Some(actual) => Err(KeyFault::OtherPeer {
            noted: noted.chars().take(128).collect(),
            actual: actual.to_base58(),
        }),
        _ => Ok(key),
    }
}

/// base64 with padding, as kubo and go write it, across lines or not.
fn decode_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let joined: Zeroizing<Vec<u8>> = Zeroizing::new(
        text.bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect(),
    );
    STANDARD.decode(&*joined).ok().map(Zeroizing::new)
}

/// Seed and public key. The old form repeats the public key, and must repeat
/// the same one.
fn ed25519_material(material: &[u8]) -> Result<&[u8], KeyFault> {
    let not_a_key = |reason: &str| Err(KeyFault::NotAKey(reason.to_owned()));
    match material.len() {
        64 => Ok(material),
        96 if material[32..64] == material[64..] => Ok(&material[..64]),
        96 => not_a_key("the two copies of its ed25519 public key differ"),
        _ => not_a_key("its ed25519 key is neither 64 nor 96 bytes long"),
    }
}

/// The library's own refusal would not say what is wrong with the length.
fn check_rsa_bits(pkcs1: &[u8]) -> Result<(), KeyFault> {
    let bits = rsa_bits(pkcs1)
        .ok_or_else(|| KeyFault::NotAKey("its rsa key is not PKCS#1 DER".to_owned()))?;
    if RSA_BITS.contains(&bits) {
        Ok(())
    } else {
        Err(KeyFault::RsaBits { bits })
    }
}

/// Length of the modulus of `RSAPrivateKey ::= SEQUENCE { version, modulus, …`
/// (RFC 8017, A.1.2).
fn rsa_bits(pkcs1: &[u8]) -> Option<usize> {
    let (sequence, _) = der_value(pkcs1, 0x30)?;
    let (_version, rest) = der_value(sequence, 0x02)?;
    let (modulus, _) = der_value(rest, 0x02)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    let significant = &modulus[first..];
    let leading = usize::try_from(significant[0].leading_zeros()).ok()?;
    Some(significant.len() * 8 - leading)
}

/// The content of the DER value with this tag, and what follows it.
fn der_value(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = input.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // No key is longer than two bytes can say.
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// `PrivateKey { Type = 1 enum; Data = 2 bytes }`.
struct PrivateKey<'a> {
    kind: u64,
    material: &'a [u8],
}

impl<'a> PrivateKey<'a> {
    /// Both fields in either order and nothing else, as every writer has it.
    fn decode(mut input: &'a [u8]) -> Option<Self> {
        let (mut kind, mut material) = (None, None);
        while let Some((&tag, rest)) = input.split_first() {
            let (number, rest) = varint(rest)?;
            input = rest;
            match tag {
                0x08 => kind = Some(number),
                0x12 => {
                    let length = usize::try_from(number).ok()?;
                    let (value, rest) = input.split_at_checked(length)?;
                    material = Some(value);
                    input = rest;
                }
                _ => return None,
            }
        }
        Some(Self {
            kind: kind?,
            material: material?,
        })
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(self.material.len() + 16));
        out.push(0x08);
        put_varint(self.kind, &mut out);
        out.push(0x12);
        put_varint(self.material.len() as u64, &mut out);
        out.extend_from_slice(self.material);
        out
    }
}

/// A varint of at most three bytes, which is more than any key needs.
fn varint(input: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, &byte) in input.iter().enumerate().take(3) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, &input[index + 1..]));
        }
    }
    None
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while let Some(low @ 0x80..) = Some(value) {
        out.push((low & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// A library's error with its causes, without line breaks.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.replace('\n', " ")
}
