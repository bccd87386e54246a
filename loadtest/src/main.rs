//! Drives a running relay server with rust-libp2p's own transports and says what it cost
//! the server; or starts two servers and compares them.
//!
//! This file owns the command line and the exit code; [`scenario`] has what can be
//! measured, [`connection`] how a peer speaks.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program prints its results"
)]
mod address;
mod certificate;
mod child;
mod compare;
mod connection;
mod latency;
mod namespace;
mod procfs;
mod report;
mod responder;
mod scenario;
mod scrape;
mod server;
mod stack;
mod wire;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use address::Target;
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use procfs::Server;
use report::Report;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scenario::{Bench, churn, flood, full, handshake, idle, relay, reserve, rtt, stalled, trim};
use server::{Kind, Listen, Running, connections_possible, lifted_limits, program};
use stack::Stack;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(version, about = "Measures a libp2p relay server")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Connect, secure, multiplex, one ping, close
    Handshake(Run<handshake::Options>),
    /// Hold many connections and do nothing
    Idle(Run<idle::Options>),
    /// RESERVE on live connections
    Reserve(Run<reserve::Options>),
    /// Bulk through circuits
    Relay(Run<relay::Options>),
    /// Round trips through circuits
    Rtt(Run<rtt::Options>),
    /// The same scenarios on the baseline and on Waystation, side by side
    Compare(compare::Options),
    /// Round trips while the server sends half of its idle peers away
    Trim(trim::Options),
    /// Round trips while one network makes connection attempts as fast as it can
    Flood(flood::Options),
    /// Circuits whose receivers do not read, and round trips beside them
    Stalled(stalled::Options),
    /// Peers that come and go, and what is left of them
    Churn(churn::Options),
    /// All the TCP and QUIC peers that one server is to hold, at once
    Full(full::Options),
    #[command(hide = true)]
    Hold(child::HoldOptions),
    #[command(hide = true)]
    Knock(child::KnockOptions),
}

#[derive(Args)]
struct Run<O: Args> {
    #[command(flatten)]
    server: ServerOptions,
    #[command(flatten)]
    options: O,
}

#[derive(Args)]
struct ServerOptions {
    /// The server's multiaddr, ending in its peer id; without it a Waystation beside
    /// this program is started with its limits lifted
    #[arg(long)]
    address: Option<Target>,
    /// The server's process, to read its CPU time and memory
    #[arg(long, requires = "address")]
    pid: Option<u32>,
    /// Where the server has its metrics
    #[arg(long, requires = "address")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    stack: Stack,
    /// File with the certificate to trust on secure WebSocket, in PEM; without it, what
    /// public authorities vouch for
    #[arg(long, requires = "address")]
    trust: Option<PathBuf>,
    /// Load a server that is not on loopback
    #[arg(long)]
    allow_remote: bool,
}

impl ServerOptions {
    /// The server that was named, or one started for this and to be stopped after it.
    async fn bench(&self, json: bool) -> anyhow::Result<(Bench, Option<Running>)> {
        let Some(address) = self.address else {
            return self.start(json).await;
        };
        if let Some(file) = &self.trust {
            certificate::trust(file)?;
        }
        let bench = Bench {
            target: address.check_scope(self.allow_remote)?,
            stack: Stack {
                transport: address.transport,
                ..self.stack
            },
            server: self.pid.map(Server::new).transpose()?,
            admin: self.admin,
            progress: !json,
        };
        Ok((bench, None))
    }

    async fn start(&self, json: bool) -> anyhow::Result<(Bench, Option<Running>)> {
        let settings = lifted_limits(connections_possible(self.stack)?);
        let program = program(None, "waystation")?;
        let listen = Listen::on_loopback([self.stack.transport]);
        let server = Running::start(Kind::Waystation, &program, &listen, &settings).await?;
        let bench = Bench {
            target: server.target(self.stack.transport)?,
            stack: self.stack,
            server: Some(server.process()?),
            admin: server.admin(),
            progress: !json,
        };
        Ok((bench, Some(server)))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Flood(options) if !options.inside_namespace => Err(namespace::enter()),
        Command::Flood(_) => namespace::furnish().and_then(|()| run(&arguments)),
        _ => run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        outcome = run_command(arguments) => outcome,
        // Dropping what runs ends the servers and helpers it has started.
        _ = terminate.recv() => bail!("interrupted"),
        _ = interrupt.recv() => bail!("interrupted"),
    }
}

async fn run_command(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    let (report, check) = match &arguments.command {
        Command::Compare(options) => return run_compare(options, json).await,
        Command::Hold(options) => return child::hold(options).await.map(|()| ExitCode::SUCCESS),
        Command::Knock(options) => return child::knock(options).await.map(|()| ExitCode::SUCCESS),
        Command::Trim(options) => {
            let rounds = options.hosted.rounds(|| trim::run(options, !json));
            (rounds.await?, options.hosted.check)
        }
        Command::Flood(options) => {
            let rounds = options.hosted.rounds(|| flood::run(options, !json));
            (rounds.await?, options.hosted.check)
        }
        Command::Stalled(options) => {
            let rounds = options.hosted.rounds(|| stalled::run(options, !json));
            (rounds.await?, options.hosted.check)
        }
        Command::Churn(options) => {
            let rounds = options.hosted.rounds(|| churn::run(options, !json));
            (rounds.await?, options.hosted.check)
        }
        Command::Full(options) => {
            let rounds = options.hosted.rounds(|| full::run(options, !json));
            (rounds.await?, options.hosted.check)
        }
        Command::Handshake(run) => (run.with(json, handshake::run).await?, false),
        Command::Idle(run) => (run.with(json, idle::run).await?, false),
        Command::Reserve(run) => (run.with(json, reserve::run).await?, false),
        Command::Relay(run) => (run.with(json, relay::run).await?, false),
        Command::Rtt(run) => (run.with(json, rtt::run).await?, false),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.to_text());
    }
    let missed = report.missed();
    if !check || missed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{} misses: {}", report.scenario.label(), missed.join("; "))
}

impl<O: Args + Copy> Run<O> {
    async fn with<W>(
        &self,
        json: bool,
        scenario: impl FnOnce(Bench, O) -> W,
    ) -> anyhow::Result<Report>
    where
        W: Future<Output = anyhow::Result<Report>>,
    {
        let (bench, started) = self.server.bench(json).await?;
        let report = scenario(bench, self.options).await?;
        if let Some(server) = started {
            server.stop().await?;
        }
        Ok(report)
    }
}

async fn run_compare(options: &compare::Options, json: bool) -> anyhow::Result<ExitCode> {
    let rows = compare::run(options, json).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", compare::to_text(&rows));
    }
    let behind: Vec<_> = rows.iter().filter(|row| row.is_behind()).collect();
    if !options.check || behind.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for row in behind {
        let (scenario, over, figure) = (row.scenario.label(), row.over, &row.figure);
        eprintln!("loadtest: {scenario} over {over} is behind: {figure}");
    }
    Ok(ExitCode::FAILURE)
}

/// Takes all the descriptors that are allowed; servers started from here inherit them.
fn raise_descriptor_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .context("cannot raise the descriptor limit")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Arguments::command().debug_assert();
    }
}
