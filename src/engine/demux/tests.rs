//! Both readers against captured frames, against our own writer, and against
//! bytes that mean nothing.

use proptest::prelude::*;

use super::*;
use crate::engine::{
    batch::Batch,
    frames::{self, Greeting},
    record::{HEADER_LEN, MAX_PLAINTEXT, MAX_RECORD, OpenKey, SealKey},
};
use crate::wire::{DecodeError, hex, yamux::GoAwayCode};

/// An event that does not borrow, so that it outlives the input. Data that
/// came in pieces is one event: where a frame is cut means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Opened(StreamId),
    Data(StreamId, Vec<u8>),
    Finished(StreamId),
    Reset(StreamId),
    Credit(StreamId, u32),
    Ping(u32),
    Pong(u32),
    GoAway(u32),
}

type Outcome = (Vec<Told>, Result<(), DemuxError>);

/// What a demux tells of input that arrives in these pieces.
fn told<'a>(muxer: Muxer, side: Side, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut demux = Demux::new(muxer, side);
    let mut told = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        loop {
            match demux.next(&mut rest) {
                Ok(Some(event)) => push(&mut told, event),
                Ok(None) => break,
                Err(error) => return (told, Err(error)),
            }
        }
        assert!(rest.is_empty(), "asks for more before it has taken all");
    }
    (told, Ok(()))
}

fn push(told: &mut Vec<Told>, event: Event<'_>) {
    let event = match event {
        Event::Data(stream, bytes) => {
            assert!(!bytes.is_empty(), "data of no bytes");
            if let Some(Told::Data(last, gathered)) = told.last_mut()
                && *last == stream
            {
                return gathered.extend_from_slice(bytes);
            }
            Told::Data(stream, bytes.to_vec())
        }
        Event::Opened(stream) => Told::Opened(stream),
        Event::Finished(stream) => Told::Finished(stream),
        Event::Reset(stream) => Told::Reset(stream),
        Event::Credit(stream, credit) => Told::Credit(stream, credit),
        Event::Ping(value) => Told::Ping(value),
        Event::Pong(value) => Told::Pong(value),
        Event::GoAway(code) => Told::GoAway(code),
    };
    told.push(event);
}

/// What a listener is told by these captured frames.
fn captured(muxer: Muxer, frames: &str) -> Outcome {
    let bytes = hex(frames);
    let whole = told(muxer, Side::Listener, [&bytes[..]]);
    let dribbled = told(muxer, Side::Listener, bytes.chunks(1));
    assert_eq!(dribbled, whole, "byte by byte");
    whole
}

fn error_of(muxer: Muxer, frames: &str) -> DemuxError {
    captured(muxer, frames).1.expect_err(frames)
}

#[test]
fn yamux_frames_mean_what_the_specification_says() {
    let stream = StreamId::yamux(1);
    let data = |bytes: &[u8]| Told::Data(stream, bytes.to_vec());
    for (frames, expected) in [
        ("000100010000000100000000", vec![Told::Opened(stream)]),
        // Data before any acknowledgement, with the SYN.
        (
            "000000010000000100000005 68656c6c6f",
            vec![Told::Opened(stream), data(b"hello")],
        ),
        // All that one frame can say.
        (
            "000000050000000100000002 6869",
            vec![Told::Opened(stream), data(b"hi"), Told::Finished(stream)],
        ),
        (
            "000100050000000100000007",
            vec![
                Told::Opened(stream),
                Told::Credit(stream, 7),
                Told::Finished(stream),
            ],
        ),
        ("000100020000000100000000", vec![]),
        ("000100020000000100000100", vec![Told::Credit(stream, 256)]),
        ("000100000000000100000000", vec![]),
        ("000000000000000100000000", vec![]),
        ("000100040000000100000000", vec![Told::Finished(stream)]),
        ("000000040000000100000000", vec![Told::Finished(stream)]),
        (
            "000000040000000100000001 61",
            vec![data(b"a"), Told::Finished(stream)],
        ),
        ("000100080000000100000000", vec![Told::Reset(stream)]),
        // go-yamux puts an error code where the credit would be.
        ("000100080000000100001001", vec![Told::Reset(stream)]),
        // What rides on a reset is not heard.
        (
            "000000080000000100000003 616263 000100040000000100000000",
            vec![Told::Reset(stream), Told::Finished(stream)],
        ),
        ("000200010000000000000007", vec![Told::Ping(7)]),
        ("000200020000000000000007", vec![Told::Pong(7)]),
        ("000300000000000000000000", vec![Told::GoAway(0)]),
        ("000300000000000000000001", vec![Told::GoAway(1)]),
        ("000300000000000000000002", vec![Told::GoAway(2)]),
        ("0003000000000000000000ff", vec![Told::GoAway(255)]),
    ] {
        assert_eq!(
            captured(Muxer::Yamux, frames),
            (expected, Ok(())),
            "{frames}"
        );
    }
}

