//! The HTTP/1.1 upgrade to WebSocket, from either end (RFC 6455 §4).
//!
//! Bounds the head of a request and its headers. Any path and any Origin will
//! do, since who a peer is gets settled above; no subprotocol and no extension
//! is ever agreed on (protocols.md §17). Deadlines are left to the caller.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Most bytes in the head of a request or an answer. Browsers send some 600,
/// reverse proxies add a few hundred.
pub const HEAD_MAX: usize = 8 * 1024;

/// Most headers in it.
pub const HEADERS_MAX: usize = 64;

/// What both ends know (RFC 6455 §1.3).
const SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why there is no upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// The head does not end within its limit, or has too many headers.
    #[error("head of the HTTP message is too large")]
    TooLarge,
    /// No HTTP, or not as it has to be.
    #[error("malformed HTTP: {0}")]
    Malformed(&'static str),
    /// A request for something else than an upgrade.
    #[error("HTTP method is not GET")]
    Method,
    /// An ordinary request.
    #[error("HTTP request without an upgrade to WebSocket")]
    NoUpgrade,
    /// Another version of WebSocket.
    #[error("WebSocket version is not 13")]
    Version,
    /// The server does not want to.
    #[error("HTTP server answers with status {0}")]
    Refused(u16),
}

impl UpgradeError {
    /// Appends what a client is told before its connection is closed.
    fn answer(self, out: &mut Vec<u8>) {
        let status = match self {
            Self::TooLarge => "431 Request Header Fields Too Large\r\n",
            Self::Malformed(_) | Self::Refused(_) => "400 Bad Request\r\n",
            Self::Method => "405 Method Not Allowed\r\nAllow: GET\r\n",
            Self::NoUpgrade | Self::Version => {
                "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            }
        };
        let connection = match self {
            Self::NoUpgrade | Self::Version => "Upgrade, close",
            _ => "close",
        };
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_bytes());
        out.extend_from_slice(b"Connection: ");
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\nContent-Length: 0\r\n\r\n");
    }
}

/// The head of a message, as far as it has arrived.
#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
}

impl Head {
    /// Takes what belongs to the head; returns how much of `input` that is once
    /// the head is complete. Each byte is looked at once, however small the
    /// pieces are in which it comes.
    fn handle_input(&mut self, input: &[u8]) -> Result<Option<usize>, UpgradeError> {
        const END: &[u8] = b"\r\n\r\n";
        let before = self.bytes.len();
        let room = (HEAD_MAX - before).min(input.len());
        self.bytes.extend_from_slice(&input[..room]);
        let from = before.saturating_sub(END.len() - 1);
        let end = self.bytes[from..]
            .windows(END.len())
            .position(|window| window == END);
        match end {
            Some(end) => {
                self.bytes.truncate(from + end + END.len());
                Ok(Some(self.bytes.len() - before))
            }
            None if self.bytes.len() == HEAD_MAX => Err(UpgradeError::TooLarge),
            None => Ok(None),
        }
    }
}

/// The server's end of one upgrade.
#[derive(Debug, Default)]
pub struct Server {
    head: Head,
}

impl Server {
    /// Reads on in the request and appends the answer when there is one. Once
    /// the upgrade is agreed on, returns how many bytes of `input` belonged to
    /// it; what comes behind them are frames.
    ///
    /// # Errors
    /// [`UpgradeError`]; the connection is to be closed once the answer is sent.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<Option<usize>, UpgradeError> {
        let taken = self.head.handle_input(input).and_then(|used| {
            if used.is_some() {
                accept(&self.head.bytes, answer)?;
            } else if !self.head.bytes.first().is_none_or(u8::is_ascii_uppercase) {
                // Whatever this is, waiting for its end makes it no request.
                return Err(UpgradeError::Malformed("not a request"));
            }
            Ok(used)
        });
        taken.inspect_err(|error| error.answer(answer))
    }
}

