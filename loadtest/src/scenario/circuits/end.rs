//! The two ends of a pair: one reserves and accepts circuits, the other opens and loads
//! them. Each end is one connection and one task.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, stream::FuturesUnordered};
use libp2p::PeerId;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};

use super::{CLOSED, Load, MEASURING, SETTING_UP, STOPPED, Stage, Windows, merge, no_windows};
use crate::{
    connection::{Connection, Peer, Stream, Streams},
    responder::Responder,
    scenario::Bench,
};

const BLOCK: usize = 64 * 1024;
const PING: usize = 64;

/// The inner stream's protocol when circuits are used end to end.
const INNER_PROTOCOL: &str = "/loadtest/raw/1.0.0";

/// One end of the circuits of a pair.
#[derive(Clone)]
pub(super) struct End {
    pub(super) bench: Bench,
    pub(super) load: Load,
    pub(super) end_to_end: bool,
    pub(super) index: usize,
    pub(super) stage: Stage,
}

impl End {
    /// Reserves and serves until the sources are gone.
    pub(super) async fn target(
        self,
        peer: Peer,
        reserved: oneshot::Sender<()>,
    ) -> anyhow::Result<Option<Windows>> {
        let bench = self.bench;
        let connection = Connection::dial(bench.target, bench.stack, &peer, self.index)
            .await
            .context("target")?;
        let mut changes = self.stage.changes.clone();
        let responder = Responder::new(&peer).accepting_circuits(Arc::new(move |stream| {
            let (end, peer) = (self.clone(), peer.clone());
            // The source notices what goes wrong on a circuit.
            async move {
                let _ = end.answer(stream, peer).await;
            }
            .boxed()
        }));
        connection
            .run(responder, |mut streams| async move {
                streams.reserve().await?;
                let _ = reserved.send(());
                changes.wait_for(|phase| *phase == CLOSED).await?;
                Ok(None)
            })
            .await
            .context("target")
    }

    async fn answer(self, stream: Stream, peer: Peer) -> anyhow::Result<()> {
        if !self.end_to_end {
            return self.serve(stream).await;
        }
        let (_, inner) = Connection::upgrade_inbound(stream, self.bench.stack, &peer).await?;
        let mut changes = self.stage.changes.clone();
        let responder = Responder::new(&peer).accepting(
            INNER_PROTOCOL,
            Arc::new(move |stream| {
                let end = self.clone();
                async move {
                    let _ = end.serve(stream).await;
                }
                .boxed()
            }),
        );
        inner
            .run(responder, |_streams| async move {
                changes.wait_for(|phase| *phase == CLOSED).await?;
                Ok(())
            })
            .await
    }

    async fn serve(&self, mut stream: Stream) -> anyhow::Result<()> {
        let mut buffer = vec![0; BLOCK];
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            self.stage.bytes.fetch_add(count as u64, Ordering::Relaxed);
            if matches!(self.load, Load::PingPong { .. }) {
                stream.write_all(&buffer[..count]).await?;
                stream.flush().await?;
            }
        }
    }

    /// Opens `circuits` to `target`, says of each that it is ready, and loads them.
    pub(super) async fn source(
        self,
        target: PeerId,
        circuits: u16,
        reserved: oneshot::Receiver<()>,
        ready: mpsc::Sender<()>,
    ) -> anyhow::Result<Option<Windows>> {
        let bench = self.bench;
        let peer = Peer::generate(bench.stack)?;
        let connection = Connection::dial(bench.target, bench.stack, &peer, self.index)
            .await
            .context("source")?;
        reserved.await.context("target has no reservation")?;
        let responder = Responder::new(&peer);
        let work = |mut streams: Streams| async move {
            let mut running = FuturesUnordered::new();
            for _ in 0..circuits {
                let stream = streams.circuit(target).await?;
                running.push(self.clone().load(stream, peer.clone(), ready.clone()));
            }
            drop(ready);
            let mut windows = no_windows();
            while let Some(circuit) = running.next().await {
                merge(&mut windows, &circuit?);
            }
            Ok(Some(windows))
        };
        connection.run(responder, work).await.context("source")
    }

    async fn load(
        self,
        stream: Stream,
        peer: Peer,
        ready: mpsc::Sender<()>,
    ) -> anyhow::Result<Windows> {
        if !self.end_to_end {
            return self.drive(stream, ready).await;
        }
        let (_, inner) = Connection::upgrade_outbound(stream, self.bench.stack, &peer).await?;
        inner
            .run(Responder::new(&peer), |mut streams| async move {
                let stream = streams.open(INNER_PROTOCOL).await?;
                self.drive(stream, ready).await
            })
            .await
            .context("inside the circuit")
    }

    async fn drive(
        mut self,
        mut stream: Stream,
        ready: mpsc::Sender<()>,
    ) -> anyhow::Result<Windows> {
        ready.send(()).await?;
        drop(ready);
        self.stage
            .changes
            .wait_for(|phase| *phase != SETTING_UP)
            .await?;
        let windows = match self.load {
            Load::Bulk => self.write_blocks(&mut stream).await?,
            Load::PingPong { interval } => self.ping_pong(&mut stream, interval).await?,
        };
        stream.close().await?;
        Ok(windows)
    }

    async fn write_blocks(&self, stream: &mut Stream) -> anyhow::Result<Windows> {
        let block = vec![0x5a; BLOCK];
        while self.stage.phase.load(Ordering::Relaxed) != STOPPED {
            stream.write_all(&block).await?;
        }
        Ok(no_windows())
    }

    /// With an interval, a round trip that overran it counts against the next one as
    /// well, which would have begun by then: a stall is not one late sample.
    async fn ping_pong(
        &self,
        stream: &mut Stream,
        interval: Option<Duration>,
    ) -> anyhow::Result<Windows> {
        let mut windows = no_windows();
        let ping = [0x5a; PING];
        let mut pong = [0; PING];
        let mut due = Instant::now() + interval.unwrap_or_default().mul_f64(self.offset());
        loop {
            let mut started = Instant::now();
            if let Some(interval) = interval {
                if started < due {
                    sleep_until(due.into()).await;
                    started = Instant::now();
                } else {
                    started = due;
                }
                due += interval;
            }
            let phase = self.stage.phase.load(Ordering::Relaxed);
            if phase >= STOPPED {
                return Ok(windows);
            }
            stream.write_all(&ping).await?;
            stream.flush().await?;
            stream.read_exact(&mut pong).await?;
            let window = phase.checked_sub(MEASURING).map(usize::from);
            if let Some(window) = window.and_then(|window| windows.get_mut(window)) {
                window.record(started.elapsed());
            }
        }
    }

    /// Where in the interval this pair begins, so that they do not all do so at once.
    fn offset(&self) -> f64 {
        const SLOTS: u8 = 61;
        f64::from(u8::try_from(self.index % usize::from(SLOTS)).unwrap_or(0)) / f64::from(SLOTS)
    }
}