#[test]
fn mplex_frames_mean_what_the_specification_says() {
    let theirs = |id| StreamId::mplex(id, false);
    let ours = |id| StreamId::mplex(id, true);
    let hello = |stream| Told::Data(stream, b"hello".to_vec());
    for (frames, expected) in [
        ("8801023137", vec![Told::Opened(theirs(17))]),
        ("0000", vec![Told::Opened(theirs(0))]),
        ("000130", vec![Told::Opened(theirs(0))]),
        // The role is the sender's: an initiator speaks on its own stream.
        ("020568656c6c6f", vec![hello(theirs(0))]),
        ("010568656c6c6f", vec![hello(ours(0))]),
        ("0400", vec![Told::Finished(theirs(0))]),
        ("0300", vec![Told::Finished(ours(0))]),
        ("0600", vec![Told::Reset(theirs(0))]),
        ("0500", vec![Told::Reset(ours(0))]),
        (
            "feffffffffffffff7f00",
            vec![Told::Reset(theirs((1 << 60) - 1))],
        ),
        ("0200", vec![]),
        // Bodies where there should be none are skipped.
        (
            "040a 00000000000000000000 0200 060161 020161",
            vec![
                Told::Finished(theirs(0)),
                Told::Reset(theirs(0)),
                Told::Data(theirs(0), b"a".to_vec()),
            ],
        ),
        // Both sides' stream of one id are two streams.
        (
            "0000 020161 010162",
            vec![
                Told::Opened(theirs(0)),
                Told::Data(theirs(0), b"a".to_vec()),
                Told::Data(ours(0), b"b".to_vec()),
            ],
        ),
    ] {
        assert_eq!(
            captured(Muxer::Mplex, frames),
            (expected, Ok(())),
            "{frames}"
        );
    }
}

#[test]
fn malformed_yamux_headers_end_the_connection() {
    for frames in [
        "010000000000000100000000", // version 1
        "000400000000000100000000", // type 4
        "00ff00000000000100000000",
        "000000100000000100000000", // a flag that there is not
        "000180010000000100000000",
        "000000000000000000000001", // data on the session
        "000100000000000000000001", // credit for the session
        "000100080000000000000000", // reset of the session
    ] {
        assert!(matches!(
            error_of(Muxer::Yamux, frames),
            DemuxError::Header(DecodeError::Malformed(_))
        ));
    }
    for frames in [
        "000100010000000200000000", // SYN with our parity
        "000000010000000400000000",
        "000200010000000100000007", // ping of a stream
        "000300000000000100000000", // go-away of a stream
    ] {
        assert_eq!(
            error_of(Muxer::Yamux, frames),
            DemuxError::WrongOpener,
            "{frames}"
        );
    }
    for frames in [
        "000100030000000100000000", // SYN and ACK
        "000200000000000000000007", // ping that neither asks nor answers
        "000200030000000000000007", // ping that does both
    ] {
        assert_eq!(
            error_of(Muxer::Yamux, frames),
            DemuxError::Flags,
            "{frames}"
        );
    }
}

