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

/// Before the measurement, so that windows have grown and pools have filled.
const WARM_UP: Duration = Duration::from_millis(500);

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

    let mut ends = set_up(bench, options, circuits, load, &stage).await?;
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

    let latencies = collect(&mut ends, options.pairs(circuits), || advance(CLOSED)).await?;
    Ok(Measured {
        cost,
        bytes: after - before,
        latencies,
    })
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

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 3600.0 => Ok(value),
        _ => Err("expected seconds, more than 0 and at most 3600".to_owned()),
    }
}
