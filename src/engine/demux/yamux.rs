//! yamux 1.0 frames to events (yamux spec, "Framing").
//!
//! Holds at most one header (12 bytes) and the number of payload bytes that
//! are still to come. A frame can mean up to three things (SYN, payload, FIN);
//! they are handed out one at a time.

use super::{DemuxError, Event, Side, StreamId};
use crate::wire::{
    DecodeError,
    yamux::{Flags, FrameKind, HEADER_LEN, Header},
};

pub(super) struct Reader {
    /// Parity of the ids that the peer opens.
    peer_parity: u32,
    header: [u8; HEADER_LEN],
    filled: u8,
    /// What the current frame still has to say after its header.
    rest: Rest,
}

/// The part of a frame that follows its header, in the order it is told.
#[derive(Clone, Copy)]
enum Rest {
    None,
    /// Payload bytes to hand on, then perhaps the end of the stream.
    Payload {
        stream: StreamId,
        remaining: u32,
        fin: bool,
    },
    /// Payload that belongs to a stream just reset: skipped.
    Skip {
        remaining: u32,
    },
    /// Credit that came with the SYN or the ACK of a window update.
    Credit {
        stream: StreamId,
        credit: u32,
        fin: bool,
    },
}

impl Reader {
    pub(super) fn new(side: Side) -> Self {
        Self {
            peer_parity: match side {
                Side::Dialer => 0,
                Side::Listener => 1,
            },
            header: [0; HEADER_LEN],
            filled: 0,
            rest: Rest::None,
        }
    }

    #[inline]
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, DemuxError> {
        loop {
            if let Some(event) = self.rest(input) {
                return Ok(Some(event));
            }
            if !matches!(self.rest, Rest::None) {
                return Ok(None);
            }
            let Some(header) = self.header(input)? else {
                return Ok(None);
            };
            if let Some(event) = self.begin(header)? {
                return Ok(Some(event));
            }
        }
    }

    /// What the frame at hand has left to say; `None` when it is finished or
    /// when its next bytes have not arrived.
    #[inline]
    fn rest<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        match self.rest {
            Rest::None => None,
            Rest::Payload {
                stream,
                remaining: 0,
                fin,
            } => {
                self.rest = Rest::None;
                fin.then_some(Event::Finished(stream))
            }
            Rest::Payload {
                stream,
                remaining,
                fin,
            } => {
                let (payload, remaining) = take(input, remaining);
                self.rest = if remaining == 0 && !fin {
                    Rest::None
                } else {
                    Rest::Payload {
                        stream,
                        remaining,
                        fin,
                    }
                };
                (!payload.is_empty()).then_some(Event::Data(stream, payload))
            }
            Rest::Skip { remaining } => {
                let (_, remaining) = take(input, remaining);
                self.rest = if remaining == 0 {
                    Rest::None
                } else {
                    Rest::Skip { remaining }
                };
                None
            }
            Rest::Credit {
                stream,
                credit,
                fin,
            } => {
                self.rest = if fin {
                    Rest::Payload {
                        stream,
                        remaining: 0,
                        fin,
                    }
                } else {
                    Rest::None
                };
                Some(Event::Credit(stream, credit))
            }
        }
    }

    #[inline]
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, DemuxError> {
        if self.filled == 0 && input.len() >= HEADER_LEN {
            let (header, consumed) = Header::decode(input)?;
            *input = &input[consumed..];
            return Ok(Some(header));
        }
        let filled = usize::from(self.filled);
        let part = (HEADER_LEN - filled).min(input.len());
        self.header[filled..filled + part].copy_from_slice(&input[..part]);
        *input = &input[part..];
        if filled + part < HEADER_LEN {
            #[expect(clippy::cast_possible_truncation, reason = "below HEADER_LEN")]
            {
                self.filled = (filled + part) as u8;
            }
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(Header::decode(&self.header)?.0))
    }

    /// The first thing a frame says; the rest is left in `self.rest`.
    #[inline]
    fn begin<'a>(&mut self, header: Header) -> Result<Option<Event<'a>>, DemuxError> {
        match header.kind {
            FrameKind::Data => self.begin_data(header),
            FrameKind::WindowUpdate => self.begin_window_update(header),
            FrameKind::Ping => {
                if header.stream != 0 {
                    return Err(DemuxError::WrongOpener);
                }
                match (
                    header.flags.contains(Flags::SYN),
                    header.flags.contains(Flags::ACK),
                ) {
                    (true, false) => Ok(Some(Event::Ping(header.length))),
                    (false, true) => Ok(Some(Event::Pong(header.length))),
                    (true, true) | (false, false) => Err(DemuxError::Flags),
                }
            }
            FrameKind::GoAway => {
                if header.stream != 0 {
                    return Err(DemuxError::WrongOpener);
                }
                Ok(Some(Event::GoAway(header.length)))
            }
        }
    }

    fn begin_data<'a>(&mut self, header: Header) -> Result<Option<Event<'a>>, DemuxError> {
        let stream = stream_of(header)?;
        if header.flags.contains(Flags::RST) {
            self.rest = match header.length {
                0 => Rest::None,
                remaining => Rest::Skip { remaining },
            };
            return Ok(Some(Event::Reset(stream)));
        }
        self.rest = Rest::Payload {
            stream,
            remaining: header.length,
            fin: header.flags.contains(Flags::FIN),
        };
        self.opened(header, stream)
    }

    /// A reset carries an error code where a window update carries its credit
    /// (go-yamux), so the length of one is not credit.
    fn begin_window_update<'a>(&mut self, header: Header) -> Result<Option<Event<'a>>, DemuxError> {
        let stream = stream_of(header)?;
        if header.flags.contains(Flags::RST) {
            return Ok(Some(Event::Reset(stream)));
        }
        let fin = header.flags.contains(Flags::FIN);
        self.rest = match (header.length, fin) {
            (0, false) => Rest::None,
            (0, true) => Rest::Payload {
                stream,
                remaining: 0,
                fin,
            },
            (credit, fin) => Rest::Credit {
                stream,
                credit,
                fin,
            },
        };
        self.opened(header, stream)
    }

    #[inline]
    fn opened<'a>(
        &self,
        header: Header,
        stream: StreamId,
    ) -> Result<Option<Event<'a>>, DemuxError> {
        if !header.flags.contains(Flags::SYN) {
            return Ok(None);
        }
        if header.flags.contains(Flags::ACK) {
            return Err(DemuxError::Flags);
        }
        if header.stream % 2 == self.peer_parity {
            Ok(Some(Event::Opened(stream)))
        } else {
            Err(DemuxError::WrongOpener)
        }
    }
}

fn stream_of(header: Header) -> Result<StreamId, DemuxError> {
    match header.stream {
        0 => Err(DemuxError::Header(DecodeError::Malformed(
            "stream frame on the session id",
        ))),
        id => Ok(StreamId::yamux(id)),
    }
}

/// Splits off what is here of `remaining` bytes.
#[inline]
pub(super) fn take<'a>(input: &mut &'a [u8], remaining: u32) -> (&'a [u8], u32) {
    let here = input.len().min(remaining as usize);
    let (part, rest) = input.split_at(here);
    *input = rest;
    #[expect(clippy::cast_possible_truncation, reason = "at most `remaining`")]
    (part, remaining - here as u32)
}
