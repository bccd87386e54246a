//! Records against the example of RFC 8448, and what a peer may not send.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::engine::record::{OpenKey, SealKey};
use crate::wire::hex;

const SUITES: [Suite; 3] = [Suite::Aes128, Suite::Aes256, Suite::ChaCha20];

fn secret(suite: Suite) -> Secret {
    Secret::new(&vec![7; suite.secret_len()]).unwrap()
}

fn pair(suite: Suite) -> (TlsSeal, OpenKey) {
    let secret = secret(suite);
    (TlsSeal::new(suite, &secret), OpenKey::tls(suite, &secret))
}

fn record(seal: &mut TlsSeal, kind: u8, plaintext: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    seal.append(kind, plaintext, &mut record).unwrap();
    record
}

/// What an opener makes of a whole record.
fn told(open: &mut OpenKey, record: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut record = record.to_vec();
    assert_eq!(announced(&record), Ok(Some(record.len())));
    let mut opener = open.expand()?;
    Ok(match opener.open(&mut record[HEADER_LEN..])? {
        Opened::Plaintext(plaintext) => plaintext.to_vec(),
        Opened::Nothing => b"nothing".to_vec(),
        Opened::Renew => b"renew".to_vec(),
        Opened::Closed => b"closed".to_vec(),
    })
}

/// As if each had been used as often as a key may be.
impl SealKey {
    pub(crate) fn wear(&mut self) {
        if let super::super::Seal::Tls(keys) = &mut self.0 {
            keys.direction.counter = RENEW_AT;
        }
    }
}

impl OpenKey {
    pub(crate) fn wear(&mut self) {
        if let super::super::Open::Tls(keys) = &mut self.0 {
            keys.direction.counter = RENEW_AT;
        }
    }
}

fn update(request: u8) -> [u8; 5] {
    [message::KEY_UPDATE, 0, 0, 1, request]
}

/// RFC 8448 §3, "Simple 1-RTT Handshake": the first data of the client.
#[test]
fn the_example_of_the_specification() {
    let secret = hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
    let expected = hex(
        "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42
         f9 14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a
         62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4",
    );
    let data: Vec<u8> = (0..50).collect();
    let secret = Secret::new(&secret).unwrap();
    let mut seal = TlsSeal::new(Suite::Aes128, &secret);
    assert_eq!(record(&mut seal, content::DATA, &data), expected);
    let mut open = OpenKey::tls(Suite::Aes128, &secret);
    assert_eq!(told(&mut open, &expected), Ok(data));
}

#[test]
fn every_suite_opens_what_it_sealed_in_order_only() {
    for suite in SUITES {
        let (mut seal, mut open) = pair(suite);
        let first = record(&mut seal, content::DATA, b"first");
        let second = record(&mut seal, content::DATA, b"second");
        assert_eq!(told(&mut open, &first), Ok(b"first".to_vec()));
        assert_eq!(told(&mut open, &second), Ok(b"second".to_vec()));
        assert_eq!(told(&mut open, &second), Err(RecordError::Authentication));
    }
}

#[test]
fn both_sides_renew_their_keys() {
    for suite in SUITES {
        let (mut seal, mut open) = pair(suite);
        for request in [0, 1] {
            let news = record(&mut seal, content::HANDSHAKE, &update(request));
            let expected = if request == 1 { "renew" } else { "nothing" };
            assert_eq!(told(&mut open, &news).unwrap(), expected.as_bytes());
            let old = record(&mut seal, content::DATA, b"still the old key");
            seal.direction = seal.direction.next();
            let new = record(&mut seal, content::DATA, b"new key");
            assert_eq!(told(&mut open, &new).unwrap(), b"new key");
            assert!(told(&mut open, &old).is_err());
            open = OpenKey::tls(suite, &seal.direction.secret);
            seal = TlsSeal::new(suite, &seal.direction.secret);
        }
        // The same from the other side, in our own words.
        let mut ours = SealKey::tls(suite, &secret(suite));
        let mut theirs = OpenKey::tls(suite, &secret(suite));
        let mut news = Vec::new();
        ours.renew(&mut news).unwrap();
        assert_eq!(told(&mut theirs, &news).unwrap(), b"nothing");
        let mut frame = [&[0; 5][..], b"sealed", &[0; 17]].concat();
        ours.seal(&mut frame).unwrap();
        assert_eq!(told(&mut theirs, &frame).unwrap(), b"sealed");
    }
}

#[test]
fn a_key_that_has_sealed_enough_is_worn() {
    let mut seal = SealKey::tls(Suite::Aes128, &secret(Suite::Aes128));
    assert!(!seal.is_worn());
    seal.wear();
    assert!(seal.is_worn());
    seal.renew(&mut Vec::new()).unwrap();
    assert!(!seal.is_worn());
}

