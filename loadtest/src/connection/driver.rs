//! What goes on inside a running connection: requests on streams of its own, and the
//! driver that moves the muxer and serves the streams the server opens.
//!
//! Bounds how many streams are being opened at once, and how long a request may take.

use std::{
    io,
    task::{Context, Poll},
};

use anyhow::{Context as _, bail};
use futures::{
    AsyncReadExt, AsyncWriteExt, StreamExt,
    channel::{mpsc, oneshot},
    future::{BoxFuture, poll_fn},
    stream::FuturesUnordered,
};
use libp2p::{
    PeerId,
    core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox},
};
use multistream_select::{Version, dialer_select_proto};
use tokio::time::timeout;

use super::{DEADLINE, Stream};
use crate::{responder::Responder, wire};

/// Streams being opened at once on one connection.
const ORDERS_MAX: usize = 64;

/// Opens streams on a running connection.
#[derive(Clone)]
pub(crate) struct Streams {
    orders: mpsc::Sender<oneshot::Sender<SubstreamBox>>,
    version: Version,
}

impl Streams {
    /// Opens a stream and negotiates one protocol on it.
    ///
    /// # Errors
    /// When the connection is gone or the server does not speak the protocol.
    pub(crate) async fn open(&mut self, protocol: &'static str) -> anyhow::Result<Stream> {
        let (sender, receiver) = oneshot::channel();
        poll_fn(|cx| self.orders.poll_ready(cx)).await?;
        self.orders.start_send(sender)?;
        let stream = receiver.await.context("connection closed")?;
        let (_, stream) = dialer_select_proto(stream, [protocol], self.version).await?;
        Ok(stream)
    }

    /// One ping on a stream of its own.
    ///
    /// # Errors
    /// When the stream fails or the echo differs.
    pub(crate) async fn ping(&mut self) -> anyhow::Result<()> {
        in_time("ping", self.ping_unbounded()).await
    }

    async fn ping_unbounded(&mut self) -> anyhow::Result<()> {
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
        in_time("identify", self.identify_unbounded()).await
    }

    async fn identify_unbounded(&mut self) -> anyhow::Result<()> {
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
        in_time("reserve", self.reserve_unbounded()).await
    }

    async fn reserve_unbounded(&mut self) -> anyhow::Result<()> {
        let mut stream = self.open(wire::HOP_PROTOCOL).await?;
        stream.write_all(wire::reserve()).await?;
        stream.flush().await?;
        let answer = wire::read_message(&mut stream).await?;
        wire::expect_hop_ok(&answer)?;
        stream.close().await?;
        Ok(())
    }

    /// A circuit to `target`: the stream carries raw bytes to the other end.
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub(crate) async fn circuit(&mut self, target: PeerId) -> anyhow::Result<Stream> {
        in_time("connect", self.circuit_unbounded(target)).await
    }

    async fn circuit_unbounded(&mut self, target: PeerId) -> anyhow::Result<Stream> {
        let mut stream = self.open(wire::HOP_PROTOCOL).await?;
        stream.write_all(&wire::connect(target)).await?;
        stream.flush().await?;
        let answer = wire::read_message(&mut stream).await?;
        wire::expect_hop_ok(&answer)?;
        Ok(stream)
    }
}

async fn in_time<T>(
    what: &'static str,
    request: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    timeout(DEADLINE, request)
        .await
        .unwrap_or_else(|_| bail!("no answer in time"))
        .context(what)
}

/// Polls the muxer and the streams the server opened.
pub(super) struct Driver {
    pub(super) muxer: StreamMuxerBox,
    orders: mpsc::Receiver<oneshot::Sender<SubstreamBox>>,
    waiting: Option<oneshot::Sender<SubstreamBox>>,
    responder: Responder,
    inbound: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Driver {
    /// The driver of a connection, and the handle that opens streams on it.
    pub(super) fn new(
        muxer: StreamMuxerBox,
        version: Version,
        responder: Responder,
    ) -> (Self, Streams) {
        let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
        let driver = Self {
            muxer,
            orders,
            waiting: None,
            responder,
            inbound: FuturesUnordered::new(),
        };
        let streams = Streams {
            orders: orders_in,
            version,
        };
        (driver, streams)
    }

    /// Ready only when the connection has failed.
    ///
    /// Both muxers move the whole connection when asked for inbound streams, so their
    /// `poll` is not called on top: it would repeat the work at every wake-up.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
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
