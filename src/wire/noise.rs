//! What libp2p adds to Noise: the frame and the handshake payload
//! (protocols.md §2).
//!
//! A frame is bounded by its two length bytes. Of the payload's lists only the
//! muxers are read, at most a hundred. Keys, signatures and the choice of a
//! muxer are left to the handshake engine.

use super::DecodeError;
use super::protobuf::{Fields, put_bytes, put_message};

/// Bytes of length in front of each Noise message, big-endian.
pub const FRAME_HEADER_LEN: usize = 2;

/// What an identity key signs, followed by the 32-byte X25519 static key.
pub const SIGNATURE_PREFIX: &[u8] = b"noise-libp2p-static-key:";

/// Longest list of muxers that is read; go ignores longer ones.
pub const MAX_MUXERS: usize = 100;

/// Splits one frame from the front of `input`; returns its body and the length
/// of frame and header. The body may be empty; no AEAD will accept that.
///
/// # Errors
/// `Incomplete` until the whole body has arrived.
#[inline]
pub fn decode_frame(input: &[u8]) -> Result<(&[u8], usize), DecodeError> {
    let (length, rest) = input
        .split_first_chunk::<FRAME_HEADER_LEN>()
        .ok_or(DecodeError::Incomplete)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let body = rest.get(..length).ok_or(DecodeError::Incomplete)?;
    Ok((body, FRAME_HEADER_LEN + length))
}

/// The payload of handshake messages 2 and 3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload<'a> {
    /// `PublicKey` protobuf of the sender; empty when absent, which decodes to
    /// no key.
    pub identity_key: &'a [u8],
    /// Signature over [`SIGNATURE_PREFIX`] and the static key; empty when
    /// absent, which verifies under no key.
    pub identity_sig: &'a [u8],
    /// Muxers for early negotiation, best first. Empty when the sender lists
    /// more than [`MAX_MUXERS`]; names that are not UTF-8 are skipped.
    pub stream_muxers: Vec<&'a str>,
}

impl<'a> Payload<'a> {
    /// Reads the payload that makes up all of `body`, a decrypted message.
    ///
    /// # Errors
    /// `Malformed` for a broken body or a known field of the wrong wire type.
    pub fn decode(body: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let mut payload = Self::default();
        let mut listed = 0;
        for field in Fields::new(body) {
            let field = field?;
            match field.number {
                1 => payload.identity_key = field.value.bytes()?,
                2 => payload.identity_sig = field.value.bytes()?,
                4 => payload.read_extensions(field.value.bytes()?, &mut listed)?,
                _ => {}
            }
        }
        if listed > MAX_MUXERS {
            payload.stream_muxers.clear();
        }
        Ok((payload, body.len()))
    }

