//! One connection of one peer: dialled, secured and multiplexed by rust-libp2p's code,
//! then driven together with the work on it as a single task.
//!
//! No Swarm per peer, so ten thousand peers fit one process. Bounds every dial with a
//! deadline. What inbound streams mean is the responder's concern, what to do on the
//! connection the scenario's.

mod driver;
mod ending;

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use driver::Driver;
pub(crate) use driver::Streams;
use ending::Tap;
pub(crate) use ending::{Ending, Witness};
use futures::{AsyncRead, AsyncWrite, future::poll_fn};
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

/// What a connection is made of above TCP and Noise.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Stack {
    /// Muxer offered to the server
    #[arg(long, value_enum, default_value_t = Muxer::Yamux)]
    pub(crate) muxer: Muxer,
    /// Send a stream's first request together with its negotiation, as go peers do;
    /// a rust-libp2p Swarm waits for the answer first
    #[arg(long)]
    pub(crate) lazy: bool,
}

impl Stack {
    fn stream_version(self) -> Version {
        if self.lazy {
            Version::V1Lazy
        } else {
            Version::V1
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
pub(crate) struct Connection {
    muxer: StreamMuxerBox,
    stack: Stack,
    witness: Witness,
}

impl Connection {
    /// Connects to the server under test; `index` spreads source addresses.
    ///
    /// # Errors
    /// When the server refuses, is too slow, or is not the peer it should be.
    pub(crate) async fn dial(
        target: Target,
        stack: Stack,
        peer: &Peer,
        index: usize,
    ) -> anyhow::Result<Self> {
        Self::dial_from(target, stack, peer, target.source(index)).await
    }

    /// [`Self::dial`] from a given local address.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn dial_from(
        target: Target,
        stack: Stack,
        peer: &Peer,
        source: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let dialling = async {
            let socket = open_socket(target, source).await.context("tcp connect")?;
            let (remote, connection) = Self::upgrade_outbound(socket, stack, peer).await?;
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
        stack: Stack,
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
        let witness = Witness::default();
        let secured = Tap::new(secured, Arc::clone(&witness));
        let muxer = match stack.muxer {
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
        let connection = Self {
            muxer,
            stack,
            witness,
        };
        Ok((remote, connection))
    }

    /// The listening side of [`Self::upgrade_outbound`], for the far end of a circuit.
    ///
    /// # Errors
    /// When negotiation, handshake or muxer fail.
    pub(crate) async fn upgrade_inbound<S>(
        socket: S,
        stack: Stack,
        peer: &Peer,
    ) -> anyhow::Result<(PeerId, Self)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (info, socket) = listener_select_proto(socket, peer.noise.protocol_info()).await?;
        let noise = peer.noise.clone();
        let (remote, secured) = noise.upgrade_inbound(socket, info).await?;
        let muxer = match stack.muxer {
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
        let connection = Self {
            muxer,
            stack,
            witness: Witness::default(),
        };
        Ok((remote, connection))
    }

    /// Knows how the connection ended once it has; only of dialled ones.
    pub(crate) fn witness(&self) -> Witness {
        Arc::clone(&self.witness)
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
        let version = self.stack.stream_version();
        let (mut driver, streams) = Driver::new(self.muxer, version, responder);
        let mut work = pin!(work(streams));
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

fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

fn mplex_config() -> libp2p_mplex::Config {
    let mut config = libp2p_mplex::Config::new();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

async fn open_socket(target: Target, source: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = if target.socket.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    if let Some(source) = source {
        socket.set_reuseaddr(true)?;
        socket.bind(source)?;
    }
    Ok(TcpStream(socket.connect(target.socket).await?))
}
