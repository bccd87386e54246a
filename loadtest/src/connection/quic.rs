//! QUIC connections: quinn's state machine with libp2p's certificates, as rust-libp2p
//! has it, but many connections on one UDP socket.
//!
//! A socket for each peer would need as many descriptors as TCP does, and quinn keeps
//! some MiB for each. So there is one for each source address, and
//! [`Target::source`](crate::address::Target::source) bounds how many of those there are.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use futures::{
    AsyncRead, AsyncWrite, FutureExt,
    future::{BoxFuture, join_all},
};
use libp2p::{
    PeerId,
    core::{StreamMuxer, muxing::StreamMuxerEvent},
    identity::Keypair,
};
use quinn::{
    ClientConfig, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
    crypto::rustls::QuicClientConfig, rustls::pki_types::CertificateDer,
};

use super::{Ending, Witness};

/// What rust-libp2p allows.
const STREAMS_MAX: u32 = 256;
const STREAM_WINDOW: u32 = 10_000_000;
const CONNECTION_WINDOW: u32 = 15_000_000;

/// Sent to nobody: libp2p has no server names, rustls wants one.
const NAME: &str = "l";

/// The sockets of this process by their source address.
static SOCKETS: Mutex<BTreeMap<IpAddr, Endpoint>> = Mutex::new(BTreeMap::new());

/// How this peer dials, as rust-libp2p would but for `keep_alive`.
///
/// # Errors
/// When its certificate cannot be made.
pub(super) fn client_config(keypair: &Keypair, keep_alive: u16) -> anyhow::Result<ClientConfig> {
    let tls = libp2p_tls::make_client_config(keypair, None)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .allow_spin(false)
        .keep_alive_interval(Some(Duration::from_secs(keep_alive.into())))
        .max_idle_timeout(Some(VarInt::from_u32(u32::from(keep_alive) * 2000).into()));
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// # Errors
/// When the server refuses or shows no libp2p certificate.
pub(super) async fn dial(
    server: SocketAddr,
    source: Option<SocketAddr>,
    config: ClientConfig,
    witness: Witness,
) -> anyhow::Result<(PeerId, QuicMuxer)> {
    let socket = socket(server, source).context("udp socket")?;
    let connection = socket
        .connect_with(config, server, NAME)?
        .await
        .context("quic handshake")?;
    let remote = peer_id(&connection)?;
    Ok((remote, QuicMuxer::new(connection, witness)))
}

/// The socket of this source address; one of its own where there is none.
fn socket(server: SocketAddr, source: Option<SocketAddr>) -> io::Result<Endpoint> {
    let any = || -> IpAddr {
        match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    };
    let Some(source) = source else {
        return Endpoint::client(SocketAddr::new(any(), 0));
    };
    let mut sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(socket) = sockets.get(&source.ip()) {
        return Ok(socket.clone());
    }
    let socket = Endpoint::client(SocketAddr::new(source.ip(), 0))?;
    sockets.insert(source.ip(), socket.clone());
    Ok(socket)
}

/// Waits until the server was told of every connection that has been closed.
pub(crate) async fn all_told() {
    let sockets: Vec<Endpoint> = {
        let sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.values().cloned().collect()
    };
    join_all(sockets.iter().map(Endpoint::wait_idle)).await;
}

fn peer_id(connection: &quinn::Connection) -> anyhow::Result<PeerId> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'_>>>().ok())
        .context("server shows no certificate")?;
    let certificate = chain.first().context("server shows no certificate")?;
    let certificate = libp2p_tls::certificate::parse(certificate)
        .map_err(|error| anyhow!("server's certificate: {error}"))?;
    Ok(certificate.peer_id())
}

type Opened = Result<(SendStream, RecvStream), ConnectionError>;
type Opening = Option<BoxFuture<'static, Opened>>;

/// A QUIC connection as the muxer it is.
pub(super) struct QuicMuxer {
    connection: quinn::Connection,
    inbound: Opening,
    outbound: Opening,
    witness: Witness,
}

impl QuicMuxer {
    fn new(connection: quinn::Connection, witness: Witness) -> Self {
        Self {
            connection,
            inbound: None,
            outbound: None,
            witness,
        }
    }
}

impl Drop for QuicMuxer {
    fn drop(&mut self) {
        // Set once: there is one muxer for each witness.
        let _ = self.witness.set(ending(self.connection.close_reason()));
    }
}

fn ending(reason: Option<ConnectionError>) -> Ending {
    match reason {
        None | Some(ConnectionError::LocallyClosed) => Ending::Ours,
        Some(ConnectionError::ApplicationClosed(close)) => {
            Ending::GoAway(u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX))
        }
        Some(ConnectionError::ConnectionClosed(_)) => Ending::Closed,
        Some(ConnectionError::TimedOut) => Ending::Silent,
        Some(_) => Ending::Reset,
    }
}

fn poll_opening(
    opening: &mut Opening,
    cx: &mut Context<'_>,
    open: impl FnOnce() -> BoxFuture<'static, Opened>,
) -> Poll<Result<QuicStream, ConnectionError>> {
    let opened = ready!(opening.get_or_insert_with(open).poll_unpin(cx));
    *opening = None;
    let (send, receive) = opened?;
    Poll::Ready(Ok(QuicStream { send, receive }))
}

impl StreamMuxer for QuicMuxer {
    type Substream = QuicStream;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<QuicStream, ConnectionError>> {
        let this = self.get_mut();
        let connection = &this.connection;
        poll_opening(&mut this.inbound, cx, || {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        })
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<QuicStream, ConnectionError>> {
        let this = self.get_mut();
        let connection = &this.connection;
        poll_opening(&mut this.outbound, cx, || {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        })
    }

    /// The farewell is sent by the socket's own task; nothing is left to wait for.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.close(VarInt::from_u32(0), &[]);
        Poll::Ready(Ok(()))
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        Poll::Pending
    }
}

/// Both directions of one stream.
pub(super) struct QuicStream {
    send: SendStream,
    receive: RecvStream,
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_close(Pin::new(&mut self.send), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_the_server_is_its_goodbye() {
        let close = quinn::ApplicationClose {
            error_code: VarInt::from_u32(0x1005),
            reason: Vec::new().into(),
        };
        let reason = ConnectionError::ApplicationClosed(close);
        assert_eq!(ending(Some(reason)), Ending::GoAway(0x1005));
        assert_eq!(ending(Some(ConnectionError::LocallyClosed)), Ending::Ours);
        assert_eq!(ending(Some(ConnectionError::TimedOut)), Ending::Silent);
        assert_eq!(ending(Some(ConnectionError::Reset)), Ending::Reset);
    }
}
