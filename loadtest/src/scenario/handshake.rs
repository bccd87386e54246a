//! Connect, Noise, muxer, one ping, close: a new identity every time.
//!
//! Bounded by `--count` and `--concurrency`. Meanwhile the peer answers what the server
//! opens (identify, ping), as a Swarm would. Identities are made before the clock runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::task::JoinSet;

use super::Bench;
use crate::{
    connection::{Connection, Peer},
    latency::Latencies,
    report::{Report, ScenarioName},
    responder::Responder,
};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Handshakes in all
    #[arg(long, default_value_t = Self::default().count, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) count: u32,
    /// Handshakes at a time
    #[arg(long, default_value_t = Self::default().concurrency, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) concurrency: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            count: 2000,
            concurrency: 16,
        }
    }
}

/// Handshakes before the measured ones, which fill the server's pools.
const WARM_UP: usize = 50;

pub(crate) async fn run(bench: Bench, options: Options) -> anyhow::Result<Report> {
    let concurrency = usize::from(options.concurrency);
    let warm_up = batch(bench, WARM_UP, concurrency, "warm-up").await?;
    bench.settle(Duration::from_secs(5)).await?;

    let count = usize::try_from(options.count)?;
    let measured = batch(bench, count, concurrency, "handshakes").await?;
    let done = measured.latencies.len();
    debug_assert!(warm_up.latencies.len() > 0);

    let mut report = Report::new(ScenarioName::Handshake, bench.stack.way());
    if let Some(micros) = measured.cost_with_tail.cpu_micros_per(done) {
        report = report.lower("server cpu/handshake", "us", micros);
    }
    Ok(report
        .higher("rate", "/s", measured.cost.rate(done))
        .lower("latency p50", "us", measured.latencies.micros_at(50.0))
        .lower("latency p99", "us", measured.latencies.micros_at(99.0)))
}

struct Batch {
    latencies: Latencies,
    /// Until the last connection was closed on this side.
    cost: super::Cost,
    /// Until the server had done its part of closing as well.
    cost_with_tail: super::Cost,
}

async fn batch(
    bench: Bench,
    count: usize,
    concurrency: usize,
    what: &'static str,
) -> anyhow::Result<Batch> {
    let peers: Arc<[Peer]> = (0..count)
        .map(|_| Peer::generate(bench.stack))
        .collect::<Result<_, _>>()?;
    let bar = bench.bar(count, what);
    let next = Arc::new(AtomicUsize::new(0));
    let meter = bench.meter()?;
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(count) {
        let (peers, next, bar) = (Arc::clone(&peers), Arc::clone(&next), bar.clone());
        workers.spawn(async move {
            let mut latencies = Latencies::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(peer) = peers.get(index) else {
                    return anyhow::Ok(latencies);
                };
                let latency = once(bench, peer, index)
                    .await
                    .with_context(|| format!("handshake {index}"))?;
                latencies.record(latency);
                bar.inc(1);
            }
        });
    }
    let mut latencies = Latencies::new();
    while let Some(worker) = workers.join_next().await {
        latencies.merge(&worker??);
    }
    bar.finish_and_clear();
    let cost = meter.read()?;
    bench.settle(Duration::from_secs(5)).await?;
    Ok(Batch {
        latencies,
        cost,
        cost_with_tail: meter.read()?,
    })
}

async fn once(bench: Bench, peer: &Peer, index: usize) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let connection = Connection::dial(bench.target, bench.stack, peer, index).await?;
    connection
        .run(Responder::new(peer), |mut streams| async move {
            streams.ping().await?;
            Ok(started.elapsed())
        })
        .await
}
