//! The running server: what is started, in which order, and what it is made
//! of.

use std::{net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::Context as _;
use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{AdminServer, AdminState, Health, Phase},
    clock,
    config::{AccessLists, Config, Loaded},
    connection::Context,
    identity::Identity,
    listener::{Inherited, Listeners},
    metrics::Metrics,
    service::{Menu, hop::Relay, identify::Answer},
    state::{
        access::{Access, rulebook::Rulebook},
        addresses::Addresses,
        circuits::Circuits,
        limits::Limits,
        reservations::Reservations,
    },
    store::Store,
    upgrade::UpgradeContext,
};

use super::{access, shutdown, store, supervisor::Supervisor, worker};

/// Descriptors that are not connections: listening sockets, the admin server,
/// the runtimes' own, standard streams, files being read.
const DESCRIPTORS_RESERVED: u64 = 256;

/// What the files that the configuration names hold.
pub(super) struct Files {
    pub(super) lists: AccessLists,
    pub(super) token: Option<String>,
}

/// A server that has its sockets and its workers.
pub(super) struct Server {
    identity: Identity,
    addresses: Vec<Multiaddr>,
    admin: Option<(SocketAddr, AdminServer)>,
    health: Arc<Health>,
    rulebook: Arc<Rulebook>,
    shared: worker::Shared,
    workers: Vec<JoinHandle<()>>,
    drain_timeout: Duration,
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
        raise_descriptor_limit(config);
        let count = worker_count(config);
        let listeners = Listeners::bind(&config.listen.addresses, count, Inherited::from_env())
            .map_err(|error| loaded.refuse("listen.addresses", &error))?;
        warn_about(&listeners);
        let bound: Vec<Multiaddr> = listeners.addresses().collect();
        let addresses = Addresses::new(
            &config.announce.addresses,
            &expand(&bound),
            identity.peer_id(),
        );
        let metrics = Metrics::new();
        let access = Access::new(config, &files.lists, &metrics.access);
        let store = store::open(loaded, &metrics)?;
        let health = Health::new(count, clock::now());
        let listed = addresses.all();
        let shared = worker::Shared {
            context: Arc::new(context(config, &identity, addresses, access, &metrics)),
            upgrade: Arc::new(upgrade_context(config, &identity)?),
            limits: Limits::new(&config.connections),
            accepting: CancellationToken::new(),
            running: CancellationToken::new(),
        };
        let rulebook = access::rulebook(loaded, &shared.context, &store)?;
        let admin = bind_admin(loaded, files.token, &metrics, &health, &rulebook).await?;
        observe(&metrics, &shared, &store);
        let workers = listeners
            .into_workers()
            .into_iter()
            .enumerate()
            .map(|(index, sockets)| {
                worker::start(index, sockets, health.heartbeat(index), shared.clone())
            })
            .collect::<Result<_, _>>()
            .context("cannot start a worker")?;
        health.set_phase(Phase::Serving);
        Ok(Self {
            identity,
            addresses: listed,
            admin,
            health,
            rulebook,
            shared,
            workers,
            drain_timeout: config.shutdown.drain_timeout,
        })
    }

    /// Who we are.
    pub(super) fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// The addresses to hand out, each ending in our peer id.
    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        self.addresses.clone()
    }

    /// Where the admin server listens.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(address, _)| *address)
    }

    /// Serves until a signal, then shuts down in phases.
    ///
    /// # Errors
    /// If signals cannot be listened for.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut signals = shutdown::Signals::listen().context("cannot listen for signals")?;
        let supervisor = Supervisor::default();
        let admin_running = CancellationToken::new();
        if let Some((_, admin)) = self.admin {
            supervisor.spawn("admin", admin.serve(admin_running.clone()));
        }
        let housekeeping = housekeeping(self.shared.clone(), Arc::clone(&self.health));
        let until = CancellationToken::new();
        let rules = access::tend_rules(self.rulebook);
        let background = until.clone();
        supervisor.spawn("housekeeping", async move {
            tokio::select! {
                // Cancel-safe: each round is complete in itself.
                () = background.cancelled() => {}
                () = housekeeping => {}
            }
        });
        let background = until.clone();
        supervisor.spawn("rules", async move {
            tokio::select! {
                // Cancel-safe: a round that has begun is ended by its thread.
                () = background.cancelled() => {}
                () = rules => {}
            }
        });
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
        Ok(())
    }
}

