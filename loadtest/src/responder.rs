//! What a peer answers on streams the server opens: identify, ping, and STOP.
//!
//! Counts identify answers, so that a scenario knows when the server has met everybody,
//! and hands accepted circuits to the scenario. Refuses every other protocol as a Swarm
//! without that behaviour would.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, future::BoxFuture};
use libp2p::core::muxing::SubstreamBox;
use multistream_select::listener_select_proto;

use crate::{
    connection::{Peer, Stream},
    wire,
};

/// Longest ping stream served; a server pings every 15 s, so hours.
const PINGS_MAX: usize = 10_000;

/// What becomes of a stream or circuit once accepted.
pub(crate) type OnStream = Arc<dyn Fn(Stream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Answers inbound streams of one connection.
#[derive(Clone)]
pub(crate) struct Responder {
    identify: Arc<[u8]>,
    identified: Arc<AtomicU64>,
    accepted: Option<(&'static str, OnStream)>,
}

impl Responder {
    pub(crate) fn new(peer: &Peer) -> Self {
        Self {
            identify: peer.identify(),
            identified: Arc::default(),
            accepted: None,
        }
    }

    /// Shares the count of identify answers among connections.
    pub(crate) fn counting(mut self, identified: &Arc<AtomicU64>) -> Self {
        self.identified = Arc::clone(identified);
        self
    }

    /// Accepts circuits and gives each to `on_stream`; without this they are refused.
    pub(crate) fn accepting_circuits(self, on_stream: OnStream) -> Self {
        self.accepting(wire::STOP_PROTOCOL, on_stream)
    }

    /// Accepts streams of one more protocol and gives each to `on_stream`.
    pub(crate) fn accepting(mut self, protocol: &'static str, on_stream: OnStream) -> Self {
        self.accepted = Some((protocol, on_stream));
        self
    }

    /// Serves one stream to its end. Errors end the stream only: the scenario notices
    /// what matters to it on its own side.
    pub(crate) fn answer(&self, stream: SubstreamBox) -> BoxFuture<'static, ()> {
        let responder = self.clone();
        async move {
            let _ = responder.serve(stream).await;
        }
        .boxed()
    }

    async fn serve(self, stream: SubstreamBox) -> io::Result<()> {
        let more = self.accepted.as_ref().map(|(protocol, _)| *protocol);
        let protocols = [wire::IDENTIFY_PROTOCOL, wire::PING_PROTOCOL]
            .into_iter()
            .chain(more);
        let (protocol, mut stream) = listener_select_proto(stream, protocols)
            .await
            .map_err(io::Error::other)?;
        match protocol {
            wire::IDENTIFY_PROTOCOL => {
                stream.write_all(&self.identify).await?;
                stream.close().await?;
                self.identified.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            wire::PING_PROTOCOL => return echo_pings(stream).await,
            wire::STOP_PROTOCOL => {
                let request = wire::read_message(&mut stream).await?;
                wire::expect_stop_connect(&request)?;
                stream.write_all(wire::stop_accepted()).await?;
                stream.flush().await?;
            }
            _ => {}
        }
        if let Some((_, on_stream)) = self.accepted {
            on_stream(stream).await;
        }
        Ok(())
    }
}

async fn echo_pings(mut stream: Stream) -> io::Result<()> {
    let mut block = [0; 32];
    for _ in 0..PINGS_MAX {
        if stream.read_exact(&mut block).await.is_err() {
            break;
        }
        stream.write_all(&block).await?;
        stream.flush().await?;
    }
    stream.close().await
}
