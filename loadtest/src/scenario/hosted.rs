//! What scenarios have in common that start a server of their own, with the settings
//! they need, and time circuits through it before something happens and while it does.
//!
//! Owns those options, the start, and how the two times are set side by side.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use tokio::time::sleep;

use super::{
    Bench, as_f64,
    circuits::{self, Circuits, Load, Window, Windows},
};
use crate::{
    report::Report,
    server::{Kind, Listen, Running, program},
    stack::{Stack, Transport},
};

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// Waystation's program; beside this one unless given
    #[arg(long)]
    waystation: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) stack: Stack,
    /// One more of Waystation's settings, key=value, which wins over the scenario's
    #[arg(long)]
    set: Vec<String>,
    /// Small and short, to see that it runs
    #[arg(long)]
    pub(crate) quick: bool,
    /// Times that all is done, with a new server each; medians are shown
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: u16,
    /// Fail when a goal is missed
    #[arg(long)]
    pub(crate) check: bool,
}

impl Options {
    /// Runs a scenario as often as was asked for.
    ///
    /// # Errors
    /// When one round fails.
    pub(crate) async fn rounds<W>(&self, round: impl Fn() -> W) -> anyhow::Result<Report>
    where
        W: Future<Output = anyhow::Result<Report>>,
    {
        let mut reports = Vec::new();
        for number in 1..=self.rounds {
            let report = round().await.with_context(|| format!("round {number}"))?;
            reports.push(report);
        }
        Report::median(reports).context("no rounds")
    }
}

/// The circuits whose round trips are timed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Timed {
    /// Circuits that are timed; 64 unless given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    circuits: Option<u16>,
    /// Round trips per second on each of them
    #[arg(long, default_value_t = 50.0, value_parser = circuits::rate)]
    pace: f64,
    /// Each round trip as soon as the last one is done, which takes all the CPU there is
    #[arg(long, conflicts_with = "pace")]
    back_to_back: bool,
    /// Seconds they are timed undisturbed; 5 unless given
    #[arg(long, value_parser = circuits::seconds)]
    seconds: Option<f64>,
}

impl Timed {
    pub(crate) fn circuits(self, quick: bool) -> u16 {
        self.circuits.unwrap_or(if quick { 16 } else { 64 })
    }

    pub(crate) fn undisturbed(self, quick: bool) -> Duration {
        let seconds = self.seconds.unwrap_or(if quick { 1.0 } else { 5.0 });
        Duration::from_secs_f64(seconds)
    }

    /// Opens them and times them undisturbed.
    ///
    /// # Errors
    /// When a circuit does not open or breaks.
    pub(crate) async fn open(
        self,
        bench: Bench,
        quick: bool,
    ) -> anyhow::Result<(Circuits, Window)> {
        let load = Load::ping_pong((!self.back_to_back).then_some(self.pace));
        let options = circuits::Options::plain();
        let mut open = Circuits::open(bench, options, self.circuits(quick), load).await?;
        let ((), before) = open.record(0, sleep(self.undisturbed(quick))).await?;
        Ok((open, before))
    }
}

/// A running Waystation and how to talk to it.
pub(crate) struct Hosted {
    server: Running,
    pub(crate) bench: Bench,
    pub(crate) admin: SocketAddr,
}

impl Hosted {
    /// # Errors
    /// When the server does not start, as for a setting that it does not know.
    pub(crate) async fn start(
        options: &Options,
        settings: &[String],
        progress: bool,
    ) -> anyhow::Result<Self> {
        let listen = Listen::on_loopback([options.stack.transport]);
        Self::start_on(options, &listen, settings, progress).await
    }

    /// [`Self::start`] where the scenario wants it to listen.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn start_on(
        options: &Options,
        listen: &Listen,
        settings: &[String],
        progress: bool,
    ) -> anyhow::Result<Self> {
        let program = program(options.waystation.as_deref(), "waystation")?;
        let server = Running::start(
            Kind::Waystation,
            &program,
            listen,
            &[settings, &options.set].concat(),
        )
        .await?;
        let admin = server.admin().context("the server serves no metrics")?;
        let bench = Bench {
            target: server.target(options.stack.transport)?,
            stack: options.stack,
            server: Some(server.process()?),
            admin: Some(admin),
            progress,
        };
        Ok(Self {
            server,
            bench,
            admin,
        })
    }

    /// The same server, dialled on another of its transports.
    ///
    /// # Errors
    /// When it does not listen there.
    pub(crate) fn bench_over(&self, transport: Transport) -> anyhow::Result<Bench> {
        let mut bench = self.bench;
        bench.target = self.server.target(transport)?;
        bench.stack.transport = transport;
        Ok(bench)
    }

    /// Adds what the server has logged to an error that it may explain.
    ///
    /// # Errors
    /// The given one.
    pub(crate) fn explain<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        outcome.with_context(|| format!("server log: {}", self.server.log_tail()))
    }

    /// # Errors
    /// When the server does not end in time, or not with success.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

/// Round trips before and during, and the ratio of their 99th percentiles.
pub(crate) fn compare(report: Report, goal: f64, [before, during]: &Windows) -> Report {
    let ratio = during.micros_at(99.0) / before.micros_at(99.0);
    let ratio = if before.len().min(during.len()) == 0 {
        f64::NAN
    } else {
        ratio
    };
    report
        .at_most(goal, "p99, during over before", "x", ratio)
        .lower("latency p50 before", "us", before.micros_at(50.0))
        .lower("latency p50 during", "us", during.micros_at(50.0))
        .lower("latency p99 before", "us", before.micros_at(99.0))
        .lower("latency p99 during", "us", during.micros_at(99.0))
        .lower("latency p99.9 before", "us", before.micros_at(99.9))
        .lower("latency p99.9 during", "us", during.micros_at(99.9))
        .lower("latency max before", "us", before.max_micros())
        .lower("latency max during", "us", during.max_micros())
        .higher("round trips before", "", as_f64(before.len()))
        .higher("round trips during", "", as_f64(during.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{latency::Latencies, report::ScenarioName};

    fn report(before: &[u64], during: &[u64]) -> Report {
        let windows = [before, during].map(|samples| {
            let mut latencies = Latencies::new();
            for sample in samples {
                latencies.record(Duration::from_micros(*sample));
            }
            latencies
        });
        let report = Report::new(ScenarioName::Trim, "tcp".parse().expect("a way is given"));
        compare(report, 1.5, &windows)
    }

    #[test]
    fn the_ratio_is_that_of_the_99th_percentiles() {
        assert!(report(&[100; 50], &[140; 50]).missed().is_empty());
        assert_eq!(report(&[100; 50], &[160; 50]).missed().len(), 1);
    }

    #[test]
    fn a_ratio_without_samples_is_not_a_success() {
        assert_eq!(report(&[100], &[]).missed().len(), 1);
        assert_eq!(report(&[], &[100]).missed().len(), 1);
    }
}
