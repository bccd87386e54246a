//! Captured envelopes of go, forgeries and round trips.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;

use super::*;
use crate::wire::hex;

/// Signs the captured peer record.
const PEER_KEY: &str = "0801124085fbe72b6064289004a531f967898df5319ee02992fdd84021fa5052434bf6ee\
    11bba3ed1721948cefb4e50b0a0bb5cad8a6b52dc7b1a40f4f6652105c91e2c4";
const PEER: &str = "12D3KooWB1b3qZxWJanuhtseF3DmPggHCtG36KZ9ixkqHtdKH9fh";

/// Signs the captured voucher.
const RELAY_KEY: &str = "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d\
    1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e";
const RELAY: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";

/// Made by go: ten addresses, sequence number 1598453001624231000.
const PEER_RECORD: &str = "0a240801122011bba3ed1721948cefb4e50b0a0bb5cad8a6b52dc7b1a40f4f6652105c91e2c4\
    120203011aaa01\
    0a2600240801122011bba3ed1721948cefb4e50b0a0bb5cad8a6b52dc7b1a40f4f6652105c91e2c4\
    10d8b8e0bf9391b69716\
    1a0a0a080401020304060000 1a0a0a080401020304060001 1a0a0a080401020304060002\
    1a0a0a080401020304060003 1a0a0a080401020304060004 1a0a0a080401020304060005\
    1a0a0a080401020304060006 1a0a0a080401020304060007 1a0a0a080401020304060008\
    1a0a0a080401020304060009\
    2a40b197f76b9f288af2b467fe666f774476287049b424b73975c8860efb02372d02\
    6a799584541ad72f2654346485bca3ece36462b7d1b1391c8d276dc4ab8bca0b";

const VOUCHER: &str = "0a260024080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e\
    122600240801122011bba3ed1721948cefb4e50b0a0bb5cad8a6b52dc7b1a40f4f6652105c91e2c4\
    1880e2cfaa06";
const VOUCHER_SIGNATURE: &str = "1caaf9e01dfdc643356d3506bbb1ce0802783596a24016ea278de856b01e09d9\
    476966457f7c2c3b2d59624e9c6bdb2f3c8f45400f28b650fefe46e03990b90a";

fn keypair(hexadecimal: &str) -> Keypair {
    Keypair::from_protobuf_encoding(&hex(hexadecimal)).unwrap()
}

fn peer_id(base58: &str) -> Vec<u8> {
    base58.parse::<PeerId>().unwrap().to_bytes()
}

fn sealed(key: &Keypair, domain: &str, payload_type: &[u8], payload: &[u8]) -> Vec<u8> {
    let public_key = key.public().encode_protobuf();
    try_seal(domain, payload_type, payload, &public_key, |bytes| {
        key.sign(bytes)
    })
    .unwrap()
}

fn decoded(bytes: &[u8]) -> Envelope<'_> {
    let (envelope, used) = Envelope::decode(bytes).unwrap();
    assert_eq!(used, bytes.len());
    envelope
}

#[test]
fn keys_of_the_reference_have_their_peer_ids() {
    for (key, peer) in [
        (
            "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
            RELAY,
        ),
        (
            "08021221037777e994e452c21604f91de093ce415f5432f701dd8cd1a7a6fea0e630bfca99",
            "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY",
        ),
    ] {
        let key = PublicKey::try_decode_protobuf(&hex(key)).unwrap();
        assert_eq!(key.to_peer_id().to_base58(), peer);
    }
}

/// KEY-4: the id comes from the canonical form, whatever order was received.
#[test]
fn a_key_with_swapped_fields_has_the_same_peer_id() {
    let canonical = keypair(RELAY_KEY);
    let mut swapped = Vec::new();
    let raw = hex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e");
    put_bytes(2, &raw, &mut swapped);
    crate::wire::protobuf::put_varint(1, 1, &mut swapped);
    let sealed = try_seal("domain", b"type", b"payload", &swapped, |bytes| {
        canonical.sign(bytes)
    })
    .unwrap();
    let signer = decoded(&sealed).verify("domain").unwrap();
    assert_eq!(signer.to_peer_id().to_base58(), RELAY);
}

