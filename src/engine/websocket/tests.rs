//! One peer's frames, taken apart in every way they can arrive.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;
use crate::wire::hex;

const MASK: Mask = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as a client sends it.
fn frame(opcode: Opcode, last: bool, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        last,
        opcode,
        mask: Some(MASK),
        length: payload.len() as u64,
    };
    let mut room = [0; HEADER_MAX];
    let used = header.encode(&mut room);
    let mut out = room[..used].to_vec();
    out.extend_from_slice(payload);
    apply_mask(&mut out[used..], MASK);
    out
}

/// Hands `bytes` in at once, at some distance from the start of the buffer.
fn take(inbound: &mut Inbound, bytes: &[u8]) -> Result<Vec<u8>, WebSocketError> {
    let mut buffer = [&[9; 3], bytes].concat();
    let end = inbound.decode(&mut buffer, 3..3 + bytes.len(), 0)?;
    buffer.truncate(end);
    Ok(buffer)
}

fn error(bytes: &[u8]) -> WebSocketError {
    take(&mut Inbound::new(Role::Server), bytes).unwrap_err()
}

#[test]
fn text_and_fragments_are_bytes_like_any_others() {
    let bytes = [
        frame(Opcode::Binary, false, b"frag"),
        frame(Opcode::Ping, true, b"are you there"),
        frame(Opcode::Continuation, false, b""),
        frame(Opcode::Continuation, true, b"mented, "),
        frame(Opcode::Text, true, b"not UTF-8: \xff"),
    ]
    .concat();
    let mut inbound = Inbound::new(Role::Server);
    let taken = take(&mut inbound, &bytes).unwrap();
    assert_eq!(taken, b"fragmented, not UTF-8: \xff");
    assert_eq!(inbound.pong().unwrap(), b"are you there");
    assert_eq!(inbound.pong(), None);
}

#[test]
fn of_many_pings_the_last_is_answered() {
    let bytes = [
        frame(Opcode::Ping, true, b"one"),
        frame(Opcode::Pong, true, b"unasked"),
        frame(Opcode::Ping, true, b"two"),
    ]
    .concat();
    let mut inbound = Inbound::new(Role::Server);
    assert_eq!(take(&mut inbound, &bytes).unwrap(), b"");
    assert_eq!(inbound.pong().unwrap(), b"two");
}

#[test]
fn a_close_ends_it_whatever_comes_behind() {
    let bytes = [
        frame(Opcode::Binary, true, b"last words"),
        frame(Opcode::Close, true, &hex("03e9")),
        frame(Opcode::Binary, true, b"more"),
        hex("ffff"),
    ]
    .concat();
    let mut inbound = Inbound::new(Role::Server);
    assert_eq!(inbound.closed(), None);
    assert_eq!(take(&mut inbound, &bytes).unwrap(), b"last words");
    assert_eq!(inbound.closed(), Some(Some(1001)));

    let mut inbound = Inbound::new(Role::Server);
    take(&mut inbound, &frame(Opcode::Close, true, b"")).unwrap();
    assert_eq!(inbound.closed(), Some(None));
}

#[test]
fn each_breach_has_its_error_and_its_code() {
    let length = |bytes: u64| {
        let header = Header {
            last: true,
            opcode: Opcode::Binary,
            mask: Some(MASK),
            length: bytes,
        };
        let mut room = [0; HEADER_MAX];
        let used = header.encode(&mut room);
        room[..used].to_vec()
    };
    assert_eq!(error(&hex("8201 00")), WebSocketError::Masking);
    assert_eq!(
        error(&frame(Opcode::Continuation, true, b"x")),
        WebSocketError::Sequence
    );
    let nested = [
        frame(Opcode::Binary, false, b"x"),
        frame(Opcode::Binary, true, b"y"),
    ];
    assert_eq!(error(&nested.concat()), WebSocketError::Sequence);
    // A reserved bit, a fragmented ping, half a close code.
    for bytes in ["c280 00000000", "0980 00000000", "8881 00000000 00"] {
        let error = error(&hex(bytes));
        assert_eq!(error.code(), CloseCode::Protocol, "{bytes}");
    }
    // Refused by its header, before a byte of it has arrived.
    let long = error(&length(FRAME_MAX + 1));
    assert_eq!(long, WebSocketError::TooLarge("frame"));
    assert_eq!(long.code(), CloseCode::TooLarge);
    let mut inbound = Inbound::new(Role::Server);
    assert_eq!(take(&mut inbound, &length(FRAME_MAX)).unwrap(), b"");
}

#[test]
fn a_message_of_ever_more_fragments_ends() {
    let payload = vec![0; usize::try_from(FRAME_MAX).unwrap()];
    let mut inbound = Inbound::new(Role::Server);
    take(&mut inbound, &frame(Opcode::Binary, false, &payload)).unwrap();
    let more = frame(Opcode::Continuation, false, &payload);
    for _ in 1..MESSAGE_MAX / FRAME_MAX {
        take(&mut inbound, &more).unwrap();
    }
    // An empty one is within the limit, one byte is not.
    take(&mut inbound, &frame(Opcode::Continuation, false, b"")).unwrap();
    let error = take(&mut inbound, &frame(Opcode::Continuation, false, b"x"));
    assert_eq!(error, Err(WebSocketError::TooLarge("message")));
}

