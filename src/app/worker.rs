//! A worker: one thread, one runtime, its own listening sockets, and the
//! connections that it accepted.
//!
//! A connection stays on the worker that accepted it, so that its task is
//! never moved or stolen and one wake-up serves all sockets that are ready.
//! Workers meet only in the egress of a connection and in shared state.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{HEARTBEAT_EVERY, Heartbeat, Part},
    clock, config,
    connection::{Connection, Context, Handover, Leftover, Remote, observe_pool, turn_away},
    engine::{demux::Side, muxer::Muxer, security::Security},
    listener::{AcceptEvent, Accepted, Admission, WorkerSocket, accept_loop, quic},
    metrics::{self, ConnectionLabels, Direction, SocketGuard, Transport, UpgradeTimer},
    state::limits::{Buffers, Limits, Refusal, SocketPermit},
    upgrade::{Entrance, Entrances, Incoming, UpgradeContext, UpgradeError, Upgraded},
    wire::{DecodeError, proxy::Source},
};

use super::supervisor::Supervisor;

/// What every worker works with.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) context: Arc<Context>,
    pub(super) upgrade: Arc<UpgradeContext>,
    pub(super) limits: Arc<Limits>,
    pub(super) admission: Arc<Admission>,
    pub(super) buffers: Arc<Buffers>,
    /// Ends accepting.
    pub(super) accepting: CancellationToken,
    /// Ends the worker.
    pub(super) running: CancellationToken,
}

/// A worker's listening sockets.
pub(super) struct Sockets {
    pub(super) tcp: Vec<WorkerSocket>,
    pub(super) udp: Vec<UdpSocket>,
    /// What serves those of UDP, if there are any.
    pub(super) quic: Option<Arc<quic::Server>>,
}

impl From<Vec<WorkerSocket>> for Sockets {
    fn from(tcp: Vec<WorkerSocket>) -> Self {
        Self {
            tcp,
            udp: Vec::new(),
            quic: None,
        }
    }
}

/// Starts a worker's thread.
///
/// # Errors
/// If the system has no thread or no runtime for it.
pub(super) fn start(
    index: usize,
    sockets: Sockets,
    heartbeat: Heartbeat,
    shared: Shared,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || runtime.block_on(run(index, sockets, heartbeat, shared)))
}

/// A worker's life, on its own thread or on the one that calls.
pub(super) async fn run(index: usize, sockets: Sockets, heartbeat: Heartbeat, shared: Shared) {
    observe_pool(
        Arc::clone(&shared.context.metrics.pools),
        Arc::clone(&shared.buffers),
    );
    let supervisor = Supervisor::default();
    let Sockets { tcp, udp, quic } = sockets;
    for socket in tcp {
        let (supervisor_, shared_) = (supervisor.clone(), shared.clone());
        let accepting = accept(socket, supervisor_, shared_);
        supervisor.spawn("acceptor", vital(heartbeat.part(), accepting));
    }
    if let Some(server) = quic
        && server.takes(index)
        && !udp.is_empty()
    {
        let serving = serve_quic(server, index, udp);
        supervisor.spawn("quic", vital(heartbeat.part(), serving));
    } else {
        // One that nobody reads would swallow its share of datagrams.
        drop(udp);
    }
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            // Both are cancel-safe: a tick that is missed is made up for.
            () = shared.running.cancelled() => break,
            _ = ticks.tick() => heartbeat.beat(clock::now()),
        }
    }
    // What is left ends with the runtime: connections say goodbye when their
    // tasks are dropped.
}

/// A task whose end, unless the server stops, is told to the operator.
async fn vital(part: Part, task: impl Future<Output = ()>) {
    task.await;
    drop(part);
}

async fn serve_quic(server: Arc<quic::Server>, index: usize, sockets: Vec<UdpSocket>) {
    if let Err(error) = server.serve(index, sockets).await {
        tracing::error!(%error, "cannot serve QUIC");
    }
}

