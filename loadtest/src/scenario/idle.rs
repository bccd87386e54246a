//! Many connections that do nothing once they have met the server.
//!
//! Each identifies itself, asks the server to, reserves unless told not to, then sleeps.
//! Memory per connection is the growth of the server's resident set over their number.
//! Bounded by both processes' descriptor limits, which are checked before the first dial.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use super::{Bench, as_f64};
use crate::{
    connection::{Connection, Peer},
    procfs,
    report::{Report, ScenarioName},
    responder::Responder,
};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Connections held
    #[arg(long, default_value_t = Self::default().count, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) count: u32,
    /// Connections being set up at a time
    #[arg(long, default_value_t = Self::default().concurrency, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) concurrency: u16,
    /// Do not reserve on each connection
    #[arg(long)]
    pub(crate) no_reserve: bool,
    /// Seconds over which the idle server's CPU use is observed
    #[arg(long, default_value_t = Self::default().seconds, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            count: 2000,
            concurrency: 32,
            no_reserve: false,
            seconds: 5,
        }
    }
}

/// Descriptors either process needs besides the connections.
const DESCRIPTORS_SPARE: u64 = 200;

/// Connections made and closed first, so that the server's pools and tables exist.
const WARM_UP: u32 = 64;

pub(crate) async fn run(bench: Bench, options: Options) -> anyhow::Result<Report> {
    check_descriptors(bench, u64::from(options.count))?;
    let warm_up = Crowd::gather(bench, options, WARM_UP, "warm-up").await?;
    warm_up.leave().await?;
    bench.settle(Duration::from_secs(5)).await?;
    let before = bench.server.map(procfs::Server::resident_kib).transpose()?;

    let meter = bench.meter()?;
    let crowd = Crowd::gather(bench, options, options.count, "connections").await?;
    let setup = meter.read()?;
    bench.settle(Duration::from_secs(10)).await?;
    let after = bench.server.map(procfs::Server::resident_kib).transpose()?;

    let idle = bench.meter()?;
    sleep(Duration::from_secs(options.seconds)).await;
    let idle = idle.read()?;
    crowd.leave().await?;

    let count = u64::from(options.count);
    let mut report = Report::new(ScenarioName::Idle, bench.stack.muxer);
    if let (Some(before), Some(after)) = (before, after) {
        let each = as_f64(after.saturating_sub(before)) / as_f64(count);
        report = report.lower("server rss/connection", "KiB", each).lower(
            "server rss",
            "MiB",
            as_f64(after) / 1024.0,
        );
    }
    if let Some(percent) = idle.cpu_percent() {
        report = report.lower("server idle cpu", "% core", percent);
    }
    if let Some(micros) = setup.cpu_micros_per(count) {
        report = report.lower("server cpu/setup", "us", micros);
    }
    Ok(report.higher("setup rate", "/s", setup.rate(count)))
}

fn check_descriptors(bench: Bench, count: u64) -> anyhow::Result<()> {
    let own = procfs::own_descriptors_max()?;
    if own < count + DESCRIPTORS_SPARE {
        bail!("{count} connections need more than the {own} descriptors this process may hold");
    }
    if let Some(server) = bench.server {
        let servers = server.descriptors_max()?;
        if servers < count + DESCRIPTORS_SPARE {
            bail!(
                "{count} connections need more than the {servers} descriptors the server may hold"
            );
        }
    }
    Ok(())
}

/// Peers that stay until told to leave.
struct Crowd {
    leave: watch::Sender<bool>,
    peers: JoinSet<anyhow::Result<()>>,
}

impl Crowd {
    /// Returns once every peer is up, identified and, if wanted, has its reservation.
    async fn gather(
        bench: Bench,
        options: Options,
        count: u32,
        what: &'static str,
    ) -> anyhow::Result<Self> {
        let bar = bench.bar(usize::try_from(count)?, what);
        let setting_up = Arc::new(Semaphore::new(usize::from(options.concurrency)));
        let identified = Arc::new(AtomicU64::new(0));
        let arrived = Arc::new(AtomicU64::new(0));
        let (leave, stay) = watch::channel(false);
        let mut peers: JoinSet<anyhow::Result<()>> = JoinSet::new();
        for index in 0..usize::try_from(count)? {
            let permit = Arc::clone(&setting_up).acquire_owned().await?;
            if let Some(gone) = peers.try_join_next() {
                gone?.and_then(|()| bail!("a peer left early"))?;
            }
            let (identified, arrived) = (Arc::clone(&identified), Arc::clone(&arrived));
            let (mut stay, bar) = (stay.clone(), bar.clone());
            peers.spawn(async move {
                let peer = Peer::generate()?;
                let connection = Connection::dial(bench.target, bench.stack, &peer, index)
                    .await
                    .with_context(|| format!("connection {index}"))?;
                let responder = Responder::new(&peer).counting(&identified);
                connection
                    .run(responder, |mut streams| async move {
                        streams.identify().await?;
                        if !options.no_reserve {
                            streams.reserve().await?;
                        }
                        arrived.fetch_add(1, Ordering::Relaxed);
                        drop(permit);
                        bar.inc(1);
                        stay.wait_for(|left| *left).await?;
                        Ok(())
                    })
                    .await
            });
        }
        let mut crowd = Self { leave, peers };
        let all = u64::from(count);
        let complete =
            || arrived.load(Ordering::Relaxed) == all && identified.load(Ordering::Relaxed) >= all;
        crowd.wait_until(complete).await.with_context(|| {
            format!(
                "{} of {all} peers up, {} asked to identify themselves",
                arrived.load(Ordering::Relaxed),
                identified.load(Ordering::Relaxed)
            )
        })?;
        bar.finish_and_clear();
        Ok(crowd)
    }

    async fn wait_until(&mut self, complete: impl Fn() -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !complete() {
            if let Some(gone) = self.peers.try_join_next() {
                gone?.and_then(|()| bail!("a peer left early"))?;
            }
            if started.elapsed() > crate::connection::DEADLINE {
                bail!("the server has not met everybody in time");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Fails when a peer has lost its connection meanwhile.
    async fn leave(mut self) -> anyhow::Result<()> {
        self.leave.send_replace(true);
        while let Some(peer) = self.peers.join_next().await {
            peer?.context("idle peer")?;
        }
        Ok(())
    }
}
