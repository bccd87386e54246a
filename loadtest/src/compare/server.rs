//! A server started for one measurement, on a free loopback port with a state directory
//! of its own, and stopped again.
//!
//! Bounds how long start and stop may take. The process is killed when this is dropped,
//! so no measurement that fails leaves a server behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{address::Target, procfs};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);

const CONFIG: &str = "waystation.toml";

/// How much of a failed server's log is shown.
const LOG_LINES: usize = 12;

/// Which of the two servers, and how it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Baseline,
    Waystation,
}

impl Kind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Waystation => "waystation",
        }
    }

    /// Limits by address do not apply on loopback; all others are lifted here, since the
    /// baseline has none. `streams_max` and
    /// `circuits_per_peer_max` are as high as one connection bears together.
    fn arguments(self, state: &Path) -> Vec<String> {
        if self == Self::Baseline {
            return vec!["--listen=/ip4/127.0.0.1/tcp/0".to_owned()];
        }
        // An empty file of its own, so that one installed on this host is not read.
        let config = format!("--config={}", state.join(CONFIG).display());
        let state = format!("state.directory={}", state.display());
        let settings = [
            state.as_str(),
            "listen.addresses=[\"/ip4/127.0.0.1/tcp/0\"]",
            "admin.address=127.0.0.1:0",
            "log.level=warn",
            "relay.circuit_bytes_max=0",
            "relay.circuit_duration_max=0",
            "relay.circuits_max=100000",
            "relay.circuits_per_peer_max=255",
            "relay.reserve_rate_per_peer=1e6",
            "relay.reserve_burst_per_peer=1000000",
            "relay.connect_rate_per_peer=1e6",
            "relay.connect_burst_per_peer=1000000",
            "relay.reservations_max=100000",
            "relay.reservations_per_ip_max=100000",
            "relay.reservations_per_prefix_max=100000",
            "connections.max=100000",
            "connections.transient_max=100000",
            "connections.per_ip_max=100000",
            "connections.per_prefix_max=100000",
            "connections.per_peer_max=100000",
            "connections.streams_max=256",
            "streams.hop_per_peer_max=256",
        ];
        let settings = settings.map(|setting| format!("--set={setting}"));
        [config].into_iter().chain(settings).collect()
    }
}

/// A running server.
pub(crate) struct Running {
    kind: Kind,
    child: Child,
    output: JoinHandle<()>,
    log: PathBuf,
    target: Target,
    pid: u32,
    /// Removed with the server; held for that only.
    _state: TempDir,
}

impl Running {
    /// # Errors
    /// When the program cannot be started or does not say where it listens; what it
    /// logged is then part of the message.
    pub(crate) async fn start(kind: Kind, program: &Path) -> anyhow::Result<Self> {
        let state = tempfile::Builder::new()
            .prefix("waystation-loadtest-")
            .tempdir()?;
        fs::write(state.path().join(CONFIG), "")?;
        let log = state.path().join("stderr.log");
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("WAYSTATION_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .args(kind.arguments(state.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id().context("server ended at once")?;
        let stdout = child.stdout.take().context("stdout was asked for")?;
        let mut lines = BufReader::new(stdout).lines();
        let announced = timeout(START_LIMIT, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("listening") {
                    return address.trim().parse::<Target>();
                }
            }
            bail!("output ended")
        });
        let target = announced
            .await
            .context("not up in time")
            .and_then(|target| target)
            .with_context(|| format!("{} did not start: {}", kind.label(), tail(&log)))?;
        // Drained to its end, or the server would block once the pipe is full.
        let output = spawn_drain(lines);
        Ok(Self {
            kind,
            child,
            output,
            log,
            target: target.check_scope(false)?,
            pid,
            _state: state,
        })
    }

    pub(crate) fn target(&self) -> Target {
        self.target
    }

    /// # Errors
    /// When the process has ended.
    pub(crate) fn process(&self) -> anyhow::Result<procfs::Server> {
        procfs::Server::new(self.pid)
            .with_context(|| format!("{} is gone: {}", self.kind.label(), tail(&self.log)))
    }

    /// What the server has logged lately, for an error that it may explain.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Asks the server to end and waits for it.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let label = self.kind.label();
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        kill_process(pid.context("pid out of range")?, Signal::TERM)
            .with_context(|| format!("{label} ended by itself: {}", tail(&self.log)))?;
        let status = timeout(STOP_LIMIT, self.child.wait())
            .await
            .with_context(|| format!("{label} does not stop"))??;
        self.output.abort();
        if !status.success() {
            bail!("{label} ended with {status}: {}", tail(&self.log));
        }
        Ok(())
    }
}

fn spawn_drain(
    mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
) -> JoinHandle<()> {
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} })
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = lines.len().saturating_sub(LOG_LINES);
    match &lines[last..] {
        [] => "nothing logged".to_owned(),
        lines => lines.join("\n"),
    }
}