    /// Appends the payload to `out`, without any frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.identity_key, out);
        put_bytes(2, self.identity_sig, out);
        if !self.stream_muxers.is_empty() {
            put_message(4, out, |out| {
                for muxer in &self.stream_muxers {
                    put_bytes(2, muxer.as_bytes(), out);
                }
            });
        }
    }

    fn read_extensions(&mut self, body: &'a [u8], listed: &mut usize) -> Result<(), DecodeError> {
        for field in Fields::new(body) {
            let field = field?;
            if field.number == 2 {
                let name = field.value.bytes()?;
                *listed += 1;
                if *listed <= MAX_MUXERS
                    && let Ok(name) = std::str::from_utf8(name)
                {
                    self.stream_muxers.push(name);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    fn encoded(payload: &Payload<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        payload.encode(&mut out);
        out
    }

    #[test]
    fn the_longest_frame_is_whole() {
        let mut input = vec![0xff; 2 + 65_535];
        assert_eq!(decode_frame(&input).unwrap().0.len(), 65_535);
        input.pop();
        assert_eq!(decode_frame(&input), Err(DecodeError::Incomplete));
    }

    #[test]
    fn an_empty_frame_is_a_frame() {
        assert_eq!(decode_frame(&[0, 0, 9]), Ok((&[][..], 2)));
    }

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let bytes = hex("0a026b79 1203736967 220e 120c2f79616d75782f312e302e30");
        let payload = Payload {
            identity_key: b"ky",
            identity_sig: b"sig",
            stream_muxers: vec!["/yamux/1.0.0"],
        };
        assert_eq!(Payload::decode(&bytes), Ok((payload.clone(), bytes.len())));
        assert_eq!(encoded(&payload), bytes);
    }

    #[test]
    fn without_muxers_there_are_no_extensions() {
        let payload = Payload {
            identity_key: b"ky",
            identity_sig: b"sig",
            stream_muxers: Vec::new(),
        };
        assert_eq!(encoded(&payload), hex("0a026b79 1203736967"));
    }

    #[test]
    fn absent_fields_are_empty() {
        assert_eq!(Payload::decode(b""), Ok((Payload::default(), 0)));
    }

    #[test]
    fn removed_experimental_and_certificate_fields_are_skipped() {
        let bytes = hex("1a0178 2208 0a0178 8a40020000");
        assert_eq!(Payload::decode(&bytes).unwrap().0, Payload::default());
    }

    #[test]
    fn a_hundred_muxers_are_read_and_more_are_ignored() {
        let names: Vec<String> = (0..=MAX_MUXERS).map(|n| format!("/muxer/{n}")).collect();
        let mut payload = Payload {
            stream_muxers: names.iter().map(String::as_str).collect(),
            ..Payload::default()
        };
        let longer = encoded(&payload);
        assert_eq!(Payload::decode(&longer).unwrap().0, Payload::default());
        payload.stream_muxers.pop();
        let longest = encoded(&payload);
        assert_eq!(Payload::decode(&longest).unwrap().0, payload);
    }

    #[test]
    fn lists_in_two_extensions_count_together() {
        let payload = Payload {
            stream_muxers: vec!["/m"; 60],
            ..Payload::default()
        };
        let twice = [encoded(&payload), encoded(&payload)].concat();
        assert_eq!(Payload::decode(&twice).unwrap().0, Payload::default());
    }

    #[test]
    fn a_muxer_that_is_not_text_is_skipped() {
        let bytes = hex("2207 1201ff 12022f6d");
        assert_eq!(Payload::decode(&bytes).unwrap().0.stream_muxers, ["/m"]);
    }

    #[test]
    fn broken_payloads_are_malformed() {
        for (body, why) in [
            ("0a0261", "key cut short"),
            ("0801", "key as integer"),
            ("1001", "signature as integer"),
            ("2001", "extensions as integer"),
            ("22021005", "muxer as integer"),
            ("22021205", "muxer cut short"),
            ("00", "field number zero"),
        ] {
            assert!(
                matches!(Payload::decode(&hex(body)), Err(DecodeError::Malformed(_))),
                "{why}"
            );
        }
    }

    proptest! {
        #[test]
        fn frames_are_split_where_they_end(body in any::<Vec<u8>>(), tail in any::<Vec<u8>>()) {
            let length = u16::try_from(body.len()).unwrap();
            let mut input = [&length.to_be_bytes()[..], &body].concat();
            let whole = input.len();
            for end in 0..whole {
                prop_assert_eq!(decode_frame(&input[..end]), Err(DecodeError::Incomplete));
            }
            input.extend(tail);
            prop_assert_eq!(decode_frame(&input), Ok((&body[..], whole)));
        }

        #[test]
        fn what_was_written_is_read(
            key in any::<Vec<u8>>(),
            sig in any::<Vec<u8>>(),
            muxers in prop::collection::vec("/[a-z0-9./]{0,40}", 0..10),
        ) {
            let payload = Payload {
                identity_key: &key,
                identity_sig: &sig,
                stream_muxers: muxers.iter().map(String::as_str).collect(),
            };
            let bytes = encoded(&payload);
            prop_assert_eq!(Payload::decode(&bytes), Ok((payload, bytes.len())));
            for end in 0..bytes.len() {
                let _ = Payload::decode(&bytes[..end]);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in any::<Vec<u8>>()) {
            let _ = Payload::decode(&body);
        }
    }
}
