//! The accept loop of one worker's socket.
//!
//! Owns how sockets enter: admission first, before any byte is read, or, for
//! those that a proxy forwards, before any byte behind its header. Bounds the
//! accepts in a row, and waits when the process is out of descriptors or
//! memory. Whom to admit is decided by `state::access` and `state::limits`; counting what happened
//! is the caller's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Source, WorkerSocket, memory};
use crate::clock;
use crate::connection::carrier::Socket;
use crate::state::access::{Access, Denied, Gate};
use crate::state::limits::{Limits, Refusal, SocketPermit};

/// Accepts in a row before the worker's connections have their turn: with some
/// 10 µs each, they wait a third of a millisecond at most. Eight made no
/// difference to circuits during a flood (`loadtest flood`, 2026-11-20).
const ACCEPTS_PER_TURN: usize = 32;
/// First wait when accepting fails for want of resources, doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait; a freed descriptor is used within a second.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What became of one socket, or of the attempt to accept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptEvent {
    /// Handed on.
    Admitted,
    /// Closed at once, by this limit.
    Refused(Refusal),
    /// Closed at once, by a rule of the operator.
    Denied,
    /// The peer was gone before we took it.
    Aborted,
    /// Out of descriptors or memory; the loop waits and tries again.
    Exhausted,
}

/// Who decides whether a socket may stay.
pub struct Admission {
    /// Where it counts.
    pub limits: Arc<Limits>,
    /// The operator's rules.
    pub access: Arc<Access>,
    /// Whose PROXY header is believed, and expected.
    pub proxies: Vec<IpNet>,
}

/// A socket that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: Socket,
    /// Who opened it.
    pub remote: SocketAddr,
    /// Its right to be here.
    pub permit: SocketPermit,
    /// It was opened by a proxy, which says first whom it forwards. The permit
    /// counts for nobody yet: see [`Admission::forwarded`].
    pub proxied: bool,
}

impl Admission {
    /// Decides about a socket by who opened it.
    ///
    /// # Errors
    /// Why it has to be closed.
    fn accepted(&self, remote: SocketAddr) -> Result<(SocketPermit, bool), AcceptEvent> {
        let ip = remote.ip();
        let around = self.proxies.iter().filter(|range| range.contains(&ip));
        let widest = around.map(IpNet::prefix_len).min();
        let admitted = if let Some(length) = widest {
            // Wider rules are about whom it forwards, as the limits are.
            self.access
                .at_accept_of_proxy(ip, length)
                .map_err(|reason| denied(remote, reason))?;
            self.limits.admit_unplaced()
        } else {
            let uncapped = self.allowed(remote)?;
            self.limits.admit(remote, uncapped, clock::now())
        };
        admitted
            .map(|permit| (permit, widest.is_some()))
            .map_err(|refusal| refused(remote, refusal))
    }

    /// Decides about a socket by whom its proxy forwards; `remote` is the proxy
    /// itself if it speaks for itself.
    ///
    /// # Errors
    /// Why it has to be closed.
    pub fn forwarded(
        &self,
        permit: SocketPermit,
        remote: SocketAddr,
    ) -> Result<SocketPermit, AcceptEvent> {
        let uncapped = self.allowed(remote)?;
        permit
            .place(remote, uncapped, clock::now())
            .map_err(|refusal| refused(remote, refusal))
    }

    /// Asks the operator's rules; whether they spare it the limits.
    fn allowed(&self, remote: SocketAddr) -> Result<bool, AcceptEvent> {
        let standing = self.access.at_accept(remote.ip());
        standing
            .map(|standing| standing.uncapped)
            .map_err(|reason| denied(remote, reason))
    }
}

fn denied(remote: SocketAddr, reason: Denied) -> AcceptEvent {
    debug!(%remote, gate = Gate::Accept.label(), %reason, "socket refused");
    AcceptEvent::Denied
}

fn refused(remote: SocketAddr, refusal: Refusal) -> AcceptEvent {
    debug!(%remote, limit = refusal.label(), %refusal, "socket refused");
    AcceptEvent::Refused(refusal)
}

