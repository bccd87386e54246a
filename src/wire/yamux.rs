//! The yamux frame header: twelve bytes, big-endian (protocols.md §5).
//!
//! Decides only what no stream state can change: version, type and flag bits.
//! Window arithmetic, stream ids and the meaning of the length are left to the
//! yamux engine.

use super::DecodeError;

/// Length of every frame header in bytes.
pub const HEADER_LEN: usize = 12;

/// Receive window of a stream before any update, in bytes.
pub const INITIAL_WINDOW: u32 = 262_144;

/// One frame header. [`Header::length`] means bytes of body only in a data
/// frame; elsewhere it is a credit, an opaque value, a reason or an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame does.
    pub kind: FrameKind,
    /// Stream life-cycle bits.
    pub flags: Flags,
    /// Stream id; 0 is the session.
    pub stream: u32,
    /// Data: bytes of body. Window update: credit in bytes, or an error code
    /// beside RST. Ping: opaque value. Go-away: a [`GoAwayCode`].
    pub length: u32,
}

impl Header {
    /// Reads the header at the front of `input`; the consumed length is always
    /// [`HEADER_LEN`].
    ///
    /// # Errors
    /// `Incomplete` below twelve bytes; `Malformed` for another version, an
    /// unknown type or an unknown flag bit.
    #[inline]
    pub fn decode(input: &[u8]) -> Result<(Self, usize), DecodeError> {
        let Some(&[version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]) =
            input.first_chunk::<HEADER_LEN>()
        else {
            return Err(DecodeError::Incomplete);
        };
        if version != 0 {
            return Err(DecodeError::Malformed("yamux version is not 0"));
        }
        let kind = match kind {
            0 => FrameKind::Data,
            1 => FrameKind::WindowUpdate,
            2 => FrameKind::Ping,
            3 => FrameKind::GoAway,
            _ => return Err(DecodeError::Malformed("unknown yamux frame type")),
        };
        let flags = Flags(u16::from_be_bytes([f0, f1]));
        if !Flags::ALL.contains(flags) {
            return Err(DecodeError::Malformed("unknown yamux flag"));
        }
        let header = Self {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        };
        Ok((header, HEADER_LEN))
    }

    /// The header as it goes on the wire.
    #[inline]
    #[must_use]
    pub const fn encode(&self) -> [u8; HEADER_LEN] {
        let [f0, f1] = self.flags.0.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [0, self.kind as u8, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }
}

/// The frame types of yamux, with their values on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A body of [`Header::length`] bytes follows.
    Data = 0,
    /// Credit for the peer's sending side.
    WindowUpdate = 1,
    /// SYN asks, ACK answers.
    Ping = 2,
    /// The sender will open no more streams.
    GoAway = 3,
}

/// A set of flag bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Opens a stream, or asks a ping.
    pub const SYN: Self = Self(1);
    /// Accepts a stream, or answers a ping.
    pub const ACK: Self = Self(2);
    /// Closes the sender's direction.
    pub const FIN: Self = Self(4);
    /// Ends the stream in both directions.
    pub const RST: Self = Self(8);

    const ALL: Self = Self(15);

    /// Whether every bit of `other` is set here.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no bit is set.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Why a session ends, in the length field of a go-away frame. Values from
/// 0x1000 are go-libp2p's (`core/network/conn.go`, `ConnErrorCode`); who does not
/// know them only sees that the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum GoAwayCode {
    /// Orderly end.
    Normal = 0,
    /// The peer broke the protocol.
    Protocol = 1,
    /// The sender is at fault.
    Internal = 2,
    /// A limit was reached.
    ResourceLimit = 0x1001,
    /// There are too many connections, and others matter more.
    GarbageCollected = 0x1005,
    /// The operator does not want the peer.
    Gated = 0x1007,
}

