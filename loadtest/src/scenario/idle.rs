//! Many connections that do nothing once they have met the server.
//!
//! Each identifies itself, asks the server to, reserves unless told not to, then sleeps.
//! Memory per connection is the growth of the server's resident set over their number.
//! Bounded by both processes' descriptor limits, which are checked before the first dial.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Bench, as_f64,
    crowd::{Crowd, Size, check_descriptors},
};
use crate::{
    procfs,
    report::{Report, ScenarioName},
    scrape::Scrape,
    stack::{Security, Stack, Transport},
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

/// Connections made and closed first, so that the server's pools and tables exist.
const WARM_UP: u32 = 64;

/// What a connection with identify and reservation may take of resident memory, where
/// there is a goal.
pub(crate) fn most_kib(stack: Stack) -> Option<f64> {
    match (stack.transport, stack.security) {
        (Transport::Tcp, Security::Noise) => Some(3.5),
        (Transport::Tcp, Security::Tls) => Some(4.0),
        (Transport::Quic, _) => Some(25.0),
        (Transport::Ws | Transport::Wss, _) => None,
    }
}

pub(crate) async fn run(bench: Bench, options: Options) -> anyhow::Result<Report> {
    check_descriptors(bench, u64::from(options.count))?;
    let size = |count| Size {
        count,
        concurrency: options.concurrency,
        reserve: !options.no_reserve,
    };
    let warm_up = Crowd::gather(bench, size(WARM_UP), "warm-up").await?;
    warm_up.leave_complete().await?;
    bench.settle(Duration::from_secs(5)).await?;
    let before = bench.server.map(procfs::Server::resident_kib).transpose()?;
    let allocated_before = allocated(bench).await?;

    let meter = bench.meter()?;
    let crowd = Crowd::gather(bench, size(options.count), "connections").await?;
    let setup = meter.read()?;
    bench.settle(Duration::from_secs(10)).await?;
    let after = bench.server.map(procfs::Server::resident_kib).transpose()?;
    let allocated_after = allocated(bench).await?;

    let idle = bench.meter()?;
    sleep(Duration::from_secs(options.seconds)).await;
    let idle = idle.read()?;
    crowd.leave_complete().await?;

    let count = u64::from(options.count);
    let mut report = Report::new(ScenarioName::Idle, bench.stack.way());
    if let (Some(before), Some(after)) = (before, after) {
        let each = as_f64(after.saturating_sub(before)) / as_f64(count);
        let name = "server rss/connection";
        report = match most_kib(bench.stack) {
            Some(most) => report.at_most(most, name, "KiB", each),
            None => report.lower(name, "KiB", each),
        };
        report = report.lower("server rss", "MiB", as_f64(after) / 1024.0);
    }
    if let (Some(before), Some(after)) = (allocated_before, allocated_after) {
        let each = (after - before) / 1024.0 / as_f64(count);
        report = report.lower("allocated/connection", "KiB", each);
    }
    if let Some(percent) = idle.cpu_percent() {
        report = report.lower("server idle cpu", "% core", percent);
    }
    if let Some(micros) = setup.cpu_micros_per(count) {
        report = report.lower("server cpu/setup", "us", micros);
    }
    Ok(report.higher("setup rate", "/s", setup.rate(count)))
}

/// What the server's allocator has handed out: without page sizes, huge pages and
/// fragmentation, so the same on every kernel.
async fn allocated(bench: Bench) -> anyhow::Result<Option<f64>> {
    let Some(admin) = bench.admin else {
        return Ok(None);
    };
    let scrape = Scrape::take(admin).await?;
    Ok(Some(scrape.sum("waystation_allocator_allocated_bytes")?))
}
