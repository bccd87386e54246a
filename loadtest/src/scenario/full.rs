//! As many TCP and QUIC peers as one server is to hold at once, doing nothing, and round
//! trips of circuits when all of them are there.
//!
//! A process may hold fewer descriptors than that, which is why QUIC carries the rest:
//! there, thousands of peers share the sockets of one child. Bounded by their numbers
//! and by the time in which they are to gather. That none of them is lost is part of the
//! promise.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::try_join_all;
use tokio::time::sleep;

use super::{
    Bench, as_f64,
    circuits::seconds,
    hosted::{self, Hosted, Timed},
    idle,
};
use crate::{
    child::{Held, Helper},
    report::{Report, ScenarioName},
    scrape::Scrape,
    server::{Listen, lifted_limits},
    stack::{Stack, Transport},
};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) hosted: hosted::Options,
    #[command(flatten)]
    timed: Timed,
    /// TCP peers, each with a reservation; 18,000 unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    tcp: Option<u32>,
    /// QUIC peers, without; 30,000 unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    quic: Option<u32>,
    /// Seconds in which nobody does anything; 30 unless given
    #[arg(long, value_parser = seconds)]
    quiet: Option<f64>,
}

/// Most of QUIC's peers come with go-libp2p, whose keep-alives are these seconds apart.
const KEEP_ALIVE: u16 = 15;
/// QUIC peers of one child: half of what is promised, for two cores.
const QUIC_PER_CHILD: u32 = 15_000;
/// What a child may hold of descriptors here, less what it needs itself.
const TCP_PER_CHILD: u32 = 19_000;

const IDLE_PERCENT: f64 = 2.0;
const P99_RATIO: f64 = 1.5;
/// For what follows from the last one's arrival.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

const CONNECTIONS: &str = "waystation_connections";

/// Who is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    tcp: u32,
    quic: u32,
    circuits: u16,
}

impl Plan {
    fn held(self) -> u32 {
        self.tcp + self.quic
    }

    /// Limits that nobody meets.
    fn settings(self) -> Vec<String> {
        const SPARE: u32 = 200;
        lifted_limits(u64::from(
            self.held() + 2 * u32::from(self.circuits) + SPARE,
        ))
    }
}

/// # Errors
/// When the server does not start with these limits, or loses a peer or a circuit.
pub(crate) async fn run(options: &Options, progress: bool) -> anyhow::Result<Report> {
    let quick = options.hosted.quick;
    let plan = Plan {
        tcp: options.tcp.unwrap_or(if quick { 300 } else { 18_000 }),
        quic: options.quic.unwrap_or(if quick { 500 } else { 30_000 }),
        circuits: options.timed.circuits(quick),
    };
    let mut transports = vec![Transport::Tcp, Transport::Quic];
    let timed = options.hosted.stack.transport;
    if !transports.contains(&timed) {
        transports.push(timed);
    }
    let listen = Listen::on_loopback(transports);
    let hosted = Hosted::start_on(&options.hosted, &listen, &plan.settings(), progress).await?;
    let measured = measure(options, plan, &hosted).await;
    let report = hosted.explain(measured)?;
    hosted.stop().await?;
    Ok(report)
}

