//! The mplex frame header: `id << 3 | flag` and a length, both varints
//! (protocols.md §6).
//!
//! Bounds the id to 60 bits and the body to one mebibyte. Which side's stream
//! an id names, and what a frame for an unknown one does, is left to the mplex
//! engine; so is skipping the name in a `NewStream` body.

use super::{DecodeError, varint};

/// Largest body in bytes; a longer one closes the connection.
pub const MAX_FRAME: u32 = 1 << 20;

/// Largest stream id: what 63 bits leave beside the flag.
pub const MAX_ID: u64 = (1 << 60) - 1;

/// Longest header in bytes: nine of id and flag, three of a length up to
/// [`MAX_FRAME`].
pub const MAX_HEADER_LEN: usize = varint::MAX_LEN + varint::encoded_len(MAX_FRAME as u64);

/// One frame header; `length` bytes of body follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Stream id, at most [`MAX_ID`]; unique only together with the opener.
    pub id: u64,
    /// What the frame does, and who opened the stream.
    pub flag: Flag,
    /// Bytes of body, at most [`MAX_FRAME`]. Every flag may carry a body.
    pub length: u32,
}

impl Header {
    /// Reads the header at the front of `input`; returns it with its length.
    ///
    /// # Errors
    /// `Malformed` for flag 7 and for varints that are not minimal or longer
    /// than nine bytes, `TooLarge` for a body above [`MAX_FRAME`],
    /// `Incomplete` otherwise.
    #[inline]
    pub fn decode(input: &[u8]) -> Result<(Self, usize), DecodeError> {
        let (tag, tag_len) = varint::decode(input)?;
        let flag = match tag & 7 {
            0 => Flag::NewStream,
            1 => Flag::MessageReceiver,
            2 => Flag::MessageInitiator,
            3 => Flag::CloseReceiver,
            4 => Flag::CloseInitiator,
            5 => Flag::ResetReceiver,
            6 => Flag::ResetInitiator,
            _ => return Err(DecodeError::Malformed("undefined mplex flag")),
        };
        let (announced, length_len) = varint::decode(&input[tag_len..])?;
        let length = match u32::try_from(announced) {
            Ok(length) if length <= MAX_FRAME => length,
            _ => {
                return Err(DecodeError::TooLarge {
                    what: "mplex frame",
                    announced,
                    max: u64::from(MAX_FRAME),
                });
            }
        };
        let header = Self {
            id: tag >> 3,
            flag,
            length,
        };
        Ok((header, tag_len + length_len))
    }

    /// Writes the header to the front of `out` and returns its length.
    ///
    /// # Panics
    /// If the id is above [`MAX_ID`] or the length above [`MAX_FRAME`]: both
    /// are the sender's own.
    #[inline]
    pub fn encode(&self, out: &mut [u8; MAX_HEADER_LEN]) -> usize {
        assert!(self.id <= MAX_ID, "mplex id of more than 60 bits");
        assert!(self.length <= MAX_FRAME, "mplex frame above one mebibyte");
        let (first, _) = out
            .split_first_chunk_mut()
            .expect("a header is longer than a varint");
        let tag_len = varint::encode_into(self.id << 3 | self.flag as u64, first);
        let mut length = [0; varint::MAX_LEN];
        let length_len = varint::encode_into(u64::from(self.length), &mut length);
        out[tag_len..tag_len + length_len].copy_from_slice(&length[..length_len]);
        tag_len + length_len
    }
}

/// The flags of mplex, with their values on the wire. *Receiver* and
/// *initiator* say which side of the stream sent the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flag {
    /// Opens a stream; the body is a name for debugging.
    NewStream = 0,
    /// Bytes from the side that did not open the stream.
    MessageReceiver = 1,
    /// Bytes from the opener.
    MessageInitiator = 2,
    /// The other side closes its direction.
    CloseReceiver = 3,
    /// The opener closes its direction.
    CloseInitiator = 4,
    /// The other side ends the stream.
    ResetReceiver = 5,
    /// The opener ends the stream.
    ResetInitiator = 6,
}

