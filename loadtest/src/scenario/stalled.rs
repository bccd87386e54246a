//! Circuits whose receiver has stopped reading, and what they cost the server and the
//! circuits beside them.
//!
//! Each stalled circuit has two peers of its own: the source writes until nothing more
//! is taken, the target has accepted and reads no byte. Bounded by the number of
//! circuits and the time until all have filled up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::{AsyncWriteExt, FutureExt};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    Bench, as_f64,
    crowd::check_descriptors,
    hosted::{self, Hosted, Timed},
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
    #[command(flatten)]
    timed: Timed,
    /// Circuits that stall; 1,000 unless given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=8192))]
    stalled: Option<u16>,
    /// What their receivers no longer read
    #[arg(long, value_enum, default_value_t = Stop::Stream)]
    stop: Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stop {
    /// The circuit's stream; the connection goes on
    Stream,
    /// The socket, and so everything on it
    Socket,
}

/// One window of 256 KiB for each circuit and a quarter on top: what a server may hold.
const GOAL_KIB: f64 = 320.0;

/// Being set up at a time.
const CONCURRENCY: usize = 32;
const BLOCK: usize = 16 * 1024;
/// Until every circuit has filled up.
const FILL_LIMIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(250);
/// The count of bytes stands still for so many steps once all are full.
const STILL: u32 = 6;
/// For the server to notice that everybody has left.
const LEAVE_LIMIT: Duration = Duration::from_secs(20);

const CIRCUITS: &str = "waystation_relay_circuits";
const CONNECTIONS: &str = "waystation_connections";

/// # Errors
/// When a circuit that is timed or one that stalls is cut, or something is left behind.
pub(crate) async fn run(options: &Options, progress: bool) -> anyhow::Result<Report> {
    let settings = lifted_limits(connections_possible(options.hosted.stack)?);
    let hosted = Hosted::start(&options.hosted, &settings, progress).await?;
    let measured = measure(options, &hosted).await;
    let report = hosted.explain(measured)?;
    hosted.stop().await?;
    Ok(report)
}

async fn measure(options: &Options, hosted: &Hosted) -> anyhow::Result<Report> {
    let (bench, quick) = (hosted.bench, options.hosted.quick);
    let server = bench.server.context("the server was started here")?;
    let count = options.stalled.unwrap_or(if quick { 50 } else { 1000 });
    check_descriptors(bench, 2 * u64::from(count) + 400)?;
    let mut stalled = Stalled::open(bench, count, options.stop).await?;
    let (mut circuits, _) = options.timed.open(bench, quick).await?;
    let before = server.resident_kib()?;

    circuits.watch(stalled.fill()).await??;
    let full = server.resident_kib()?;
    circuits.watch(sleep(catch_up(quick))).await?;
    let taken = stalled.written.load(Ordering::Relaxed);
    let undisturbed = options.timed.undisturbed(quick);
    let ((), during) = circuits.record(1, sleep(undisturbed)).await?;
    let later = server.resident_kib()?;
    let open = Scrape::take(hosted.admin).await?.sum(CIRCUITS)?;
    let all = f64::from(count) + f64::from(options.timed.circuits(quick));
    if open < all {
        bail!("{open} circuits are left of {all}");
    }
    stalled.leave().await;
    let windows = circuits.close().await?;
    let after = empty(hosted, server).await?;

    let each = as_f64(later.max(full).saturating_sub(before)) / f64::from(count);
    let mut report = Report::new(ScenarioName::Stalled, bench.stack.way())
        .at_most(GOAL_KIB, "server rss/stalled circuit", "KiB", each)
        .lower(
            "taken/stalled circuit",
            "KiB",
            as_f64(taken) / 1024.0 / f64::from(count),
        )
        .lower("server rss before", "MiB", as_f64(before) / 1024.0)
        .lower("server rss stalled", "MiB", as_f64(full) / 1024.0)
        .lower("server rss later", "MiB", as_f64(later) / 1024.0)
        .lower("server rss after", "MiB", as_f64(after) / 1024.0);
    report = hosted::compare(report, 1.5, &windows);
    if let Some(percent) = during.cost.cpu_percent() {
        report = report.lower("server cpu during", "% core", percent);
    }
    Ok(report)
}

/// What the circuits beside get to make up for the time in which the stalled ones filled
/// up: over QUIC each receiver takes ten MiB first, which keeps the load itself busy.
fn catch_up(quick: bool) -> Duration {
    Duration::from_secs(if quick { 1 } else { 15 })
}

/// Waits until nobody is connected, and reads what the server still holds.
async fn empty(hosted: &Hosted, server: procfs::Server) -> anyhow::Result<u64> {
    for gauge in [CONNECTIONS, CIRCUITS] {
        let left = wait_for(hosted.admin, gauge, LEAVE_LIMIT, STEP, |left| left == 0.0).await?;
        if left > 0.0 {
            bail!("{gauge} is {left} after everybody has left");
        }
    }
    hosted.bench.settle(LEAVE_LIMIT).await?;
    server.resident_kib()
}

/// Circuits that nobody reads from.
struct Stalled {
    written: Arc<AtomicU64>,
    fill: watch::Sender<Phase>,
    pairs: JoinSet<anyhow::Result<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Filling,
    Leaving,
}