async fn measure(options: &Options, plan: Plan, hosted: &Hosted) -> anyhow::Result<Report> {
    let quick = options.hosted.quick;
    let bench = hosted.bench;
    let server = bench.server.context("the server was started here")?;
    let (circuits, _) = options.timed.open(bench, quick).await?;
    let [unloaded, _] = circuits.close().await?;
    bench.settle(SETTLE_LIMIT).await?;
    let empty = server.resident_kib()?;

    let over_tcp = hosted.bench_over(Transport::Tcp)?;
    let tcp = gather(over_tcp, plan.tcp, TCP_PER_CHILD).await?;
    bench.settle(SETTLE_LIMIT).await?;
    let with_tcp = server.resident_kib()?;
    let mut over_quic = hosted.bench_over(Transport::Quic)?;
    over_quic.stack.keep_alive.get_or_insert(KEEP_ALIVE);
    let quic = gather(over_quic, plan.quic, QUIC_PER_CHILD).await?;
    bench.settle(SETTLE_LIMIT).await?;
    let with_all = server.resident_kib()?;

    let quiet = options.quiet.unwrap_or(if quick { 2.0 } else { 30.0 });
    let meter = bench.meter()?;
    sleep(Duration::from_secs_f64(quiet)).await;
    let idle = meter.read()?;
    let held = Scrape::take(hosted.admin).await?.sum(CONNECTIONS)?;
    if held < f64::from(plan.held()) {
        bail!("{held} connections are left of {}", plan.held());
    }

    let (circuits, loaded_cost) = options.timed.open(bench, quick).await?;
    let [loaded, _] = circuits.close().await?;
    let peak = server.resident_kib()?;
    for helper in tcp.into_iter().chain(quic) {
        let held: Held = helper.finish().await?;
        if let Some((ending, count)) = held.sent_away.first_key_value() {
            bail!("{count} idle peers lost their connection: {ending}");
        }
    }

    let each = |before: u64, after: u64, count: u32| {
        as_f64(after.saturating_sub(before)) / f64::from(count)
    };
    let mut report = Report::new(ScenarioName::Full, bench.stack.way());
    if let Some(percent) = idle.cpu_percent() {
        report = report.at_most(IDLE_PERCENT, "server idle cpu", "% core", percent);
    }
    report = goals(
        report,
        over_tcp.stack,
        each(empty, with_tcp, plan.tcp),
        "tcp",
    );
    report = goals(
        report,
        over_quic.stack,
        each(with_tcp, with_all, plan.quic),
        "quic",
    );
    report = report
        .higher("peers held", "", held)
        .lower("server rss, nobody", "MiB", as_f64(empty) / 1024.0)
        .lower("server rss, all", "MiB", as_f64(with_all) / 1024.0)
        .lower("server rss, all and circuits", "MiB", as_f64(peak) / 1024.0);
    if let Some(percent) = loaded_cost.cost.cpu_percent() {
        report = report.lower("server cpu, all and circuits", "% core", percent);
    }
    Ok(hosted::compare(report, P99_RATIO, &[unloaded, loaded]))
}

fn goals(report: Report, stack: Stack, kib: f64, whose: &str) -> Report {
    let name = format!("server rss/{whose} peer");
    match idle::most_kib(stack) {
        Some(most) => report.at_most(most, name, "KiB", kib),
        None => report.lower(name, "KiB", kib),
    }
}

/// Starts as many children as the peers need, and returns once all peers are up.
async fn gather(bench: Bench, count: u32, per_child: u32) -> anyhow::Result<Vec<Helper>> {
    let reserve = bench.stack.transport == Transport::Tcp;
    let shares = shares(count, per_child);
    try_join_all(shares.into_iter().map(|share| async move {
        if reserve {
            Helper::hold_reserved(bench, share).await
        } else {
            Helper::hold(bench, share).await
        }
    }))
    .await
}

/// `count` in as few equal parts as there must be.
fn shares(count: u32, most: u32) -> Vec<u32> {
    let parts = count.div_ceil(most).max(1);
    let part = |index| count / parts + u32::from(index < count % parts);
    (0..parts).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_shared_out_and_none_is_lost() {
        assert_eq!(shares(18_000, TCP_PER_CHILD), [18_000]);
        assert_eq!(shares(30_000, QUIC_PER_CHILD), [15_000, 15_000]);
        assert_eq!(shares(30_002, QUIC_PER_CHILD), [10_001, 10_001, 10_000]);
        assert_eq!(shares(1, 2), [1]);
    }

    #[test]
    fn everybody_and_the_circuits_fit_the_limits() {
        let plan = Plan {
            tcp: 18_000,
            quic: 30_000,
            circuits: 64,
        };
        let settings = plan.settings();
        assert!(settings.contains(&"connections.max=48328".to_owned()));
    }
}