impl Flag {
    /// Whether the sender of the frame opened the stream. A received frame
    /// for which this is false names a stream of our own.
    #[inline]
    #[must_use]
    pub const fn sent_by_opener(self) -> bool {
        (self as u8).is_multiple_of(2)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    const FLAGS: [Flag; 7] = [
        Flag::NewStream,
        Flag::MessageReceiver,
        Flag::MessageInitiator,
        Flag::CloseReceiver,
        Flag::CloseInitiator,
        Flag::ResetReceiver,
        Flag::ResetInitiator,
    ];

    fn encoded(header: Header) -> Vec<u8> {
        let mut out = [0; MAX_HEADER_LEN];
        let len = header.encode(&mut out);
        out[..len].to_vec()
    }

    #[test]
    fn captured_frames_read_and_write() {
        for (frame, id, flag, body) in [
            ("8801023137", 17, Flag::NewStream, &b"17"[..]),
            ("0000", 0, Flag::NewStream, b""),
            ("000130", 0, Flag::NewStream, b"0"),
            ("020568656c6c6f", 0, Flag::MessageInitiator, b"hello"),
            ("010568656c6c6f", 0, Flag::MessageReceiver, b"hello"),
            ("0400", 0, Flag::CloseInitiator, b""),
            ("0300", 0, Flag::CloseReceiver, b""),
            ("0600", 0, Flag::ResetInitiator, b""),
            ("0500", 0, Flag::ResetReceiver, b""),
            ("feffffffffffffff7f00", MAX_ID, Flag::ResetInitiator, b""),
        ] {
            let frame = hex(frame);
            let (header, used) = Header::decode(&frame).unwrap();
            assert_eq!((header.id, header.flag), (id, flag));
            assert_eq!(&frame[used..], body);
            assert_eq!(header.length as usize, body.len());
            assert_eq!(encoded(header), frame[..used]);
        }
    }

    #[test]
    fn a_mebibyte_passes_and_one_byte_more_does_not() {
        let (header, used) = Header::decode(&hex("02808040")).unwrap();
        assert_eq!((header.length, used), (MAX_FRAME, 4));
        assert_eq!(
            Header::decode(&hex("02818040")),
            Err(DecodeError::TooLarge {
                what: "mplex frame",
                announced: 1_048_577,
                max: 1_048_576
            })
        );
        assert!(matches!(
            Header::decode(&hex("02ffffffffffffffff7f")),
            Err(DecodeError::TooLarge { .. })
        ));
    }

    #[test]
    fn undefined_flag_is_malformed_whatever_follows() {
        for bytes in ["07", "0700", "0f05", "ffffffffffffffff7f00"] {
            assert_eq!(
                Header::decode(&hex(bytes)),
                Err(DecodeError::Malformed("undefined mplex flag")),
                "{bytes}"
            );
        }
    }

    #[test]
    fn long_and_non_minimal_varints_are_malformed() {
        for bytes in [
            "8000",
            "828000",
            "028000",
            "02858000",
            "8080808080808080800100",
            "0280808080808080808001",
        ] {
            assert!(
                matches!(Header::decode(&hex(bytes)), Err(DecodeError::Malformed(_))),
                "{bytes}"
            );
        }
    }

    #[test]
    fn the_longest_header_fills_the_buffer() {
        let longest = Header {
            id: MAX_ID,
            flag: Flag::MessageInitiator,
            length: MAX_FRAME,
        };
        assert_eq!(encoded(longest).len(), MAX_HEADER_LEN);
    }

    #[test]
    fn even_flags_come_from_the_opener() {
        let openers = FLAGS.map(Flag::sent_by_opener);
        assert_eq!(openers, [true, false, true, false, true, false, true]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            id in prop_oneof![0..64_u64, 0..(1_u64 << 28), 0..=MAX_ID],
            flag in prop::sample::select(&FLAGS),
            length in prop_oneof![0..128_u32, 0..=MAX_FRAME],
            body in any::<Vec<u8>>(),
        ) {
            let header = Header { id, flag, length };
            let mut bytes = encoded(header);
            let len = bytes.len();
            for end in 0..len {
                prop_assert_eq!(Header::decode(&bytes[..end]), Err(DecodeError::Incomplete));
            }
            bytes.extend(body);
            prop_assert_eq!(Header::decode(&bytes), Ok((header, len)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(input in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Ok((header, used)) = Header::decode(&input) {
                prop_assert_eq!(encoded(header), &input[..used]);
            }
        }
    }
}
