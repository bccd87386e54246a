//! Circuits under load: pairs of peers, each pair on connections of its own, with the
//! circuits spread over the pairs.
//!
//! Owns the phases (set up, warm up, measure, stop) and bounds each of them in time.
//! What runs on a circuit is the [`Load`]; with `end_to_end` it runs inside a second
//! Noise and muxer through the circuit, as between real peers.

mod end;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use end::End;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Bench, Cost};
use crate::{
    connection::{DEADLINE, Peer},
    latency::Latencies,
};

#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
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

impl Options {
    /// As many pairs as circuits, and nothing inside them.
    pub(crate) fn plain() -> Self {
        Self {
            circuits: None,
            pairs: None,
            seconds: 0.0,
            end_to_end: false,
        }
    }

    fn pairs(self, circuits: u16) -> u16 {
        self.pairs.unwrap_or(circuits).min(circuits)
    }
}

/// What the two ends of a circuit do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// The source writes blocks of 64 KiB, the target counts what arrives.
    Bulk,
    /// The source writes 64 bytes and waits until the target has sent them back.
    PingPong {
        /// One round trip at each of these, whatever the last one took; without it,
        /// as soon as the last one is done.
        interval: Option<Duration>,
    },
}

impl Load {
    /// Round trips at so many per second on each circuit, or back to back.
    pub(crate) fn ping_pong(rate: Option<f64>) -> Self {
        Self::PingPong {
            interval: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
        }
    }
}

/// What was done during one window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) cost: Cost,
    /// Bytes that reached their target.
    pub(crate) bytes: u64,
}

/// The latencies of each window; one sample for each round trip, none in bulk.
pub(crate) type Windows = [Latencies; WINDOWS];

/// Windows that are told apart: before something happens, and while it does.
const WINDOWS: usize = 2;

/// Before the measurement, so that windows have grown and pools have filled.
const WARM_UP: Duration = Duration::from_millis(500);

const SETTING_UP: u8 = 0;
const RUNNING: u8 = 1;
/// The first of [`WINDOWS`] phases.
const MEASURING: u8 = 2;
const STOPPED: u8 = 4;
/// Sources are gone, so targets may leave without breaking a circuit.
const CLOSED: u8 = 5;

/// The tasks of both ends of every pair; those of sources return what they recorded.
type Ends = JoinSet<anyhow::Result<Option<Windows>>>;

/// Shared by every task of one run.
#[derive(Clone)]
struct Stage {
    phase: Arc<AtomicU8>,
    bytes: Arc<AtomicU64>,
    changes: watch::Receiver<u8>,
}

/// Open circuits under load.
pub(crate) struct Circuits {
    bench: Bench,
    pairs: u16,
    ends: Ends,
    stage: Stage,
    announce: watch::Sender<u8>,
}

impl Circuits {
    /// Sets the circuits up and loads them; nothing is recorded yet.
    ///
    /// # Errors
    /// When a peer is refused or loses its connection.
    pub(crate) async fn open(
        bench: Bench,
        options: Options,
        circuits: u16,
        load: Load,
    ) -> anyhow::Result<Self> {
        let (announce, changes) = watch::channel(SETTING_UP);
        let stage = Stage {
            phase: Arc::new(AtomicU8::new(SETTING_UP)),
            bytes: Arc::default(),
            changes,
        };
        let ends = set_up(bench, options, circuits, load, &stage).await?;
        let mut opened = Self {
            bench,
            pairs: options.pairs(circuits),
            ends,
            stage,
            announce,
        };
        opened.advance(RUNNING);
        opened.watch(sleep(WARM_UP)).await?;
        Ok(opened)
    }

    /// Records in the given window, 0 or 1, until `what` is done.
    ///
    /// # Errors
    /// When a circuit breaks meanwhile.
    pub(crate) async fn record<T>(
        &mut self,
        window: u8,
        what: impl Future<Output = T>,
    ) -> anyhow::Result<(T, Window)> {
        debug_assert!(usize::from(window) < WINDOWS);
        self.advance(MEASURING + window);
        let (meter, before) = (
            self.bench.meter()?,
            self.stage.bytes.load(Ordering::Relaxed),
        );
        let done = self.watch(what).await?;
        let (cost, after) = (meter.read()?, self.stage.bytes.load(Ordering::Relaxed));
        self.advance(RUNNING);
        let bytes = after - before;
        Ok((done, Window { cost, bytes }))
    }

    /// Waits for `what`, and fails at once when an end of a circuit gives up meanwhile.
    ///
    /// # Errors
    /// What made it give up.
    pub(crate) async fn watch<T>(&mut self, what: impl Future<Output = T>) -> anyhow::Result<T> {
        watching(&mut self.ends, what).await
    }

    /// Stops the load, closes every circuit, and returns what was recorded.
    ///
    /// # Errors
    /// When a circuit has broken, or does not close in time.
    pub(crate) async fn close(mut self) -> anyhow::Result<Windows> {
        self.advance(STOPPED);
        let release_targets = || {
            self.announce.send_replace(CLOSED);
        };
        collect(&mut self.ends, self.pairs, release_targets).await
    }

    fn advance(&self, phase: u8) {
        self.stage.phase.store(phase, Ordering::Relaxed);
        self.announce.send_replace(phase);
    }
}

/// What one measurement of circuits alone has shown.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) window: Window,
    pub(crate) latencies: Latencies,
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
    let mut open = Circuits::open(bench, options, circuits, load).await?;
    let stage = open.stage.clone();
    let enough = stage
        .bytes
        .load(Ordering::Relaxed)
        .saturating_add(bytes_max);
    let ((), window) = open
        .record(0, until(&stage, options.seconds, enough))
        .await?;
    let [latencies, _] = open.close().await?;
    Ok(Measured { window, latencies })
}

/// Returns once every circuit is open.
async fn set_up(
    bench: Bench,
    options: Options,
    circuits: u16,
    load: Load,
    stage: &Stage,
) -> anyhow::Result<Ends> {
    let pairs = options.pairs(circuits);
    let bar = bench.bar(usize::from(circuits), "circuits");
    let (ready_in, mut ready) = mpsc::channel(usize::from(circuits));
    let mut ends = Ends::new();
    for pair in 0..pairs {
        let (target, target_id) = Peer::generate(bench.stack).map(|peer| {
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
        let (reserved_in, reserved) = oneshot::channel();
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
    Ok(ends)
}

/// Merges what the sources recorded, then lets the targets leave.
async fn collect(
    ends: &mut Ends,
    mut sources: u16,
    release_targets: impl Fn(),
) -> anyhow::Result<Windows> {
    let mut windows = no_windows();
    while let Some(end) = timeout(DEADLINE, ends.join_next())
        .await
        .context("circuits not closed in time")?
    {
        if let Some(recorded) = end?? {
            merge(&mut windows, &recorded);
            sources -= 1;
            if sources == 0 {
                release_targets();
            }
        }
    }
    Ok(windows)
}

fn no_windows() -> Windows {
    std::array::from_fn(|_| Latencies::new())
}

fn merge(windows: &mut Windows, others: &Windows) {
    for (window, other) in windows.iter_mut().zip(others) {
        window.merge(other);
    }
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

/// Parses seconds on the command line.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 3600.0 => Ok(value),
        _ => Err("expected seconds, more than 0 and at most 3600".to_owned()),
    }
}

/// Parses round trips per second on the command line.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 10_000.0 => Ok(value),
        _ => Err("expected a rate, more than 0 and at most 10000".to_owned()),
    }
}
