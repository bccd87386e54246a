//! Writes muxer frames into a [`Batch`]: the outgoing half of both muxers.
//!
//! Knows how each muxer says a thing, not when it may be said: credit, order
//! and stream life are the caller's. Bounds: one frame carries at most
//! [`MAX_PAYLOAD`] bytes.

use crate::engine::{batch::Batch, demux::StreamId, muxer::Muxer};
use crate::wire::{mplex, yamux};

/// Most payload in one frame that we send. Large enough that headers vanish
/// in the cost, small enough for every peer (rust's yamux refuses bodies over
/// 1 MiB, js buffers whole frames).
pub const MAX_PAYLOAD: usize = 65_536;

/// What opens or accepts a stream on a frame of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// Nothing: the stream is known to both sides.
    None,
    /// The first frame of a stream that we open.
    Open,
    /// The first frame that we send on a stream of the peer's.
    Accept,
}

impl Greeting {
    fn yamux(self) -> yamux::Flags {
        match self {
            Self::None => yamux::Flags::NONE,
            Self::Open => yamux::Flags::SYN,
            Self::Accept => yamux::Flags::ACK,
        }
    }
}

/// Opens a stream with no bytes on it yet.
pub fn open(muxer: Muxer, stream: StreamId, batch: &mut Batch) {
    match muxer {
        Muxer::Yamux => window_update(stream, yamux::Flags::SYN, 0, batch),
        Muxer::Mplex => mplex_frame(stream, Role::Open, &[], batch),
    }
}

/// Carries `payload`, at most [`MAX_PAYLOAD`] bytes of it in each frame.
#[inline]
pub fn data(muxer: Muxer, stream: StreamId, greeting: Greeting, payload: &[u8], batch: &mut Batch) {
    let mut greeting = greeting;
    if muxer == Muxer::Mplex && greeting == Greeting::Open {
        open(muxer, stream, batch);
    }
    for part in payload.chunks(MAX_PAYLOAD) {
        match muxer {
            Muxer::Yamux => {
                let header = yamux::Header {
                    kind: yamux::FrameKind::Data,
                    flags: std::mem::replace(&mut greeting, Greeting::None).yamux(),
                    stream: stream.yamux_wire(),
                    length: length(part),
                };
                batch.append_frame(&header.encode(), part);
            }
            Muxer::Mplex => mplex_frame(stream, Role::Message, part, batch),
        }
    }
}

/// Says that nothing more will be sent on the stream.
pub fn finish(muxer: Muxer, stream: StreamId, greeting: Greeting, batch: &mut Batch) {
    match muxer {
        Muxer::Yamux => {
            let flags = greeting.yamux().union(yamux::Flags::FIN);
            window_update(stream, flags, 0, batch);
        }
        Muxer::Mplex => mplex_frame(stream, Role::Close, &[], batch),
    }
}

/// Gives the stream up in both directions.
///
/// `code` rides where go-yamux puts it, in the length of the frame; mplex has
/// no place for it.
pub fn reset(muxer: Muxer, stream: StreamId, code: u32, batch: &mut Batch) {
    match muxer {
        Muxer::Yamux => window_update(stream, yamux::Flags::RST, code, batch),
        Muxer::Mplex => mplex_frame(stream, Role::Reset, &[], batch),
    }
}

/// Lets the peer send `credit` bytes more. mplex has no such frame: nothing
/// is written.
pub fn credit(muxer: Muxer, stream: StreamId, greeting: Greeting, credit: u32, batch: &mut Batch) {
    if muxer == Muxer::Yamux {
        window_update(stream, greeting.yamux(), credit, batch);
    }
}

/// A keep-alive question (yamux only).
pub fn ping(value: u32, batch: &mut Batch) {
    session(yamux::FrameKind::Ping, yamux::Flags::SYN, value, batch);
}

/// The answer to the peer's keep-alive question (yamux only).
pub fn pong(value: u32, batch: &mut Batch) {
    session(yamux::FrameKind::Ping, yamux::Flags::ACK, value, batch);
}

/// Announces that the connection ends. mplex has no such frame.
pub fn go_away(muxer: Muxer, code: yamux::GoAwayCode, batch: &mut Batch) {
    if muxer == Muxer::Yamux {
        session(
            yamux::FrameKind::GoAway,
            yamux::Flags::NONE,
            code as u32,
            batch,
        );
    }
}

fn session(kind: yamux::FrameKind, flags: yamux::Flags, length: u32, batch: &mut Batch) {
    let header = yamux::Header {
        kind,
        flags,
        stream: 0,
        length,
    };
    batch.append_frame(&header.encode(), &[]);
}

fn window_update(stream: StreamId, flags: yamux::Flags, length: u32, batch: &mut Batch) {
    let header = yamux::Header {
        kind: yamux::FrameKind::WindowUpdate,
        flags,
        stream: stream.yamux_wire(),
        length,
    };
    batch.append_frame(&header.encode(), &[]);
}

#[derive(Clone, Copy)]
enum Role {
    Open,
    Message,
    Close,
    Reset,
}

fn mplex_frame(stream: StreamId, role: Role, payload: &[u8], batch: &mut Batch) {
    let (id, local) = stream.mplex_wire();
    let flag = match (role, local) {
        (Role::Open, _) => mplex::Flag::NewStream,
        (Role::Message, true) => mplex::Flag::MessageInitiator,
        (Role::Message, false) => mplex::Flag::MessageReceiver,
        (Role::Close, true) => mplex::Flag::CloseInitiator,
        (Role::Close, false) => mplex::Flag::CloseReceiver,
        (Role::Reset, true) => mplex::Flag::ResetInitiator,
        (Role::Reset, false) => mplex::Flag::ResetReceiver,
    };
    let mut header = [0; mplex::MAX_HEADER_LEN];
    let length = mplex::Header {
        id,
        flag,
        length: length(payload),
    }
    .encode(&mut header);
    batch.append_frame(&header[..length], payload);
}

fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).expect("chunked to at most MAX_PAYLOAD")
}
