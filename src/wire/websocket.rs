//! The WebSocket frame header: two to fourteen bytes (RFC 6455 §5.2), the
//! payload of a close frame, and the mask.
//!
//! Decides what no connection state can change: reserved bits, opcodes, minimal
//! lengths, the size of control frames. Which frame may follow which, and how
//! long one may be, is left to the engine.

use super::DecodeError;

/// Length of the longest header.
pub const HEADER_MAX: usize = 14;

/// Most bytes of payload in a control frame.
pub const CONTROL_MAX: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame is for, with its value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message that is open.
    Continuation = 0,
    /// Begins a message of text.
    Text = 1,
    /// Begins a message of bytes.
    Binary = 2,
    /// Ends the connection, or confirms its end.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Whether such a frame may stand between the parts of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// The bytes that every byte of a payload is combined with, in turn.
pub type Mask = [u8; 4];

/// One frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the message ends with this frame.
    pub last: bool,
    /// What the frame is for.
    pub opcode: Opcode,
    /// What the payload is masked with: by clients always, by servers never.
    pub mask: Option<Mask>,
    /// Bytes of payload.
    pub length: u64,
}

impl Header {
    /// Reads the header at the front of `input`; returns it and its length.
    ///
    /// # Errors
    /// `Incomplete`; `Malformed` for a reserved bit, an unknown opcode, a length
    /// that is not minimal or has its highest bit set, and for a control frame
    /// that is long or fragmented.
    #[inline]
    pub fn decode(input: &[u8]) -> Result<(Self, usize), DecodeError> {
        let Some(&[first, second]) = input.first_chunk::<2>() else {
            return Err(DecodeError::Incomplete);
        };
        if first & RESERVED != 0 {
            return Err(DecodeError::Malformed("a reserved bit of a frame is set"));
        }
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(DecodeError::Malformed("unknown opcode")),
        };
        let last = first & FIN != 0;
        if opcode.is_control() && (!last || second & !MASKED > 125) {
            return Err(DecodeError::Malformed("fragmented or long control frame"));
        }
        let (length, at) = length(second & !MASKED, &input[2..])?;
        let mut header = Self {
            last,
            opcode,
            mask: None,
            length,
        };
        if second & MASKED == 0 {
            return Ok((header, 2 + at));
        }
        let mask = input[2 + at..].first_chunk::<4>();
        header.mask = Some(*mask.ok_or(DecodeError::Incomplete)?);
        Ok((header, 2 + at + 4))
    }

    /// Writes the header to the front of `out` and returns its length.
    #[inline]
    pub fn encode(&self, out: &mut [u8; HEADER_MAX]) -> usize {
        out[0] = if self.last { FIN } else { 0 } | self.opcode as u8;
        let mask_bit = if self.mask.is_some() { MASKED } else { 0 };
        let wide = self.length.to_be_bytes();
        let mut used = 2;
        match self.length {
            0..=125 => out[1] = wide[7],
            126..=0xffff => {
                out[1] = 126;
                out[2..4].copy_from_slice(&wide[6..]);
                used = 4;
            }
            _ => {
                out[1] = 127;
                out[2..10].copy_from_slice(&wide);
                used = 10;
            }
        }
        out[1] |= mask_bit;
        if let Some(mask) = self.mask {
            out[used..used + 4].copy_from_slice(&mask);
            used += 4;
        }
        used
    }
}

/// The length that `short` stands for, and how many bytes of `rest` it took.
fn length(short: u8, rest: &[u8]) -> Result<(u64, usize), DecodeError> {
    let (length, at, least) = match short {
        126 => {
            let bytes = rest.first_chunk().ok_or(DecodeError::Incomplete)?;
            (u64::from(u16::from_be_bytes(*bytes)), 2, 126)
        }
        127 => {
            let bytes = rest.first_chunk().ok_or(DecodeError::Incomplete)?;
            (u64::from_be_bytes(*bytes), 8, 0x1_0000)
        }
        _ => (u64::from(short), 0, 0),
    };
    if length < least || length > u64::MAX >> 1 {
        return Err(DecodeError::Malformed("frame length is not minimal"));
    }
    Ok((length, at))
}

/// Masks or unmasks `bytes`, whose first byte is combined with `mask[0]`.
#[inline]
pub fn apply_mask(bytes: &mut [u8], mask: Mask) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

/// Why a connection is closed: the codes that we send (RFC 6455 §7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// All is done.
    Normal = 1000,
    /// The server goes away.
    Away = 1001,
    /// The peer broke the protocol.
    Protocol = 1002,
    /// A frame or message was too long.
    TooLarge = 1009,
}

