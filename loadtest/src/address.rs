//! The server under test: where it listens and who it must prove to be.
//!
//! Refuses anything but loopback unless the caller insists, so that a slip of the
//! keyboard does not send ten thousand connections to somebody else's relay.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context, bail};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::{namespace, stack::Transport};

/// An address together with the peer id expected behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) socket: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) peer_id: PeerId,
}

impl Target {
    /// # Errors
    /// When the address is not loopback and `allow_remote` is not set.
    pub(crate) fn check_scope(self, allow_remote: bool) -> anyhow::Result<Self> {
        if !allow_remote && !self.socket.ip().is_loopback() {
            bail!(
                "{} is not a loopback address; pass --allow-remote to load a server that is yours elsewhere",
                self.socket.ip()
            );
        }
        Ok(self)
    }

    /// The local address the `index`-th connection binds.
    ///
    /// One source address has some 28,000 ephemeral ports, part of which rest in
    /// TIME_WAIT after a handshake test; on 127/8 any other address serves as well. QUIC
    /// connections from one source share a socket, so they have more of these, enough
    /// for the peers of any scenario that relays.
    /// Inside [`crate::namespace`] each connection has a network of its own, as peers
    /// that do not know of each other have.
    pub(crate) fn source(&self, index: usize) -> Option<SocketAddr> {
        const TCP_SOURCES: usize = 8;
        let IpAddr::V4(ip) = self.socket.ip() else {
            return None;
        };
        if ip == namespace::SERVER {
            return Some(SocketAddr::from((namespace::stranger(index), 0)));
        }
        if !ip.is_loopback() {
            return None;
        }
        let sources = match self.transport {
            Transport::Quic => QUIC_SOURCES,
            Transport::Tcp | Transport::Ws | Transport::Wss => TCP_SOURCES,
        };
        let [last, row] = namespace::split(index % sources, 250);
        Some(SocketAddr::from((Ipv4Addr::new(127, 0, row - 1, last), 0)))
    }

    /// What is dialled, without the peer id.
    pub(crate) fn transport_address(&self) -> Multiaddr {
        listen_address(self.socket, self.transport)
    }
}

/// Sockets among which the QUIC connections of one process are shared out.
pub(crate) const QUIC_SOURCES: usize = 500;

/// A socket address and a transport as multiaddr.
pub(crate) fn listen_address(socket: SocketAddr, transport: Transport) -> Multiaddr {
    let address = Multiaddr::from(socket.ip());
    let port = socket.port();
    match transport {
        Transport::Tcp => address.with(Protocol::Tcp(port)),
        Transport::Quic => address.with(Protocol::Udp(port)).with(Protocol::QuicV1),
        Transport::Ws => address
            .with(Protocol::Tcp(port))
            .with(Protocol::Ws("/".into())),
        Transport::Wss => address
            .with(Protocol::Tcp(port))
            .with(Protocol::Tls)
            .with(Protocol::Ws("/".into())),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.transport_address();
        address.with(Protocol::P2p(self.peer_id)).fmt(formatter)
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let address: Multiaddr = text.parse().context("not a multiaddr")?;
        let parts: Vec<_> = address.iter().collect();
        let [ip, transport @ .., Protocol::P2p(peer_id)] = parts.as_slice() else {
            bail!("expected a multiaddr that ends in /p2p");
        };
        let ip = match ip {
            Protocol::Ip4(ip) => IpAddr::from(*ip),
            Protocol::Ip6(ip) => IpAddr::from(*ip),
            _ => bail!("expected /ip4 or /ip6"),
        };
        let (port, transport) = match transport {
            [Protocol::Tcp(port)] => (*port, Transport::Tcp),
            [Protocol::Udp(port), Protocol::QuicV1] => (*port, Transport::Quic),
            [Protocol::Tcp(port), Protocol::Ws(_)] => (*port, Transport::Ws),
            [Protocol::Tcp(port), Protocol::Wss(_)]
            | [Protocol::Tcp(port), Protocol::Tls, Protocol::Ws(_)] => (*port, Transport::Wss),
            _ => bail!("expected /tcp, /udp and /quic-v1, /tcp and /ws, or /tcp, /tls and /ws"),
        };
        Ok(Self {
            socket: SocketAddr::new(ip, port),
            transport,
            peer_id: *peer_id,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ID: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";

    #[test]
    fn a_printed_listen_address_is_understood() {
        let target: Target = format!("/ip4/127.0.0.1/tcp/4001/p2p/{ID}").parse().unwrap();
        assert_eq!(target.socket, "127.0.0.1:4001".parse().unwrap());
        assert_eq!(target.transport, Transport::Tcp);
        assert_eq!(target.peer_id.to_string(), ID);
        assert!(target.check_scope(false).is_ok());
        assert_eq!(
            target.to_string(),
            format!("/ip4/127.0.0.1/tcp/4001/p2p/{ID}")
        );
    }

    #[test]
    fn an_address_without_a_peer_id_is_refused() {
        assert!("/ip4/127.0.0.1/tcp/4001".parse::<Target>().is_err());
        assert!(
            format!("/ip4/127.0.0.1/udp/4001/p2p/{ID}")
                .parse::<Target>()
                .is_err()
        );
    }

    #[test]
    fn the_address_says_the_transport() {
        for (path, transport) in [
            ("udp/4001/quic-v1", Transport::Quic),
            ("tcp/4001/ws", Transport::Ws),
            ("tcp/4001/tls/ws", Transport::Wss),
        ] {
            let text = format!("/ip4/127.0.0.1/{path}/p2p/{ID}");
            let target: Target = text.parse().unwrap();
            assert_eq!(target.transport, transport);
            assert_eq!(target.to_string(), text);
        }
        let wss = format!("/ip4/127.0.0.1/tcp/4001/wss/p2p/{ID}");
        assert_eq!(wss.parse::<Target>().unwrap().transport, Transport::Wss);
    }

    #[test]
    fn remote_servers_need_a_word_from_the_operator() {
        let target: Target = format!("/ip4/192.0.2.1/tcp/4001/p2p/{ID}").parse().unwrap();
        assert!(target.check_scope(false).is_err());
        assert!(target.check_scope(true).is_ok());
        assert_eq!(target.source(3), None);
    }

    #[test]
    fn loopback_connections_spread_over_source_addresses() {
        let target: Target = format!("/ip4/127.0.0.1/tcp/4001/p2p/{ID}").parse().unwrap();
        let sources: HashSet<_> = (0..100).map(|i| target.source(i)).collect();
        assert_eq!(sources.len(), 8);
        let target = Target {
            transport: Transport::Quic,
            ..target
        };
        let sources: HashSet<_> = (0..2000).map(|i| target.source(i)).collect();
        assert_eq!(sources.len(), QUIC_SOURCES);
    }
}