impl Stalled {
    /// Opens `count` circuits over which nothing has been sent yet.
    async fn open(bench: Bench, count: u16, stop: Stop) -> anyhow::Result<Self> {
        let (fill, phase) = watch::channel(Phase::Opening);
        let mut stalled = Self {
            written: Arc::default(),
            fill,
            pairs: JoinSet::new(),
        };
        let bar = bench.bar(usize::from(count), "stalled");
        let setting_up = Arc::new(Semaphore::new(CONCURRENCY));
        for index in 0..usize::from(count) {
            let permit = Arc::clone(&setting_up).acquire_owned().await?;
            let pair = Pair {
                bench,
                index,
                stop,
                phase: phase.clone(),
            };
            let (written, bar) = (Arc::clone(&stalled.written), bar.clone());
            stalled.pairs.spawn(pair.run(written, move || {
                drop(permit);
                bar.inc(1);
            }));
        }
        // All permits back: all circuits are open.
        tokio::select! {
            permits = setting_up.acquire_many(u32::try_from(CONCURRENCY)?) => drop(permits?),
            gone = stalled.pairs.join_next() => {
                gone.context("no circuits")???;
            }
        }
        stalled.all_there()?;
        bar.finish_and_clear();
        Ok(stalled)
    }

    fn all_there(&mut self) -> anyhow::Result<()> {
        match self.pairs.try_join_next() {
            Some(gone) => {
                gone??;
                bail!("a stalled circuit has ended")
            }
            None => Ok(()),
        }
    }

    /// Lets the sources write until nothing more is taken from any.
    async fn fill(&mut self) -> anyhow::Result<()> {
        self.fill.send_replace(Phase::Filling);
        let began = Instant::now();
        let (mut written, mut still) = (0, 0);
        while still < STILL {
            sleep(STEP).await;
            self.all_there()?;
            let now = self.written.load(Ordering::Relaxed);
            still = if now == written && now > 0 {
                still + 1
            } else {
                0
            };
            written = now;
            if began.elapsed() > FILL_LIMIT {
                bail!("the server goes on taking: {written} bytes so far");
            }
        }
        Ok(())
    }

    async fn leave(mut self) {
        self.fill.send_replace(Phase::Leaving);
        // A circuit that ends in the middle of a write is no news here.
        while self.pairs.join_next().await.is_some() {}
    }
}

/// The two peers of one circuit, in one task.
struct Pair {
    bench: Bench,
    index: usize,
    stop: Stop,
    phase: watch::Receiver<Phase>,
}

impl Pair {
    async fn run(
        self,
        written: Arc<AtomicU64>,
        on_open: impl FnOnce() + Send,
    ) -> anyhow::Result<()> {
        let Self {
            bench,
            index,
            stop,
            mut phase,
        } = self;
        let peer = Peer::generate(bench.stack)?;
        let target = Connection::dial(bench.target, bench.stack, &peer, index).await?;
        let mut held = phase.clone();
        let responder = Responder::new(&peer).accepting_circuits(Arc::new({
            let phase = phase.clone();
            move |stream| keep_unread(stream, phase.clone()).boxed()
        }));
        let (reserved_in, reserved) = oneshot::channel();
        let receiving = target.run(responder, |mut streams| async move {
            streams.reserve().await?;
            let _ = reserved_in.send(());
            held.wait_for(|phase| *phase == Phase::Leaving).await?;
            Ok(())
        });
        let sending = send(
            bench,
            index,
            &peer,
            reserved,
            phase.clone(),
            written,
            on_open,
        );
        let mut receiving = Box::pin(receiving);
        let mut sending = Box::pin(sending);
        if stop == Stop::Socket {
            tokio::select! {
                ended = &mut receiving => return ended.context("target"),
                ended = &mut sending => return ended.context("source"),
                filling = phase.wait_for(|phase| *phase != Phase::Opening) => drop(filling?),
            }
            // From here on the target is not polled, so its socket is not read.
            return sending.await.context("source");
        }
        tokio::select! {
            ended = &mut receiving => ended.context("target"),
            ended = &mut sending => ended.context("source"),
        }
    }
}

async fn keep_unread(stream: Stream, mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Leaving).await;
    drop(stream);
}

async fn send(
    bench: Bench,
    index: usize,
    target: &Peer,
    reserved: oneshot::Receiver<()>,
    mut phase: watch::Receiver<Phase>,
    written: Arc<AtomicU64>,
    on_open: impl FnOnce(),
) -> anyhow::Result<()> {
    let peer = Peer::generate(bench.stack)?;
    let source = Connection::dial(bench.target, bench.stack, &peer, index).await?;
    reserved.await.context("target has no reservation")?;
    let target = target.id();
    source
        .run(Responder::new(&peer), |mut streams| async move {
            let mut stream = streams.circuit(target).await?;
            on_open();
            phase.wait_for(|phase| *phase != Phase::Opening).await?;
            let block = vec![0x5a; BLOCK];
            let writing = async {
                loop {
                    let count = stream.write(&block).await?;
                    stream.flush().await?;
                    written.fetch_add(count as u64, Ordering::Relaxed);
                }
            };
            tokio::select! {
                ended = writing => ended,
                leaving = phase.wait_for(|phase| *phase == Phase::Leaving) => {
                    leaving?;
                    Ok(())
                }
            }
        })
        .await
}
