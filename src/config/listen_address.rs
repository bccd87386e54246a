//! What a listen address asks for: a socket, and what is spoken on it.
//!
//! Owns the mapping between multiaddrs and listeners, in both directions, in
//! the canonical spelling that peers are told (addressing specification;
//! reference §20). Opening sockets is left to `listener`.

use std::net::{IpAddr, SocketAddr};

use multiaddr::{Multiaddr, Protocol};

/// What carries a connection from a listen address on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `/tcp/PORT`
    Tcp,
    /// `/udp/PORT/quic-v1`
    Quic,
    /// `/tcp/PORT/ws`
    Ws,
    /// `/tcp/PORT/tls/ws`, also written `/wss`
    Wss,
}

/// The forms that a listen address may have, for an operator.
pub const FORMS: &str = "/ip4/…/tcp/PORT, …/udp/PORT/quic-v1, …/tcp/PORT/ws or …/tcp/PORT/tls/ws";

/// One listen address, understood.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// Where the socket is bound. Port 0 takes a free port.
    pub socket: SocketAddr,
    /// What is spoken on it.
    pub transport: Transport,
    /// The name in `/tls/sni/NAME/ws`.
    pub server_name: Option<String>,
}

impl ListenAddress {
    /// What this multiaddr asks for; `None` if it has none of the [`FORMS`].
    #[must_use]
    pub fn of(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let ip: IpAddr = match parts.next()? {
            Protocol::Ip4(ip) => ip.into(),
            Protocol::Ip6(ip) => ip.into(),
            _ => return None,
        };
        let (port, udp) = match parts.next()? {
            Protocol::Tcp(port) => (port, false),
            Protocol::Udp(port) => (port, true),
            _ => return None,
        };
        let rest: Vec<_> = parts.collect();
        let mut server_name = None;
        let transport = match (udp, rest.as_slice()) {
            (true, [Protocol::QuicV1]) => Transport::Quic,
            (false, []) => Transport::Tcp,
            (false, [Protocol::Ws(path)]) if path == "/" => Transport::Ws,
            (false, [Protocol::Wss(path)]) if path == "/" => Transport::Wss,
            (false, [Protocol::Tls, Protocol::Ws(path)]) if path == "/" => Transport::Wss,
            (false, [Protocol::Tls, Protocol::Sni(name), Protocol::Ws(path)]) if path == "/" => {
                server_name = Some(name.to_string());
                Transport::Wss
            }
            _ => return None,
        };
        Some(Self {
            socket: SocketAddr::new(ip, port),
            transport,
            server_name,
        })
    }

    /// The multiaddr of this listener with its socket at `local`, as peers are
    /// told it.
    #[must_use]
    pub fn at(&self, local: SocketAddr) -> Multiaddr {
        match &self.server_name {
            Some(name) if self.transport == Transport::Wss => Multiaddr::from(local.ip())
                .with(Protocol::Tcp(local.port()))
                .with(Protocol::Tls)
                .with(Protocol::Sni(name.into()))
                .with(Protocol::Ws("/".into())),
            _ => self.transport.address(local),
        }
    }
}

impl Transport {
    /// The multiaddr of a socket at which this is spoken.
    #[must_use]
    pub fn address(self, socket: SocketAddr) -> Multiaddr {
        let bare = Multiaddr::from(socket.ip());
        let tcp = || bare.clone().with(Protocol::Tcp(socket.port()));
        match self {
            Self::Tcp => tcp(),
            Self::Quic => bare
                .with(Protocol::Udp(socket.port()))
                .with(Protocol::QuicV1),
            Self::Ws => tcp().with(Protocol::Ws("/".into())),
            Self::Wss => tcp().with(Protocol::Tls).with(Protocol::Ws("/".into())),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood_and_told_in_its_canonical_spelling() {
        for (text, canonical, transport) in [
            ("/ip4/1.2.3.4/tcp/4001", None, Transport::Tcp),
            ("/ip6/::1/udp/4001/quic-v1", None, Transport::Quic),
            ("/ip4/1.2.3.4/tcp/4002/ws", None, Transport::Ws),
            ("/ip4/1.2.3.4/tcp/443/tls/ws", None, Transport::Wss),
            (
                "/ip4/1.2.3.4/tcp/443/wss",
                Some("/ip4/1.2.3.4/tcp/443/tls/ws"),
                Transport::Wss,
            ),
            (
                "/ip4/1.2.3.4/tcp/443/tls/sni/relay.example/ws",
                None,
                Transport::Wss,
            ),
        ] {
            let understood = ListenAddress::of(&text.parse().unwrap()).unwrap();
            assert_eq!(understood.transport, transport, "{text}");
            let told = understood.at(understood.socket).to_string();
            assert_eq!(told, canonical.unwrap_or(text));
        }
    }

    #[test]
    fn what_is_no_listen_address_is_none() {
        for text in [
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/udp/4001",
            "/ip4/1.2.3.4/udp/4001/quic",
            "/ip4/1.2.3.4/tcp/4001/quic-v1",
            "/ip4/1.2.3.4/tcp/4001/tls",
            "/ip4/1.2.3.4/tcp/4001/x-parity-ws/%2fpath",
            "/dns4/localhost/tcp/4001",
            "/tcp/4001",
        ] {
            assert_eq!(ListenAddress::of(&text.parse().unwrap()), None, "{text}");
        }
    }
}
