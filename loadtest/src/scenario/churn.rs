//! Peers that come, identify themselves, reserve, relay something and leave, over and
//! over, and whether anything is left behind.
//!
//! A fixed set of identities, so that what a server remembers of peers it has met is
//! complete within the first tenth of the time: from then on nothing may grow. Every
//! fourth pair leaves without a word. Bounded by time and by the number of pairs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Bench, as_f64,
    circuits::seconds,
    hosted::{self, Hosted},
};
use crate::{
    connection::{Connection, Peer, Stream},
    procfs,
    report::{Report, ScenarioName},
    responder::Responder,
    scrape::{Scrape, wait_for},
    server::{connections_possible, lifted_limits},
};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) hosted: hosted::Options,
    /// Seconds; 30 unless given, 3600 for the hour that is promised
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Pairs of peers at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pairs: u16,
}

/// Pairs of identities that take turns in one place.
const IDENTITIES: usize = 8;
/// Every so many rounds a pair leaves without closing anything.
const ABRUPT: u64 = 4;
/// Sent through each circuit and back.
const RELAYED: usize = 16 * 1024;

const TENTHS: usize = 10;
/// What memory may grow by after the first tenth: noise of the allocator.
const GROWTH_PERCENT: f64 = 10.0;

/// Between two looks at the server's memory.
const STEP: Duration = Duration::from_millis(100);
/// For the server to notice that everybody has left.
const LEAVE_LIMIT: Duration = Duration::from_secs(20);

/// All that must be back at zero when everybody has left.
const GAUGES: [&str; 6] = [
    "waystation_connections",
    "waystation_sockets_upgrading",
    "waystation_relay_reservations",
    "waystation_relay_circuits",
    "waystation_streams",
    "waystation_pool_buffers_lent",
];

/// # Errors
/// When a peer is refused or cut, or a gauge does not come back to zero.
pub(crate) async fn run(options: &Options, progress: bool) -> anyhow::Result<Report> {
    let settings = lifted_limits(connections_possible(options.hosted.stack)?);
    let hosted = Hosted::start(&options.hosted, &settings, progress).await?;
    let measured = measure(options, &hosted).await;
    let report = hosted.explain(measured)?;
    hosted.stop().await?;
    Ok(report)
}

async fn measure(options: &Options, hosted: &Hosted) -> anyhow::Result<Report> {
    let bench = hosted.bench;
    let quick = options.hosted.quick;
    let total = options.seconds.unwrap_or(if quick { 3.0 } else { 30.0 });
    let total = Duration::from_secs_f64(total);
    let server = bench.server.context("the server was started here")?;
    let descriptors = Scrape::take(hosted.admin).await?.sum("process_open_fds")?;

    let until = Instant::now() + total;
    let rounds = Arc::new(AtomicU64::new(0));
    let mut places = JoinSet::new();
    for place in 0..options.pairs {
        places.spawn(churn(bench, usize::from(place), until, Arc::clone(&rounds)));
    }
    let meter = bench.meter()?;
    let memory = tokio::select! {
        memory = watch_memory(server, total) => memory?,
        early = first_failure(&mut places) => return Err(early),
    };
    while let Some(place) = places.join_next().await {
        place??;
    }
    let rounds = rounds.load(Ordering::Relaxed);
    let cost = meter.read()?;

    let mut left = Vec::new();
    for gauge in GAUGES {
        let value = wait_for(hosted.admin, gauge, LEAVE_LIMIT, STEP, |left| left == 0.0).await?;
        if value != 0.0 {
            left.push(format!("{gauge} {value}"));
        }
    }
    if !left.is_empty() {
        bail!("left behind when everybody was gone: {}", left.join(", "));
    }
    let scrape = Scrape::take(hosted.admin).await?;
    let descriptors = scrape.sum("process_open_fds")? - descriptors;
    // The connection that asks may be one more than the one that asked before.
    if descriptors > 1.0 {
        bail!("left behind when everybody was gone: {descriptors} descriptors");
    }

    let mut report = Report::new(ScenarioName::Churn, bench.stack.way())
        .at_most(
            GROWTH_PERCENT,
            "rss over first tenth's",
            "%",
            growth(&memory),
        )
        .higher("pairs that came and went", "", as_f64(rounds))
        .higher("rate", "pairs/s", cost.rate(rounds));
    if let Some(micros) = cost.cpu_micros_per(rounds) {
        report = report.lower("server cpu/pair", "us", micros);
    }
    for (tenth, kib) in memory.iter().enumerate() {
        let name = format!("rss peak, tenth {}", tenth + 1);
        report = report.lower(name, "MiB", as_f64(*kib) / 1024.0);
    }
    bench.settle(LEAVE_LIMIT).await?;
    let after = as_f64(server.resident_kib()?) / 1024.0;
    Ok(report.lower("rss when all have left", "MiB", after))
}

