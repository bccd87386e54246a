//! A server started for one measurement, on a free port with a state directory of its
//! own, and stopped again.
//!
//! Bounds how long start and stop may take. The process is killed when this is dropped,
//! so no measurement that fails leaves a server behind.

use std::{
    fs,
    net::SocketAddr,
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

    fn arguments(self, state: &Path, settings: &[String]) -> Vec<String> {
        if self == Self::Baseline {
            return vec!["--listen=/ip4/127.0.0.1/tcp/0".to_owned()];
        }
        // An empty file of its own, so that one installed on this host is not read.
        let config = format!("--config={}", state.join(CONFIG).display());
        let own = [
            format!("state.directory={}", state.display()),
            "admin.address=127.0.0.1:0".to_owned(),
            "log.level=warn".to_owned(),
        ];
        let settings = own.iter().chain(settings);
        let settings = settings.map(|setting| format!("--set={setting}"));
        [config].into_iter().chain(settings).collect()
    }
}

/// Settings under which Waystation refuses none of `connections` peers, as the baseline
/// does not: limits by address do not apply on loopback, all others are lifted.
/// `streams_max` and `circuits_per_peer_max` are as high as one connection bears together,
/// and nobody is trimmed, since both water marks are at the maximum.
pub(crate) fn lifted_limits(connections: u64) -> Vec<String> {
    let mut settings = [
        "listen.addresses=[\"/ip4/127.0.0.1/tcp/0\"]",
        "relay.circuit_bytes_max=0",
        "relay.circuit_duration_max=0",
        "relay.circuits_max=100000",
        "relay.circuits_per_peer_max=255",
        "relay.reserve_rate_per_peer=1e6",
        "relay.reserve_burst_per_peer=1000000",
        "relay.connect_rate_per_peer=1e6",
        "relay.connect_burst_per_peer=1000000",
        "connections.streams_max=256",
        "streams.hop_per_peer_max=256",
    ]
    .map(str::to_owned)
    .to_vec();
    let counts = [
        "connections.max",
        "connections.high_water",
        "connections.low_water",
        "connections.transient_max",
        "connections.per_ip_max",
        "connections.per_prefix_max",
        "connections.per_peer_max",
        "relay.reservations_max",
        "relay.reservations_per_ip_max",
        "relay.reservations_per_prefix_max",
    ];
    settings.extend(counts.map(|key| format!("{key}={connections}")));
    settings
}

/// As many connections as a server started from here has descriptors for.
///
/// # Errors
/// When /proc is not mounted.
pub(crate) fn connections_possible() -> anyhow::Result<u64> {
    const MOST: u64 = 100_000;
    // Listeners, files, and what the server keeps free.
    const SPARE: u64 = 500;
    Ok(procfs::own_descriptors_max()?
        .saturating_sub(SPARE)
        .clamp(1, MOST))
}

/// The given path, or the program of this name in the directory of the running one.
///
/// # Errors
/// When there is no such file.
pub(crate) fn program(given: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name(name),
    };
    if !path.is_file() {
        bail!("no program {}: build it, or pass --{name}", path.display());
    }
    Ok(path)
}

/// A running server.
pub(crate) struct Running {
    kind: Kind,
    child: Child,
    output: JoinHandle<()>,
    log: PathBuf,
    announced: Announced,
    pid: u32,
    /// Removed with the server; held for that only.
    _state: TempDir,
}

impl Running {
    /// Starts `program`; the `settings`, `key=value` each, are for Waystation only.
    ///
    /// # Errors
    /// When the program cannot be started or does not say where it listens; what it
    /// logged is then part of the message.
    pub(crate) async fn start(
        kind: Kind,
        program: &Path,
        settings: &[String],
    ) -> anyhow::Result<Self> {
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
            .args(kind.arguments(state.path(), settings))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id().context("server ended at once")?;
        let stdout = child.stdout.take().context("stdout was asked for")?;
        let mut lines = BufReader::new(stdout).lines();
        let announced = timeout(START_LIMIT, announcement(kind, &mut lines))
            .await
            .context("not up in time")
            .and_then(|announced| announced)
            .with_context(|| format!("{} did not start: {}", kind.label(), tail(&log)))?;
        // Drained to its end, or the server would block once the pipe is full.
        let output = spawn_drain(lines);
        Ok(Self {
            kind,
            child,
            output,
            log,
            announced,
            pid,
            _state: state,
        })
    }

    pub(crate) fn target(&self) -> Target {
        self.announced.target
    }

    /// Where the server has its metrics; the baseline has none.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.announced.admin
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

/// What a server says of itself on standard output.
#[derive(Debug, Clone, Copy)]
struct Announced {
    target: Target,
    admin: Option<SocketAddr>,
}

type Lines = tokio::io::Lines<BufReader<tokio::process::ChildStdout>>;

/// Reads on until everything is known that this kind of server says.
async fn announcement(kind: Kind, lines: &mut Lines) -> anyhow::Result<Announced> {
    let mut target = None;
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.strip_prefix("listening") {
            target = Some(address.trim().parse::<Target>()?);
        }
        let admin = match line.strip_prefix("admin") {
            Some(url) => Some(parse_admin(url).context("cannot read the admin address")?),
            None => None,
        };
        if let Some(target) = target
            && (admin.is_some() || kind == Kind::Baseline)
        {
            return Ok(Announced { target, admin });
        }
    }
    bail!("output ended")
}

fn parse_admin(url: &str) -> Option<SocketAddr> {
    let address = url.trim().strip_prefix("http://")?;
    address.strip_suffix("/metrics")?.parse().ok()
}

fn spawn_drain(mut lines: Lines) -> JoinHandle<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_address_is_read_from_the_banner() {
        let expected = "127.0.0.1:9464".parse().ok();
        assert_eq!(parse_admin("      http://127.0.0.1:9464/metrics"), expected);
        assert_eq!(parse_admin(" http://nowhere/metrics"), None);
    }

    #[test]
    fn settings_reach_waystation_and_not_the_baseline() {
        let settings = ["connections.max=7".to_owned()];
        let state = Path::new("/nowhere");
        let waystation = Kind::Waystation.arguments(state, &settings);
        assert!(waystation.contains(&"--set=connections.max=7".to_owned()));
        let baseline = Kind::Baseline.arguments(state, &settings);
        assert!(!baseline.iter().any(|argument| argument.contains("max")));
    }
}
