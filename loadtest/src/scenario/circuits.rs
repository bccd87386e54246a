//! Circuits under load: pairs of peers, each pair on connections of its own, with the
//! circuits spread over the pairs.
//!
//! Owns the phases (set up, warm up, measure, stop) and bounds each of them in time.
//! What runs on a circuit is the [`Load`]; with `end_to_end` it runs inside a second
//! Noise and muxer through the circuit, as between real peers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, stream::FuturesUnordered};
use libp2p::PeerId;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Bench, Cost};
use crate::{
    connection::{Connection, DEADLINE, Peer, Stream, Streams},
    latency::Latencies,
    responder::Responder,
};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Circuits in all
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=8192))]
    pub(crate) circuits: Option<u16>,
    /// Pairs of peers they are spread over; as many as circuits unless given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) pairs: Option<u16>,
    /// Seconds measured
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// A second Noise and muxer inside each circuit, as real peers have
    #[arg(long)]
    pub(crate) end_to_end: bool,
}

/// What the two ends of a circuit do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// The source writes blocks of 64 KiB, the target counts what arrives.
    Bulk,
    /// The source writes 64 bytes and waits until the target has sent them back.
    PingPong,
}

/// What was done during the measured time.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) cost: Cost,
    /// Bytes that reached their target.
    pub(crate) bytes: u64,
    /// One sample for each round trip; none in bulk.
    pub(crate) latencies: Latencies,
}

const BLOCK: usize = 64 * 1024;
const PING: usize = 64;

/// Before the measurement, so that windows have grown and pools have filled.
const WARM_UP: Duration = Duration::from_millis(500);

/// The inner stream's protocol when circuits are used end to end.
const INNER_PROTOCOL: &str = "/loadtest/raw/1.0.0";

const SETTING_UP: u8 = 0;
const RUNNING: u8 = 1;
const MEASURING: u8 = 2;
const STOPPED: u8 = 3;
/// Sources are gone, so targets may leave without breaking a circuit.
const CLOSED: u8 = 4;

/// The tasks of both ends of every pair; those of sources return what they recorded.
type Ends = JoinSet<anyhow::Result<Option<Latencies>>>;

/// Shared by every task of one run.
#[derive(Clone)]
struct Stage {
    phase: Arc<AtomicU8>,
    bytes: Arc<AtomicU64>,
    changes: watch::Receiver<u8>,
}

/// Sets the circuits up, loads them, and measures for `options.seconds` or until
/// `bytes_max` have been relayed.
pub(crate) async fn run(
    bench: Bench,
    options: Options,
    circuits: u16,
    load: Load,
    bytes_max: u64,
) -> anyhow::Result<Measured> {
    let pairs = options.pairs.unwrap_or(circuits).min(circuits);
    let (announce, changes) = watch::channel(SETTING_UP);
    let stage = Stage {
        phase: Arc::new(AtomicU8::new(SETTING_UP)),
        bytes: Arc::default(),
        changes,
    };
    let advance = |phase| {
        stage.phase.store(phase, Ordering::Relaxed);
        announce.send_replace(phase);
    };

    let bar = bench.bar(usize::from(circuits), "circuits");
    let (ready_in, mut ready) = mpsc::channel(usize::from(circuits));
    let mut ends = Ends::new();
    for pair in 0..pairs {
        let (target, target_id) = Peer::generate().map(|peer| {
            let id = peer.id();
            (peer, id)
        })?;
        let share = circuits / pairs + u16::from(pair < circuits % pairs);
        let end = End {
            bench,
            load,
            end_to_end: options.end_to_end,
            index: usize::from(pair),
            stage: stage.clone(),
        };
        let (reserved_in, reserved) = tokio::sync::oneshot::channel();
        ends.spawn(end.clone().target(target, reserved_in));
        ends.spawn(end.source(target_id, share, reserved, ready_in.clone()));
    }
    drop(ready_in);
    let set_up = async {
        for _ in 0..circuits {
            if ready.recv().await.is_none() {
                break;
            }
            bar.inc(1);
        }
    };
    watching(&mut ends, timeout(DEADLINE * 2, set_up))
        .await?
        .context("circuits not set up in time")?;
    bar.finish_and_clear();

    advance(RUNNING);
    watching(&mut ends, sleep(WARM_UP)).await?;
    advance(MEASURING);
    let (meter, before) = (bench.meter()?, stage.bytes.load(Ordering::Relaxed));
    watching(
        &mut ends,
        until(&stage, options.seconds, before.saturating_add(bytes_max)),
    )
    .await?;
    let (cost, after) = (meter.read()?, stage.bytes.load(Ordering::Relaxed));
    advance(STOPPED);

    let latencies = collect(&mut ends, pairs, || advance(CLOSED)).await?;
    Ok(Measured {
        cost,
        bytes: after - before,
        latencies,
    })
}

