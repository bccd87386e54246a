//! Load from a process of its own, so that what it costs to be a peer does not delay
//! the round trips that this process times, and each has its own descriptors.
//!
//! The child is this program again, under a hidden verb: `hold` keeps a crowd of idle
//! peers until its standard input ends, `knock` makes so many connection attempts, so
//! neither outlives us for long. Each prints one line when it is up and one JSON object
//! at its end.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinSet,
    time::timeout,
};

use crate::{
    address::Target,
    certificate,
    connection::{Connection, Peer, all_told},
    namespace, procfs,
    scenario::{
        Bench,
        crowd::{Crowd, Size, check_descriptors},
    },
    stack::Stack,
};

const UP: &str = "up";

/// A crowd of 18,000 takes half a minute; on a busy machine a few times that.
const START_LIMIT: Duration = Duration::from_secs(300);
const END_LIMIT: Duration = Duration::from_secs(300);

/// Behind the server and the measurement whenever there is not enough CPU: strangers
/// would bring their own.
const NICENESS: i32 = 15;

/// Identities that knock; making one is dearer than an attempt that is refused.
const KNOCKERS: usize = 64;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HoldOptions {
    #[command(flatten)]
    server: ServerOptions,
    /// Peers held
    #[arg(long)]
    count: u32,
    /// Each with a reservation
    #[arg(long)]
    reserve: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KnockOptions {
    #[command(flatten)]
    server: ServerOptions,
    /// Connection attempts in all
    #[arg(long)]
    count: u32,
    /// Attempts at a time
    #[arg(long)]
    concurrency: u16,
}

#[derive(Debug, Clone, clap::Args)]
struct ServerOptions {
    #[arg(long)]
    address: Target,
    #[arg(long)]
    pid: u32,
    #[command(flatten)]
    stack: Stack,
    /// A certificate in PEM, for secure WebSocket
    #[arg(long)]
    trust: Option<String>,
}

impl ServerOptions {
    fn bench(&self) -> anyhow::Result<Bench> {
        if let Some(pem) = &self.trust {
            certificate::trust_pem(pem)?;
        }
        Ok(Bench {
            target: self.address,
            stack: self.stack,
            server: Some(procfs::Server::new(self.pid)?),
            admin: None,
            progress: false,
        })
    }
}

/// What became of a crowd, by how each peer's connection ended.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Stayed until told to leave.
    pub(crate) stayed: u64,
    /// Sent away by the server.
    pub(crate) sent_away: BTreeMap<String, u64>,
}

/// What became of connection attempts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Knocked {
    pub(crate) seconds: f64,
    /// Authenticated and multiplexed.
    pub(crate) admitted: u64,
    /// Everything else.
    pub(crate) refused: u64,
}

/// The child's part of `hold`.
///
/// # Errors
/// When the crowd cannot be gathered.
pub(crate) async fn hold(options: &HoldOptions) -> anyhow::Result<()> {
    be_nice()?;
    let bench = options.server.bench()?;
    check_descriptors(bench, u64::from(options.count))?;
    let size = Size {
        count: options.count,
        concurrency: 32,
        reserve: options.reserve,
    };
    let crowd = Crowd::gather(bench, size, "peers").await?;
    println!("{UP}");
    parent_is_done().await?;
    let mut held = Held::default();
    let endings = crowd.leave().await?;
    all_told().await;
    for (ending, count) in endings {
        match ending {
            crate::connection::Ending::Ours => held.stayed += count,
            ending => *held.sent_away.entry(ending.to_string()).or_default() += count,
        }
    }
    println!("{}", serde_json::to_string(&held)?);
    Ok(())
}

