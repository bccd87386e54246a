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
mod compare;
mod connection;
mod latency;
mod procfs;
mod report;
mod responder;
mod scenario;
mod wire;

use std::process::ExitCode;

use address::Target;
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use connection::Stack;
use procfs::Server;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scenario::{Bench, handshake, idle, relay, reserve, rtt};
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
    /// Connect, Noise, muxer, one ping, close
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
    /// The server's multiaddr, ending in its peer id
    #[arg(long)]
    address: Target,
    /// The server's process, to read its CPU time and memory
    #[arg(long)]
    pid: Option<u32>,
    #[command(flatten)]
    stack: Stack,
    /// Load a server that is not on loopback
    #[arg(long)]
    allow_remote: bool,
}

impl ServerOptions {
    fn bench(&self, json: bool) -> anyhow::Result<Bench> {
        Ok(Bench {
            target: self.address.check_scope(self.allow_remote)?,
            stack: self.stack,
            server: self.pid.map(Server::new).transpose()?,
            progress: !json,
        })
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
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
    let json = arguments.json;
    let report = match &arguments.command {
        Command::Compare(options) => return run_compare(options, json).await,
        Command::Handshake(run) => handshake::run(run.server.bench(json)?, run.options).await,
        Command::Idle(run) => idle::run(run.server.bench(json)?, run.options).await,
        Command::Reserve(run) => reserve::run(run.server.bench(json)?, run.options).await,
        Command::Relay(run) => relay::run(run.server.bench(json)?, run.options).await,
        Command::Rtt(run) => rtt::run(run.server.bench(json)?, run.options).await,
    }?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_compare(options: &compare::Options, json: bool) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let rows = tokio::select! {
        rows = compare::run(options, json) => rows?,
        // Dropping the comparison ends the server it has started.
        _ = terminate.recv() => bail!("interrupted"),
        _ = interrupt.recv() => bail!("interrupted"),
    };
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
        let (scenario, muxer) = (row.scenario.label(), row.muxer.label());
        eprintln!("loadtest: {scenario} over {muxer} is behind the baseline");
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
