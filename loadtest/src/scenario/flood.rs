//! Round trips of running circuits while one network makes connection attempts as fast
//! as it can.
//!
//! Runs in a network namespace of its own, where the server's limits by address apply;
//! they are left at their defaults, as they are what is measured. Bounded by the number
//! of attempts.

use std::collections::BTreeMap;

use super::{
    as_f64,
    hosted::{self, Hosted, Timed},
};
use crate::{
    child::{Helper, Knocked},
    namespace,
    report::{Report, ScenarioName},
    scrape::Scrape,
    server::Listen,
};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) hosted: hosted::Options,
    #[command(flatten)]
    timed: Timed,
    /// Connection attempts; 50,000 unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    attempts: Option<u32>,
    /// Attempts at a time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Set by the program itself
    #[arg(long, hide = true)]
    pub(crate) inside_namespace: bool,
}

const REFUSED: &str = "waystation_sockets_refused_total";

/// Below what descriptors allow here, far above what is used; the rest as it comes.
fn settings() -> Vec<String> {
    vec![
        "connections.max=10000".to_owned(),
        "relay.circuit_bytes_max=0".to_owned(),
        "relay.circuit_duration_max=0".to_owned(),
    ]
}

/// # Errors
/// When the server does not start, or a circuit breaks.
pub(crate) async fn run(options: &Options, progress: bool) -> anyhow::Result<Report> {
    let listen = Listen::on(namespace::SERVER, [options.hosted.stack.transport]);
    let hosted = Hosted::start_on(&options.hosted, &listen, &settings(), progress).await?;
    let measured = measure(options, &hosted).await;
    let report = hosted.explain(measured)?;
    hosted.stop().await?;
    Ok(report)
}

async fn measure(options: &Options, hosted: &Hosted) -> anyhow::Result<Report> {
    let quick = options.hosted.quick;
    let attempts = options
        .attempts
        .unwrap_or(if quick { 3000 } else { 50_000 });
    let bench = hosted.bench;
    let (mut circuits, before) = options.timed.open(bench, quick).await?;
    let refused_before = refusals(hosted).await?;
    let flood = async {
        let helper = Helper::knock(bench, attempts, options.concurrency).await?;
        helper.finish::<Knocked>().await
    };
    let (knocked, during) = circuits.record(1, flood).await?;
    let knocked = knocked?;
    let refused = refusals(hosted).await?;
    let windows = circuits.close().await?;

    let mut report = Report::new(ScenarioName::Flood, bench.stack.way());
    report = hosted::compare(report, 2.0, &windows)
        .higher("attempts", "/s", f64::from(attempts) / knocked.seconds)
        .lower("admitted", "", as_f64(knocked.admitted))
        .higher("refused", "", as_f64(knocked.refused));
    for (reason, count) in refused {
        let since = count - refused_before.get(&reason).unwrap_or(&0.0);
        if since > 0.0 {
            report = report.higher(format!("refused by {reason}"), "", since);
        }
    }
    let [quiet, loaded] = &windows;
    let each = before.cost.cpu_micros_per(quiet.len());
    if let (Some(each), Some(cpu)) = (each, during.cost.cpu) {
        let circuits = each * as_f64(loaded.len());
        let rest = (cpu.as_secs_f64() * 1e6 - circuits).max(0.0);
        report = report.lower("server cpu/attempt", "us", rest / f64::from(attempts));
    }
    Ok(report)
}

async fn refusals(hosted: &Hosted) -> anyhow::Result<BTreeMap<String, f64>> {
    Ok(Scrape::take(hosted.admin)
        .await?
        .by_label(REFUSED, "reason"))
}
