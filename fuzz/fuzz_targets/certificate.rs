//! A certificate means here what it means to those who verify it: whatever all
//! of us take has one key and one identity. The input is tried as it is, and as
//! what a signature covers: signed with the key that the seeds name, so that a
//! verifier looks at all of it.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use libfuzzer_sys::fuzz_target;
use libp2p_identity::PublicKey;
use rustls::pki_types::CertificateDer;
use waystation::wire::certificate::Certificate;

/// Of nobody; in PKCS #8.
const PKCS8: &[u8] = &hex::<138>(
    b"308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420c1b3049f9ee0\
      abdcc563808329c32533f327ea11d992ae0601226d9e90e5f79da14403420004bfe17b2d9db49b5d8252\
      e6b277f09f5d19aebd6e7d63c0ab39e6cbba2931b6344d53736595a243e5b5a07a33d82e5c797f95a7f7\
      5d6ffeb22e3ba2ff4fa9d8db",
);

static KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, PKCS8).expect("a key")
});

/// ecdsa-with-SHA256
const ALGORITHM: &[u8] = &[48, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

const fn hex<const N: usize>(digits: &[u8]) -> [u8; N] {
    const fn digit(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            _ => digit - b'a' + 10,
        }
    }
    let (mut bytes, mut at) = ([0; N], 0);
    while at < N {
        bytes[at] = digit(digits[2 * at]) << 4 | digit(digits[2 * at + 1]);
        at += 1;
    }
    bytes
}

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("the fuzzer's inputs are short");
    let [high, low] = length.to_be_bytes();
    let header: &[u8] = match length {
        0..=0x7f => &[tag, low],
        0x80..=0xff => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [header, content].concat()
}

fn signed(body: &[u8]) -> Vec<u8> {
    let signature = KEY.sign(&SystemRandom::new(), body).expect("a signature");
    let bits = value(BIT_STRING, &[&[0], signature.as_ref()].concat());
    value(SEQUENCE, &[body, ALGORITHM, &bits].concat())
}

fn compare(der: &[u8]) {
    let Ok(ours) = Certificate::decode(der) else {
        return;
    };
    if let Ok((_, theirs)) = x509_parser::parse_x509_certificate(der) {
        assert_eq!(theirs.public_key().raw, ours.key_info);
    }
    if let Ok(verified) = libp2p_tls::certificate::parse(&CertificateDer::from(der)) {
        let key = PublicKey::try_decode_protobuf(ours.identity_key).expect("a verified key");
        assert_eq!(key.to_peer_id(), verified.peer_id());
    }
}

fuzz_target!(|input: &[u8]| {
    compare(input);
    if input.len() < usize::from(u16::MAX) / 2 {
        compare(&signed(input));
    }
});