fn accept(head: &[u8], answer: &mut Vec<u8>) -> Result<(), UpgradeError> {
    let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut room);
    parsed(request.parse(head))?;
    if request.method != Some("GET") {
        return Err(UpgradeError::Method);
    }
    if request.version != Some(1) {
        return Err(UpgradeError::Malformed("not HTTP/1.1"));
    }
    let headers = Headers(request.headers);
    headers.one("host")?;
    if headers.announce_body() {
        return Err(UpgradeError::Malformed("a request with a body"));
    }
    if !headers.lists("upgrade", "websocket") || !headers.lists("connection", "upgrade") {
        return Err(UpgradeError::NoUpgrade);
    }
    if headers.one("sec-websocket-version") != Ok(b"13") {
        return Err(UpgradeError::Version);
    }
    let key = headers.one("sec-websocket-key")?;
    if !BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        return Err(UpgradeError::Malformed("Sec-WebSocket-Key is not a nonce"));
    }
    answer.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    answer.extend_from_slice(proof(key).as_bytes());
    answer.extend_from_slice(b"\r\n\r\n");
    Ok(())
}

/// The client's end of one upgrade.
#[derive(Debug)]
pub struct Client {
    head: Head,
    proof: String,
}

impl Client {
    /// Appends the request to `host`, as it stands in a URL. The nonce is to be
    /// random (RFC 6455 §4.1).
    #[must_use]
    pub fn request(host: &str, nonce: [u8; 16], out: &mut Vec<u8>) -> Self {
        let key = BASE64.encode(nonce);
        out.extend_from_slice(b"GET / HTTP/1.1\r\nHost: ");
        out.extend_from_slice(host.as_bytes());
        out.extend_from_slice(
            b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: ",
        );
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        Self {
            head: Head::default(),
            proof: proof(key.as_bytes()),
        }
    }

    /// Reads on in the answer. Once the upgrade is agreed on, returns how many
    /// bytes of `input` belonged to it.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub fn handle_input(&mut self, input: &[u8]) -> Result<Option<usize>, UpgradeError> {
        let Some(used) = self.head.handle_input(input)? else {
            return Ok(None);
        };
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut room);
        parsed(answer.parse(&self.head.bytes))?;
        match answer.code {
            Some(101) => {}
            Some(status) => return Err(UpgradeError::Refused(status)),
            None => return Err(UpgradeError::Malformed("no status")),
        }
        let headers = Headers(answer.headers);
        if !headers.lists("upgrade", "websocket") || !headers.lists("connection", "upgrade") {
            return Err(UpgradeError::NoUpgrade);
        }
        if headers.one("sec-websocket-accept")? != self.proof.as_bytes() {
            return Err(UpgradeError::Malformed("Sec-WebSocket-Accept is wrong"));
        }
        for agreed in ["sec-websocket-extensions", "sec-websocket-protocol"] {
            if headers.named(agreed).next().is_some() {
                return Err(UpgradeError::Malformed("agrees to what was not offered"));
            }
        }
        Ok(Some(used))
    }
}

/// What shows that a server has understood the key.
fn proof(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(SUFFIX);
    BASE64.encode(hash.finish())
}

fn parsed(result: httparse::Result<usize>) -> Result<(), UpgradeError> {
    match result {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        // An empty line ahead of the message is taken for its end.
        Ok(httparse::Status::Partial) => Err(UpgradeError::Malformed("an empty line")),
        Err(httparse::Error::TooManyHeaders) => Err(UpgradeError::TooLarge),
        Err(_) => Err(UpgradeError::Malformed("cannot be parsed")),
    }
}

/// The headers of a message.
struct Headers<'a, 'b>(&'a [httparse::Header<'b>]);

