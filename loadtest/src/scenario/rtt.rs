//! Round trips through circuits: 64 bytes there and back, one at a time on each circuit.
//!
//! The figures are the server's CPU time for each round trip (two relayed messages) and
//! how long it took; bounded by `--seconds`.

use super::{
    Bench,
    circuits::{self, Load},
};
use crate::report::{Report, ScenarioName};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) circuits: circuits::Options,
    /// Round trips per second on each circuit; back to back unless given
    #[arg(long, value_parser = circuits::rate)]
    pub(crate) pace: Option<f64>,
}

const CIRCUITS: u16 = 64;

pub(crate) async fn run(bench: Bench, options: Options) -> anyhow::Result<Report> {
    let circuits = options.circuits.circuits.unwrap_or(CIRCUITS);
    let load = Load::ping_pong(options.pace);
    let measured = circuits::run(bench, options.circuits, circuits, load, u64::MAX).await?;
    let done = measured.latencies.len();
    let mut report = Report::new(ScenarioName::Rtt, bench.stack.way());
    if let Some(micros) = measured.window.cost.cpu_micros_per(done) {
        report = report.lower("server cpu/round trip", "us", micros);
    }
    Ok(report
        .higher("round trips", "/s", measured.window.cost.rate(done))
        .lower("latency p50", "us", measured.latencies.micros_at(50.0))
        .lower("latency p99", "us", measured.latencies.micros_at(99.0))
        .lower("latency p99.9", "us", measured.latencies.micros_at(99.9)))
}
