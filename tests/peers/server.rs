//! The program under test: started on free ports with a state directory of its
//! own, watched through its metrics, and killed when the test lets go of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::PROMPT;
use crate::peer::{Muxer, Way};

/// How often a condition is looked at that comes about on its own.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Listens for QUIC and nothing else.
pub(crate) const QUIC_ONLY: &str = r#"listen.addresses=["/ip4/127.0.0.1/udp/0/quic-v1"]"#;

pub(crate) struct Server {
    child: Child,
    // Kept open: the program may have more to print.
    _stdout: BufReader<ChildStdout>,
    directory: Arc<TempDir>,
    peer_id: PeerId,
    /// In the order of printing.
    addresses: Vec<Multiaddr>,
    admin: SocketAddr,
}

impl Server {
    /// As [`Self::start`], listening where peers of this kind come.
    pub(crate) fn start_for(way: impl Into<Way>, settings: &[&str]) -> Self {
        let listen: &[&str] = match way.into().muxer {
            Muxer::Yamux | Muxer::Mplex => &[],
            Muxer::Quic => &[QUIC_ONLY],
        };
        Self::start(&[listen, settings].concat())
    }

    /// Starts the program with these settings, and waits until it serves.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), settings)
    }

    /// Kills it as a power failure would, and starts it again over what it
    /// has left.
    pub(crate) fn restarted(self, settings: &[&str]) -> Self {
        let directory = Arc::clone(&self.directory);
        drop(self);
        Self::start_in(directory, settings)
    }

    fn start_in(directory: Arc<TempDir>, settings: &[&str]) -> Self {
        let configuration = directory.path().join("waystation.toml");
        fs::write(&configuration, "").unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waystation"));
        command
            .env_clear()
            .env("STATE_DIRECTORY", directory.path().join("state"))
            .arg("--config")
            .arg(configuration)
            .args(["--set", r#"listen.addresses=["/ip4/127.0.0.1/tcp/0"]"#])
            .args(["--set", "admin.address=127.0.0.1:0"])
            .args(["--set", "log.level=debug"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = Banner::default();
        while banner.admin.is_none() {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let _ = child.wait();
                let log = fs::read_to_string(directory.path().join("log")).unwrap();
                panic!("the program does not start: {log}");
            }
            banner.read(&line);
        }
        Self {
            child,
            _stdout: stdout,
            directory,
            peer_id: banner.peer_id.unwrap(),
            addresses: banner.addresses,
            admin: banner.admin.unwrap(),
        }
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The address it hands out, which ends in its peer id; the last one that
    /// it prints, if there are several.
    pub(crate) fn address(&self) -> Multiaddr {
        self.addresses.last().unwrap().clone()
    }

    /// The address that is made of these protocols.
    pub(crate) fn address_over(&self, protocols: &[&str]) -> Multiaddr {
        let fits = |address: &&Multiaddr| address.protocol_stack().eq(protocols.iter().copied());
        self.addresses.iter().find(fits).unwrap().clone()
    }

    /// The address at which `peer` is reached through it.
    pub(crate) fn address_of(&self, peer: PeerId) -> Multiaddr {
        self.address()
            .with(Protocol::P2pCircuit)
            .with(Protocol::P2p(peer))
    }

    /// Its metrics as they are now.
    pub(crate) async fn metrics(&self) -> Metrics {
        let mut socket = TcpStream::connect(self.admin).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Metrics(answer)
    }

    /// Waits until a series has this value.
    pub(crate) async fn until(&self, series: &str, value: f64) {
        let mut last = f64::NAN;
        let reached = tokio::time::timeout(PROMPT, async {
            loop {
                last = self.metrics().await.value(series);
                if (last - value).abs() < f64::EPSILON {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        if reached.await.is_err() {
            panic!("{series} is {last} and does not become {value}");
        }
    }

    /// Waits until it counts nothing any more that peers may take up.
    pub(crate) async fn until_nothing_is_held(&self) {
        for series in [
            "waystation_relay_circuits",
            "waystation_relay_reservations",
            "waystation_connections",
        ] {
            self.until(series, 0.0).await;
        }
    }

    /// Runs the program as an operator does who wants something of it, and
    /// gives what it prints.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_waystation"))
            .env_clear()
            .env("STATE_DIRECTORY", self.directory.path().join("state"))
            .arg("--config")
            .arg(self.directory.path().join("waystation.toml"))
            .arg("--set")
            .arg(format!("admin.address={}", self.admin))
            .args(arguments)
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// Where it keeps what outlives it.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// What it has logged so far that holds these words.
    pub(crate) fn log_lines(&self, words: &str) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        let lines = log.lines().filter(|line| line.contains(words));
        lines.map(str::to_owned).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        crate::within(PROMPT, "the program ends", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "shown with the test that failed")]
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let panicked = log.contains("panicked");
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("the program's last lines:\n{}", tail.join("\n"));
        } else {
            assert!(!panicked, "the program panicked:\n{log}");
        }
    }
}

/// What the program prints when it starts.
#[derive(Default)]
struct Banner {
    peer_id: Option<PeerId>,
    addresses: Vec<Multiaddr>,
    admin: Option<SocketAddr>,
}

impl Banner {
    fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(peer_id) = line.strip_prefix("peer id    ") {
            self.peer_id = Some(peer_id.parse().unwrap());
        } else if let Some(address) = line.strip_prefix("listening  ") {
            self.addresses.push(address.parse().unwrap());
        } else if let Some(url) = line.strip_prefix("admin      ") {
            let url = url.strip_prefix("http://").unwrap();
            self.admin = Some(url.strip_suffix("/metrics").unwrap().parse().unwrap());
        }
    }
}

/// One scrape.
pub(crate) struct Metrics(String);

impl Metrics {
    /// The value of a series, written as it stands in the exposition.
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no series {series}"))
            .parse()
            .unwrap()
    }
}
