//! One connection of one peer: dialled, secured and multiplexed by rust-libp2p's code,
//! then driven together with the work on it as a single task.
//!
//! No Swarm per peer, so ten thousand peers fit one process. Bounds every dial with a
//! deadline. What inbound streams mean is the responder's concern, what to do on the
//! connection the scenario's.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt,
    channel::{mpsc, oneshot},
    future::{BoxFuture, poll_fn},
    stream::FuturesUnordered,
};
use libp2p::{
    PeerId,
    core::{
        muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox},
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    },
    identity::Keypair,
    noise,
    tcp::tokio::TcpStream,
    yamux,
};
use multistream_select::{Negotiated, Version, dialer_select_proto, listener_select_proto};
use serde::Serialize;
use tokio::{net::TcpSocket, time::timeout};

use crate::{address::Target, responder::Responder, wire};

/// As long as a Waystation upgrade may take, so a slow server is seen to be slow.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Streams a connection may hold; the bulk scenarios put every circuit on one when asked to.
const STREAMS_MAX: usize = 4096;

/// Streams being opened at once on one connection.
const ORDERS_MAX: usize = 64;

/// A stream of a connection on which a protocol was agreed.
pub(crate) type Stream = Negotiated<SubstreamBox>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Muxer {
    Yamux,
    Mplex,
}

impl Muxer {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Yamux => "yamux",
            Self::Mplex => "mplex",
        }
    }
}

/// The identity a connection is made with, and what it tells of itself.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) keypair: Keypair,
    noise: noise::Config,
    identify: Arc<[u8]>,
}

impl Peer {
    /// # Errors
    /// When the Noise static key cannot be signed.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let keypair = Keypair::generate_ed25519();
        let noise = noise::Config::new(&keypair)?;
        let identify = wire::identify(&keypair.public().encode_protobuf()).into();
        Ok(Self {
            keypair,
            noise,
            identify,
        })
    }

    pub(crate) fn id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    pub(crate) fn identify(&self) -> Arc<[u8]> {
        Arc::clone(&self.identify)
    }
}

/// An authenticated, multiplexed connection that nothing drives yet.
pub(crate) struct Connection(StreamMuxerBox);

impl Connection {
    /// Connects to the server under test; `index` spreads source addresses.
    ///
    /// # Errors
    /// When the server refuses, is too slow, or is not the peer it should be.
    pub(crate) async fn dial(
        target: Target,
        muxer: Muxer,
        peer: &Peer,
        index: usize,
    ) -> anyhow::Result<Self> {
        let dialling = async {
            let socket = open_socket(target, index).await.context("tcp connect")?;
            let (remote, connection) = Self::upgrade_outbound(socket, muxer, peer).await?;
            if remote != target.peer_id {
                bail!("server is {remote}, not {}", target.peer_id);
            }
            Ok(connection)
        };
        timeout(DEADLINE, dialling)
            .await
            .context("connection not up in time")?
    }

    /// Secures and multiplexes any byte stream as its dialling side: the same steps
    /// that rust-libp2p's transport builder strings together.
    ///
    /// # Errors
    /// When negotiation, handshake or muxer fail.
    pub(crate) async fn upgrade_outbound<S>(
        socket: S,
        muxer: Muxer,
        peer: &Peer,
    ) -> anyhow::Result<(PeerId, Self)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (info, socket) =
            dialer_select_proto(socket, peer.noise.protocol_info(), Version::V1Lazy)
                .await
                .context("security negotiation")?;
        let (remote, secured) = peer
            .noise
            .clone()
            .upgrade_outbound(socket, info)
            .await
            .context("noise handshake")?;
        let muxer = match muxer {
            Muxer::Yamux => {
                let config = yamux_config();
                let protocols = config.protocol_info();
                let (info, io) = dialer_select_proto(secured, protocols, Version::V1Lazy).await?;
                StreamMuxerBox::new(config.upgrade_outbound(io, info).await?)
            }
            Muxer::Mplex => {
                let config = mplex_config();
                let protocols = config.protocol_info();
                let (info, io) = dialer_select_proto(secured, protocols, Version::V1Lazy).await?;
                StreamMuxerBox::new(config.upgrade_outbound(io, info).await?)
            }
        };
        Ok((remote, Self(muxer)))
    }

    /// The listening side of [`Self::upgrade_outbound`], for the far end of a circuit.
    ///
    /// # Errors
    /// When negotiation, handshake or muxer fail.
    pub(crate) async fn upgrade_inbound<S>(
        socket: S,
        muxer: Muxer,
        peer: &Peer,
    ) -> anyhow::Result<(PeerId, Self)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (info, socket) = listener_select_proto(socket, peer.noise.protocol_info()).await?;
        let noise = peer.noise.clone();
        let (remote, secured) = noise.upgrade_inbound(socket, info).await?;
        let muxer = match muxer {
            Muxer::Yamux => {
                let config = yamux_config();
                let (info, io) = listener_select_proto(secured, config.protocol_info()).await?;
                StreamMuxerBox::new(config.upgrade_inbound(io, info).await?)
            }
            Muxer::Mplex => {
                let config = mplex_config();
                let (info, io) = listener_select_proto(secured, config.protocol_info()).await?;
                StreamMuxerBox::new(config.upgrade_inbound(io, info).await?)
            }
        };
        Ok((remote, Self(muxer)))
    }

    /// Runs `work` while the connection moves, then closes it.
    ///
    /// Both live in the calling task: a byte that arrives wakes one task, which reads
    /// it, works on it and writes the answer, without a hand-over between threads.
    ///
    /// # Errors
    /// When the connection ends before `work` does, or `work` fails.
    pub(crate) async fn run<T, W>(
        self,
        responder: Responder,
        work: impl FnOnce(Streams) -> W,
    ) -> anyhow::Result<T>
    where
        W: Future<Output = anyhow::Result<T>>,
    {
        let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
        let mut driver = Driver {
            muxer: self.0,
            orders,
            waiting: None,
            responder,
            inbound: FuturesUnordered::new(),
        };
        let mut work = pin!(work(Streams(orders_in)));
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(error) = driver.poll(cx) {
                return Poll::Ready(Err(anyhow!(error).context("connection lost")));
            }
            work.as_mut().poll(cx)
        })
        .await?;
        // The peer may be gone already; a failed farewell changes no figure.
        let _ = timeout(DEADLINE, driver.muxer.close()).await;
        Ok(outcome)
    }
}

