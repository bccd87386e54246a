//! Runs the same scenarios against the baseline and against Waystation, alternately and
//! in one session, and sets the medians side by side.
//!
//! Every run gets a server of its own, so none is judged by the heap another scenario
//! left behind. Owns the order and the choice of sizes; the scenarios own their bounds.

mod goals;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
pub(crate) use table::{Row, to_text};

use crate::{
    report::{Report, ScenarioName},
    scenario::{Bench, circuits, handshake, idle, relay, reserve, rtt},
    server::{Kind, Listen, Running, connections_possible, lifted_limits, program},
    stack::{Stack, Way},
};

/// Secure WebSocket twice: as browsers use it, and as it is held against TCP with TLS.
const STACKS: &str = "tcp,tcp/noise/mplex,tcp/tls,quic,ws,wss,wss/tls";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Waystation's program; beside this one unless given
    #[arg(long)]
    waystation: Option<PathBuf>,
    /// The baseline's program; beside this one unless given
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Scenarios to run
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "handshake,idle,reserve,relay,rtt"
    )]
    scenarios: Vec<ScenarioName>,
    /// What to run them over, each TRANSPORT[/SECURITY[/MUXER]]
    #[arg(long, value_delimiter = ',', default_value = STACKS)]
    stacks: Vec<Way>,
    /// Times that each server is measured; medians are shown
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: Option<u16>,
    /// One short round, to see that everything runs
    #[arg(long)]
    quick: bool,
    /// Fail when Waystation is behind the baseline on a judged figure
    #[arg(long)]
    pub(crate) check: bool,
    /// Connections in the idle scenario
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    idle_connections: Option<u32>,
    /// Seconds measured in the relay and rtt scenarios
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: Option<u16>,
    /// Send a stream's first request together with its negotiation
    #[arg(long)]
    lazy: bool,
}

/// How much each scenario does.
struct Sizes {
    handshakes: u32,
    idle: u32,
    idle_seconds: u64,
    reserves: u32,
    circuit_seconds: f64,
    rounds: u16,
}

impl Sizes {
    fn new(options: &Options) -> Self {
        let mut sizes = if options.quick {
            Self {
                handshakes: 500,
                idle: 300,
                idle_seconds: 1,
                reserves: 5000,
                circuit_seconds: 1.5,
                rounds: 1,
            }
        } else {
            Self {
                handshakes: 2000,
                idle: 2000,
                idle_seconds: 5,
                reserves: 20_000,
                circuit_seconds: 5.0,
                rounds: 3,
            }
        };
        sizes.idle = options.idle_connections.unwrap_or(sizes.idle);
        sizes.rounds = options.rounds.unwrap_or(sizes.rounds);
        sizes.circuit_seconds = options.seconds.map_or(sizes.circuit_seconds, f64::from);
        sizes
    }
}

/// # Errors
/// When a server does not start, a scenario does not complete, or a server does not stop.
pub(crate) async fn run(options: &Options, json: bool) -> anyhow::Result<Vec<Row>> {
    let waystation = program(options.waystation.as_deref(), "waystation")?;
    let baseline = program(options.baseline.as_deref(), "baseline")?;
    let sizes = Sizes::new(options);
    let mut results = table::Results::default();
    for round in 0..sizes.rounds {
        let mut place = 0;
        for &scenario in &options.scenarios {
            for &over in &options.stacks {
                let stack = Stack::of(over, options.lazy);
                for (kind, program) in
                    [(Kind::Baseline, &baseline), (Kind::Waystation, &waystation)]
                {
                    let report = measure(kind, program, scenario, stack, &sizes, json)
                        .await
                        .with_context(|| {
                            format!(
                                "{} over {over} on {}, round {}",
                                scenario.label(),
                                kind.label(),
                                round + 1
                            )
                        })?;
                    results.add(place, kind, &report);
                }
                place += 1;
            }
        }
    }
    Ok(results.rows())
}

async fn measure(
    kind: Kind,
    program: &Path,
    scenario: ScenarioName,
    stack: Stack,
    sizes: &Sizes,
    json: bool,
) -> anyhow::Result<Report> {
    let listen = Listen::on_loopback([stack.transport]);
    let settings = lifted_limits(connections_possible(stack)?);
    let server = Running::start(kind, program, &listen, &settings).await?;
    let bench = Bench {
        target: server.target(stack.transport)?,
        stack,
        server: Some(server.process()?),
        admin: server.admin(),
        progress: !json,
    };
    let report = run_scenario(bench, scenario, sizes)
        .await
        .with_context(|| format!("server log: {}", server.log_tail()))?;
    server.stop().await?;
    Ok(report)
}

async fn run_scenario(
    bench: Bench,
    scenario: ScenarioName,
    sizes: &Sizes,
) -> anyhow::Result<Report> {
    let circuits = circuits::Options {
        circuits: None,
        pairs: None,
        seconds: sizes.circuit_seconds,
        end_to_end: false,
    };
    match scenario {
        ScenarioName::Handshake => {
            let options = handshake::Options {
                count: sizes.handshakes,
                ..handshake::Options::default()
            };
            handshake::run(bench, options).await
        }
        ScenarioName::Idle => {
            let options = idle::Options {
                count: sizes.idle,
                seconds: sizes.idle_seconds,
                ..idle::Options::default()
            };
            idle::run(bench, options).await
        }
        ScenarioName::Reserve => {
            let options = reserve::Options {
                count: sizes.reserves,
                ..reserve::Options::default()
            };
            reserve::run(bench, options).await
        }
        ScenarioName::Relay => relay::run(bench, relay::Options::of(circuits)).await,
        ScenarioName::Rtt => {
            rtt::run(
                bench,
                rtt::Options {
                    circuits,
                    pace: None,
                },
            )
            .await
        }
        ScenarioName::Trim
        | ScenarioName::Flood
        | ScenarioName::Stalled
        | ScenarioName::Churn
        | ScenarioName::Full => {
            bail!("{} is not compared", scenario.label())
        }
    }
}