#[test]
fn the_record_made_by_go_verifies_and_reads() {
    let bytes = hex(PEER_RECORD);
    assert_eq!(bytes.len(), 281);
    let (record, signer) = PeerRecord::open(&decoded(&bytes)).unwrap();
    assert_eq!(signer.to_peer_id().to_base58(), PEER);
    assert_eq!(record.peer_id, peer_id(PEER));
    assert_eq!(record.seq, 1_598_453_001_624_231_000);
    assert_eq!(record.addresses.len(), 10);
    assert_eq!(record.addresses[9], hex("0401020304060009"));
}

#[test]
fn the_record_made_by_go_is_made_alike() {
    let bytes = hex(PEER_RECORD);
    let (record, _) = PeerRecord::open(&decoded(&bytes)).unwrap();
    let mut payload = Vec::new();
    record.encode(&mut payload);
    let key = keypair(PEER_KEY);
    assert_eq!(
        sealed(&key, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, &payload),
        bytes
    );
}

#[test]
fn a_signature_holds_in_its_own_domain_only() {
    let bytes = hex(PEER_RECORD);
    for domain in [LEGACY_PEER_RECORD_DOMAIN, VOUCHER_DOMAIN, ""] {
        assert_eq!(
            decoded(&bytes).verify(domain),
            Err(EnvelopeError::Signature)
        );
    }
}

#[test]
fn the_legacy_format_is_read_too() {
    let key = keypair(PEER_KEY);
    let peer = peer_id(PEER);
    let record = PeerRecord {
        peer_id: &peer,
        seq: 7,
        addresses: vec![b"not an address", b"another"],
    };
    let mut payload = Vec::new();
    record.encode(&mut payload);
    let legacy = sealed(
        &key,
        LEGACY_PEER_RECORD_DOMAIN,
        LEGACY_PEER_RECORD_TYPE,
        &payload,
    );
    assert_eq!(PeerRecord::open(&decoded(&legacy)).unwrap().0, record);
    // The pairs do not mix.
    let mixed = sealed(&key, LEGACY_PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, &payload);
    assert_eq!(
        PeerRecord::open(&decoded(&mixed)),
        Err(EnvelopeError::Signature)
    );
}

#[test]
fn any_flipped_byte_is_noticed_before_the_payload_is_read() {
    let bytes = hex(PEER_RECORD);
    for at in 0..bytes.len() {
        let mut forged = bytes.clone();
        forged[at] ^= 1;
        let opened = Envelope::decode(&forged)
            .map_err(EnvelopeError::from)
            .and_then(|(envelope, _)| PeerRecord::open(&envelope));
        assert!(opened.is_err(), "byte {at}");
    }
    let mut garbled = decoded(&bytes);
    garbled.payload = b"\xff\xff";
    assert_eq!(
        PeerRecord::open(&garbled),
        Err(EnvelopeError::Signature),
        "the signature is checked before the payload is read"
    );
}

#[test]
fn a_record_about_another_peer_is_refused() {
    let other = peer_id(RELAY);
    let mut payload = Vec::new();
    PeerRecord {
        peer_id: &other,
        ..PeerRecord::default()
    }
    .encode(&mut payload);
    let forged = sealed(
        &keypair(PEER_KEY),
        PEER_RECORD_DOMAIN,
        PEER_RECORD_TYPE,
        &payload,
    );
    assert_eq!(
        PeerRecord::open(&decoded(&forged)),
        Err(EnvelopeError::Signer)
    );
}

#[test]
fn another_kind_of_record_and_a_broken_one_are_refused() {
    let key = keypair(PEER_KEY);
    for payload_type in [VOUCHER_TYPE, b"", &[0x81, 0x06]] {
        let other = sealed(&key, PEER_RECORD_DOMAIN, payload_type, b"");
        assert_eq!(
            PeerRecord::open(&decoded(&other)),
            Err(EnvelopeError::PayloadType)
        );
    }
    let broken = sealed(&key, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, b"\x0a\x05");
    assert!(matches!(
        PeerRecord::open(&decoded(&broken)),
        Err(EnvelopeError::Decode(DecodeError::Malformed(_)))
    ));
}

#[test]
fn a_record_keeps_no_more_addresses_than_its_bound() {
    let record = PeerRecord {
        addresses: vec![b"a"; MAX_RECORD_ADDRS + 100],
        ..PeerRecord::default()
    };
    let mut payload = Vec::new();
    record.encode(&mut payload);
    let (read, _) = PeerRecord::decode(&payload).unwrap();
    assert_eq!(read.addresses.len(), MAX_RECORD_ADDRS);
}

