//! Where a server is: from a multiaddr to a connected socket.
//!
//! Bounds the addresses tried for one name to `ADDRESSES_MAX`; each gets an
//! even share of the time that is left, so that one which drops packets does
//! not take it all. Names go through the system's resolver.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};

use super::{Deadline, ProbeError};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A server's TCP address, what is spoken there, and who is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    address: Multiaddr,
    host: Host,
    port: u16,
    pub(super) way: Way,
    pub(super) peer_id: Option<PeerId>,
}

/// What is spoken in front of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    WebSocket,
    /// With the name that a certificate has to have.
    SecureWebSocket(ServerName<'static>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String, Family),
}

/// Which addresses of a name count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

/// Not an address that can be dialed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No multiaddr at all.
    #[error("not a multiaddr: {0}")]
    Syntax(String),
    /// A multiaddr of another kind.
    #[error(
        "expected /ip4, /ip6, /dns, /dns4 or /dns6, then /tcp/PORT, then perhaps /ws, /tls/ws or \
         /tls/sni/NAME/ws, and perhaps /p2p/PEER-ID"
    )]
    Unsupported,
    /// We have no QUIC client.
    #[error("a probe cannot dial QUIC: dial the server's TCP or WebSocket address")]
    Quic,
    /// No certificate has such a name.
    #[error("{0} is no name that a certificate can have")]
    Name(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let address: Multiaddr = text
            .parse()
            .map_err(|error: multiaddr::Error| TargetError::Syntax(error.to_string()))?;
        let mut parts = address.iter();
        let host = match parts.next() {
            Some(Protocol::Ip4(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Ip6(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Dns(name)) => Host::Name(name.into_owned(), Family::Any),
            Some(Protocol::Dns4(name)) => Host::Name(name.into_owned(), Family::V4),
            Some(Protocol::Dns6(name)) => Host::Name(name.into_owned(), Family::V6),
            _ => return Err(TargetError::Unsupported),
        };
        let port = match parts.next() {
            Some(Protocol::Tcp(port)) => port,
            Some(Protocol::Udp(_)) if address.iter().any(|part| part == Protocol::QuicV1) => {
                return Err(TargetError::Quic);
            }
            _ => return Err(TargetError::Unsupported),
        };
        let mut rest: Vec<Protocol<'_>> = parts.collect();
        let peer_id = match rest.last() {
            Some(Protocol::P2p(id)) => Some(*id),
            _ => None,
        };
        if peer_id.is_some() {
            rest.pop();
        }
        let way = match &rest[..] {
            [] => Way::Tcp,
            [Protocol::Ws(_)] => Way::WebSocket,
            [Protocol::Wss(_)] | [Protocol::Tls, Protocol::Ws(_)] => secure(&host.to_string())?,
            [Protocol::Tls, Protocol::Sni(name), Protocol::Ws(_)] => secure(name)?,
            _ => return Err(TargetError::Unsupported),
        };
        Ok(Self {
            host,
            port,
            way,
            peer_id,
            address,
        })
    }
}

fn secure(name: &str) -> Result<Way, TargetError> {
    ServerName::try_from(name.trim_end_matches('.').to_owned())
        .map(Way::SecureWebSocket)
        .map_err(|_| TargetError::Name(name.to_owned()))
}

impl Target {
    /// Host and port, as a URL has them.
    pub(super) fn authority(&self) -> String {
        let port = self.port;
        match (&self.way, &self.host) {
            (Way::SecureWebSocket(ServerName::DnsName(name)), _) => {
                format!("{}:{port}", name.as_ref())
            }
            (_, Host::Ip(ip)) => SocketAddr::new(*ip, port).to_string(),
            (_, Host::Name(name, _)) => format!("{name}:{port}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name, _) => f.write_str(name),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Connects to the first address that takes the connection.
pub(super) async fn connect(target: &Target, deadline: &Deadline) -> Result<TcpStream, ProbeError> {
    let addresses = resolve(target, deadline).await?;
    let mut refusals = Vec::new();
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).expect("at most ADDRESSES_MAX");
        let share = deadline.remaining() / left;
        let refusal = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Every question is one small write that should leave at once.
                socket.set_nodelay(true).map_err(ProbeError::Io)?;
                return Ok(socket);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:.1} s", share.as_secs_f64()),
        };
        refusals.push(format!("{address}: {refusal}"));
    }
    Err(ProbeError::Connect(refusals.join("; ")))
}

async fn resolve(target: &Target, deadline: &Deadline) -> Result<Vec<SocketAddr>, ProbeError> {
    let (name, family) = match &target.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, target.port)]),
        Host::Name(name, family) => (name, *family),
    };
    let fault = |error| ProbeError::Resolve {
        name: name.clone(),
        error,
    };
    let addresses: Vec<SocketAddr> = deadline
        .within("name resolution", lookup_host((name.as_str(), target.port)))
        .await?
        .map_err(fault)?
        .filter(|address| match family {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        })
        .take(ADDRESSES_MAX)
        .collect();
    if addresses.is_empty() {
        return Err(fault(io::Error::other("no address of that kind")));
    }
    Ok(addresses)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWE3yrnArMc62ofC6SeJE4ozeVmiDqPv6YMKTLhH7YSv3p";

    #[test]
    fn every_kind_of_address_is_read() {
        for (text, host) in [
            ("/ip4/192.0.2.1", Host::Ip([192, 0, 2, 1].into())),
            ("/ip6/::1", Host::Ip(IpAddr::V6(1.into()))),
            (
                "/dns/a.example",
                Host::Name("a.example".into(), Family::Any),
            ),
            (
                "/dns4/a.example",
                Host::Name("a.example".into(), Family::V4),
            ),
            (
                "/dns6/a.example",
                Host::Name("a.example".into(), Family::V6),
            ),
        ] {
            let bare: Target = format!("{text}/tcp/4001").parse().unwrap();
            assert_eq!(
                (bare.host, bare.port, bare.peer_id),
                (host.clone(), 4001, None)
            );
            let whole = format!("{text}/tcp/4001/p2p/{PEER}");
            let named: Target = whole.parse().unwrap();
            assert_eq!((&named.host, named.port), (&host, 4001));
            assert_eq!(named.peer_id.unwrap().to_string(), PEER);
            assert_eq!(named.to_string(), whole);
        }
    }

    #[test]
    fn what_cannot_be_dialed_is_refused() {
        let read = |text: &str| text.parse::<Target>().unwrap_err();
        for text in ["192.0.2.1:4001", "/ip4/192.0.2.1/tcp/70000", "/ip4/x/tcp/1"] {
            assert!(matches!(read(text), TargetError::Syntax(_)), "{text}");
        }
        for text in [
            "/ip4/192.0.2.1",
            "/ip4/192.0.2.1/udp/4001",
            "/ip4/192.0.2.1/tcp/4001/tls",
            "/ip4/192.0.2.1/tcp/4001/ws/ws",
            "/tcp/4001",
            &format!("/p2p/{PEER}"),
            &format!("/ip4/192.0.2.1/tcp/4001/p2p/{PEER}/p2p-circuit"),
        ] {
            assert_eq!(read(text), TargetError::Unsupported, "{text}");
        }
        let quic = "/ip4/192.0.2.1/udp/4001/quic-v1";
        assert_eq!(read(quic), TargetError::Quic);
        let nameless = "/dns4/a..b/tcp/443/tls/ws";
        assert_eq!(read(nameless), TargetError::Name("a..b".to_owned()));
    }

    #[test]
    fn each_kind_of_websocket_is_asked_for_under_the_right_name() {
        for (text, name, authority) in [
            ("/ip6/::1/tcp/80/ws", None, "[::1]:80"),
            ("/dns4/a.example/tcp/80/ws", None, "a.example:80"),
            (
                "/dns4/a.example/tcp/443/tls/ws",
                Some("a.example"),
                "a.example:443",
            ),
            (
                "/ip4/192.0.2.1/tcp/443/wss",
                Some("192.0.2.1"),
                "192.0.2.1:443",
            ),
            (
                "/ip4/192.0.2.1/tcp/443/tls/sni/a.example/ws",
                Some("a.example"),
                "a.example:443",
            ),
        ] {
            let target: Target = text.parse().unwrap();
            let way = name.map_or(Way::WebSocket, |name| secure(name).unwrap());
            assert_eq!((target.way.clone(), &*target.authority()), (way, authority));
        }
    }
}
