//! PROXY protocol, versions 1 and 2: what a reverse proxy says in front of a
//! connection about whom it forwards.
//!
//! Spec: haproxy's `proxy-protocol.txt` (2.1 the text, 2.2 the binary form). A
//! header is at most [`HEADER_MAX`] bytes, its optional fields included, which
//! are checked to lie within it and passed over. Whose header is believed is
//! left to others. Destinations are not kept: they are the proxy's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::DecodeError;

/// Longest header: the addresses, and room for what proxies add about the TLS
/// they have ended. The spec allows 64 KiB; with a client's certificate, which
/// is the longest known addition, a header has some 2 KiB.
pub const HEADER_MAX: usize = 4096;

/// Longest header of version 1, its end of line included (spec 2.1).
const TEXT_MAX: usize = 107;
const TEXT_START: &[u8] = b"PROXY ";

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_LEN: usize = 16;
/// Type and length of an optional field.
const FIELD_LEN: usize = 3;

/// Whom a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody: the proxy speaks for itself, or does not know. The connection
    /// counts as the proxy's own.
    Proxy,
    /// The host that connected to the proxy.
    Host(SocketAddr),
}

/// Reads the header at the front of `bytes`: whom it names and its length.
///
/// # Errors
/// [`DecodeError::Incomplete`] while more bytes may complete it; anything else
/// if they cannot. What does not begin like a header is malformed as early as
/// that shows.
pub fn decode(bytes: &[u8]) -> Result<(Source, usize), DecodeError> {
    if begins(bytes, SIGNATURE) {
        decode_binary(bytes)
    } else if begins(bytes, TEXT_START) {
        decode_text(bytes)
    } else {
        Err(DecodeError::Malformed("no PROXY header"))
    }
}

/// Whether `bytes` and `start` agree as far as both go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn decode_text(bytes: &[u8]) -> Result<(Source, usize), DecodeError> {
    let within = &bytes[..bytes.len().min(TEXT_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < TEXT_MAX {
            Err(DecodeError::Incomplete)
        } else {
            Err(DecodeError::Malformed("PROXY line without an end"))
        };
    };
    let line = within[..end].strip_suffix(b"\r");
    let line = line.and_then(|line| str::from_utf8(line).ok());
    let source = line.and_then(text_source);
    let source = source.ok_or(DecodeError::Malformed("PROXY line"))?;
    Ok((source, end + 1))
}

fn text_source(line: &str) -> Option<Source> {
    let mut words = line.split(' ').skip(1);
    let ip = match words.next()? {
        // Whatever follows is to be ignored.
        "UNKNOWN" => return Some(Source::Proxy),
        "TCP4" => text_pair::<Ipv4Addr>(&mut words)?,
        "TCP6" => text_pair::<Ipv6Addr>(&mut words)?,
        _ => return None,
    };
    let port = text_port(words.next()?)?;
    text_port(words.next()?)?;
    words
        .next()
        .is_none()
        .then_some(Source::Host(SocketAddr::new(ip, port)))
}

/// The first of two addresses of one family.
fn text_pair<'a, A: FromStr + Into<IpAddr>>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Option<IpAddr> {
    let source: A = words.next()?.parse().ok()?;
    let _: A = words.next()?.parse().ok()?;
    Some(source.into())
}

fn text_port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let padded = word.len() > 1 && word.starts_with('0');
    (digits && !padded).then(|| word.parse().ok()).flatten()
}

fn decode_binary(bytes: &[u8]) -> Result<(Source, usize), DecodeError> {
    let fixed = bytes.first_chunk::<FIXED_LEN>();
    let &[.., version_command, family, high, low] = fixed.ok_or(DecodeError::Incomplete)?;
    let length = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_MAX {
        return Err(DecodeError::TooLarge {
            what: "PROXY header",
            announced: length as u64,
            max: HEADER_MAX as u64,
        });
    }
    let local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(DecodeError::Malformed("PROXY version or command")),
    };
    let body = bytes.get(FIXED_LEN..length);
    let body = body.ok_or(DecodeError::Incomplete)?;
    if local {
        // A health check: whatever stands in it is to be ignored.
        return Ok((Source::Proxy, length));
    }
    let (source, fields) = match family {
        // What is behind an unspecified family is nothing that we know.
        0x00 => (Source::Proxy, &[][..]),
        0x11 => binary_source::<4, 12>(body, |octets| Ipv4Addr::from(octets).into())?,
        0x21 => binary_source::<16, 36>(body, |octets| Ipv6Addr::from(octets).into())?,
        // A socket in the proxy's file system: nobody has an address.
        0x31 => (Source::Proxy, skip(body, 216)?),
        _ => return Err(DecodeError::Malformed("PROXY family")),
    };
    skip_fields(fields)?;
    Ok((source, length))
}