async fn accept(socket: WorkerSocket, supervisor: Supervisor, shared: Shared) {
    let (local, entrances) = (socket.local(), socket.entrances());
    let observing = Arc::clone(&shared.context);
    let (admission, accepting) = (Arc::clone(&shared.admission), shared.accepting.clone());
    let on_socket = move |accepted| {
        let guard = shared.context.metrics.listener.socket_accepted();
        let timer = shared.context.metrics.upgrade.started(clock::now());
        let socket = Socket {
            accepted,
            entrances,
            guard,
            timer,
        };
        let (supervisor_, shared_) = (supervisor.clone(), shared.clone());
        supervisor.spawn("upgrade", socket.upgrade(supervisor_, shared_));
    };
    let observe = move |event| observe(&observing, event);
    if let Err(error) = accept_loop(socket, admission, observe, on_socket, accepting).await {
        tracing::error!(%local, %error, "cannot accept on this address");
    }
}

fn observe(context: &Context, event: AcceptEvent) {
    let metrics = &context.metrics.listener;
    match event {
        // Denials are counted where they are decided.
        AcceptEvent::Admitted | AcceptEvent::Denied => {}
        AcceptEvent::Refused(refusal) => {
            metrics.socket_refused(refusal.label());
            if matches!(refusal, Refusal::Total | Refusal::Sockets) {
                context.connections.attend();
            }
        }
        AcceptEvent::Aborted | AcceptEvent::Exhausted => metrics.accept_failed(),
    }
}

/// An admitted socket, not yet a connection.
struct Socket {
    accepted: Accepted,
    /// What may be spoken on it.
    entrances: Entrances,
    guard: SocketGuard,
    timer: UpgradeTimer,
}

/// What a socket has become.
struct Raised {
    upgraded: Upgraded,
    remote: SocketAddr,
    permit: SocketPermit,
}

/// Why a socket did not become a connection.
enum Failure {
    Upgrade(SocketAddr, UpgradeError),
    /// Whom the proxy forwards may not stay.
    Refused(AcceptEvent),
}

impl Socket {
    async fn upgrade(self, supervisor: Supervisor, shared: Shared) {
        let Self {
            accepted,
            entrances,
            guard,
            timer,
        } = self;
        // Boxed: this future is large, and a connection's task must not be.
        let raised = tokio::select! {
            biased;
            // Nothing is owed to a socket that is not a connection yet.
            () = shared.running.cancelled() => return,
            raised = Box::pin(raise(accepted, entrances, &shared)) => raised,
        };
        match raised {
            Ok(raised) => {
                let labels = labels(&raised.upgraded, raised.remote);
                timer.completed(labels, clock::now());
                drop(guard);
                if let Some((connection, leftover)) = admitted(raised, labels, shared) {
                    supervisor.spawn("connection", drive(connection, leftover));
                }
            }
            Err(Failure::Upgrade(remote, error)) => {
                tracing::debug!(%remote, %error, "upgrade failed");
                timer.failed(error.label(), clock::now());
            }
            Err(Failure::Refused(event)) => {
                observe(&shared.context, event);
                timer.failed("refused", clock::now());
            }
        }
    }
}

async fn raise(
    accepted: Accepted,
    entrances: Entrances,
    shared: &Shared,
) -> Result<Raised, Failure> {
    let Accepted {
        socket,
        mut remote,
        mut permit,
        proxied,
    } = accepted;
    let mut incoming = Incoming::new(socket, &shared.upgrade);
    if proxied {
        let source = incoming.source().await;
        if let Source::Host(host) = source.map_err(|error| Failure::Upgrade(remote, error))? {
            remote = forwarded(host, remote).map_err(|error| Failure::Upgrade(remote, error))?;
        }
        match shared.admission.forwarded(permit, remote) {
            Ok(placed) => permit = placed,
            Err(event) => {
                incoming.into_socket().reset_on_close();
                return Err(Failure::Refused(event));
            }
        }
    }
    let upgraded = incoming.upgrade(entrances).await;
    let upgraded = upgraded.map_err(|error| Failure::Upgrade(remote, error))?;
    Ok(Raised {
        upgraded,
        remote,
        permit,
    })
}

/// Whom a proxy forwards. Limits by address do not hold for this host, so that
/// only a proxy that is on it may forward somebody from here.
fn forwarded(host: SocketAddr, proxy: SocketAddr) -> Result<SocketAddr, UpgradeError> {
    let ip = host.ip().to_canonical();
    if ip.is_unspecified() || (ip.is_loopback() && !proxy.ip().is_loopback()) {
        let reason = "PROXY header names an address that no peer comes from";
        return Err(UpgradeError::Proxy(DecodeError::Malformed(reason)));
    }
    Ok(SocketAddr::new(ip, host.port()))
}