#[test]
fn a_dialer_takes_even_streams_only() {
    let even = hex("000100010000000200000000");
    let odd = hex("000100010000000100000000");
    let opened = vec![Told::Opened(StreamId::yamux(2))];
    assert_eq!(
        told(Muxer::Yamux, Side::Dialer, [&even[..]]),
        (opened, Ok(()))
    );
    let refused = told(Muxer::Yamux, Side::Dialer, [&odd[..]]);
    assert_eq!(refused, (vec![], Err(DemuxError::WrongOpener)));
}

#[test]
fn malformed_mplex_headers_end_the_connection() {
    for frames in [
        "0700",    // flag 7
        "8000 00", // varints longer than they need to be
        "00 8000",
        "ffffffffffffffffff01 00", // ten bytes
        "ffffffffffffffffffff",
        "00 ffffffffffffffffff01",
    ] {
        assert!(matches!(
            error_of(Muxer::Mplex, frames),
            DemuxError::Header(DecodeError::Malformed(_))
        ));
    }
    for frames in [
        "00 818040",
        "02 818040",
        "06 ffffffff0f",
        "02 ffffffffffffffff7f",
    ] {
        assert!(matches!(
            error_of(Muxer::Mplex, frames),
            DemuxError::Header(DecodeError::TooLarge { max: 1_048_576, .. })
        ));
    }
}

#[test]
fn the_longest_mplex_frame_passes() {
    let mut bytes = hex("02 808040");
    bytes.resize(bytes.len() + (1 << 20), b'x');
    let (told, end) = told(Muxer::Mplex, Side::Listener, bytes.chunks(MAX_PLAINTEXT));
    assert_eq!(end, Ok(()));
    assert_eq!(
        told,
        [Told::Data(StreamId::mplex(0, false), vec![b'x'; 1 << 20])]
    );
}

/// A frame's length is the peer's word: nothing is kept for it but a number.
#[test]
fn a_connection_waits_for_the_rest_of_a_frame_in_a_few_bytes() {
    assert!(size_of::<Demux>() <= 64, "{} bytes", size_of::<Demux>());
    assert!(!std::mem::needs_drop::<Demux>(), "nothing on the heap");
}

/// Something that one side says, and what the other is told.
#[derive(Debug, Clone)]
enum Say {
    Open,
    OpenWith(Vec<u8>),
    Data(Vec<u8>),
    Finish,
    Reset(u32),
    Credit(u32),
    Ping(u32),
    Pong(u32),
    GoAway,
}

fn say() -> impl Strategy<Value = Say> {
    let bytes = || {
        prop_oneof![
            8 => prop::collection::vec(any::<u8>(), 1..40),
            1 => (1usize..150_000).prop_map(|length| vec![b'x'; length]),
        ]
    };
    prop_oneof![
        Just(Say::Open),
        bytes().prop_map(Say::OpenWith),
        bytes().prop_map(Say::Data),
        Just(Say::Finish),
        any::<u32>().prop_map(Say::Reset),
        any::<u32>().prop_map(Say::Credit),
        any::<u32>().prop_map(Say::Ping),
        any::<u32>().prop_map(Say::Pong),
        Just(Say::GoAway),
    ]
}

