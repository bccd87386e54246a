//! Which way a peer has come in, where one port has several.
//!
//! Told by the first bytes, at most [`TELLING`] of them, and waited for only
//! where there is a choice. What a port does not take is not told from what it
//! takes: it fails there, in that protocol's own words.

use tokio::io::{AsyncRead, AsyncWrite};

use super::UpgradeError;
use super::drive::Line;

/// Bytes by which all ways in can be told apart.
const TELLING: usize = 6;

/// What is spoken on a socket first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entrance {
    /// The nonce of a private network, or multistream.
    Plain,
    /// HTTP, to become WebSocket.
    WebSocket,
    /// TLS with a certificate of the operator's, and HTTP in it.
    Secure,
}

/// The ways in that a port has; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entrances {
    /// [`Entrance::Plain`]
    pub plain: bool,
    /// [`Entrance::WebSocket`]
    pub web_socket: bool,
    /// [`Entrance::Secure`]
    pub secure: bool,
}

impl Entrances {
    /// Only what needs nothing in front.
    pub const PLAIN: Self = Self {
        plain: true,
        web_socket: false,
        secure: false,
    };

    /// The way in of a peer that begins with these bytes, as soon as it shows.
    ///
    /// A private network's nonce is random: it looks like one of the others
    /// once in some 10^7 connections, whose dialer will try again.
    fn of(self, begin: &[u8]) -> Option<Entrance> {
        let fallback = match (self.plain, self.web_socket, self.secure) {
            (true, false, false) | (false, false, false) => return Some(Entrance::Plain),
            (false, true, false) => return Some(Entrance::WebSocket),
            (false, false, true) => return Some(Entrance::Secure),
            (true, ..) => Entrance::Plain,
            (false, true, true) => Entrance::WebSocket,
        };
        for (taken, entrance, matches) in [
            (self.web_socket, Entrance::WebSocket, http(begin)),
            (self.secure, Entrance::Secure, tls(begin)),
        ] {
            match matches {
                Some(true) if taken => return Some(entrance),
                None if taken => return None,
                _ => {}
            }
        }
        Some(fallback)
    }
}

/// Waits until it shows which way a peer has come in.
pub(super) async fn tell<S>(
    line: &mut Line<S>,
    entrances: Entrances,
) -> Result<Entrance, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match entrances.of(&line.input) {
            Some(entrance) => return Ok(entrance),
            None => line.more(TELLING).await?,
        }
    }
}

/// Whether these bytes begin a request; `None` if more have to tell.
fn http(begin: &[u8]) -> Option<bool> {
    const GET: &[u8] = b"GET ";
    let known = begin.len().min(GET.len());
    match begin[..known] == GET[..known] {
        true if known < GET.len() => None,
        told => Some(told),
    }
}

/// Whether these bytes begin a record with the hello of a client; `None` if
/// more have to tell.
fn tls(begin: &[u8]) -> Option<bool> {
    // Type and version of the record, its length, type of the message.
    let expected = [Some(22), Some(3), None, None, None, Some(1)];
    let mut known = begin.iter().zip(expected);
    let count = known.len();
    let agrees = known.all(|(byte, expected)| expected.is_none_or(|expected| expected == *byte));
    match agrees {
        true if count < TELLING => None,
        told => Some(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Entrances = Entrances {
        plain: true,
        web_socket: true,
        secure: true,
    };
    const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1];
    const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";

    #[test]
    fn the_first_bytes_tell_the_way_in_and_one_way_needs_none() {
        assert_eq!(Entrances::PLAIN.of(b""), Some(Entrance::Plain));
        let web = Entrances {
            plain: false,
            secure: false,
            ..ALL
        };
        assert_eq!(web.of(b""), Some(Entrance::WebSocket));
        let secure = Entrances {
            plain: false,
            web_socket: false,
            ..ALL
        };
        assert_eq!(secure.of(b""), Some(Entrance::Secure));
        for (bytes, entrance) in [
            (HELLO, Entrance::Secure),
            (b"GET / HTTP/1.1", Entrance::WebSocket),
            (MULTISTREAM, Entrance::Plain),
            (b"GETS", Entrance::Plain),
            (&[22, 3, 1, 2, 0, 2], Entrance::Plain),
            (&[22, 4], Entrance::Plain),
        ] {
            assert_eq!(ALL.of(bytes), Some(entrance), "{bytes:?}");
            let needed = (0..=bytes.len()).find(|end| ALL.of(&bytes[..*end]).is_some());
            assert!(needed.is_some_and(|needed| needed <= TELLING));
        }
        for bytes in [&b""[..], b"G", b"GET", &HELLO[..5]] {
            assert_eq!(ALL.of(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn what_a_port_does_not_take_fails_in_what_it_takes() {
        let plain_and_web = Entrances {
            secure: false,
            ..ALL
        };
        assert_eq!(plain_and_web.of(HELLO), Some(Entrance::Plain));
        let both_webs = Entrances {
            plain: false,
            ..ALL
        };
        assert_eq!(both_webs.of(MULTISTREAM), Some(Entrance::WebSocket));
        assert_eq!(both_webs.of(b"POST"), Some(Entrance::WebSocket));
    }
}