/// The connection of a peer that has shown who it is, unless the peer has all
/// that it may have.
fn admitted(
    raised: Raised,
    labels: ConnectionLabels,
    shared: Shared,
) -> Option<(Connection, Leftover)> {
    let Raised {
        upgraded,
        remote: address,
        permit,
    } = raised;
    let metrics = &shared.context.metrics;
    let peer = upgraded.peer_id;
    let handover = Handover {
        socket: upgraded.socket,
        layers: upgraded.layers,
        muxer: upgraded.muxer,
        side: Side::Listener,
        seal: upgraded.seal,
        open: upgraded.open,
        plaintext: upgraded.plaintext,
        ciphertext: upgraded.ciphertext,
    };
    // Whether it is denied is asked when it can be found, by the connection.
    let access = &shared.context.relay.access;
    let exempt = access.standing(&peer, address.ip()).uncapped;
    match permit.authenticated(&peer, exempt) {
        Ok(permit) => {
            let guard = metrics.connections.opened(labels, clock::now());
            let transport = match upgraded.entrance {
                Entrance::Plain => config::Transport::Tcp,
                Entrance::WebSocket => config::Transport::Ws,
                Entrance::Secure => config::Transport::Wss,
            };
            let remote = Remote {
                peer,
                address,
                transport,
            };
            let connection = Connection::new(shared.context, remote, handover, permit, guard);
            Some(connection)
        }
        Err(refusal) => {
            tracing::debug!(%peer, remote = %address, limit = refusal.label(), %refusal, "connection refused");
            metrics.listener.socket_refused(refusal.label());
            turn_away(handover, Arc::clone(&metrics.egress));
            None
        }
    }
}

fn drive(mut connection: Connection, leftover: Leftover) -> impl Future<Output = ()> + Send {
    // What came behind the handshake is worked through here, so that it is not
    // part of the task for the connection's whole life.
    let begun = connection.begin(leftover);
    async move {
        let closed = match begun {
            Ok(()) => connection.run().await,
            Err(closed) => closed,
        };
        connection.end(closed);
    }
}

fn labels(upgraded: &Upgraded, remote: SocketAddr) -> ConnectionLabels {
    ConnectionLabels {
        direction: Direction::Inbound,
        transport: match upgraded.entrance {
            Entrance::Plain => Transport::Tcp,
            Entrance::WebSocket => Transport::Ws,
            Entrance::Secure => Transport::Wss,
        },
        security: match upgraded.security {
            Security::Noise => metrics::Security::Noise,
            Security::Tls => metrics::Security::Tls,
        },
        muxer: match upgraded.muxer {
            Muxer::Yamux => metrics::Muxer::Yamux,
            Muxer::Mplex => metrics::Muxer::Mplex,
        },
        early_muxer: upgraded.early_muxer,
        ip_version: remote.ip().into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::{Health, Phase};

    use super::*;

    #[tokio::test]
    async fn a_worker_whose_task_panics_is_not_whole() {
        let health = Health::new(2, clock::now());
        health.set_phase(Phase::Serving);
        let supervisor = Supervisor::default();
        let task = vital(health.heartbeat(1).part(), async { panic!("a bug") });
        supervisor.spawn("quic", task);
        supervisor.finished().await;
        assert_eq!(health.broken(), [1]);
    }

    #[test]
    fn only_a_proxy_on_this_host_forwards_somebody_from_here() {
        let socket = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (near, far) = (socket("127.0.0.1:9"), socket("10.0.0.1:9"));
        for (named, from_near, from_far) in [
            ("192.0.2.7:1", true, true),
            ("[::ffff:192.0.2.7]:1", true, true),
            ("127.0.0.1:1", true, false),
            ("[::ffff:127.0.0.1]:1", true, false),
            ("[::1]:1", true, false),
            ("0.0.0.0:1", false, false),
        ] {
            let named = socket(named);
            assert_eq!(forwarded(named, near).is_ok(), from_near, "{named}");
            assert_eq!(forwarded(named, far).is_ok(), from_far, "{named}");
        }
    }
}
