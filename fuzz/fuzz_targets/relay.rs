//! HOP and STOP messages, with their own length and as bare bodies; what the
//! encoders can say of them is read back alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::relay::{
    HopKind, HopMessage, MAX_RESERVATION_ADDRS, StopKind, StopMessage, encode_connect,
    encode_hop_status, encode_stop_connect, encode_stop_status,
};
use waystation::wire::{DecodeError, length_delimited};

/// Longer ids and vouchers than any real one may not fit beside what the
/// encoders always add.
const REAL: usize = 1024;

fuzz_target!(|input: &[u8]| {
    let mut framed = Vec::new();
    length_delimited::encode(input, &mut framed);
    for input in [input, &framed] {
        hop(input);
        stop(input);
    }
});

fn hop(input: &[u8]) {
    let Ok((message, used)) = HopMessage::decode(input) else {
        return;
    };
    assert_eq!(
        HopMessage::decode(&input[..used - 1]),
        Err(DecodeError::Incomplete)
    );
    let mut out = Vec::new();
    if let Some(peer) = message.peer.filter(|peer| peer.id.len() <= REAL) {
        encode_connect(peer.id, &mut out);
        let (again, _) = HopMessage::decode(&out).expect("a shorter message than was read");
        assert_eq!(again.kind, Some(HopKind::Connect));
        assert_eq!(again.peer, Some(peer));
    }
    let granted = message.reservation.as_ref();
    let voucher = granted.and_then(|granted| granted.voucher);
    if let Some(status) = message.status
        && voucher.is_none_or(|voucher| voucher.len() <= REAL)
    {
        out.clear();
        let limit = message.limit.as_ref();
        encode_hop_status(status, granted, limit, &mut out);
        let (again, _) = HopMessage::decode(&out).expect("addresses are left out to fit");
        assert_eq!((again.status, again.limit), (Some(status), message.limit));
        let addrs = again.reservation.map_or(0, |granted| granted.addrs.len());
        assert!(addrs <= MAX_RESERVATION_ADDRS);
    }
}

fn stop(input: &[u8]) {
    let Ok((message, used)) = StopMessage::decode(input) else {
        return;
    };
    assert_eq!(
        StopMessage::decode(&input[..used - 1]),
        Err(DecodeError::Incomplete)
    );
    let mut out = Vec::new();
    if let Some(peer) = message.peer.filter(|peer| peer.id.len() <= REAL) {
        encode_stop_connect(peer.id, None, &mut out);
        let (again, _) = StopMessage::decode(&out).expect("a shorter message than was read");
        assert_eq!(again.kind, Some(StopKind::Connect));
        assert_eq!(again.peer, Some(peer));
    }
    if let Some(status) = message.status {
        out.clear();
        encode_stop_status(status, &mut out);
        let (again, _) = StopMessage::decode(&out).expect("a status is short");
        assert_eq!(again.status, Some(status));
    }
}