/// Opens streams on a running connection.
#[derive(Clone)]
pub(crate) struct Streams(mpsc::Sender<oneshot::Sender<SubstreamBox>>);

impl Streams {
    /// Opens a stream and offers one protocol on it, without waiting for the answer.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn open(&mut self, protocol: &'static str) -> anyhow::Result<Stream> {
        let (sender, receiver) = oneshot::channel();
        poll_fn(|cx| self.0.poll_ready(cx)).await?;
        self.0.start_send(sender)?;
        let stream = receiver.await.context("connection closed")?;
        let (_, stream) = dialer_select_proto(stream, [protocol], Version::V1Lazy).await?;
        Ok(stream)
    }

    /// One ping on a stream of its own.
    ///
    /// # Errors
    /// When the stream fails or the echo differs.
    pub(crate) async fn ping(&mut self) -> anyhow::Result<()> {
        let mut stream = self.open(wire::PING_PROTOCOL).await?;
        let sent = [0x5a; 32];
        stream.write_all(&sent).await?;
        stream.flush().await?;
        let mut echo = [0; 32];
        stream.read_exact(&mut echo).await?;
        if echo != sent {
            bail!("ping came back different");
        }
        stream.close().await?;
        Ok(())
    }

    /// Asks the server to identify itself, as every Swarm does on connect.
    ///
    /// # Errors
    /// When the stream fails.
    pub(crate) async fn identify(&mut self) -> anyhow::Result<()> {
        let mut stream = self.open(wire::IDENTIFY_PROTOCOL).await?;
        wire::read_message(&mut stream).await?;
        stream.close().await?;
        Ok(())
    }

    /// Reserves, or renews the reservation, on a stream of its own.
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub(crate) async fn reserve(&mut self) -> anyhow::Result<()> {
        let mut stream = self.open(wire::HOP_PROTOCOL).await?;
        stream.write_all(wire::reserve()).await?;
        stream.flush().await?;
        let answer = wire::read_message(&mut stream).await?;
        wire::expect_hop_ok(&answer).context("reserve")?;
        stream.close().await?;
        Ok(())
    }

    /// A circuit to `target`: the stream carries raw bytes to the other end.
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub(crate) async fn circuit(&mut self, target: PeerId) -> anyhow::Result<Stream> {
        let mut stream = self.open(wire::HOP_PROTOCOL).await?;
        stream.write_all(&wire::connect(target)).await?;
        stream.flush().await?;
        let answer = wire::read_message(&mut stream).await?;
        wire::expect_hop_ok(&answer).context("connect")?;
        Ok(stream)
    }
}

/// Polls the muxer and the streams the server opened.
struct Driver {
    muxer: StreamMuxerBox,
    orders: mpsc::Receiver<oneshot::Sender<SubstreamBox>>,
    waiting: Option<oneshot::Sender<SubstreamBox>>,
    responder: Responder,
    inbound: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Driver {
    /// Ready only when the connection has failed.
    ///
    /// Both muxers move the whole connection when asked for inbound streams, so their
    /// `poll` is not called on top: it would repeat the work at every wake-up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            while let Poll::Ready(stream) = self.muxer.poll_inbound_unpin(cx) {
                match stream {
                    Ok(stream) => self.inbound.push(self.responder.answer(stream)),
                    Err(error) => return Poll::Ready(error),
                }
            }
            while let Poll::Ready(Some(())) = self.inbound.poll_next_unpin(cx) {}
            match self.poll_orders(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Whether any stream was opened.
    fn poll_orders(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut progress = false;
        loop {
            if self.waiting.is_none() {
                match self.orders.poll_next_unpin(cx) {
                    Poll::Ready(Some(order)) => self.waiting = Some(order),
                    Poll::Ready(None) | Poll::Pending => return Ok(progress),
                }
            }
            let Poll::Ready(stream) = self.muxer.poll_outbound_unpin(cx)? else {
                return Ok(progress);
            };
            if let Some(order) = self.waiting.take() {
                // An order withdrawn meanwhile drops its stream, which resets it.
                let _ = order.send(stream);
            }
            progress = true;
        }
    }
}

pub(crate) fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

pub(crate) fn mplex_config() -> libp2p_mplex::Config {
    let mut config = libp2p_mplex::Config::new();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

async fn open_socket(target: Target, index: usize) -> io::Result<TcpStream> {
    let socket = if target.socket.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    if let Some(source) = target.source(index) {
        socket.set_reuseaddr(true)?;
        socket.bind(source)?;
    }
    Ok(TcpStream(socket.connect(target.socket).await?))
}