fn context(
    config: &Config,
    identity: &Identity,
    addresses: Addresses,
    access: Access,
    metrics: &Arc<Metrics>,
) -> Context {
    let menu = Menu::new(config.relay.enabled);
    let answer = Answer::new(identity, &menu, &addresses);
    metrics.relay.set_serving(config.relay.enabled);
    metrics.connections.set_max(config.connections.max);
    metrics
        .listener
        .set_upgrading_max(config.connections.transient_max);
    let relay = Relay {
        identity: identity.clone(),
        access: Arc::new(access),
        addresses,
        reservations: Reservations::new(&config.relay, Arc::clone(&metrics.relay)),
        circuits: Circuits::new(&config.relay, Arc::clone(&metrics.circuits)),
        reserve_metrics: Arc::clone(&metrics.relay),
        connect_metrics: Arc::clone(&metrics.circuits),
    };
    Context::new(
        menu,
        answer,
        relay,
        Arc::clone(metrics),
        config.connections.streams_max,
    )
}

fn upgrade_context(config: &Config, identity: &Identity) -> anyhow::Result<UpgradeContext> {
    let mut context = UpgradeContext::new(identity, &config.listen.muxers)
        .context("cannot prepare the handshake")?;
    context.timeout = config.connections.upgrade_timeout;
    Ok(context)
}

async fn bind_admin(
    loaded: &Loaded,
    token: Option<String>,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    rulebook: &Arc<Rulebook>,
) -> anyhow::Result<Option<(SocketAddr, AdminServer)>> {
    let Some(address) = loaded.config.admin.address else {
        return Ok(None);
    };
    let state = AdminState {
        metrics: Arc::clone(metrics),
        health: Arc::clone(health),
        rulebook: Arc::clone(rulebook),
    };
    let server = AdminServer::bind(address, state, token)
        .await
        .map_err(|error| loaded.refuse("admin.address", &error))?;
    Ok(Some((server.address(), server)))
}

/// Has the sizes of tables read when somebody asks for them.
fn observe(metrics: &Arc<Metrics>, shared: &worker::Shared, store: &Arc<Store>) {
    let store = Arc::clone(store);
    let (context, limits) = (Arc::downgrade(&shared.context), Arc::clone(&shared.limits));
    metrics.before_scrape(move |metrics| {
        let usage = limits.usage();
        metrics
            .listener
            .set_origins_tracked(usage.hosts.taken, usage.prefixes.taken);
        metrics
            .listener
            .set_origins_overflowed(usage.hosts_overflow as u64, usage.prefixes_overflow as u64);
        metrics.store.set_file_bytes(store.file_bytes());
        if let Some(context) = context.upgrade() {
            context.relay.access.observe();
            let (protocols, agents) = context.peers.interned();
            metrics.identify.set_interned(protocols, agents);
        }
    });
}

/// Sweeps expired reservations, a stripe a second, and keeps the service
/// manager's watchdog at rest while every worker lives.
async fn housekeeping(shared: worker::Shared, health: Arc<Health>) {
    let reservations = &shared.context.relay.reservations;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watchdog = sd_notify::watchdog_enabled().is_some();
    let mut stripe = 0;
    loop {
        ticks.tick().await;
        let now = clock::now();
        reservations.sweep(stripe, now);
        stripe = (stripe + 1) % reservations.stripes();
        shared.limits.sweep(now);
        if watchdog && health.stalled(now).is_empty() {
            shutdown::notify_alive();
        }
    }
}

fn worker_count(config: &Config) -> usize {
    match config.runtime.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

fn warn_about(listeners: &Listeners) {
    for error in listeners.unavailable() {
        tracing::warn!("{error}");
    }
    for address in listeners.unused() {
        tracing::warn!(%address, "a socket of the service manager is not in listen.addresses and stays unused");
    }
}

/// Each connection takes a descriptor; the usual soft limit is 1024.
fn raise_descriptor_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("cannot raise the limit on open descriptors");
    }
    let needed = config.connections.max as u64 + DESCRIPTORS_RESERVED;
    match getrlimit(Resource::Nofile).current {
        Some(current) if current < needed => tracing::warn!(
            descriptors = current,
            needed,
            "connections.max is above what the limit on open descriptors allows"
        ),
        Some(_) | None => {}
    }
}

/// Replaces unspecified addresses by those of this host's interfaces.
fn expand(bound: &[Multiaddr]) -> Vec<Multiaddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list this host's addresses; set announce.addresses");
        Vec::new()
    });
    let mut expanded = Vec::new();
    for address in bound {
        let unspecified = match address.iter().next() {
            Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
            Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
            _ => false,
        };
        if !unspecified {
            expanded.push(address.clone());
            continue;
        }
        let is_v4 = matches!(address.iter().next(), Some(Protocol::Ip4(_)));
        expanded.extend(
            interfaces
                .iter()
                .map(if_addrs::Interface::ip)
                .filter(|ip| ip.is_ipv4() == is_v4)
                .map(|ip| {
                    let rest = address.iter().skip(1);
                    std::iter::once(Protocol::from(ip)).chain(rest).collect()
                }),
        );
    }
    expanded
}