impl GoAwayCode {
    /// The code of a received go-away; `None` for values that are not listed here.
    #[must_use]
    pub const fn from_wire(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Normal),
            1 => Some(Self::Protocol),
            2 => Some(Self::Internal),
            0x1001 => Some(Self::ResourceLimit),
            0x1005 => Some(Self::GarbageCollected),
            0x1007 => Some(Self::Gated),
            _ => None,
        }
    }

    /// The value for [`Header::length`].
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    const fn header(kind: FrameKind, flags: Flags, stream: u32, length: u32) -> Header {
        Header {
            kind,
            flags,
            stream,
            length,
        }
    }

    #[test]
    fn captured_headers_read_and_write() {
        use FrameKind::{Data, GoAway, Ping, WindowUpdate};
        for (bytes, expected) in [
            (
                "000100010000000100000000",
                header(WindowUpdate, Flags::SYN, 1, 0),
            ),
            (
                "000100020000000100000000",
                header(WindowUpdate, Flags::ACK, 1, 0),
            ),
            ("000000010000000100000005", header(Data, Flags::SYN, 1, 5)),
            (
                "000100040000000100000000",
                header(WindowUpdate, Flags::FIN, 1, 0),
            ),
            ("000000040000000100000000", header(Data, Flags::FIN, 1, 0)),
            (
                "000100080000000100000000",
                header(WindowUpdate, Flags::RST, 1, 0),
            ),
            (
                "000100080000000100001001",
                header(WindowUpdate, Flags::RST, 1, 0x1001),
            ),
            ("000200010000000000000007", header(Ping, Flags::SYN, 0, 7)),
            ("000200020000000000000007", header(Ping, Flags::ACK, 0, 7)),
            (
                "000300000000000000000000",
                header(GoAway, Flags::NONE, 0, GoAwayCode::Normal.code()),
            ),
            (
                "000300000000000000000001",
                header(GoAway, Flags::NONE, 0, GoAwayCode::Protocol.code()),
            ),
            (
                "000300000000000000000002",
                header(GoAway, Flags::NONE, 0, GoAwayCode::Internal.code()),
            ),
        ] {
            assert_eq!(Header::decode(&hex(bytes)), Ok((expected, HEADER_LEN)));
            assert_eq!(expected.encode().as_slice(), hex(bytes));
        }
    }

    #[test]
    fn other_versions_types_and_flags_are_malformed() {
        for bytes in [
            "010000000000000100000000",
            "ff0000000000000100000000",
            "000400000000000100000000",
            "00ff00000000000100000000",
            "000000100000000100000000",
            "000001000000000100000000",
            "000080010000000100000000",
        ] {
            assert!(
                matches!(Header::decode(&hex(bytes)), Err(DecodeError::Malformed(_))),
                "{bytes}"
            );
        }
    }

    #[test]
    fn flags_combine() {
        let both = Flags::SYN.union(Flags::FIN);
        assert!(both.contains(Flags::SYN) && both.contains(Flags::FIN));
        assert!(!both.contains(Flags::RST) && !Flags::SYN.contains(both));
        assert!(Flags::NONE.is_empty() && !both.is_empty());
    }

    #[test]
    fn undefined_go_away_codes_have_no_name() {
        assert_eq!(GoAwayCode::from_wire(2), Some(GoAwayCode::Internal));
        let limit = GoAwayCode::ResourceLimit;
        assert_eq!(GoAwayCode::from_wire(limit.code()), Some(limit));
        assert_eq!(GoAwayCode::from_wire(3), None);
        assert_eq!(GoAwayCode::from_wire(u32::MAX), None);
    }

    proptest! {
        #[test]
        fn any_header_that_is_read_is_written_alike(input in any::<[u8; 16]>(), version in 0..2_u8, kind in 0..5_u8, flags in 0..32_u8) {
            let mut input = input;
            [input[0], input[1], input[2], input[3]] = [version, kind, 0, flags];
            match Header::decode(&input) {
                Ok((header, used)) => prop_assert_eq!(&header.encode()[..], &input[..used]),
                Err(error) => {
                    prop_assert!(version > 0 || kind > 3 || flags > 15);
                    prop_assert!(matches!(error, DecodeError::Malformed(_)));
                }
            }
            for end in 0..HEADER_LEN {
                prop_assert_eq!(Header::decode(&input[..end]), Err(DecodeError::Incomplete));
            }
        }
    }
}
