//! Byte streams to the server: TCP from a source address of our choice, and WebSocket on
//! top of it by libp2p's own transport.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    AsyncRead, AsyncWrite, FutureExt,
    future::{BoxFuture, Pending},
};
use libp2p::{
    Multiaddr,
    core::{
        Endpoint, Transport,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
    tcp::tokio::TcpStream,
};
use libp2p_websocket as websocket;
use tokio::net::TcpSocket;

use crate::{address::Target, certificate};

/// Where a connection goes, and from where.
#[derive(Debug, Clone, Copy)]
struct Route {
    to: SocketAddr,
    source: Option<SocketAddr>,
}

/// # Errors
/// When the server does not accept.
pub(super) async fn tcp(target: Target, source: Option<SocketAddr>) -> io::Result<TcpStream> {
    let route = Route {
        to: target.socket,
        source,
    };
    route.connect().await
}

/// WebSocket, secure if that is what the target says.
///
/// # Errors
/// When the server does not accept, does not upgrade, or shows another certificate.
pub(super) async fn websocket(
    target: Target,
    source: Option<SocketAddr>,
) -> anyhow::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    let mut transport = websocket::Config::new(Dialer(Route {
        to: target.socket,
        source,
    }));
    transport.set_tls_config(certificate::client());
    let options = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    Ok(transport.dial(target.transport_address(), options)?.await?)
}

impl Route {
    async fn connect(self) -> io::Result<TcpStream> {
        let socket = if self.to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_nodelay(true)?;
        if let Some(source) = self.source {
            socket.set_reuseaddr(true)?;
            socket.bind(source)?;
        }
        Ok(TcpStream(socket.connect(self.to).await?))
    }
}

/// What libp2p's WebSocket transport dials through; it never listens.
struct Dialer(Route);

impl Transport for Dialer {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = Pending<io::Result<TcpStream>>;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(
        &mut self,
        _: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, _: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        Ok(self.0.connect().boxed())
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