#[test]
fn padding_and_tickets_are_ignored() {
    let (mut seal, mut open) = pair(Suite::Aes128);
    let mut padded = b"data".to_vec();
    padded.push(content::DATA);
    padded.extend([0; 100]);
    // The type in front of the padding is the record's.
    let padded = record(&mut seal, 0, &padded);
    assert_eq!(told(&mut open, &padded).unwrap(), b"data");
    let ticket = record(&mut seal, content::HANDSHAKE, &[4, 0, 0, 2, 1, 1]);
    assert_eq!(told(&mut open, &ticket).unwrap(), b"nothing");
}

#[test]
fn alerts_end_the_connection() {
    let (mut seal, mut open) = pair(Suite::Aes128);
    let reason = record(&mut seal, content::ALERT, &[2, 40]);
    assert_eq!(told(&mut open, &reason), Err(RecordError::Alert(40)));
    let mut bye = Vec::new();
    seal.close(Alert::CLOSE_NOTIFY, &mut bye).unwrap();
    assert_eq!(told(&mut open, &bye).unwrap(), b"closed");
}

#[test]
fn each_error_has_its_alert() {
    for (error, alert) in [
        (RecordError::Authentication, Some([2, 20])),
        (RecordError::TooLarge, Some([2, 22])),
        (RecordError::Unexpected, Some([2, 10])),
        (RecordError::Flood, Some([2, 10])),
        (RecordError::Exhausted, Some([2, 80])),
        (RecordError::Alert(20), None),
    ] {
        assert_eq!(error.alert().map(Alert::message), alert, "{error}");
    }
    assert_eq!(Alert::CLOSE_NOTIFY.message(), [1, 0]);
}

/// What it means has been over since the handshake.
#[test]
fn a_cancelled_handshake_is_ignored_as_often_as_other_records_without_data() {
    let (mut seal, mut open) = pair(Suite::Aes128);
    for _ in 0..IDLE_RECORDS_MAX {
        let cancelled = record(&mut seal, content::ALERT, &[1, 90]);
        assert_eq!(told(&mut open, &cancelled).unwrap(), b"nothing");
    }
    let cancelled = record(&mut seal, content::ALERT, &[1, 90]);
    assert_eq!(told(&mut open, &cancelled), Err(RecordError::Flood));
}

#[test]
fn a_secret_is_as_long_as_some_suite_has_them() {
    for length in 0..100 {
        let is_one = length == 32 || length == 48;
        assert_eq!(Secret::new(&vec![1; length]).is_some(), is_one, "{length}");
    }
}

#[test]
fn what_has_no_place_here_is_refused() {
    for (kind, plaintext) in [
        (content::HANDSHAKE, &[1, 0, 0, 0][..]),
        (content::HANDSHAKE, &[24, 0, 0, 1, 2]),
        // Something behind an update would have the old key.
        (content::HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
        (content::HANDSHAKE, &[]),
        (content::ALERT, &[1]),
        (20, &[1]),
        (99, b"what"),
        // Nothing but padding.
        (0, &[0, 0]),
    ] {
        let (mut seal, mut open) = pair(Suite::Aes128);
        let record = record(&mut seal, kind, plaintext);
        assert_eq!(told(&mut open, &record), Err(RecordError::Unexpected));
    }
    for (header, error) in [
        ([22, 3, 3, 0, 20], RecordError::Unexpected),
        ([20, 3, 3, 0, 1], RecordError::Unexpected),
        ([23, 3, 3, 0x41, 1], RecordError::TooLarge),
    ] {
        assert_eq!(announced(&header), Err(error));
    }
    assert_eq!(announced(&[23, 3, 3, 0]), Ok(None));
    for length in 0..=TAG_LEN {
        let mut open = pair(Suite::ChaCha20).1;
        assert!(open.open(&mut vec![0; length]).is_err());
    }
}

/// Updates cost us more than they cost the peer.
#[test]
fn a_peer_that_only_renews_is_cut_off() {
    let (mut seal, mut open) = pair(Suite::Aes128);
    for _ in 0..IDLE_RECORDS_MAX {
        let news = record(&mut seal, content::HANDSHAKE, &update(1));
        seal.direction = seal.direction.next();
        assert_eq!(told(&mut open, &news).unwrap(), b"renew");
    }
    let news = record(&mut seal, content::HANDSHAKE, &update(1));
    assert_eq!(told(&mut open, &news), Err(RecordError::Flood));
}

#[test]
fn data_earns_updates() {
    let (mut seal, mut open) = pair(Suite::Aes128);
    for _ in 0..3 * IDLE_RECORDS_MAX {
        for _ in 0..IDLE_RECORD_PER / 16_384 {
            let data = record(&mut seal, content::DATA, &[1; 16_384]);
            told(&mut open, &data).unwrap();
        }
        let empty = record(&mut seal, content::DATA, b"");
        assert_eq!(told(&mut open, &empty).unwrap(), b"nothing");
    }
}