/// Writes `say` as the dialer does, and adds what a listener is to be told.
fn write(muxer: Muxer, id: u32, local: bool, say: &Say, batch: &mut Batch, told: &mut Vec<Told>) {
    let (said, heard) = match muxer {
        Muxer::Yamux => {
            let id = StreamId::yamux(id * 2 + u32::from(local));
            (id, id)
        }
        Muxer::Mplex => {
            let id = u64::from(id);
            (StreamId::mplex(id, local), StreamId::mplex(id, !local))
        }
    };
    let yamux = muxer == Muxer::Yamux;
    match say {
        Say::Open if local => {
            frames::open(muxer, said, batch);
            told.push(Told::Opened(heard));
        }
        Say::OpenWith(bytes) if local => {
            frames::data(muxer, said, Greeting::Open, bytes, batch);
            told.push(Told::Opened(heard));
            push(told, Event::Data(heard, bytes));
        }
        Say::Open => frames::credit(muxer, said, Greeting::Accept, 0, batch),
        Say::OpenWith(bytes) => {
            frames::data(muxer, said, Greeting::Accept, bytes, batch);
            push(told, Event::Data(heard, bytes));
        }
        Say::Data(bytes) => {
            frames::data(muxer, said, Greeting::None, bytes, batch);
            push(told, Event::Data(heard, bytes));
        }
        Say::Finish => {
            frames::finish(muxer, said, Greeting::None, batch);
            told.push(Told::Finished(heard));
        }
        Say::Reset(code) => {
            frames::reset(muxer, said, *code, batch);
            told.push(Told::Reset(heard));
        }
        Say::Credit(credit) => {
            frames::credit(muxer, said, Greeting::None, *credit, batch);
            if yamux && *credit > 0 {
                told.push(Told::Credit(heard, *credit));
            }
        }
        Say::Ping(value) if yamux => {
            frames::ping(*value, batch);
            told.push(Told::Ping(*value));
        }
        Say::Pong(value) if yamux => {
            frames::pong(*value, batch);
            told.push(Told::Pong(*value));
        }
        Say::Ping(_) | Say::Pong(_) => {}
        Say::GoAway => {
            frames::go_away(muxer, GoAwayCode::Protocol, batch);
            if yamux {
                told.push(Told::GoAway(1));
            }
        }
    }
}

/// What a batch carries, out of its records.
fn plaintext(batch: Batch) -> Vec<u8> {
    let (mut sealed, _) = batch.seal(&mut SealKey::new([9; 32])).expect("a fresh key");
    let mut key = OpenKey::new([9; 32]);
    let mut plaintext = Vec::new();
    for record in sealed.chunks_mut(MAX_RECORD) {
        let opened = key.open(&mut record[HEADER_LEN..]);
        plaintext.extend_from_slice(opened.expect("sealed just now"));
    }
    plaintext
}

fn muxer() -> impl Strategy<Value = Muxer> {
    prop::sample::select(&Muxer::ALL[..])
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|ends| &bytes[ends[0]..ends[1]])
        .collect()
}

proptest! {
    /// What `frames` writes, `demux` tells, wherever records cut it.
    #[test]
    fn what_is_said_is_told(
        muxer in muxer(),
        said in prop::collection::vec((1u32..5, any::<bool>(), say()), 1..30),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let (mut batch, mut expected) = (Batch::default(), Vec::new());
        for (id, local, say) in &said {
            write(muxer, *id, *local, say, &mut batch, &mut expected);
        }
        let bytes = plaintext(batch);
        let whole = told(muxer, Side::Listener, [&bytes[..]]);
        prop_assert_eq!(&whole, &(expected, Ok(())));
        prop_assert_eq!(&told(muxer, Side::Listener, pieces(&bytes, &cuts)), &whole);
        if bytes.len() < 2_000 {
            for at in 0..=bytes.len() {
                let (front, back) = bytes.split_at(at);
                prop_assert_eq!(&told(muxer, Side::Listener, [front, back]), &whole);
            }
        }
    }

    /// Whatever comes, it is told or refused, and where it was cut does not
    /// matter.
    #[test]
    fn no_bytes_confuse_it(
        muxer in muxer(),
        side in prop::sample::select(vec![Side::Dialer, Side::Listener]),
        frames in prop::collection::vec(
            prop_oneof![
                // Close to yamux, so that more than the first header is read.
                (0u8..4, 0u8..16, 0u32..6, prop_oneof![0u32..20, any::<u32>()]).prop_map(
                    |(kind, flags, stream, length)| {
                        let mut bytes = vec![0, kind, 0, flags];
                        bytes.extend(stream.to_be_bytes());
                        bytes.extend(length.to_be_bytes());
                        bytes
                    }
                ),
                prop::collection::vec(0u8..8, 0..20),
                prop::collection::vec(any::<u8>(), 0..20),
            ],
            0..12,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = frames.concat();
        let whole = told(muxer, side, [&bytes[..]]);
        prop_assert_eq!(&told(muxer, side, bytes.chunks(1)), &whole);
        prop_assert_eq!(&told(muxer, side, pieces(&bytes, &cuts)), &whole);
    }
}
