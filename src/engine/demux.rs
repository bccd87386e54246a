//! Takes a connection's plaintext apart into stream events.
//!
//! One [`Demux`] per connection, for either muxer. It owns the frame that is
//! half read (at most a header; payload is handed on as it arrives and never
//! gathered here) and checks what can be checked without knowing the open
//! streams. Windows, duplicate ids and limits are the stream table's.

mod mplex;
mod yamux;

use crate::engine::muxer::Muxer;

/// A stream of one connection, whatever the muxer.
///
/// For yamux and QUIC this is the id on the wire. For mplex, where both sides count
/// from zero, it is that id with the opener in the lowest bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// A yamux stream.
    #[must_use]
    pub const fn yamux(id: u32) -> Self {
        Self(id as u64)
    }

    /// An mplex stream; `local` if this side opened it.
    #[must_use]
    pub const fn mplex(id: u64, local: bool) -> Self {
        Self(id << 1 | local as u64)
    }

    /// A QUIC stream, by the id on the wire.
    #[must_use]
    pub const fn quic(id: u64) -> Self {
        Self(id)
    }

    /// The id that QUIC puts on the wire.
    #[must_use]
    pub const fn quic_wire(self) -> u64 {
        self.0
    }

    /// The id that yamux puts on the wire.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "built from a u32, see `yamux`"
    )]
    pub const fn yamux_wire(self) -> u32 {
        self.0 as u32
    }

    /// The id that mplex puts on the wire, and whether this side opened it.
    #[must_use]
    pub const fn mplex_wire(self) -> (u64, bool) {
        (self.0 >> 1, self.0 & 1 == 1)
    }
}

/// Which end of the connection this is: decides the parity of yamux ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This side dialed and opens odd yamux streams.
    Dialer,
    /// This side listened and opens even yamux streams.
    Listener,
}

/// What a peer's frames mean, in the order they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer opened a stream.
    Opened(StreamId),
    /// Bytes on a stream: a frame's payload or the part of it that is here.
    Data(StreamId, &'a [u8]),
    /// The peer will send nothing more on the stream.
    Finished(StreamId),
    /// The peer gave the stream up, in both directions.
    Reset(StreamId),
    /// The peer takes this many bytes more (yamux only).
    Credit(StreamId, u32),
    /// A keep-alive question; the answer repeats the value (yamux only).
    Ping(u32),
    /// The answer to our keep-alive question (yamux only).
    Pong(u32),
    /// The peer will open nothing more, for this reason (yamux only).
    GoAway(u32),
}

/// Why a connection's frames cannot be followed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DemuxError {
    /// A header that means nothing.
    #[error(transparent)]
    Header(#[from] crate::wire::DecodeError),
    /// A stream id that only we may open, or the session's id used as one.
    #[error("stream id not of the opener's kind")]
    WrongOpener,
    /// Flags that exclude each other or have no meaning on that frame.
    #[error("flags out of place")]
    Flags,
}

/// The half-read state of one connection's incoming frames.
pub struct Demux(Inner);

enum Inner {
    Yamux(yamux::Reader),
    Mplex(mplex::Reader),
}

impl Demux {
    /// A connection that has received nothing yet.
    #[must_use]
    pub fn new(muxer: Muxer, side: Side) -> Self {
        Self(match muxer {
            Muxer::Yamux => Inner::Yamux(yamux::Reader::new(side)),
            Muxer::Mplex => Inner::Mplex(mplex::Reader::new()),
        })
    }

    /// Takes the next event off the front of `input`.
    ///
    /// `None` means that everything was consumed and more is needed.
    ///
    /// # Errors
    /// [`DemuxError`] ends the connection: nothing after it can be trusted.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, DemuxError> {
        match &mut self.0 {
            Inner::Yamux(reader) => reader.next(input),
            Inner::Mplex(reader) => reader.next(input),
        }
    }
}

#[cfg(test)]
mod tests;