#[test]
fn a_client_takes_what_a_server_sends_and_nothing_masked() {
    let (header, used) = data_header(5, None);
    let mut bytes = [&header[..used], b"hello"].concat();
    append_pong(b"pong", None, &mut bytes);
    append_close(Some(1001), None, &mut bytes);
    let mut inbound = Inbound::new(Role::Client);
    assert_eq!(take(&mut inbound, &bytes).unwrap(), b"hello");
    assert_eq!(inbound.closed(), Some(Some(1001)));
    let masked = take(
        &mut Inbound::new(Role::Client),
        &frame(Opcode::Binary, true, b"x"),
    );
    assert_eq!(masked, Err(WebSocketError::Masking));
}

#[test]
fn what_a_client_appends_is_masked() {
    let mut bytes = Vec::new();
    append_pong(b"pong", Some(MASK), &mut bytes);
    append_close(None, Some(MASK), &mut bytes);
    assert_eq!(bytes[..10], frame(Opcode::Pong, true, b"pong"));
    let mut inbound = Inbound::new(Role::Server);
    take(&mut inbound, &bytes).unwrap();
    assert_eq!(inbound.closed(), Some(None));
}

#[test]
fn what_is_wrapped_is_one_frame_between_an_answer_and_a_close() {
    for mask in [None, Some(MASK)] {
        let role = if mask.is_some() {
            Role::Server
        } else {
            Role::Client
        };
        for length in [0, 1, 125, 126, 70_000] {
            let mut bytes = vec![7; length];
            wrap(&mut bytes, Some(&[1; CONTROL_MAX]), Some(1000), mask);
            assert!(bytes.len() <= length + OVERHEAD_MAX);
            let (_, used) = Header::decode(&bytes).unwrap();
            let mut inbound = Inbound::new(role);
            assert_eq!(take(&mut inbound, &bytes).unwrap(), vec![7; length]);
            assert_eq!(inbound.closed(), Some(Some(1000)));
            assert_eq!(bytes[0] & 0x0f, Opcode::Pong as u8);
            let next = if length > 0 {
                Opcode::Binary
            } else {
                Opcode::Close
            };
            assert_eq!(bytes[used + CONTROL_MAX] & 0x0f, next as u8);
        }
    }
}

#[derive(Debug, Clone)]
enum Piece {
    Data(Vec<Vec<u8>>),
    Ping(Vec<u8>),
}

fn piece() -> impl Strategy<Value = Piece> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        3 => prop::collection::vec(bytes(), 1..4).prop_map(Piece::Data),
        1 => prop::collection::vec(any::<u8>(), 0..CONTROL_MAX).prop_map(Piece::Ping),
    ]
}

proptest! {
    /// However messages are cut into frames, and frames into reads, the bytes
    /// come out in order; the pong is the last ping's.
    #[test]
    fn bytes_come_out_however_they_are_cut(
        pieces in prop::collection::vec(piece(), 0..12),
        cuts in prop::collection::vec(1..500_usize, 1..40),
    ) {
        let (mut wire, mut expected, mut last_ping) = (Vec::new(), Vec::new(), None);
        for piece in pieces {
            match piece {
                Piece::Ping(payload) => {
                    wire.extend(frame(Opcode::Ping, true, &payload));
                    last_ping = Some(payload);
                }
                Piece::Data(parts) => {
                    let count = parts.len();
                    for (index, part) in parts.into_iter().enumerate() {
                        let opcode = if index == 0 { Opcode::Binary } else { Opcode::Continuation };
                        wire.extend(frame(opcode, index + 1 == count, &part));
                        expected.extend(part);
                    }
                }
            }
        }
        let mut inbound = Inbound::new(Role::Server);
        let (mut taken, mut pong, mut at) = (Vec::new(), None, 0);
        for cut in cuts.iter().cycle() {
            if at == wire.len() {
                break;
            }
            let end = wire.len().min(at + cut);
            taken.extend(take(&mut inbound, &wire[at..end]).unwrap());
            pong = inbound.pong().or(pong);
            at = end;
        }
        prop_assert_eq!(taken, expected);
        prop_assert_eq!(pong, last_ping);
    }

    #[test]
    fn nothing_that_comes_is_kept_beyond_the_bound(reads in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
        let mut inbound = Inbound::new(Role::Server);
        for read in reads {
            if take(&mut inbound, &read).is_err() {
                break;
            }
            prop_assert!(inbound.control.len() <= CONTROL_MAX);
            prop_assert!(inbound.pong().is_none_or(|pong| pong.len() <= CONTROL_MAX));
        }
    }
}
