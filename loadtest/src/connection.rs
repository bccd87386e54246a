//! One connection of one peer: dialled, secured and multiplexed by rust-libp2p's code,
//! then driven together with the work on it as a single task.
//!
//! No Swarm per peer, so ten thousand peers fit one process. Bounds every dial with a
//! deadline. What inbound streams mean is the responder's concern, what to do on the
//! connection the scenario's.

mod driver;
mod ending;
mod peer;
mod quic;
mod socket;

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, task::Poll, time::Duration};

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
    yamux,
};
use multistream_select::{Negotiated, Version, dialer_select_proto, listener_select_proto};
pub(crate) use peer::Peer;
pub(crate) use quic::all_told;
use tokio::time::timeout;

use crate::{
    address::Target,
    responder::Responder,
    stack::{Muxer, Security, Stack, Transport},
};

/// As long as a Waystation upgrade may take, so a slow server is seen to be slow.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Streams a connection may hold; the bulk scenarios put every circuit on one when asked to.
const STREAMS_MAX: usize = 4096;

/// A stream of a connection on which a protocol was agreed.
pub(crate) type Stream = Negotiated<SubstreamBox>;

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
            let (remote, connection) = match stack.transport {
                Transport::Tcp => {
                    let socket = socket::tcp(target, source).await.context("tcp connect")?;
                    Self::upgrade_outbound(socket, stack, peer).await?
                }
                Transport::Ws | Transport::Wss => {
                    let socket = socket::websocket(target, source)
                        .await
                        .context("websocket")?;
                    Self::upgrade_outbound(socket, stack, peer).await?
                }
                Transport::Quic => Self::dial_quic(target, stack, peer, source).await?,
            };
            if remote != target.peer_id {
                bail!("server is {remote}, not {}", target.peer_id);
            }
            Ok(connection)
        };
        timeout(DEADLINE, Box::pin(dialling))
            .await
            .context("connection not up in time")?
    }

    async fn dial_quic(
        target: Target,
        stack: Stack,
        peer: &Peer,
        source: Option<SocketAddr>,
    ) -> anyhow::Result<(PeerId, Self)> {
        let config = peer
            .quic
            .clone()
            .context("peer was made for another stack")?;
        let witness = Witness::default();
        let noticing = Arc::clone(&witness);
        let (remote, muxer) = quic::dial(target.socket, source, config, noticing).await?;
        let connection = Self {
            muxer: StreamMuxerBox::new(muxer),
            stack,
            witness,
        };
        Ok((remote, connection))
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
        let witness = Witness::default();
        let tap = Arc::clone(&witness);
        let (remote, muxer) = match stack.security {
            Security::Noise => {
                let protocols = peer.noise.protocol_info();
                let (info, socket) = dialer_select_proto(socket, protocols, Version::V1Lazy)
                    .await
                    .context("security negotiation")?;
                let noise = peer.noise.clone();
                let (remote, secured) = noise
                    .upgrade_outbound(socket, info)
                    .await
                    .context("noise handshake")?;
                (
                    remote,
                    multiplex_outbound(Tap::new(secured, tap), stack.muxer).await?,
                )
            }
            Security::Tls => {
                let tls = peer.tls()?;
                let (info, socket) =
                    dialer_select_proto(socket, tls.protocol_info(), Version::V1Lazy)
                        .await
                        .context("security negotiation")?;
                let (remote, secured) = tls
                    .upgrade_outbound(socket, info)
                    .await
                    .context("tls handshake")?;
                (
                    remote,
                    multiplex_outbound(Tap::new(secured, tap), stack.muxer).await?,
                )
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
        let (remote, muxer) = match stack.security {
            Security::Noise => {
                let protocols = peer.noise.protocol_info();
                let (info, socket) = listener_select_proto(socket, protocols).await?;
                let noise = peer.noise.clone();
                let (remote, secured) = noise.upgrade_inbound(socket, info).await?;
                (remote, multiplex_inbound(secured, stack.muxer).await?)
            }
            Security::Tls => {
                let tls = peer.tls()?;
                let (info, socket) = listener_select_proto(socket, tls.protocol_info()).await?;
                let (remote, secured) = tls.upgrade_inbound(socket, info).await?;
                (remote, multiplex_inbound(secured, stack.muxer).await?)
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

async fn multiplex_outbound<S>(secured: S, muxer: Muxer) -> anyhow::Result<StreamMuxerBox>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Ok(match muxer {
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
    })
}

async fn multiplex_inbound<S>(secured: S, muxer: Muxer) -> anyhow::Result<StreamMuxerBox>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Ok(match muxer {
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
    })
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