/// Addresses of `ADDRESS` bytes each, two ports behind them, `BOTH` together.
fn binary_source<const ADDRESS: usize, const BOTH: usize>(
    body: &[u8],
    read: impl FnOnce([u8; ADDRESS]) -> IpAddr,
) -> Result<(Source, &[u8]), DecodeError> {
    let fields = skip(body, BOTH)?;
    let address = body.first_chunk::<ADDRESS>();
    let port = body[2 * ADDRESS..].first_chunk::<2>();
    match (address, port) {
        (Some(address), Some(port)) => {
            let ip = read(*address);
            let source = Source::Host(SocketAddr::new(ip, u16::from_be_bytes(*port)));
            Ok((source, fields))
        }
        _ => Err(SHORT),
    }
}

const SHORT: DecodeError = DecodeError::Malformed("PROXY header shorter than its addresses");

fn skip(body: &[u8], length: usize) -> Result<&[u8], DecodeError> {
    body.get(length..).ok_or(SHORT)
}

/// Optional fields have to fill what is left exactly.
fn skip_fields(mut rest: &[u8]) -> Result<(), DecodeError> {
    while !rest.is_empty() {
        let length = match rest {
            [_, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err(DecodeError::Malformed("PROXY field")),
        };
        let next = rest.get(FIELD_LEN + length..);
        rest = next.ok_or(DecodeError::Malformed("PROXY field"))?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn binary(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [
            SIGNATURE,
            &[version_command, family][..],
            length.as_slice(),
            body,
        ]
        .concat()
    }

    fn addresses(source: SocketAddr) -> (u8, Vec<u8>) {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => (
                0x11,
                [&ip.octets()[..], &[192, 0, 2, 1], &port, &[0, 80]].concat(),
            ),
            IpAddr::V6(ip) => (0x21, [&ip.octets()[..], &[9; 16], &port, &[0, 80]].concat()),
        }
    }

    fn text(source: SocketAddr) -> Vec<u8> {
        let (family, destination) = match source {
            SocketAddr::V4(_) => ("TCP4", "192.0.2.1"),
            SocketAddr::V6(_) => ("TCP6", "2001:db8::1"),
        };
        let (ip, port) = (source.ip(), source.port());
        format!("PROXY {family} {ip} {destination} {port} 80\r\n").into_bytes()
    }

    proptest! {
        /// Both forms name the source, tell where they end, and are incomplete
        /// up to there, however the bytes arrive.
        #[test]
        fn a_header_is_read_wherever_it_is_cut(
            source: SocketAddr,
            fields in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..4),
            behind: Vec<u8>,
        ) {
            let source = SocketAddr::new(source.ip(), source.port());
            let (family, mut body) = addresses(source);
            for (kind, value) in fields {
                body.push(kind);
                body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value);
            }
            for header in [text(source), binary(0x21, family, &body)] {
                for cut in 0..header.len() {
                    prop_assert_eq!(decode(&header[..cut]), Err(DecodeError::Incomplete));
                }
                let all = [&header[..], &behind].concat();
                prop_assert_eq!(decode(&all), Ok((Source::Host(source), header.len())));
            }
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            for start in [&b""[..], SIGNATURE, b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"] {
                let bytes = [start, &bytes].concat();
                if let Ok((_, length)) = decode(&bytes) {
                    prop_assert!(length <= bytes.len() && length <= HEADER_MAX);
                }
            }
        }
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            binary(0x20, 0x00, b""),
            // What comes with LOCAL is ignored, be it nonsense.
            binary(0x20, 0x11, b"?"),
            binary(0x21, 0x00, b"??"),
            binary(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(decode(&header), Ok((Source::Proxy, header.len())));
        }
    }

    #[test]
    fn what_is_no_header_shows_at_once() {
        for bytes in [
            &b"\x13/multistream/1.0.0\n"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXX",
            b"\r\n\r\n\0\r\nQUIX",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n",
            b"PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 +1 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n",
            b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n",
            b"PROXY \r\n",
            &[b"PROXY UNKNOWN "[..].to_vec(), vec![b'x'; TEXT_MAX]].concat(),
            &binary(0x11, 0x11, &[0; 12]),
            &binary(0x22, 0x11, &[0; 12]),
            &binary(0x21, 0x12, &[0; 12]),
            &binary(0x21, 0x11, &[0; 11]),
            &binary(0x21, 0x21, &[0; 35]),
            &binary(0x21, 0x31, &[0; 215]),
            // A field that is cut off, and one that is longer than the header.
            &binary(0x21, 0x11, &[0; 14]),
            &binary(0x21, 0x11, &[&[0; 12][..], &[4, 0, 2, 0]].concat()),
        ] {
            assert!(
                matches!(decode(bytes), Err(DecodeError::Malformed(_))),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_header_is_bounded_before_it_has_arrived() {
        let long = binary(0x21, 0x11, &vec![0; HEADER_MAX]);
        assert!(matches!(
            decode(&long[..FIXED_LEN]),
            Err(DecodeError::TooLarge { .. })
        ));
    }
}
