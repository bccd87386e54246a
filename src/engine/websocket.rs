//! WebSocket as a carrier of bytes (RFC 6455): frames taken apart in place on
//! their way in, one binary frame around what goes out.
//!
//! Bounds a frame, a message and what is kept: a piece of a header and the
//! payload of one control frame. Message boundaries mean nothing and text is
//! taken as bytes (protocols.md §17), so no message is ever collected. How the
//! upgrade from HTTP goes is in `upgrade.rs`; closing is left to the caller.

pub mod upgrade;

use std::ops::Range;

use crate::wire::DecodeError;
use crate::wire::websocket::{
    CONTROL_MAX, CloseCode, HEADER_MAX, Header, Mask, Opcode, apply_mask, close_code,
};

/// Most bytes in a frame from a peer. Peers write a record or a batch of them
/// at a time, which is a fraction of this.
pub const FRAME_MAX: u64 = 1 << 20;

/// Most bytes in a message of many frames.
pub const MESSAGE_MAX: u64 = 16 << 20;

/// Which end of the connection we are: clients mask, servers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We accepted the connection.
    Server,
    /// We opened it.
    Client,
}

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// A header that no state allows, or a wrong close code.
    #[error(transparent)]
    Frame(#[from] DecodeError),
    /// A client that does not mask, or a server that does.
    #[error("frame masked wrongly")]
    Masking,
    /// A message inside a message, or the continuation of none.
    #[error("frame out of sequence")]
    Sequence,
    /// A frame or a message beyond its limit.
    #[error("{0} is too long")]
    TooLarge(&'static str),
}

impl WebSocketError {
    /// What the peer is told.
    #[must_use]
    pub const fn code(self) -> CloseCode {
        match self {
            Self::Frame(_) | Self::Masking | Self::Sequence => CloseCode::Protocol,
            Self::TooLarge(_) => CloseCode::TooLarge,
        }
    }
}

/// Takes the frames of one peer apart.
#[derive(Debug)]
pub struct Inbound {
    role: Role,
    /// The beginning of a header whose end has not arrived.
    partial: [u8; HEADER_MAX],
    partial_length: usize,
    frame: Option<Frame>,
    /// Bytes of the message that is open.
    message: Option<u64>,
    /// Payload of the control frame that is open.
    control: Vec<u8>,
    /// What the last ping asks to be sent back.
    pong: Option<Vec<u8>>,
    closed: bool,
    /// The code with which the peer has closed.
    close_code: Option<u16>,
}

/// A frame whose payload has not all arrived.
#[derive(Debug)]
struct Frame {
    opcode: Opcode,
    /// Turned so that it begins with the next byte's.
    mask: Mask,
    left: u64,
}

impl Inbound {
    /// For the peer of a server or a client.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            partial: [0; HEADER_MAX],
            partial_length: 0,
            frame: None,
            message: None,
            control: Vec::new(),
            pong: None,
            closed: false,
            close_code: None,
        }
    }

    /// Takes the frames in `buffer[input]` apart. What they carry is moved to
    /// `buffer[output..]`, the new end of which is returned; `output` is not
    /// behind the start of the input. After it, the caller takes
    /// [`Self::pong`] and looks at [`Self::closed`].
    ///
    /// # Errors
    /// [`WebSocketError`], after which the connection is over.
    pub fn decode(
        &mut self,
        buffer: &mut [u8],
        input: Range<usize>,
        mut output: usize,
    ) -> Result<usize, WebSocketError> {
        debug_assert!(output <= input.start, "the output overtakes the input");
        let Range { start: mut at, end } = input;
        loop {
            // What comes behind a close frame does not count.
            if self.closed {
                return Ok(output);
            }
            let Some(frame) = &mut self.frame else {
                if at == end {
                    return Ok(output);
                }
                at += self.header(&buffer[at..end])?;
                continue;
            };
            let part = usize::try_from(frame.left).map_or(end - at, |left| left.min(end - at));
            if self.role == Role::Server {
                apply_mask(&mut buffer[at..at + part], frame.mask);
                frame.mask.rotate_left(part % 4);
            }
            if frame.opcode.is_control() {
                self.control.extend_from_slice(&buffer[at..at + part]);
            } else {
                buffer.copy_within(at..at + part, output);
                output += part;
            }
            at += part;
            frame.left -= part as u64;
            if frame.left > 0 {
                return Ok(output);
            }
            let opcode = frame.opcode;
            self.frame = None;
            self.ended(opcode)?;
        }
    }

    /// What the last ping asks to be sent back, once. Only the last has to be
    /// answered (RFC 6455 §5.5.3), so that a flood costs one answer a read.
    pub fn pong(&mut self) -> Option<Vec<u8>> {
        self.pong.take()
    }

    /// Whether the peer has closed, and with which code.
    #[must_use]
    pub const fn closed(&self) -> Option<Option<u16>> {
        if self.closed {
            Some(self.close_code)
        } else {
            None
        }
    }

    /// Reads a header, or as much of it as is there; returns how many bytes of
    /// `input` it took.
    fn header(&mut self, input: &[u8]) -> Result<usize, WebSocketError> {
        let kept = self.partial_length;
        let more = input.len().min(HEADER_MAX - kept);
        self.partial[kept..kept + more].copy_from_slice(&input[..more]);
        match Header::decode(&self.partial[..kept + more]) {
            Ok((header, used)) => {
                self.partial_length = 0;
                self.begun(header)?;
                Ok(used - kept)
            }
            Err(DecodeError::Incomplete) => {
                self.partial_length = kept + more;
                Ok(more)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn begun(&mut self, header: Header) -> Result<(), WebSocketError> {
        let mask = match (self.role, header.mask) {
            (Role::Server, Some(mask)) => mask,
            (Role::Client, None) => [0; 4],
            (Role::Server, None) | (Role::Client, Some(_)) => return Err(WebSocketError::Masking),
        };
        if header.length > FRAME_MAX {
            return Err(WebSocketError::TooLarge("frame"));
        }
        if !header.opcode.is_control() {
            let continues = header.opcode == Opcode::Continuation;
            let before = match (self.message, continues) {
                (Some(bytes), true) => bytes,
                (None, false) => 0,
                (Some(_), false) | (None, true) => return Err(WebSocketError::Sequence),
            };
            let bytes = before + header.length;
            if bytes > MESSAGE_MAX {
                return Err(WebSocketError::TooLarge("message"));
            }
            self.message = (!header.last).then_some(bytes);
        }
        self.frame = Some(Frame {
            opcode: header.opcode,
            mask,
            left: header.length,
        });
        Ok(())
    }

    fn ended(&mut self, opcode: Opcode) -> Result<(), WebSocketError> {
        match opcode {
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
            Opcode::Ping => self.pong = Some(std::mem::take(&mut self.control)),
            // We ask none, and unasked ones are allowed.
            Opcode::Pong => self.control = Vec::new(),
            Opcode::Close => {
                self.close_code = close_code(&std::mem::take(&mut self.control))?;
                self.closed = true;
            }
        }
        Ok(())
    }
}

/// The header of a frame of `length` bytes, and how long it is. `mask` is for
/// clients, who mask the payload as well.
#[inline]
#[must_use]
pub fn data_header(length: usize, mask: Option<Mask>) -> ([u8; HEADER_MAX], usize) {
    let header = Header {
        last: true,
        opcode: Opcode::Binary,
        mask,
        length: length as u64,
    };
    let mut out = [0; HEADER_MAX];
    let used = header.encode(&mut out);
    (out, used)
}

/// Most bytes that [`wrap`] adds: a pong in front, a header, a close frame
/// behind.
pub const OVERHEAD_MAX: usize = 3 * HEADER_MAX + CONTROL_MAX + 2;

/// Puts a frame around all of `bytes`, if there are any, in place: behind an
/// answer to a ping, in front of a close frame.
pub fn wrap(bytes: &mut Vec<u8>, pong: Option<&[u8]>, close: Option<u16>, mask: Option<Mask>) {
    let length = bytes.len();
    let mut before = Vec::new();
    if let Some(payload) = pong {
        append_pong(payload, mask, &mut before);
    }
    let (header, used) = data_header(length, mask);
    let used = if length > 0 { used } else { 0 };
    let front = before.len() + used;
    bytes.resize(front + length, 0);
    bytes.copy_within(..length, front);
    bytes[..before.len()].copy_from_slice(&before);
    bytes[before.len()..front].copy_from_slice(&header[..used]);
    if let Some(mask) = mask {
        apply_mask(&mut bytes[front..], mask);
    }
    if close.is_some() {
        append_close(close, mask, bytes);
    }
}

/// Appends the answer to a ping.
pub fn append_pong(payload: &[u8], mask: Option<Mask>, out: &mut Vec<u8>) {
    append_control(Opcode::Pong, payload, mask, out);
}

/// Appends a close frame; one without a code confirms a close that had none.
pub fn append_close(code: Option<u16>, mask: Option<Mask>, out: &mut Vec<u8>) {
    let code = code.map(u16::to_be_bytes);
    let payload = code.as_ref().map_or(&[][..], |code| &code[..]);
    append_control(Opcode::Close, payload, mask, out);
}

fn append_control(opcode: Opcode, payload: &[u8], mask: Option<Mask>, out: &mut Vec<u8>) {
    debug_assert!(payload.len() <= CONTROL_MAX, "a long control frame");
    let header = Header {
        last: true,
        opcode,
        mask,
        length: payload.len() as u64,
    };
    let mut room = [0; HEADER_MAX];
    let used = header.encode(&mut room);
    out.extend_from_slice(&room[..used]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

#[cfg(test)]
mod tests;
