//! The running server: what is started, in which order, and what it is made
//! of.

use std::{net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::Context as _;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{AdminServer, AdminState, Health, Phase},
    certificates::Certificates,
    clock,
    config::{AccessLists, Config, ConfigError, Loaded},
    connection::Context,
    engine::private_network::PrivateKey,
    identity::Identity,
    listener::{Admission, Inherited, Listeners, UdpListeners, WorkerSocket},
    metrics::Metrics,
    service::{Menu, hop::Relay, identify::Answer},
    state::{
        access::{Access, rulebook::Rulebook},
        addresses::{Addresses, Told},
        circuits::Circuits,
        connections::{Connections, Marks},
        limits::{AsnDatabase, Buffers, Limits, StreamLimits},
        reservations::Reservations,
    },
    store::Store,
    upgrade::UpgradeContext,
};

use super::{
    access, addresses, certificates, descriptors, housekeeping,
    observe::observe,
    peers, quic,
    shutdown::{self, Signals},
    store,
    supervisor::Supervisor,
    trimmer, worker,
};

/// What the files that the configuration names hold.
pub(super) struct Files {
    pub(super) lists: AccessLists,
    pub(super) token: Option<String>,
    pub(super) systems: Option<AsnDatabase>,
    pub(super) private_network: Option<PrivateKey>,
    pub(super) certificates: Option<Arc<Certificates>>,
}

impl Files {
    /// Reads them all.
    ///
    /// # Errors
    /// The lines about those that cannot be used.
    pub(super) fn read(loaded: &Loaded) -> Result<Self, ConfigError> {
        Ok(Self {
            lists: loaded.access_lists()?,
            token: loaded.admin_token()?,
            systems: open_asn_database(loaded)?,
            private_network: loaded.private_network()?,
            certificates: certificates::open(loaded)?,
        })
    }
}

/// A server that has its sockets and its workers.
pub(super) struct Server {
    identity: Identity,
    /// As the workers were started with them.
    told: Arc<Told>,
    admin: Option<(SocketAddr, AdminServer)>,
    health: Arc<Health>,
    rulebook: Arc<Rulebook>,
    shared: worker::Shared,
    workers: Vec<JoinHandle<()>>,
    /// Sockets of a worker that runs on this thread.
    hosted: Vec<WorkerSocket>,
    store: Arc<Store>,
    certificates: Option<Arc<Certificates>>,
    write_interval: Duration,
    drain_timeout: Duration,
    /// Bytes.
    memory_max: Option<u64>,
}

impl Server {
    /// Opens the sockets and starts the workers.
    ///
    /// # Errors
    /// What the operator has to change, named by its key; or the system's
    /// refusal.
    pub(super) async fn start(
        loaded: &Loaded,
        identity: Identity,
        files: Files,
    ) -> anyhow::Result<Self> {
        let config = &loaded.config;
        descriptors::raise_limit();
        for note in loaded.notes() {
            tracing::warn!("{note}");
        }
        let count = loaded.workers();
        let mut inherited = Inherited::from_env();
        let refuse = |error| loaded.refuse("listen.addresses", &error);
        let wanted = &config.listen.addresses;
        let udp = UdpListeners::bind(wanted, count, &mut inherited).map_err(refuse)?;
        let listeners = Listeners::bind(wanted, count, inherited).map_err(refuse)?;
        warn_about(&listeners, &udp);
        let bound: Vec<Multiaddr> = listeners.addresses().chain(udp.addresses()).collect();
        let mut server = Self::assemble(loaded, identity, files, &bound, count).await?;
        let quic = quic::server(loaded, &server.identity, &server.shared, &udp)?;
        let sockets = listeners.into_workers().into_iter();
        server.workers = sockets
            .zip(udp.into_workers())
            .enumerate()
            .map(|(index, (tcp, udp))| {
                let heartbeat = server.health.heartbeat(index);
                let sockets = worker::Sockets {
                    tcp,
                    udp,
                    quic: quic.clone(),
                };
                worker::start(index, sockets, heartbeat, server.shared.clone())
            })
            .collect::<Result<_, _>>()
            .context("cannot start a worker")?;
        server.health.set_phase(Phase::Serving);
        Ok(server)
    }

