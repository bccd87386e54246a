//! Round trips of running circuits while the server sends half of its idle peers away.
//!
//! Starts a server whose high water is just above the peers that are held and those of
//! the circuits; a few more peers cross it, and the server has to trim. Bounded by the
//! time that it may take. That no circuit is cut is part of the promise: one that is
//! fails the scenario.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::time::sleep;

use super::{
    as_f64,
    hosted::{self, Hosted, Timed},
};
use crate::{
    child::{Held, Helper},
    report::{Report, ScenarioName},
    scrape::{Scrape, wait_for},
    server::lifted_limits,
};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) hosted: hosted::Options,
    #[command(flatten)]
    timed: Timed,
    /// Idle peers held, half of which are to be sent away; 18,000 unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    connections: Option<u32>,
}

/// Peers that cross high water. They are younger than the grace period and so stay.
const CROSSING: u32 = 64;
const GRACE_SECONDS: u64 = 2;

/// More than one of the longest periods in the field (a minute).
const TRIM_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at the count of connections; so much of the beginning may go by.
const STEP: Duration = Duration::from_millis(50);
/// A count that stands still for so many looks is final.
const STILL: u32 = 20;

const CONNECTIONS: &str = "waystation_connections";
/// What the server says of its trim.
const TOLD: [(&str, &str); 2] = [
    (
        "selection, by the server",
        "waystation_trim_selection_seconds_sum",
    ),
    (
        "trim, by the server",
        "waystation_trim_duration_seconds_sum",
    ),
];

const CIRCUITS: &str = "waystation_relay_circuits";

/// What is held, and the marks that follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    held: u32,
    circuits: u16,
}

impl Plan {
    /// All that are connected before the crossing.
    fn full(self) -> u32 {
        self.held + 2 * u32::from(self.circuits)
    }

    fn high_water(self) -> u32 {
        self.full() + CROSSING / 2
    }

    fn low_water(self) -> u32 {
        self.full() - self.held / 2
    }

    fn settings(self) -> Vec<String> {
        let mut settings = lifted_limits(u64::from(self.high_water() + 2 * CROSSING));
        settings.push(format!("connections.high_water={}", self.high_water()));
        settings.push(format!("connections.low_water={}", self.low_water()));
        settings.push(format!("connections.grace_period={GRACE_SECONDS}s"));
        settings
    }
}

/// How the trimming went.
#[derive(Debug, Clone, Copy)]
struct Trim {
    took: Duration,
    left: f64,
}

/// # Errors
/// When the server has no connection manager, does not trim, or cuts a circuit.
pub(crate) async fn run(options: &Options, progress: bool) -> anyhow::Result<Report> {
    let quick = options.hosted.quick;
    let plan = Plan {
        held: options
            .connections
            .unwrap_or(if quick { 600 } else { 18_000 }),
        circuits: options.timed.circuits(quick),
    };
    let hosted = match Hosted::start(&options.hosted, &plan.settings(), progress).await {
        Err(error) if format!("{error:#}").contains("unknown key") => {
            return Err(error.context(
                "this server has no connection manager: it does not know connections.high_water \
                 and its like, so there is nothing to measure",
            ));
        }
        started => started?,
    };
    let measured = measure(options, plan, &hosted).await;
    let report = hosted.explain(measured)?;
    hosted.stop().await?;
    Ok(report)
}

