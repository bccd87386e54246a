//! The messages of multistream-select 1.0 (protocols.md §1).
//!
//! A message is a varint length, text and a newline; the length counts the
//! newline. Bounds a message to 1024 bytes. How often a peer may ask, and what
//! is answered, is left to the negotiation engine.

use super::{DecodeError, length_delimited};

/// The token both sides open with.
pub const HEADER: &str = "/multistream/1.0.0";

/// The message with that token, as it is on the wire.
pub const HEADER_MESSAGE: &[u8] = b"\x13/multistream/1.0.0\n";

/// Largest message in bytes, newline included, prefix not: the bound of go
/// and js.
pub const MAX_MESSAGE: usize = 1024;

/// One message of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// The token [`HEADER`].
    Header,
    /// Refusal of a proposal.
    Na,
    /// Question for the list of protocols.
    Ls,
    /// A proposal, or its echo. Without a leading slash it names no protocol
    /// but is still answered by `na`, as go and js do.
    Protocol(&'a str),
}

impl<'a> Message<'a> {
    /// The text of the message, without its newline.
    #[must_use]
    pub const fn token(self) -> &'a str {
        match self {
            Self::Header => HEADER,
            Self::Na => "na",
            Self::Ls => "ls",
            Self::Protocol(name) => name,
        }
    }
}

/// Reads one message from the front of `input`; bytes behind it belong to
/// the next message or to the protocol just agreed upon.
///
/// # Errors
/// `TooLarge` above [`MAX_MESSAGE`]; `Malformed` for an empty message, a
/// missing newline, a non-minimal length or text that is not UTF-8.
pub fn decode(input: &[u8]) -> Result<(Message<'_>, usize), DecodeError> {
    let (body, used) = length_delimited::decode(input, MAX_MESSAGE, "multistream message")?;
    let Some((b'\n', token)) = body.split_last() else {
        return Err(DecodeError::Malformed(
            "multistream message without newline",
        ));
    };
    let token = std::str::from_utf8(token)
        .map_err(|_| DecodeError::Malformed("multistream message is not utf-8"))?;
    let message = match token {
        HEADER => Message::Header,
        "na" => Message::Na,
        "ls" => Message::Ls,
        name => Message::Protocol(name),
    };
    Ok((message, used))
}

/// Appends one message to `out`.
///
/// A protocol must be shorter than [`MAX_MESSAGE`], or no peer will read it;
/// debug builds check.
pub fn encode(message: Message<'_>, out: &mut Vec<u8>) {
    put_token(message.token(), out);
}

/// Appends the answer to `ls`: one message that holds `protocols` as nested
/// messages and ends in a newline of its own.
///
/// Names that no longer fit into [`MAX_MESSAGE`] are left out, so that every
/// peer can read the answer.
pub fn encode_ls<'a>(protocols: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
    length_delimited::encode_with(out, |out| {
        let start = out.len();
        for name in protocols {
            let before = out.len();
            put_token(name, out);
            if out.len() - start >= MAX_MESSAGE {
                out.truncate(before);
            }
        }
        out.push(b'\n');
    });
}