/// Merges what the sources recorded, then lets the targets leave.
async fn collect(
    ends: &mut Ends,
    mut sources: u16,
    release_targets: impl Fn(),
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    while let Some(end) = timeout(DEADLINE, ends.join_next())
        .await
        .context("circuits not closed in time")?
    {
        if let Some(recorded) = end?? {
            latencies.merge(&recorded);
            sources -= 1;
            if sources == 0 {
                release_targets();
            }
        }
    }
    Ok(latencies)
}

/// Waits for `what`, and fails at once when an end of a circuit gives up meanwhile.
async fn watching<T>(ends: &mut Ends, what: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::select! {
        // Cancel-safe: a finished task stays in the set until taken.
        Some(end) = ends.join_next() => {
            end??;
            bail!("a peer left early")
        }
        done = what => Ok(done),
    }
}

async fn until(stage: &Stage, seconds: f64, bytes: u64) {
    const STEP: Duration = Duration::from_millis(20);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while stage.bytes.load(Ordering::Relaxed) < bytes {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        sleep(left.min(STEP)).await;
    }
}

/// One end of the circuits of a pair.
#[derive(Clone)]
struct End {
    bench: Bench,
    load: Load,
    end_to_end: bool,
    index: usize,
    stage: Stage,
}

impl End {
    async fn target(
        self,
        peer: Peer,
        reserved: tokio::sync::oneshot::Sender<()>,
    ) -> anyhow::Result<Option<Latencies>> {
        let bench = self.bench;
        let connection = Connection::dial(bench.target, bench.muxer, &peer, self.index)
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
        let (_, inner) = Connection::upgrade_inbound(stream, self.bench.muxer, &peer).await?;
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
            if self.load == Load::PingPong {
                stream.write_all(&buffer[..count]).await?;
                stream.flush().await?;
            }
        }
    }

    async fn source(
        self,
        target: PeerId,
        circuits: u16,
        reserved: tokio::sync::oneshot::Receiver<()>,
        ready: mpsc::Sender<()>,
    ) -> anyhow::Result<Option<Latencies>> {
        let bench = self.bench;
        let peer = Peer::generate()?;
        let connection = Connection::dial(bench.target, bench.muxer, &peer, self.index)
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
            let mut latencies = Latencies::new();
            while let Some(circuit) = running.next().await {
                latencies.merge(&circuit?);
            }
            Ok(Some(latencies))
        };
        connection.run(responder, work).await.context("source")
    }

    async fn load(
        self,
        stream: Stream,
        peer: Peer,
        ready: mpsc::Sender<()>,
    ) -> anyhow::Result<Latencies> {
        if !self.end_to_end {
            return self.drive(stream, ready).await;
        }
        let (_, inner) = Connection::upgrade_outbound(stream, self.bench.muxer, &peer).await?;
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
    ) -> anyhow::Result<Latencies> {
        ready.send(()).await?;
        drop(ready);
        self.stage
            .changes
            .wait_for(|phase| *phase != SETTING_UP)
            .await?;
        let latencies = match self.load {
            Load::Bulk => self.write_blocks(&mut stream).await?,
            Load::PingPong => self.ping_pong(&mut stream).await?,
        };
        stream.close().await?;
        Ok(latencies)
    }

    async fn write_blocks(&self, stream: &mut Stream) -> anyhow::Result<Latencies> {
        let block = vec![0x5a; BLOCK];
        while self.stage.phase.load(Ordering::Relaxed) != STOPPED {
            stream.write_all(&block).await?;
        }
        Ok(Latencies::new())
    }

    async fn ping_pong(&self, stream: &mut Stream) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::new();
        let ping = [0x5a; PING];
        let mut pong = [0; PING];
        loop {
            let phase = self.stage.phase.load(Ordering::Relaxed);
            if phase == STOPPED {
                return Ok(latencies);
            }
            let started = Instant::now();
            stream.write_all(&ping).await?;
            stream.flush().await?;
            stream.read_exact(&mut pong).await?;
            if phase == MEASURING {
                latencies.record(started.elapsed());
            }
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 3600.0 => Ok(value),
        _ => Err("expected seconds, more than 0 and at most 3600".to_owned()),
    }
}
