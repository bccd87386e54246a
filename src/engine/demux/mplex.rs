//! mplex 6.7.0 frames to events (mplex spec, "Message format").
//!
//! Holds at most one header (two varints) and the number of payload bytes that
//! are still to come. Stream names and the bodies of close and reset frames
//! are skipped as they arrive, never gathered.

use super::{DemuxError, Event, StreamId, yamux::take};
use crate::wire::{
    DecodeError,
    mplex::{Flag, Header, MAX_HEADER_LEN},
};

pub(super) struct Reader {
    header: [u8; MAX_HEADER_LEN],
    filled: u8,
    rest: Rest,
}

#[derive(Clone, Copy)]
enum Rest {
    None,
    Payload { stream: StreamId, remaining: u32 },
    Skip { remaining: u32 },
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            header: [0; MAX_HEADER_LEN],
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
            match self.rest {
                Rest::None => {}
                Rest::Payload { stream, remaining } => {
                    let (payload, remaining) = take(input, remaining);
                    self.rest = match remaining {
                        0 => Rest::None,
                        remaining => Rest::Payload { stream, remaining },
                    };
                    return Ok((!payload.is_empty()).then_some(Event::Data(stream, payload)));
                }
                Rest::Skip { remaining } => {
                    let (_, remaining) = take(input, remaining);
                    if remaining > 0 {
                        self.rest = Rest::Skip { remaining };
                        return Ok(None);
                    }
                    self.rest = Rest::None;
                }
            }
            let Some(header) = self.header(input)? else {
                return Ok(None);
            };
            if let Some(event) = self.begin(header) {
                return Ok(Some(event));
            }
        }
    }

    #[inline]
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, DemuxError> {
        if self.filled == 0 {
            match Header::decode(input) {
                Ok((header, consumed)) => {
                    *input = &input[consumed..];
                    return Ok(Some(header));
                }
                Err(DecodeError::Incomplete) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Varints end where they end: a header that is split over records is
        // completed one byte at a time.
        while let Some((byte, rest)) = input.split_first() {
            let filled = usize::from(self.filled);
            let Some(slot) = self.header.get_mut(filled) else {
                return Err(DecodeError::Malformed("mplex header too long").into());
            };
            *slot = *byte;
            self.filled += 1;
            *input = rest;
            match Header::decode(&self.header[..=filled]) {
                Ok((header, _)) => {
                    self.filled = 0;
                    return Ok(Some(header));
                }
                Err(DecodeError::Incomplete) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    #[inline]
    fn begin<'a>(&mut self, header: Header) -> Option<Event<'a>> {
        // "Receiver" and "initiator" name the sender's role in that stream: a
        // frame by the stream's receiver is about a stream that we opened.
        let stream = |local| StreamId::mplex(header.id, local);
        let (event, payload) = match header.flag {
            Flag::NewStream => (Some(Event::Opened(stream(false))), false),
            Flag::MessageReceiver => {
                self.payload(stream(true), header.length);
                (None, true)
            }
            Flag::MessageInitiator => {
                self.payload(stream(false), header.length);
                (None, true)
            }
            Flag::CloseReceiver => (Some(Event::Finished(stream(true))), false),
            Flag::CloseInitiator => (Some(Event::Finished(stream(false))), false),
            Flag::ResetReceiver => (Some(Event::Reset(stream(true))), false),
            Flag::ResetInitiator => (Some(Event::Reset(stream(false))), false),
        };
        if !payload && header.length > 0 {
            self.rest = Rest::Skip {
                remaining: header.length,
            };
        }
        event
    }

    #[inline]
    fn payload(&mut self, stream: StreamId, remaining: u32) {
        self.rest = match remaining {
            0 => Rest::None,
            remaining => Rest::Payload { stream, remaining },
        };
    }
}