    /// As [`Self::start`], with one worker on the thread that runs the server.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(super) async fn hosted(
        loaded: &Loaded,
        identity: Identity,
        files: Files,
        bound: &[Multiaddr],
        sockets: Vec<WorkerSocket>,
    ) -> anyhow::Result<Self> {
        let mut server = Self::assemble(loaded, identity, files, bound, 1).await?;
        server.hosted = sockets;
        Ok(server)
    }

    /// All of a server but its workers.
    async fn assemble(
        loaded: &Loaded,
        identity: Identity,
        files: Files,
        bound: &[Multiaddr],
        workers: usize,
    ) -> anyhow::Result<Self> {
        let config = &loaded.config;
        let configured = loaded.announce_addresses(&identity.peer_id())?;
        let addresses = Addresses::new(&configured, bound, identity.peer_id());
        addresses::read_interfaces(&addresses);
        let metrics = Metrics::new();
        let access = Access::new(config, &files.lists, &metrics.access);
        let store = store::open(loaded, &metrics)?;
        let health = Health::new(workers, clock::now());
        let told = addresses.told();
        let buffers = Buffers::new(config.connections.buffers_max);
        let context = context(
            config, &identity, &addresses, access, &buffers, &metrics, &store,
        );
        let limits = Limits::with_systems(&config.connections, files.systems);
        let (private, certificates) = (files.private_network, files.certificates);
        let upgrade = upgrade_context(config, &identity, private, certificates.as_ref())?;
        let shared = worker::Shared {
            upgrade: Arc::new(upgrade),
            admission: Arc::new(Admission {
                limits: Arc::clone(&limits),
                access: Arc::clone(&context.relay.access),
                proxies: config.listen.proxy_protocol_from.clone(),
            }),
            context: Arc::new(context),
            limits,
            buffers,
            accepting: CancellationToken::new(),
            running: CancellationToken::new(),
        };
        let rulebook = access::rulebook(loaded, &shared.context, &store)?;
        let admin = bind_admin(loaded, files.token, &shared.context, &health, &rulebook).await?;
        observe(&metrics, &shared, &store);
        Ok(Self {
            identity,
            told,
            admin,
            health,
            rulebook,
            shared,
            workers: Vec::new(),
            hosted: Vec::new(),
            store,
            certificates,
            write_interval: config.peerstore.write_interval,
            drain_timeout: config.shutdown.drain_timeout,
            memory_max: config.memory.max,
        })
    }

    /// Who we are.
    pub(super) fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// The addresses to hand out, each ending in our peer id.
    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        self.told.all().to_vec()
    }

    /// Where the admin server listens.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(address, _)| *address)
    }

    /// The counters of every layer.
    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.context.metrics)
    }

    /// Serves until a signal, then shuts down in phases.
    pub(super) async fn run(self, mut signals: Signals) {
        let supervisor = Supervisor::default();
        let until = CancellationToken::new();
        let admin_running = CancellationToken::new();
        if let Some((_, admin)) = self.admin {
            supervisor.spawn("admin", admin.serve(admin_running.clone()));
        }
        let housekeeping = housekeeping::keep(self.shared.clone(), Arc::clone(&self.health));
        let rules = access::tend_rules(Arc::clone(&self.rulebook));
        let trimming = trimmer::task(&self.shared, self.memory_max);
        background(&supervisor, "housekeeping", &until, housekeeping);
        background(&supervisor, "rules", &until, rules);
        background(&supervisor, "trimmer", &until, trimming);
        let telling = addresses::keep(Arc::clone(&self.shared.context), self.told);
        background(&supervisor, "addresses", &until, telling);
        let tending = certificates::tend(self.certificates, &self.shared, signals.take_hangup());
        background(&supervisor, "certificates", &until, tending);
        let context = Arc::clone(&self.shared.context);
        let writing = peers::write_behind(context, self.store, self.write_interval, until.clone());
        supervisor.spawn("peers", writing);
        if !self.hosted.is_empty() {
            let heartbeat = self.health.heartbeat(0);
            let worker = worker::run(0, self.hosted.into(), heartbeat, self.shared.clone());
            supervisor.spawn("worker", worker);
            self.health.set_phase(Phase::Serving);
        }
        shutdown::notify_ready();
        signals.first().await;
        shutdown::run(&self.shared, &self.health, self.drain_timeout, &mut signals).await;
        self.shared.running.cancel();
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked; this is a bug");
            }
        }
        until.cancel();
        admin_running.cancel();
        supervisor.finished().await;
        access::write_rules(self.rulebook).await;
    }
}

