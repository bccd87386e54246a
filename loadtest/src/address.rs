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

use crate::namespace;

/// A TCP address together with the peer id expected behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) socket: SocketAddr,
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
    /// TIME_WAIT after a handshake test; on 127/8 any other address serves as well.
    /// Inside [`crate::namespace`] each connection has a network of its own, as peers
    /// that do not know of each other have.
    pub(crate) fn source(&self, index: usize) -> Option<SocketAddr> {
        const SOURCES: u8 = 8;
        let IpAddr::V4(ip) = self.socket.ip() else {
            return None;
        };
        if ip == namespace::SERVER {
            return Some(SocketAddr::from((namespace::stranger(index), 0)));
        }
        if !ip.is_loopback() {
            return None;
        }
        let last = u8::try_from(index % usize::from(SOURCES)).unwrap_or(0) + 1;
        Some(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Multiaddr::from(self.socket.ip())
            .with(Protocol::Tcp(self.socket.port()))
            .with(Protocol::P2p(self.peer_id));
        address.fmt(formatter)
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let address: Multiaddr = text.parse().context("not a multiaddr")?;
        let parts: Vec<_> = address.iter().collect();
        let (ip, port, peer_id) = match parts.as_slice() {
            [Protocol::Ip4(ip), Protocol::Tcp(port), Protocol::P2p(id)] => {
                (IpAddr::from(*ip), *port, *id)
            }
            [Protocol::Ip6(ip), Protocol::Tcp(port), Protocol::P2p(id)] => {
                (IpAddr::from(*ip), *port, *id)
            }
            _ => bail!("expected /ip4 or /ip6, /tcp and /p2p, nothing else"),
        };
        Ok(Self {
            socket: SocketAddr::new(ip, port),
            peer_id,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const ID: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";

    #[test]
    fn a_printed_listen_address_is_understood() {
        let target: Target = format!("/ip4/127.0.0.1/tcp/4001/p2p/{ID}").parse().unwrap();
        assert_eq!(target.socket, "127.0.0.1:4001".parse().unwrap());
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
            format!("/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{ID}")
                .parse::<Target>()
                .is_err()
        );
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
        let sources: std::collections::HashSet<_> = (0..100).map(|i| target.source(i)).collect();
        assert_eq!(sources.len(), 8);
    }
}
