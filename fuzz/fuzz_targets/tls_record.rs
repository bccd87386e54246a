//! A TLS peer that has the keys says whatever it likes in its records: each is
//! to us what the specification says, new keys included, and what has no key is
//! never opened.
//!
//! The first byte of the input chooses a suite. Then come records: a type, how
//! many zeros follow it, how long the content is, the content.
#![no_main]

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use libfuzzer_sys::fuzz_target;
use waystation::engine::record::{Framing, OpenKey, Opened, RecordError, Secret, Suite};

/// The peer's direction, computed apart from ours.
struct Peer {
    algorithm: &'static Algorithm,
    hash: hkdf::Algorithm,
    secret: Vec<u8>,
    counter: u64,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Peer {
    fn new(choice: u8) -> (Self, Suite) {
        let (algorithm, hash, length, suite) = match choice % 3 {
            0 => (&AES_128_GCM, HKDF_SHA256, 32, Suite::Aes128),
            1 => (&AES_256_GCM, HKDF_SHA384, 48, Suite::Aes256),
            _ => (&CHACHA20_POLY1305, HKDF_SHA256, 32, Suite::ChaCha20),
        };
        let peer = Self {
            algorithm,
            hash,
            secret: vec![7; length],
            counter: 0,
        };
        (peer, suite)
    }

    fn expand(&self, label: &str, length: usize) -> Vec<u8> {
        let label = [b"tls13 ", label.as_bytes()].concat();
        let info = [&[0, length as u8, label.len() as u8], &label[..], &[0]].concat();
        let mut out = vec![0; length];
        Prk::new_less_safe(self.hash, &self.secret)
            .expand(&[&info], Length(length))
            .and_then(|okm| okm.fill(&mut out))
            .expect("short");
        out
    }

    fn seal(&mut self, mut inner: Vec<u8>) -> Vec<u8> {
        let key = self.expand("key", self.algorithm.key_len());
        let mut nonce: [u8; 12] = self.expand("iv", 12).try_into().expect("its length");
        for (byte, counted) in nonce[4..].iter_mut().zip(self.counter.to_be_bytes()) {
            *byte ^= counted;
        }
        self.counter += 1;
        let length = u16::try_from(inner.len() + 16).expect("short");
        let [high, low] = length.to_be_bytes();
        let header = [23, 3, 3, high, low];
        let key = LessSafeKey::new(UnboundKey::new(self.algorithm, &key).expect("its length"));
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner)
            .expect("short");
        [&header[..], &inner].concat()
    }

    fn renew(&mut self) {
        self.secret = self.expand("traffic upd", self.secret.len());
        self.counter = 0;
    }
}

#[derive(Debug, PartialEq)]
enum Meaning {
    Plaintext(Vec<u8>),
    Nothing,
    Renew,
    Closed,
    Fault(RecordError),
}

/// RFC 8446 §4.6, §5.4 and §6; whether what follows has a new key.
fn meaning(inner: &[u8]) -> (Meaning, bool) {
    let Some(end) = inner.iter().rposition(|byte| *byte != 0) else {
        return (Meaning::Fault(RecordError::Unexpected), false);
    };
    let (kind, content) = (inner[end], &inner[..end]);
    let renews = kind == 22 && matches!(content, [24, 0, 0, 1, 0 | 1]);
    let meaning = match (kind, content) {
        (23, []) => Meaning::Nothing,
        (23, data) => Meaning::Plaintext(data.to_vec()),
        (22, [24, 0, 0, 1, 1]) => Meaning::Renew,
        (22, [24, 0, 0, 1, 0] | [4, ..]) => Meaning::Nothing,
        (21, [_, 0]) => Meaning::Closed,
        (21, [_, 90]) => Meaning::Nothing,
        (21, [_, reason]) => Meaning::Fault(RecordError::Alert(*reason)),
        _ => Meaning::Fault(RecordError::Unexpected),
    };
    (meaning, renews)
}

fn opened(key: &mut OpenKey, record: &mut [u8]) -> Meaning {
    let framing = key.framing();
    assert_eq!(framing.announced(record), Ok(Some(record.len())));
    let mut opener = key.expand().expect("a key");
    match opener.open(&mut record[framing.header()..]) {
        Ok(Opened::Plaintext(plaintext)) => Meaning::Plaintext(plaintext.to_vec()),
        Ok(Opened::Nothing) => Meaning::Nothing,
        Ok(Opened::Renew) => Meaning::Renew,
        Ok(Opened::Closed) => Meaning::Closed,
        Err(error) => Meaning::Fault(error),
    }
}

fn converse(choice: u8, mut input: &[u8]) {
    let (mut peer, suite) = Peer::new(choice);
    let secret = Secret::new(&peer.secret).expect("its length");
    let mut key = OpenKey::tls(suite, &secret);
    while let [kind, zeros, length, rest @ ..] = input {
        let (content, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        input = rest;
        let mut inner = content.to_vec();
        inner.push(*kind);
        inner.resize(inner.len() + usize::from(*zeros), 0);
        let (expected, renews) = meaning(&inner);
        let found = opened(&mut key, &mut peer.seal(inner));
        if found == Meaning::Fault(RecordError::Flood) {
            assert!(!matches!(expected, Meaning::Plaintext(_) | Meaning::Closed));
            return;
        }
        assert_eq!(found, expected);
        if matches!(found, Meaning::Closed | Meaning::Fault(_)) {
            return;
        }
        if renews {
            peer.renew();
        }
    }
}

fn forge(choice: u8, input: &[u8]) {
    let (peer, suite) = Peer::new(choice);
    let secret = Secret::new(&peer.secret).expect("its length");
    let mut key = OpenKey::tls(suite, &secret);
    if let Ok(Some(length)) = Framing::TLS.announced(input)
        && let Some(record) = input.get(..length)
    {
        let found = opened(&mut key, &mut record.to_vec());
        assert_eq!(found, Meaning::Fault(RecordError::Authentication));
    }
}

fuzz_target!(|input: &[u8]| {
    if let Some((choice, input)) = input.split_first() {
        converse(*choice, input);
        forge(*choice, input);
    }
});