#[test]
fn the_reference_voucher_is_made_and_read() {
    let (relay, peer) = (peer_id(RELAY), peer_id(PEER));
    let voucher = Voucher {
        relay: &relay,
        peer: &peer,
        expiration: 1_700_000_000,
    };
    let mut payload = Vec::new();
    voucher.encode(&mut payload);
    assert_eq!(payload, hex(VOUCHER));

    let key = keypair(RELAY_KEY);
    let public_key = key.public().encode_protobuf();
    let sealed = seal(
        VOUCHER_DOMAIN,
        VOUCHER_TYPE,
        &payload,
        &public_key,
        |bytes| key.sign(bytes).unwrap(),
    );
    let envelope = decoded(&sealed);
    assert_eq!(envelope.signature, hex(VOUCHER_SIGNATURE));
    assert_eq!(envelope.payload_type, VOUCHER_TYPE);
    assert_eq!(envelope.verify(VOUCHER_DOMAIN), Ok(key.public()));
    assert_eq!(
        Voucher::decode(envelope.payload),
        Ok((voucher, payload.len()))
    );
}

#[test]
fn absent_fields_verify_under_no_key() {
    assert_eq!(decoded(b"").verify("x"), Err(EnvelopeError::PublicKey));
    let key = keypair(PEER_KEY).public().encode_protobuf();
    let unsigned = Envelope {
        public_key: &key,
        ..Envelope::default()
    };
    assert_eq!(unsigned.verify("x"), Err(EnvelopeError::Signature));
}

#[test]
fn broken_bodies_are_malformed() {
    for (body, why) in [
        ("0801", "key as integer"),
        ("1001", "type as integer"),
        ("1801", "payload as integer"),
        ("2801", "signature as integer"),
        ("0a05", "cut short"),
        ("0b", "group"),
    ] {
        let body = hex(body);
        assert!(
            matches!(Envelope::decode(&body), Err(DecodeError::Malformed(_))),
            "{why}"
        );
    }
    assert!(Voucher::decode(&hex("1a00")).is_err());
    assert!(PeerRecord::decode(&hex("1a020801")).is_err());
}

#[test]
fn the_removed_fourth_field_is_skipped() {
    let bytes = [hex("220178"), hex(PEER_RECORD)].concat();
    assert!(PeerRecord::open(&decoded(&bytes)).is_ok());
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        parts in prop::collection::vec(any::<Vec<u8>>(), 4),
        expiration in any::<u64>(),
    ) {
        let envelope = Envelope {
            public_key: &parts[0],
            payload_type: &parts[1],
            payload: &parts[2],
            signature: &parts[3],
        };
        let mut bytes = Vec::new();
        envelope.encode(&mut bytes);
        prop_assert_eq!(decoded(&bytes), envelope);

        let voucher = Voucher { relay: &parts[0], peer: &parts[1], expiration };
        bytes.clear();
        voucher.encode(&mut bytes);
        prop_assert_eq!(Voucher::decode(&bytes), Ok((voucher, bytes.len())));

        let record = PeerRecord {
            peer_id: &parts[0],
            seq: expiration,
            addresses: vec![&parts[1], &parts[2]],
        };
        bytes.clear();
        record.encode(&mut bytes);
        prop_assert_eq!(PeerRecord::decode(&bytes), Ok((record, bytes.len())));
    }

    #[test]
    fn no_prefix_of_a_record_verifies(end in 0..281_usize) {
        let bytes = hex(PEER_RECORD);
        if let Ok((envelope, _)) = Envelope::decode(&bytes[..end]) {
            prop_assert!(PeerRecord::open(&envelope).is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in any::<Vec<u8>>()) {
        let _ = Envelope::decode(&body).map(|(envelope, _)| PeerRecord::open(&envelope));
        let _ = Voucher::decode(&body);
        let _ = PeerRecord::decode(&body);
    }

    #[test]
    fn parts_cannot_be_shifted_into_one_another(
        a in prop::collection::vec(any::<u8>(), 0..4),
        b in prop::collection::vec(any::<u8>(), 0..4),
        split in 0..4_usize,
    ) {
        let all = [a.clone(), b.clone()].concat();
        let at = split.min(all.len());
        prop_assume!(at != a.len());
        prop_assert_ne!(signed_bytes("", &a, &b), signed_bytes("", &all[..at], &all[at..]));
    }
}