async fn measure(options: &Options, plan: Plan, hosted: &Hosted) -> anyhow::Result<Report> {
    let bench = hosted.bench;
    let admin = hosted.admin;
    let crowd = Helper::hold(bench, plan.held).await?;
    bench.settle(Duration::from_secs(10)).await?;
    let (mut circuits, before) = options.timed.open(bench, options.hosted.quick).await?;
    circuits
        .watch(sleep(Duration::from_secs(GRACE_SECONDS)))
        .await?;
    let scrape = Scrape::take(admin).await?;
    let (full, open) = (scrape.sum(CONNECTIONS)?, scrape.sum(CIRCUITS)?);
    if full < f64::from(plan.full()) {
        bail!(
            "{full} connections instead of {} below high water",
            plan.full()
        );
    }

    let crossing = async {
        let crossing = Helper::hold(bench, CROSSING).await?;
        let crossed = Instant::now();
        let falling = |count| count < full - f64::from(CROSSING);
        let count = wait_for(admin, CONNECTIONS, TRIM_LIMIT, STEP, falling).await?;
        if !falling(count) {
            bail!("the server does not trim: {count} connections above high water");
        }
        anyhow::Ok((crossing, crossed.elapsed()))
    };
    let (crossing, waited) = circuits.watch(crossing).await??;
    let (trim, during) = circuits.record(1, until_still(hosted, plan)).await?;
    let trim = trim?;
    let scrape = Scrape::take(admin).await?;
    if scrape.sum(CIRCUITS)? < open {
        bail!("the server has cut circuits");
    }
    let windows = circuits.close().await?;
    let newcomers: Held = crossing.finish().await?;
    let held: Held = crowd.finish().await?;

    let sent_away = held.sent_away.values().sum();
    let mut report = Report::new(ScenarioName::Trim, bench.stack.way());
    report = hosted::compare(report, 1.5, &windows)
        .lower("high water to first", "ms", waited.as_secs_f64() * 1e3)
        .lower("trimming", "ms", trim.took.as_secs_f64() * 1e3)
        .higher("idle peers sent away", "", as_f64(sent_away))
        .lower("connections left", "", trim.left)
        .lower(
            "newcomers sent away",
            "",
            as_f64(newcomers.sent_away.values().sum()),
        );
    for (name, metric) in TOLD {
        // Of all trims, of which there is one.
        report = report.lower(name, "ms", scrape.sum(metric)? * 1e3);
    }
    for (ending, count) in held.sent_away {
        report = report.higher(ending, "peers", as_f64(count));
    }
    if let (Some(before), Some(during)) = (before.cost.cpu_percent(), during.cost.cpu_percent()) {
        report = report.lower("server cpu before", "% core", before).lower(
            "server cpu during",
            "% core",
            during,
        );
    }
    Ok(report)
}

/// Waits until the count of connections no longer falls.
async fn until_still(hosted: &Hosted, plan: Plan) -> anyhow::Result<Trim> {
    let began = Instant::now();
    let (mut left, mut changed, mut still) = (f64::MAX, began, 0);
    while still < STILL {
        let count = Scrape::take(hosted.admin).await?.sum(CONNECTIONS)?;
        if count < left {
            (left, changed, still) = (count, Instant::now(), 0);
        } else {
            still += 1;
        }
        // Whoever is young or protected may stay beyond low water, nobody below it.
        let enough = f64::from(plan.low_water() + CROSSING);
        if still > 0 && left <= enough {
            break;
        }
        if began.elapsed() > TRIM_LIMIT {
            bail!(
                "{count} connections after {} s of trimming",
                TRIM_LIMIT.as_secs()
            );
        }
        sleep(STEP).await;
    }
    if left < f64::from(plan.low_water()) {
        bail!(
            "trimmed to {left}, below the low water of {}",
            plan.low_water()
        );
    }
    Ok(Trim {
        took: changed - began,
        left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_water_is_between_what_is_held_and_what_crosses() {
        let plan = Plan {
            held: 18_000,
            circuits: 64,
        };
        assert_eq!(plan.high_water(), 18_160);
        assert_eq!(plan.full() - plan.low_water(), 9_000);
        let settings = plan.settings();
        assert!(settings.contains(&"connections.high_water=18160".to_owned()));
        assert!(settings.contains(&"connections.low_water=9128".to_owned()));
        assert!(settings.contains(&"connections.max=18288".to_owned()));
    }
}