/// The code in the payload of a close frame, none if it is empty.
///
/// # Errors
/// `Malformed` for half a code and for one that may not be sent. The text
/// behind the code is not looked at.
pub fn close_code(payload: &[u8]) -> Result<Option<u16>, DecodeError> {
    match payload {
        [] => Ok(None),
        [high, low, ..] => match u16::from_be_bytes([*high, *low]) {
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(Some(code)),
            _ => Err(DecodeError::Malformed("close code that may not be sent")),
        },
        [_] => Err(DecodeError::Malformed("half a close code")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    fn encoded(header: &Header) -> Vec<u8> {
        let mut out = [0; HEADER_MAX];
        let used = header.encode(&mut out);
        out[..used].to_vec()
    }

    /// The examples of RFC 6455 §5.7.
    #[test]
    fn the_examples_of_the_specification_read_and_write() {
        use Opcode::{Binary, Continuation, Ping, Pong, Text};
        let mask = Some([0x37, 0xfa, 0x21, 0x3d]);
        for (bytes, last, opcode, mask, length) in [
            ("8105", true, Text, None, 5),
            ("818537fa213d", true, Text, mask, 5),
            ("0103", false, Text, None, 3),
            ("8002", true, Continuation, None, 2),
            ("8905", true, Ping, None, 5),
            ("8a8537fa213d", true, Pong, mask, 5),
            ("827e0100", true, Binary, None, 256),
            ("827f0000000000010000", true, Binary, None, 65_536),
        ] {
            let header = Header {
                last,
                opcode,
                mask,
                length,
            };
            let bytes = hex(bytes);
            assert_eq!(Header::decode(&bytes), Ok((header, bytes.len())));
            assert_eq!(encoded(&header), bytes);
        }
        let mut hello = hex("7f9f4d5158");
        apply_mask(&mut hello, [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(hello, b"Hello");
    }

    #[test]
    fn what_no_state_can_allow_is_malformed() {
        for bytes in [
            "c200",                 // RSV1: an extension nobody agreed on
            "a200",                 // RSV2
            "9200",                 // RSV3
            "8300",                 // reserved data opcode
            "8b00",                 // reserved control opcode
            "0900",                 // fragmented ping
            "897e007e",             // ping of 126 bytes
            "887f0000000000010000", // close of 64 KiB
            "827e007d",             // 125 in the long form
            "827f000000000000ffff", // 65535 in the longest form
            "827f8000000000000000", // highest bit
        ] {
            assert!(
                matches!(Header::decode(&hex(bytes)), Err(DecodeError::Malformed(_))),
                "{bytes}"
            );
        }
    }

    #[test]
    fn only_codes_that_may_be_sent_close_a_connection() {
        assert_eq!(close_code(&[]), Ok(None));
        assert_eq!(close_code(&hex("03e8 68 69")), Ok(Some(1000)));
        assert_eq!(close_code(&hex("1387")), Ok(Some(4999)));
        for bytes in ["03", "0000", "03e7", "03ec", "03ed", "03ee", "03f7", "1388"] {
            assert!(close_code(&hex(bytes)).is_err(), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn headers_that_are_written_are_read_from_any_cut(
            last in any::<bool>(),
            kind in 0..3_usize,
            mask in any::<Option<[u8; 4]>>(),
            length in prop_oneof![0..200_u64, 65_000..66_000_u64, 0..u64::MAX >> 1],
        ) {
            let opcode = [Opcode::Continuation, Opcode::Text, Opcode::Binary][kind];
            let header = Header { last, opcode, mask, length };
            let bytes = encoded(&header);
            for end in 0..bytes.len() {
                prop_assert_eq!(Header::decode(&bytes[..end]), Err(DecodeError::Incomplete));
            }
            prop_assert_eq!(Header::decode(&bytes).unwrap(), (header, bytes.len()));
        }

        #[test]
        fn any_header_that_is_read_is_written_alike(input in any::<[u8; HEADER_MAX]>()) {
            if let Ok((header, used)) = Header::decode(&input) {
                prop_assert_eq!(encoded(&header), &input[..used]);
            }
        }

        #[test]
        fn the_mask_goes_round_in_fours(bytes in any::<Vec<u8>>(), mask in any::<[u8; 4]>()) {
            let mut masked = bytes.clone();
            apply_mask(&mut masked, mask);
            let expected: Vec<u8> = bytes
                .iter()
                .enumerate()
                .map(|(index, byte)| byte ^ mask[index % 4])
                .collect();
            prop_assert_eq!(masked, expected);
        }
    }
}