fn put_token(token: &str, out: &mut Vec<u8>) {
    debug_assert!(token.len() < MAX_MESSAGE, "token that no peer reads");
    length_delimited::encode_with(out, |out| {
        out.extend_from_slice(token.as_bytes());
        out.push(b'\n');
    });
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    fn encoded(message: Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode(message, &mut out);
        out
    }

    fn malformed(bytes: &[u8]) -> bool {
        matches!(decode(bytes), Err(DecodeError::Malformed(_)))
    }

    #[test]
    fn reference_tokens_read_and_write() {
        for (bytes, message) in [
            ("132f6d756c746973747265616d2f312e302e300a", Message::Header),
            ("036e610a", Message::Na),
            ("036c730a", Message::Ls),
            ("072f6e6f6973650a", Message::Protocol("/noise")),
            ("0b2f746c732f312e302e300a", Message::Protocol("/tls/1.0.0")),
            (
                "0d2f79616d75782f312e302e300a",
                Message::Protocol("/yamux/1.0.0"),
            ),
            (
                "0d2f6d706c65782f362e372e300a",
                Message::Protocol("/mplex/6.7.0"),
            ),
        ] {
            let bytes = hex(bytes);
            assert_eq!(decode(&bytes), Ok((message, bytes.len())));
            assert_eq!(encoded(message), bytes);
        }
    }

    #[test]
    fn the_list_of_protocols_nests_messages() {
        let mut out = Vec::new();
        encode_ls(["/noise", "/tls/1.0.0"], &mut out);
        assert_eq!(out, hex("15072f6e6f6973650a0b2f746c732f312e302e300a0a"));
    }

    #[test]
    fn a_long_list_stays_readable() {
        let names: Vec<String> = (0..200).map(|n| format!("/protocol/{n}")).collect();
        let mut out = Vec::new();
        encode_ls(names.iter().map(String::as_str), &mut out);
        let (body, used) = length_delimited::decode(&out, MAX_MESSAGE, "list").unwrap();
        assert_eq!(used, out.len());
        assert!(body.len() > MAX_MESSAGE - 20 && body.ends_with(b"\n\n"));
        let (first, _) = decode(body).unwrap();
        assert_eq!(first, Message::Protocol("/protocol/0"));
    }

    #[test]
    fn one_write_with_header_token_and_payload_is_taken_apart() {
        let mut flight = encoded(Message::Header);
        encode(Message::Protocol("/a"), &mut flight);
        flight.extend_from_slice(b"payload");
        let (first, used) = decode(&flight).unwrap();
        let (second, more) = decode(&flight[used..]).unwrap();
        assert_eq!((first, second), (Message::Header, Message::Protocol("/a")));
        assert_eq!(&flight[used + more..], b"payload");
    }

    #[test]
    fn a_token_without_slash_is_a_protocol_nobody_has() {
        assert_eq!(decode(b"\x04foo\n"), Ok((Message::Protocol("foo"), 5)));
        assert_eq!(decode(b"\x01\n"), Ok((Message::Protocol(""), 2)));
    }

    #[test]
    fn the_cap_counts_the_newline() {
        let longest = format!("/{}", "a".repeat(MAX_MESSAGE - 2));
        let mut bytes = encoded(Message::Protocol(&longest));
        assert_eq!(
            decode(&bytes),
            Ok((Message::Protocol(&longest), 2 + MAX_MESSAGE))
        );
        bytes[..2].copy_from_slice(&hex("8108"));
        assert_eq!(
            decode(&bytes[..2]),
            Err(DecodeError::TooLarge {
                what: "multistream message",
                announced: 1025,
                max: 1024
            })
        );
    }

    #[test]
    fn broken_messages_are_malformed() {
        assert!(malformed(&[0]), "empty message");
        assert!(malformed(b"\x03abc"), "no newline");
        assert!(malformed(b"\x04ab\nc"), "newline not at the end");
        assert!(malformed(b"\x83\x00na\n"), "non-minimal length");
        assert!(malformed(b"\x03\xff\xfe\n"), "not utf-8");
        assert!(malformed(&[0xff; 10]), "length above nine bytes");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(name in "/[a-z0-9/.é]{0,400}", tail in any::<Vec<u8>>()) {
            prop_assume!(name != HEADER);
            let mut bytes = encoded(Message::Protocol(&name));
            let len = bytes.len();
            for end in 0..len {
                prop_assert_eq!(decode(&bytes[..end]), Err(DecodeError::Incomplete));
            }
            bytes.extend(tail);
            prop_assert_eq!(decode(&bytes), Ok((Message::Protocol(&name), len)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(input in any::<Vec<u8>>()) {
            if let Ok((message, used)) = decode(&input) {
                prop_assert_eq!(encoded(message), &input[..used]);
            }
        }
    }
}
