//! Vectors, malformed input and round trips of the relay codec.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;
use crate::wire::hex;

const LIMIT: Limit = Limit {
    duration_seconds: 120,
    data_bytes: 131_072,
};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn hop(bytes: &[u8]) -> HopMessage<'_> {
    let (message, used) = HopMessage::decode(bytes).unwrap();
    assert_eq!(used, bytes.len());
    message
}

fn stop(bytes: &[u8]) -> StopMessage<'_> {
    let (message, used) = StopMessage::decode(bytes).unwrap();
    assert_eq!(used, bytes.len());
    message
}

#[test]
fn captured_messages_read_and_write() {
    let reserve = hex("020800");
    assert_eq!(written(encode_reserve), reserve);
    assert_eq!(hop(&reserve).kind, Some(HopKind::Reserve));

    for (bytes, status) in [
        ("05080228cc01", Status::NoReservation),
        ("05080228ca01", Status::PermissionDenied),
    ] {
        let bytes = hex(bytes);
        assert_eq!(
            written(|out| encode_hop_status(status, None, None, out)),
            bytes
        );
        let message = hop(&bytes);
        assert_eq!(message.kind, Some(HopKind::Status));
        assert_eq!(message.status, Some(status));
    }

    let granted = hex("0c080222060878108080082864");
    assert_eq!(
        written(|out| encode_hop_status(Status::Ok, None, Some(&LIMIT), out)),
        granted
    );
    assert_eq!(hop(&granted).limit, Some(LIMIT));

    let accepted = hex("0408012064");
    assert_eq!(written(|out| encode_stop_status(Status::Ok, out)), accepted);
    let message = stop(&accepted);
    assert_eq!(message.kind, Some(StopKind::Status));
    assert_eq!(message.status, Some(Status::Ok));
}

#[test]
fn a_type_of_zero_is_on_the_wire() {
    let offer = written(|out| encode_stop_connect(b"id", Some(&LIMIT), out));
    assert_eq!(offer, hex("10 0800 12040a026964 1a06087810808008"));
}

#[test]
fn a_missing_type_is_visible() {
    assert_eq!(hop(&[0]), HopMessage::default());
    assert_eq!(stop(&[0]), StopMessage::default());
    let only_peer = hex("0612040a026964");
    assert_eq!(hop(&only_peer).kind, None);
    assert_eq!(hop(&only_peer).peer, Some(Peer { id: b"id" }));
}

#[test]
fn unknown_enum_values_do_not_fail_the_message() {
    assert_eq!(hop(&hex("020807")).kind, Some(HopKind::Unknown(7)));
    assert_eq!(stop(&hex("020802")).kind, Some(StopKind::Unknown(2)));
    assert_eq!(hop(&hex("0408022863")).status, Some(Status::Other(99)));
    let negative = hex("0d080228ffffffffffffffffff01");
    assert_eq!(hop(&negative).status, Some(Status::Other(-1)));
    assert_eq!(
        written(|out| encode_hop_status(Status::Other(-1), None, None, out)),
        negative
    );
}

#[test]
fn unknown_fields_are_skipped() {
    assert_eq!(
        hop(&hex("0c0800 7a0378797a f80101 3000")).kind,
        Some(HopKind::Reserve)
    );
}

#[test]
fn addresses_of_the_target_are_skipped() {
    let message = hex("0d0801 1209 0a026964 1203010203");
    assert_eq!(hop(&message).peer, Some(Peer { id: b"id" }));
}

#[test]
fn a_peer_without_id_has_an_empty_one() {
    assert_eq!(hop(&hex("0408011200")).peer, Some(Peer { id: b"" }));
}

#[test]
fn oversize_messages_are_refused_by_their_prefix() {
    let error = |max| DecodeError::TooLarge {
        what: max,
        announced: 4097,
        max: 4096,
    };
    assert_eq!(HopMessage::decode(&hex("8120")), Err(error("hop message")));
    assert_eq!(
        StopMessage::decode(&hex("8120")),
        Err(error("stop message"))
    );
    assert_eq!(
        HopMessage::decode(&hex("8020")),
        Err(DecodeError::Incomplete)
    );
}