impl<'b> Headers<'_, 'b> {
    fn named(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        let matching = self
            .0
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name));
        matching.map(|header| header.value.trim_ascii())
    }

    /// The value of a header that has to be there once.
    fn one(&self, name: &'static str) -> Result<&'b [u8], UpgradeError> {
        let mut values = self.named(name);
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(UpgradeError::Malformed("a header is missing or doubled")),
        }
    }

    /// Whether a header names `token`, among others or in several lines.
    fn lists(&self, name: &str, token: &str) -> bool {
        self.named(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|entry| entry.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether bytes of a body are to follow.
    fn announce_body(&self) -> bool {
        self.named("transfer-encoding").next().is_some()
            || self.named("content-length").any(|length| length != b"0")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The handshake of RFC 6455 §1.3.
    const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n\
        Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    /// What becomes of a request, and what its sender is told.
    fn asked(request: &str) -> (Result<Option<usize>, UpgradeError>, String) {
        let mut answer = Vec::new();
        let result = Server::default().handle_input(request.as_bytes(), &mut answer);
        (result, String::from_utf8(answer).unwrap())
    }

    #[test]
    fn the_example_of_the_specification_is_answered_without_extras() {
        let (result, answer) = asked(&format!("{REQUEST}\u{2}frames"));
        assert_eq!(result, Ok(Some(REQUEST.len())));
        assert_eq!(answer, ANSWER);
    }

    #[test]
    fn what_is_no_upgrade_is_answered_as_http_has_it() {
        let without = |line: &str| REQUEST.replace(line, "");
        let with = |from: &str, to: &str| REQUEST.replace(from, to);
        let many = "X: y\r\n".repeat(HEADERS_MAX);
        let large = format!("X: {}\r\n", "y".repeat(HEAD_MAX));
        for (request, status) in [
            (with("GET", "POST"), "405"),
            (with("HTTP/1.1", "HTTP/1.0"), "400"),
            (without("Host: server.example.com\r\n"), "400"),
            (without("Upgrade: websocket\r\n"), "426"),
            (with("websocket\r\n", "h2c\r\n"), "426"),
            (with("keep-alive, Upgrade", "keep-alive"), "426"),
            (with("Version: 13", "Version: 8"), "426"),
            (without("Sec-WebSocket-Version: 13\r\n"), "426"),
            (with("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), "400"),
            (with("dGhlIHNhbXBsZSBub25jZQ==", "*"), "400"),
            (
                without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
                "400",
            ),
            (with("\r\n\r\n", "\r\nHost: other\r\n\r\n"), "400"),
            (with("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"), "400"),
            (
                with("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"),
                "400",
            ),
            (with("Host", &format!("{many}Host")), "431"),
            (with("Host", &format!("{large}Host")), "431"),
            (format!("\r\n\r\n{REQUEST}"), "400"),
            ("\u{13}/multistream/1.0.0\n".to_owned(), "400"),
            ("GET\u{0}\r\n\r\n".to_owned(), "400"),
        ] {
            let (result, answer) = asked(&request);
            assert!(result.is_err(), "{request}");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}{answer}"
            );
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
            let version = answer.contains("Sec-WebSocket-Version: 13\r\n");
            assert_eq!(version, status == "426", "{answer}");
        }
    }

    #[test]
    fn both_ends_agree_and_the_client_is_not_deceived() {
        let mut request = Vec::new();
        let mut client = Client::request("relay.example.org", [7; 16], &mut request);
        let mut answer = Vec::new();
        let used = Server::default()
            .handle_input(&request, &mut answer)
            .unwrap();
        assert_eq!(used, Some(request.len()));
        answer.extend_from_slice(b"frames");
        let used = client.handle_input(&answer);
        assert_eq!(used, Ok(Some(answer.len() - b"frames".len())));

        let answer = String::from_utf8(answer).unwrap();
        for wrong in [
            ANSWER.to_owned(),
            answer.replace("101", "403"),
            answer.replace("Upgrade: websocket\r\n", ""),
            answer.replace("Upgrade: w", "Sec-WebSocket-Extensions: x\r\nUpgrade: w"),
        ] {
            let mut client = Client::request("relay.example.org", [7; 16], &mut Vec::new());
            assert!(client.handle_input(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_request_may_come_in_any_pieces(cuts in prop::collection::vec(1..80_usize, 0..400)) {
            let (mut server, mut answer) = (Server::default(), Vec::new());
            let mut rest = [REQUEST.as_bytes(), b"frames"].concat();
            let mut cuts = cuts.into_iter();
            let mut taken = 0;
            loop {
                let part: Vec<u8> = rest.drain(..cuts.next().unwrap_or(1).min(rest.len())).collect();
                match server.handle_input(&part, &mut answer).unwrap() {
                    Some(used) => {
                        taken += used;
                        break;
                    }
                    None => taken += part.len(),
                }
            }
            prop_assert_eq!(taken, REQUEST.len());
            prop_assert_eq!(std::str::from_utf8(&answer).unwrap(), ANSWER);
        }

        #[test]
        fn whatever_comes_is_taken_within_the_bound(input in any::<Vec<u8>>(), times in 1..200_usize) {
            let (mut server, mut answer) = (Server::default(), Vec::new());
            for _ in 0..times {
                if server.handle_input(&input, &mut answer).is_err() {
                    break;
                }
                prop_assert!(server.head.bytes.len() < HEAD_MAX);
            }
        }
    }
}
