//! A server started for one measurement, on a free port with a state directory of its
//! own, and stopped again.
//!
//! Bounds how long start and stop may take. The process is killed when this is dropped,
//! so no measurement that fails leaves a server behind.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
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

use crate::{
    address::{Target, listen_address},
    certificate::Files,
    procfs,
    stack::{Stack, Transport},
};

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

    fn arguments(self, state: &Path, listen: &Listen, settings: &[String]) -> Vec<String> {
        let addresses = listen.addresses();
        let files = Files::of(state);
        if self == Self::Baseline {
            let addresses = addresses
                .iter()
                .map(|address| format!("--listen={address}"));
            let files = [
                format!("--certificate={}", files.certificate.display()),
                format!("--key={}", files.key.display()),
            ];
            return addresses.chain(listen.if_secure(files)).collect();
        }
        // An empty file of its own, so that one installed on this host is not read.
        let config = format!("--config={}", state.join(CONFIG).display());
        let own = [
            format!("state.directory={}", state.display()),
            "admin.address=127.0.0.1:0".to_owned(),
            "log.level=warn".to_owned(),
            format!("listen.addresses={addresses:?}"),
        ];
        let files = listen.if_secure([
            format!("tls.certificate_files=[{:?}]", files.certificate),
            format!("tls.key_files=[{:?}]", files.key),
        ]);
        let settings = own.iter().chain(&files).chain(settings);
        let settings = settings.map(|setting| format!("--set={setting}"));
        [config].into_iter().chain(settings).collect()
    }
}

/// Where a server listens, on free ports.
#[derive(Debug, Clone)]
pub(crate) struct Listen {
    ip: Ipv4Addr,
    transports: Vec<Transport>,
}

impl Listen {
    pub(crate) fn on_loopback(transports: impl Into<Vec<Transport>>) -> Self {
        Self::on(Ipv4Addr::LOCALHOST, transports)
    }

    pub(crate) fn on(ip: Ipv4Addr, transports: impl Into<Vec<Transport>>) -> Self {
        let transports = transports.into();
        Self { ip, transports }
    }

    fn addresses(&self) -> Vec<String> {
        let socket = SocketAddr::from((self.ip, 0));
        let addresses = self.transports.iter();
        addresses
            .map(|&transport| listen_address(socket, transport).to_string())
            .collect()
    }

    /// The arguments for certificates, where there is use for them.
    fn if_secure(&self, arguments: [String; 2]) -> Vec<String> {
        if self.transports.contains(&Transport::Wss) {
            arguments.into()
        } else {
            Vec::new()
        }
    }
}

/// Settings under which Waystation refuses none of `connections` peers, as the baseline
/// does not: limits by address do not apply on loopback, all others are lifted.
/// `streams_max` and `circuits_per_peer_max` are as high as one connection bears together,
/// and nobody is trimmed, since both water marks are at the maximum.
pub(crate) fn lifted_limits(connections: u64) -> Vec<String> {
    let mut settings = [
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

/// As many connections as a server started from here has descriptors for, or a common
/// host has memory for where they take none.
///
/// # Errors
/// When /proc is not mounted.
pub(crate) fn connections_possible(stack: Stack) -> anyhow::Result<u64> {
    const MOST: u64 = 60_000;
    // Listeners, files, and what the server keeps free.
    const SPARE: u64 = 500;
    if !stack.takes_descriptors() {
        return Ok(MOST);
    }
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
        listen: &Listen,
        settings: &[String],
    ) -> anyhow::Result<Self> {
        let state = tempfile::Builder::new()
            .prefix("waystation-loadtest-")
            .tempdir()?;
        fs::write(state.path().join(CONFIG), "")?;
        if listen.transports.contains(&Transport::Wss) {
            Files::of(state.path()).write()?;
        }
        let log = state.path().join("stderr.log");
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("WAYSTATION_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .args(kind.arguments(state.path(), listen, settings))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id().context("server ended at once")?;
        let stdout = child.stdout.take().context("stdout was asked for")?;
        let mut lines = BufReader::new(stdout).lines();
        let announced = timeout(START_LIMIT, announcement(kind, listen, &mut lines))
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

    /// # Errors
    /// When the server was not told to listen there.
    pub(crate) fn target(&self, transport: Transport) -> anyhow::Result<Target> {
        let mut targets = self.announced.targets.iter();
        let target = targets.find(|target| target.transport == transport);
        target
            .copied()
            .with_context(|| format!("{} does not listen there", self.kind.label()))
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
#[derive(Debug, Clone)]
struct Announced {
    targets: Vec<Target>,
    admin: Option<SocketAddr>,
}

type Lines = tokio::io::Lines<BufReader<tokio::process::ChildStdout>>;

/// Reads on until everything is known that this kind of server says.
async fn announcement(kind: Kind, listen: &Listen, lines: &mut Lines) -> anyhow::Result<Announced> {
    let mut announced = Announced {
        targets: Vec::new(),
        admin: None,
    };
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.strip_prefix("listening") {
            announced.targets.push(address.trim().parse()?);
        }
        if let Some(url) = line.strip_prefix("admin") {
            announced.admin = Some(parse_admin(url).context("cannot read the admin address")?);
        }
        let there = |transport| announced.targets.iter().any(|to| to.transport == transport);
        let everywhere = listen.transports.iter().all(|&transport| there(transport));
        if everywhere && (announced.admin.is_some() || kind == Kind::Baseline) {
            return Ok(announced);
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
        let listen = Listen::on_loopback([Transport::Tcp, Transport::Quic]);
        let waystation = Kind::Waystation.arguments(state, &listen, &settings);
        assert!(waystation.contains(&"--set=connections.max=7".to_owned()));
        let addresses = r#"["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]"#;
        assert!(waystation.contains(&format!("--set=listen.addresses={addresses}")));
        let baseline = Kind::Baseline.arguments(state, &listen, &settings);
        assert!(!baseline.iter().any(|argument| argument.contains("max")));
        assert!(baseline.contains(&"--listen=/ip4/127.0.0.1/udp/0/quic-v1".to_owned()));
    }

    #[test]
    fn certificates_are_for_secure_websocket() {
        let state = Path::new("/nowhere");
        for (transport, expected) in [(Transport::Ws, 0), (Transport::Wss, 2)] {
            let listen = Listen::on_loopback([transport]);
            for kind in [Kind::Baseline, Kind::Waystation] {
                let arguments = kind.arguments(state, &listen, &[]);
                let files = arguments.iter().filter(|text| text.contains(".pem"));
                assert_eq!(files.count(), expected, "{arguments:?}");
            }
        }
    }
}