#[test]
fn broken_bodies_are_malformed() {
    for (bytes, why) in [
        ("0108", "type without value"),
        ("020a00", "type as bytes"),
        ("0408011001", "peer as integer"),
        ("050801120208", "peer cut short"),
        ("06080112020801", "peer id as integer"),
        ("0108", "body ends inside a field"),
        ("03080200", "field number zero"),
        ("0508022201 08", "limit cut short"),
        ("0508022a0101", "status as bytes"),
        ("82000800", "non-minimal length"),
    ] {
        assert!(
            matches!(
                HopMessage::decode(&hex(bytes)),
                Err(DecodeError::Malformed(_))
            ),
            "{why}"
        );
    }
    for (bytes, why) in [
        ("020a00", "type as bytes"),
        ("0408001001", "peer as integer"),
        ("0508001a0108", "limit cut short"),
        ("050801220100", "status as bytes"),
    ] {
        assert!(
            matches!(
                StopMessage::decode(&hex(bytes)),
                Err(DecodeError::Malformed(_))
            ),
            "{why}"
        );
    }
}

#[test]
fn bytes_behind_a_message_are_left_alone() {
    let mut glued = written(|out| encode_connect(b"target", out));
    let len = glued.len();
    glued.extend_from_slice(b"\x00\x20noise");
    let (message, used) = HopMessage::decode(&glued).unwrap();
    assert_eq!(message.kind, Some(HopKind::Connect));
    assert_eq!(message.peer, Some(Peer { id: b"target" }));
    assert_eq!(used, len);
}

#[test]
fn an_answer_with_too_many_addresses_stays_readable() {
    let addr = [4_u8; 300];
    let voucher = [7_u8; 400];
    let reservation = Reservation {
        expire: u64::MAX,
        addrs: vec![&addr; 40],
        voucher: Some(&voucher),
    };
    let limit = Limit {
        duration_seconds: u32::MAX,
        data_bytes: u64::MAX,
    };
    let bytes =
        written(|out| encode_hop_status(Status::Other(-1), Some(&reservation), Some(&limit), out));
    let read = hop(&bytes).reservation.unwrap();
    assert_eq!(read.voucher, Some(&voucher[..]));
    assert_eq!(read.addrs.len(), 11);
}

#[test]
fn addresses_beyond_the_bound_are_dropped() {
    let reservation = Reservation {
        expire: 1,
        addrs: vec![b"a"; MAX_RESERVATION_ADDRS + 5],
        voucher: None,
    };
    let bytes = written(|out| encode_hop_status(Status::Ok, Some(&reservation), None, out));
    let read = hop(&bytes).reservation.unwrap();
    assert_eq!(read.addrs.len(), MAX_RESERVATION_ADDRS);
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

proptest! {
    #[test]
    fn every_status_survives(code in prop_oneof![Just(0), 95..410_i32, any::<i32>()]) {
        let status = Status::from_wire(i64::from(code).cast_unsigned());
        prop_assert_eq!(status.code(), code);
        let message = written(|out| encode_stop_status(status, out));
        prop_assert_eq!(stop(&message).status, Some(status));
    }

    #[test]
    fn hop_answers_are_read_back(
        expire in any::<u64>(),
        addrs in prop::collection::vec(bytes(40), 0..20),
        voucher in prop::option::of(bytes(300)),
        limit in prop::option::of((any::<u32>(), any::<u64>())),
    ) {
        let reservation = Reservation {
            expire,
            addrs: addrs.iter().map(Vec::as_slice).collect(),
            voucher: voucher.as_deref(),
        };
        let limit = limit.map(|(duration_seconds, data_bytes)| Limit { duration_seconds, data_bytes });
        let bytes = written(|out| {
            encode_hop_status(Status::Ok, Some(&reservation), limit.as_ref(), out);
        });
        let message = hop(&bytes);
        prop_assert_eq!(message.reservation, Some(reservation));
        prop_assert_eq!(message.limit, limit);
        for end in 0..bytes.len() {
            prop_assert_eq!(HopMessage::decode(&bytes[..end]), Err(DecodeError::Incomplete));
        }
    }

    #[test]
    fn offers_are_read_back(
        id in bytes(100),
        limit in prop::option::of((any::<u32>(), any::<u64>())),
    ) {
        let limit = limit.map(|(duration_seconds, data_bytes)| Limit { duration_seconds, data_bytes });
        let bytes = written(|out| encode_stop_connect(&id, limit.as_ref(), out));
        let message = stop(&bytes);
        prop_assert_eq!(message.kind, Some(StopKind::Connect));
        prop_assert_eq!(message.peer, Some(Peer { id: &id }));
        prop_assert_eq!(message.limit, limit);
        for end in 0..bytes.len() {
            prop_assert_eq!(StopMessage::decode(&bytes[..end]), Err(DecodeError::Incomplete));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in bytes(200)) {
        let mut input = Vec::new();
        length_delimited::encode(&body, &mut input);
        for message in [&input, &body] {
            let _ = HopMessage::decode(message);
            let _ = StopMessage::decode(message);
        }
    }
}
