//! The frames of a connection, for either muxer and either side: whatever
//! comes is told or refused, and where records cut it does not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::engine::demux::{Demux, Event, Side};
use waystation::engine::muxer::Muxer;

/// Everything that is told of input that comes in these pieces, and whether it
/// was refused. Payload is noted byte by byte: how it is cut is not part of
/// what is told. Nor is the reason: a length that is too large is seen before
/// its end when it comes byte by byte.
fn told<'a>(
    muxer: Muxer,
    side: Side,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<String>, bool) {
    let mut demux = Demux::new(muxer, side);
    let mut told = Vec::new();
    for mut piece in pieces {
        loop {
            match demux.next(&mut piece) {
                Ok(Some(Event::Data(stream, bytes))) => {
                    assert!(!bytes.is_empty());
                    told.extend(bytes.iter().map(|byte| format!("{stream:?} {byte}")));
                }
                Ok(Some(event)) => told.push(format!("{event:?}")),
                Ok(None) => break,
                Err(_) => return (told, true),
            }
        }
        assert!(piece.is_empty(), "asks for more before it has taken all");
    }
    (told, false)
}

fuzz_target!(|input: &[u8]| {
    let Some(([how, size], frames)) = input.split_first_chunk() else {
        return;
    };
    let muxer = Muxer::ALL[usize::from(how & 1)];
    let side = if how & 2 == 0 {
        Side::Listener
    } else {
        Side::Dialer
    };
    let whole = told(muxer, side, std::iter::once(frames));
    let size = usize::from(*size).max(1);
    assert_eq!(told(muxer, side, frames.chunks(size)), whole);
});