/// Starts a task that goes on until the token is cancelled. Each of them may be
/// dropped at any point: rounds are complete in themselves, or ended by a thread
/// of their own.
fn background(
    supervisor: &Supervisor,
    name: &'static str,
    until: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let until = until.clone();
    supervisor.spawn(name, async move {
        tokio::select! {
            // Both are cancel-safe.
            () = until.cancelled() => {}
            () = task => {}
        }
    });
}

fn context(
    config: &Config,
    identity: &Identity,
    addresses: &Arc<Addresses>,
    access: Access,
    buffers: &Arc<Buffers>,
    metrics: &Arc<Metrics>,
    store: &Store,
) -> Context {
    let menu = Menu::new(config.relay.enabled);
    let answer = Answer::new(identity, &menu, &addresses.told(), clock::unix_nanos());
    metrics.relay.set_serving(config.relay.enabled);
    metrics.connections.set_max(config.connections.max);
    metrics
        .listener
        .set_upgrading_max(config.connections.transient_max);
    let connections = Connections::new(Marks::new(&config.connections), clock::now());
    let relay = Relay {
        identity: identity.clone(),
        access: Arc::new(access),
        addresses: Arc::clone(addresses),
        reservations: Reservations::new(
            config,
            Arc::clone(&connections),
            Arc::clone(&metrics.relay),
        ),
        circuits: Circuits::new(
            config,
            Arc::clone(&connections),
            Arc::clone(&metrics.circuits),
        )
        .with_buffers(Arc::clone(buffers)),
        reserve_metrics: Arc::clone(&metrics.relay),
        connect_metrics: Arc::clone(&metrics.circuits),
    };
    Context::new(
        menu,
        answer,
        relay,
        connections,
        peers::open(&config.peerstore, metrics, store),
        Arc::clone(metrics),
        StreamLimits::new(config),
    )
}

/// Who announces which address, if the operator has a file that tells.
///
/// # Errors
/// The line about `connections.asn_database` when it cannot be used.
pub(super) fn open_asn_database(loaded: &Loaded) -> Result<Option<AsnDatabase>, ConfigError> {
    let path = &loaded.config.connections.asn_database;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let opened = AsnDatabase::open(path);
    opened
        .map(Some)
        .map_err(|error| loaded.refuse("connections.asn_database", &error))
}

fn upgrade_context(
    config: &Config,
    identity: &Identity,
    private: Option<PrivateKey>,
    certificates: Option<&Arc<Certificates>>,
) -> anyhow::Result<UpgradeContext> {
    let listen = &config.listen;
    let mut context = UpgradeContext::offering(identity, &listen.security, &listen.muxers)
        .context("cannot prepare the handshake")?;
    context.timeout = config.connections.upgrade_timeout;
    context.private = private;
    context.secure = certificates.map(|certificates| certificates.server_config());
    Ok(context)
}

async fn bind_admin(
    loaded: &Loaded,
    token: Option<String>,
    context: &Context,
    health: &Arc<Health>,
    rulebook: &Arc<Rulebook>,
) -> anyhow::Result<Option<(SocketAddr, AdminServer)>> {
    let Some(address) = loaded.config.admin.address else {
        return Ok(None);
    };
    if token.is_none() && address.ip().to_canonical().is_loopback() {
        tracing::info!(%address, "any account on this host may change rules, as admin.token_file is empty");
    }
    let state = AdminState {
        metrics: Arc::clone(&context.metrics),
        addresses: Arc::clone(&context.relay.addresses),
        health: Arc::clone(health),
        rulebook: Arc::clone(rulebook),
    };
    let server = AdminServer::bind(address, state, token)
        .await
        .map_err(|error| loaded.refuse("admin.address", &error))?;
    Ok(Some((server.address(), server)))
}

fn warn_about(listeners: &Listeners, udp: &UdpListeners) {
    for error in listeners.unavailable().iter().chain(udp.unavailable()) {
        tracing::warn!("{error}");
    }
    for address in udp.alone() {
        tracing::warn!(%address, "a UDP socket of the service manager serves one worker (runtime.workers): without it each gets a socket");
    }
    for address in listeners.unused() {
        tracing::warn!(%address, "a socket of the service manager is not in listen.addresses and stays unused");
    }
}
