//! Listening sockets that the service manager opened for us (`LISTEN_FDS`).
//!
//! Owns them until a listen address claims them. They stay open across a
//! restart of the server, so no connection attempt is lost in between.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use listenfd::ListenFd;
use socket2::SockRef;
use tracing::warn;

/// Sockets passed to this process.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Passed>,
    /// UDP sockets and their addresses, as long as nobody has claimed them.
    udp: Vec<(SocketAddr, UdpSocket)>,
}

/// What is there for a listen address.
#[derive(Debug)]
pub(super) enum Claim {
    /// This socket, now the caller's.
    Socket(TcpListener),
    /// A socket that another address claimed takes this address too.
    Covered,
    /// Nothing: bind.
    Nothing,
}

#[derive(Debug)]
struct Passed {
    /// `None` once claimed.
    socket: Option<TcpListener>,
    local: SocketAddr,
    /// An IPv6 socket that takes IPv4 as well, the service manager's default.
    dual_stack: bool,
}

impl Inherited {
    /// The sockets that the environment names, if it means this process.
    #[must_use]
    pub fn from_env() -> Self {
        let mut passed = ListenFd::from_env();
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for index in 0..passed.len() {
            if let Ok(Some(socket)) = passed.take_udp_socket(index) {
                udp.push(socket);
                continue;
            }
            match passed.take_tcp_listener(index) {
                Ok(socket) => tcp.extend(socket),
                Err(error) => {
                    warn!(index, %error, "passed socket is neither a TCP listener nor UDP");
                }
            }
        }
        Self::new(tcp).with_udp(udp)
    }

    /// And these UDP sockets.
    #[must_use]
    pub fn with_udp(mut self, sockets: Vec<UdpSocket>) -> Self {
        let described = sockets
            .into_iter()
            .filter_map(|socket| Some((socket.local_addr().ok()?, socket)));
        self.udp.extend(described);
        self
    }

    /// These sockets.
    #[must_use]
    pub fn new(sockets: Vec<TcpListener>) -> Self {
        let describe = |socket: TcpListener| {
            let local = socket.local_addr().ok()?;
            let dual_stack =
                local.is_ipv6() && SockRef::from(&socket).only_v6().is_ok_and(|only| !only);
            Some(Passed {
                socket: Some(socket),
                local,
                dual_stack,
            })
        };
        Self {
            sockets: sockets.into_iter().filter_map(describe).collect(),
            udp: Vec::new(),
        }
    }

    /// The UDP socket for a listen address, if one was passed.
    pub(super) fn claim_udp(&mut self, requested: SocketAddr) -> Option<UdpSocket> {
        let index = self.udp.iter().position(|(local, _)| *local == requested)?;
        Some(self.udp.swap_remove(index).1)
    }

    pub(super) fn claim(&mut self, requested: SocketAddr) -> Claim {
        match self
            .sockets
            .iter_mut()
            .find(|passed| passed.takes(requested))
        {
            Some(passed) => passed.socket.take().map_or(Claim::Covered, Claim::Socket),
            None => Claim::Nothing,
        }
    }

    pub(super) fn unclaimed(&self) -> Vec<SocketAddr> {
        self.sockets
            .iter()
            .filter(|passed| passed.socket.is_some())
            .map(|passed| passed.local)
            .chain(self.udp.iter().map(|(local, _)| *local))
            .collect()
    }
}

impl Passed {
    fn takes(&self, requested: SocketAddr) -> bool {
        let both = self.dual_stack && self.local.ip().is_unspecified();
        self.local.port() == requested.port()
            && (self.local.ip() == requested.ip()
                || (both && requested.ip() == Ipv4Addr::UNSPECIFIED))
    }
}
