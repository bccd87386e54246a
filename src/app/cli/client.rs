//! The running server, as the command line asks it: one request over HTTP to
//! `admin.address`.
//!
//! Bounds the time and the answer. Every failure is one line that says what
//! the operator can look at.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::api::Refused;
use crate::config::Loaded;

/// For the connection, and between two pieces of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer: every rule there can be, with the longest notes.
const ANSWER_MAX: u64 = 128 << 20;

/// Why the server was not asked, or what it answered instead.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("admin.address is empty: the running server cannot be asked")]
    Off,
    #[error("no server answers at {address} (admin.address): {source}")]
    Unreachable {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{address} (admin.address) takes connections, but {what}")]
    Silent { address: SocketAddr, what: String },
    #[error("{address} (admin.address) does not answer as waystation does")]
    Foreign { address: SocketAddr },
    #[error("{0}")]
    Refused(String),
}

/// The line on why nobody was asked, if that is what went wrong: no server runs
/// that could be.
pub(super) fn nobody_there(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref()? {
        absent @ (AskError::Off | AskError::Unreachable { .. }) => Some(absent.to_string()),
        AskError::Silent { .. } | AskError::Foreign { .. } | AskError::Refused(_) => None,
    }
}

/// Where the server is and what it wants to hear.
pub(super) struct Client {
    address: SocketAddr,
    token: Option<String>,
}

impl Client {
    /// The server of this configuration.
    pub(super) fn new(loaded: &Loaded) -> anyhow::Result<Self> {
        let mut address = loaded.config.admin.address.ok_or(AskError::Off)?;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            });
        }
        let token = loaded.admin_token()?;
        Ok(Self { address, token })
    }

    /// Asks for what is at a path, or for a change of it.
    pub(super) fn ask<Q: Serialize, A: for<'a> Deserialize<'a>>(
        &self,
        method: &str,
        path: &str,
        body: Option<&Q>,
    ) -> anyhow::Result<A> {
        let address = self.address;
        let body = body.map(serde_json::to_string).transpose()?;
        let socket = TcpStream::connect_timeout(&address, PATIENCE)
            .map_err(|source| AskError::Unreachable { address, source })?;
        let answer = self
            .exchange(socket, method, path, &body.unwrap_or_default())
            .map_err(|error| AskError::Silent {
                address,
                what: silence(&error),
            })?;
        let foreign = AskError::Foreign { address };
        let Some((status, body)) = parse(&answer) else {
            return Err(foreign.into());
        };
        if status == 200 {
            return serde_json::from_slice(body).map_err(|_| foreign.into());
        }
        let refused: Refused = serde_json::from_slice(body).map_err(|_| foreign)?;
        Err(AskError::Refused(refused.error).into())
    }

    fn exchange(
        &self,
        mut stream: TcpStream,
        method: &str,
        path: &str,
        body: &str,
    ) -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        if let Some(token) = &self.token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Why a server that is there did not answer. A time-out on a socket is told by the
/// kernel as something that would block.
fn silence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("has not answered for {} s", PATIENCE.as_secs())
        }
        _ => format!("does not answer: {error}"),
    }
}

/// Status and body of an answer that ends with its connection.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
    answer
        .starts_with(b"HTTP/1.")
        .then_some((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_there_and_says_nothing_is_not_an_absent_one() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9464));
        let late = silence(&io::ErrorKind::WouldBlock.into());
        let silent = AskError::Silent {
            address,
            what: late,
        };
        assert_eq!(
            silent.to_string(),
            "127.0.0.1:9464 (admin.address) takes connections, but has not answered for 10 s"
        );
        assert_eq!(nobody_there(&silent.into()), None);
        let source = io::ErrorKind::ConnectionRefused.into();
        let absent = AskError::Unreachable { address, source };
        assert!(nobody_there(&absent.into()).is_some());
    }

    #[test]
    fn only_an_http_answer_is_one() {
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((404, b"{}".as_slice())));
        for foreign in [
            b"".as_slice(),
            b"\x13/multistream/1.0.0\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"SSH-2.0-Open 200\r\n\r\n",
        ] {
            assert_eq!(parse(foreign), None);
        }
    }
}