/// The highest resident size in each tenth of `total`.
async fn watch_memory(server: procfs::Server, total: Duration) -> anyhow::Result<[u64; TENTHS]> {
    let mut peaks = [0; TENTHS];
    let began = Instant::now();
    loop {
        let elapsed = began.elapsed();
        let tenth = tenth(elapsed, total);
        let Some(peak) = peaks.get_mut(tenth) else {
            return Ok(peaks);
        };
        *peak = server.resident_kib()?.max(*peak);
        sleep(STEP).await;
    }
}

fn tenth(elapsed: Duration, total: Duration) -> usize {
    let tenths = elapsed.as_millis().saturating_mul(TENTHS as u128) / total.as_millis().max(1);
    usize::try_from(tenths).unwrap_or(TENTHS)
}

/// By how many percent the highest of the later peaks exceeds the first.
fn growth(peaks: &[u64; TENTHS]) -> f64 {
    let [first, later @ ..] = peaks;
    let later = later.iter().copied().max().unwrap_or(0);
    100.0 * (as_f64(later) / as_f64((*first).max(1)) - 1.0)
}

/// Pending as long as nobody fails.
async fn first_failure(places: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    loop {
        match places.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return error,
            Some(Err(error)) => return error.into(),
            None => std::future::pending().await,
        }
    }
}

/// One place, taken by one pair after the other.
async fn churn(
    bench: Bench,
    place: usize,
    until: Instant,
    rounds: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let pairs: Vec<(Peer, Peer)> = (0..IDENTITIES)
        .map(|_| Ok((Peer::generate(bench.stack)?, Peer::generate(bench.stack)?)))
        .collect::<anyhow::Result<_>>()?;
    let mut round = 0;
    for (source, target) in pairs.iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        round += 1;
        come_and_go(bench, place, source, target, round % ABRUPT == 0)
            .await
            .with_context(|| format!("round {round} of pair {place}"))?;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn come_and_go(
    bench: Bench,
    place: usize,
    source: &Peer,
    target: &Peer,
    abrupt: bool,
) -> anyhow::Result<()> {
    let receiving = Connection::dial(bench.target, bench.stack, target, place).await?;
    let responder = Responder::new(target).accepting_circuits(Arc::new(|stream| {
        async move {
            let _ = echo(stream).await;
        }
        .boxed()
    }));
    let staying = receiving.run(responder, |mut streams| async move {
        streams.identify().await?;
        streams.reserve().await?;
        relay(bench, place, source, target, abrupt).await
    });
    if !abrupt {
        return staying.await.context("target");
    }
    // Dropped in the middle, with everything that is open.
    match staying.await {
        Err(error) if error.is::<Gone>() => Ok(()),
        other => other.context("target"),
    }
}

/// A peer that has gone without closing anything, told as an error so that nothing is.
#[derive(Debug)]
struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("gone without a word")
    }
}

impl std::error::Error for Gone {}

async fn relay(
    bench: Bench,
    place: usize,
    source: &Peer,
    target: &Peer,
    abrupt: bool,
) -> anyhow::Result<()> {
    let target = target.id();
    let sending = Connection::dial(bench.target, bench.stack, source, place).await?;
    sending
        .run(Responder::new(source), |mut streams| async move {
            streams.identify().await?;
            let (mut reading, mut writing) = streams.circuit(target).await?.split();
            let sent = vec![0x5a; RELAYED];
            let mut back = vec![0; RELAYED];
            let (read, wrote) = futures::join!(reading.read_exact(&mut back), async {
                writing.write_all(&sent).await?;
                writing.flush().await
            });
            read?;
            wrote?;
            if abrupt {
                return Err(Gone.into());
            }
            if back != sent {
                bail!("relayed bytes came back different");
            }
            writing.close().await?;
            Ok(())
        })
        .await
}

async fn echo(mut stream: Stream) -> std::io::Result<()> {
    let mut buffer = vec![0; RELAYED];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.close().await;
        }
        stream.write_all(&buffer[..count]).await?;
        stream.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_cut_into_tenths() {
        let total = Duration::from_secs(30);
        assert_eq!(tenth(Duration::ZERO, total), 0);
        assert_eq!(tenth(Duration::from_millis(2999), total), 0);
        assert_eq!(tenth(Duration::from_secs(3), total), 1);
        assert_eq!(tenth(total, total), TENTHS);
    }

    #[test]
    fn growth_is_of_the_highest_peak_over_the_first() {
        let mut peaks = [1000; TENTHS];
        peaks[4] = 1100;
        assert!((growth(&peaks) - 10.0).abs() < 1e-9);
        assert!((growth(&[1000; TENTHS])).abs() < 1e-9);
    }
}
