//! Bulk through circuits: blocks of 64 KiB as fast as they are taken.
//!
//! The figure is the server's CPU time for each GiB that reached its target, over a
//! window in which every circuit runs; bounded by `--seconds` and `--gib`.

use super::{
    Bench, as_f64,
    circuits::{self, Load},
};
use crate::report::{Report, ScenarioName};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) circuits: circuits::Options,
    /// GiB after which to stop before the time is up
    #[arg(long, default_value_t = GIB_MAX, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) gib: u64,
}

impl Options {
    /// Bounded by time alone, for all that matters.
    pub(crate) fn of(circuits: circuits::Options) -> Self {
        Self {
            circuits,
            gib: GIB_MAX,
        }
    }
}

const CIRCUITS: u16 = 1;
const GIB_MAX: u64 = 64;
const GIB: u64 = 1 << 30;

pub(crate) async fn run(bench: Bench, options: Options) -> anyhow::Result<Report> {
    let circuits = options.circuits.circuits.unwrap_or(CIRCUITS);
    let measured = circuits::run(
        bench,
        options.circuits,
        circuits,
        Load::Bulk,
        options.gib * GIB,
    )
    .await?;
    let gib = as_f64(measured.window.bytes) / as_f64(GIB);
    let mut report = Report::new(ScenarioName::Relay, bench.stack.way());
    if let Some(cpu) = measured.window.cost.cpu {
        report = report.lower("server cpu/GiB", "s", cpu.as_secs_f64() / gib);
    }
    Ok(report.higher(
        "throughput",
        "MiB/s",
        measured.window.cost.rate(measured.window.bytes) / as_f64(1 << 20),
    ))
}
