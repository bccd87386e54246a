//! RESERVE over and over on live connections, one at a time on each.
//!
//! Bounded by `--count` over `--connections`. After the first round every request is a
//! renewal, which a server must not count twice.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::{sync::mpsc, task::JoinSet};

use super::Bench;
use crate::{
    connection::{Connection, Peer},
    latency::Latencies,
    report::{Report, ScenarioName},
    responder::Responder,
};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// RESERVE requests in all
    #[arg(long, default_value_t = Self::default().count, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) count: u32,
    /// Connections they are spread over
    #[arg(long, default_value_t = Self::default().connections, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            count: 20_000,
            connections: 16,
        }
    }
}

pub(crate) async fn run(bench: Bench, options: Options) -> anyhow::Result<Report> {
    let connections = u32::from(options.connections);
    let each = options.count.div_ceil(connections);
    let bar = bench.bar(usize::try_from(each * connections)?, "reserve");
    let (ready_in, mut ready) = mpsc::channel(usize::from(options.connections));
    let (start_in, start) = tokio::sync::watch::channel(false);
    let mut peers = JoinSet::new();
    for index in 0..usize::from(options.connections) {
        let (ready, mut start, bar) = (ready_in.clone(), start.clone(), bar.clone());
        peers.spawn(async move {
            let peer = Peer::generate(bench.stack)?;
            let connection = Connection::dial(bench.target, bench.stack, &peer, index).await?;
            connection
                .run(Responder::new(&peer), |mut streams| async move {
                    streams.reserve().await?;
                    ready.send(()).await?;
                    drop(ready);
                    start.wait_for(|started| *started).await?;
                    let mut latencies = Latencies::new();
                    for _ in 0..each {
                        let started = Instant::now();
                        streams.reserve().await?;
                        latencies.record(started.elapsed());
                        bar.inc(1);
                    }
                    Ok(latencies)
                })
                .await
        });
    }
    drop(ready_in);
    for _ in 0..options.connections {
        if ready.recv().await.is_none() {
            break; // The join below says why.
        }
    }
    bench.settle(Duration::from_secs(5)).await?;
    let meter = bench.meter()?;
    start_in.send_replace(true);
    let mut latencies = Latencies::new();
    while let Some(peer) = peers.join_next().await {
        latencies.merge(&peer?.context("reserving peer")?);
    }
    let cost = meter.read()?;
    bar.finish_and_clear();

    let done = latencies.len();
    let mut report = Report::new(ScenarioName::Reserve, bench.stack.way());
    if let Some(micros) = cost.cpu_micros_per(done) {
        report = report.lower("server cpu/reserve", "us", micros);
    }
    Ok(report
        .higher("rate", "/s", cost.rate(done))
        .lower("latency p50", "us", latencies.micros_at(50.0))
        .lower("latency p99", "us", latencies.micros_at(99.0)))
}