/// Accepts until `shutdown`, then closes the listening socket.
///
/// Each admitted socket goes to `on_socket` with its permit; a refused one is
/// reset at once. `observe` learns of every outcome. Both are called between
/// accepts and must not block. Has to run on the runtime that is to drive the
/// sockets.
///
/// # Errors
///
/// Only if the listening socket cannot be registered with the runtime.
pub async fn accept_loop(
    listener: WorkerSocket,
    admission: Arc<Admission>,
    observe: impl Fn(AcceptEvent),
    mut on_socket: impl FnMut(Accepted),
    shutdown: CancellationToken,
) -> io::Result<()> {
    let local = listener.local;
    let mut socket = Listening::new(listener.source)?;
    let mut backoff = Backoff::default();
    let mut accepts = 0_usize;
    loop {
        let accepted = tokio::select! {
            biased;
            // Cancel-safe: a token keeps no state in its futures.
            () = shutdown.cancelled() => return Ok(()),
            // Cancel-safe: a socket is either returned or still in the queue.
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((socket, remote)) => {
                backoff.end(local);
                observe(enter(socket, remote, &admission, &mut on_socket));
            }
            Err(error) if concerns_one_socket(&error) => observe(AcceptEvent::Aborted),
            Err(error) => {
                observe(AcceptEvent::Exhausted);
                let wait = backoff.next(local, &error);
                tokio::select! {
                    biased;
                    // Both cancel-safe: nothing is lost with either future.
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
        accepts += 1;
        if accepts.is_multiple_of(ACCEPTS_PER_TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// A listening socket that is registered with the runtime.
enum Listening {
    Tcp(TcpListener),
    Memory(memory::Queue),
}

impl Listening {
    fn new(source: Source) -> io::Result<Self> {
        match source {
            Source::Tcp(socket) => TcpListener::from_std(socket).map(Self::Tcp),
            Source::Memory(queue) => Ok(Self::Memory(queue)),
        }
    }

    /// Cancel-safe.
    async fn accept(&mut self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(socket) => {
                let (socket, remote) = socket.accept().await?;
                Ok((Socket::Tcp(socket), remote))
            }
            Self::Memory(queue) => {
                let (end, remote) = queue.accept().await;
                Ok((Socket::Memory(end), remote))
            }
        }
    }
}

fn enter(
    socket: Socket,
    remote: SocketAddr,
    admission: &Admission,
    on_socket: &mut impl FnMut(Accepted),
) -> AcceptEvent {
    // A passed dual-stack socket shows IPv4 peers as mapped addresses.
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    match admission.accepted(remote) {
        Ok((permit, proxied)) => {
            on_socket(Accepted {
                socket,
                remote,
                permit,
                proxied,
            });
            AcceptEvent::Admitted
        }
        Err(event) => {
            socket.reset_on_close();
            event
        }
    }
}

/// Whether an error of accept(2) is about the socket at the head of the queue,
/// so that the next may be fine. All others (`EMFILE`, `ENFILE`, `ENOBUFS`,
/// `ENOMEM`, and what nobody foresaw) come back at once if not waited for.
fn concerns_one_socket(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
    )
}

/// The wait of the present episode of exhaustion, if there is one.
#[derive(Debug, Default)]
struct Backoff {
    wait: Option<Duration>,
}

impl Backoff {
    fn next(&mut self, local: SocketAddr, error: &io::Error) -> Duration {
        let wait = match self.wait {
            Some(last) => (last * 2).min(BACKOFF_MAX),
            None => {
                warn!(%local, %error, "cannot accept connections, trying again");
                BACKOFF_FIRST
            }
        };
        self.wait = Some(wait);
        wait
    }

    fn end(&mut self, local: SocketAddr) {
        if self.wait.take().is_some() {
            info!(%local, "accepting connections again");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::config::{AccessLists, Config, Subject};
    use crate::metrics::Metrics;

    #[test]
    fn a_rule_as_narrow_as_its_range_stops_a_proxy() {
        let proxy = SocketAddr::from(([10, 0, 0, 7], 1));
        for (proxies, rule, let_in) in [
            (&["10.0.0.0/24"][..], "10.0.0.7/32", false),
            (&["10.0.0.0/24"], "10.0.0.0/25", false),
            (&["10.0.0.0/24"], "10.0.0.0/24", false),
            (&["10.0.0.0/24"], "10.0.0.8/32", true),
            // These are about whom it forwards.
            (&["10.0.0.0/24"], "10.0.0.0/8", true),
            (&["10.0.0.7/32"], "0.0.0.0/0", true),
            // It lies in one of them.
            (&["10.0.0.7/32", "10.0.0.0/16"], "10.0.0.0/24", false),
        ] {
            let lists = AccessLists {
                deny: [Subject::Range(rule.parse().unwrap())].into(),
                ..AccessLists::default()
            };
            let config = Config::default();
            let metrics = Metrics::new();
            let admission = Admission {
                limits: Limits::new(&config.connections),
                access: Arc::new(Access::new(&config, &lists, &metrics.access)),
                proxies: proxies.iter().map(|range| range.parse().unwrap()).collect(),
            };
            match admission.accepted(proxy) {
                Ok((_, proxied)) => assert!(proxied && let_in, "{proxies:?}, {rule}"),
                Err(event) => assert_eq!((event, let_in), (AcceptEvent::Denied, false)),
            }
        }
    }

    #[test]
    fn waits_double_up_to_a_second_and_start_over() {
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = io::Error::from(io::ErrorKind::OutOfMemory);
        let mut backoff = Backoff::default();
        let milliseconds = |backoff: &mut Backoff| backoff.next(local, &error).as_millis();
        let waits: Vec<_> = (0..6).map(|_| milliseconds(&mut backoff)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        backoff.end(local);
        assert_eq!(milliseconds(&mut backoff), 100);
    }

    #[test]
    fn only_exhaustion_is_waited_for() {
        let kinds = [
            (io::ErrorKind::ConnectionAborted, true),
            (io::ErrorKind::Interrupted, true),
            (io::ErrorKind::OutOfMemory, false),
            (io::ErrorKind::Other, false),
        ];
        for (kind, one) in kinds {
            assert_eq!(concerns_one_socket(&kind.into()), one, "{kind}");
        }
    }
}