/// The child's part of `knock`: begins at once and prints only its end.
///
/// # Errors
/// When identities cannot be made; what an attempt meets is counted instead.
pub(crate) async fn knock(options: &KnockOptions) -> anyhow::Result<()> {
    be_nice()?;
    let Bench { target, stack, .. } = options.server.bench()?;
    let peers: Arc<[Peer]> = (0..KNOCKERS)
        .map(|_| Peer::generate(stack))
        .collect::<Result<_, _>>()?;
    let count = usize::try_from(options.count)?;
    let next = Arc::new(AtomicUsize::new(0));
    println!("{UP}");
    let started = Instant::now();
    let mut knockers = JoinSet::new();
    for _ in 0..options.concurrency {
        let (peers, next) = (Arc::clone(&peers), Arc::clone(&next));
        knockers.spawn(async move {
            let mut admitted = 0u64;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return admitted;
                }
                let source = Some(SocketAddr::from((namespace::neighbour(index), 0)));
                let peer = &peers[index % KNOCKERS];
                let attempt = Connection::dial_from(target, stack, peer, source).await;
                admitted += u64::from(attempt.is_ok());
            }
        });
    }
    let mut knocked = Knocked::default();
    while let Some(admitted) = knockers.join_next().await {
        knocked.admitted += admitted?;
    }
    knocked.seconds = started.elapsed().as_secs_f64();
    knocked.refused = u64::from(options.count) - knocked.admitted;
    println!("{}", serde_json::to_string(&knocked)?);
    Ok(())
}

fn be_nice() -> anyhow::Result<()> {
    rustix::process::nice(NICENESS).context("cannot lower the priority")?;
    Ok(())
}

async fn parent_is_done() -> anyhow::Result<()> {
    // The parent writes nothing.
    let end = || std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    tokio::task::spawn_blocking(end).await??;
    Ok(())
}

/// A running child, seen from the parent.
pub(crate) struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts idle peers; returns once all are up.
    ///
    /// # Errors
    /// When they cannot be, as the child says on standard error.
    pub(crate) async fn hold(bench: Bench, count: u32) -> anyhow::Result<Self> {
        Self::start("hold", bench, count, &[]).await
    }

    /// [`Self::hold`] of peers that have a reservation each.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn hold_reserved(bench: Bench, count: u32) -> anyhow::Result<Self> {
        Self::start("hold", bench, count, &["--reserve".to_owned()]).await
    }

    /// Starts connection attempts from one network.
    ///
    /// # Errors
    /// When the child does not start.
    pub(crate) async fn knock(bench: Bench, count: u32, concurrency: u16) -> anyhow::Result<Self> {
        let concurrency = format!("--concurrency={concurrency}");
        Self::start("knock", bench, count, &[concurrency]).await
    }

    async fn start(verb: &str, bench: Bench, count: u32, more: &[String]) -> anyhow::Result<Self> {
        let pid = bench
            .server
            .context("the server's process is not known")?
            .pid();
        let mut child = Command::new(std::env::current_exe()?)
            .arg(verb)
            .arg(format!("--address={}", bench.target))
            .arg(format!("--pid={pid}"))
            .arg(format!("--count={count}"))
            .args(bench.stack.arguments())
            .args(certificate::own_pem().map(|pem| format!("--trust={pem}")))
            .args(more)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a helper")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("stdout was asked for")?;
        let mut lines = BufReader::new(stdout).lines();
        let up = timeout(START_LIMIT, lines.next_line())
            .await
            .with_context(|| format!("{verb} is not up in time"))??;
        if up.as_deref() != Some(UP) {
            bail!("{verb} has failed");
        }
        Ok(Self {
            child,
            stdin,
            lines,
        })
    }

    /// Tells the child to finish, if it has not, and reads what became of its peers.
    ///
    /// # Errors
    /// When it fails or does not end in time.
    pub(crate) async fn finish<T: for<'a> Deserialize<'a>>(mut self) -> anyhow::Result<T> {
        self.stdin = None;
        let finishing = async {
            let line = self
                .lines
                .next_line()
                .await?
                .context("a helper has failed")?;
            self.child.wait().await?;
            Ok(serde_json::from_str(&line)?)
        };
        timeout(END_LIMIT, finishing)
            .await
            .context("a helper does not end")?
    }
}
