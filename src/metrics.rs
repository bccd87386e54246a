//! What the server tells its operator in numbers: one struct per layer.
//!
//! A layer's struct declares its series with name, help and closed label sets
//! side by side; the layer holds the struct and touches only atomics. Gauges
//! that go up and down live in guards, so that no path forgets the way down.
//! Series are bounded by the product of closed label sets: nothing a peer sends
//! becomes a label. This module knows no other layer; callers translate.

mod access;
mod allocator;
mod certificates;
mod circuits;
mod connections;
mod declare;
mod egress;
mod identify;
mod labels;
mod limits;
mod listener;
mod locks;
mod muxers;
mod peerstore;
mod pools;
mod process;
mod pulled;
mod quic;
mod reference;
mod relay;
mod sharded;
mod store;
mod streams;
mod trimming;
mod upgrade;

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::{Registry, TextEncoder};

pub use access::AccessMetrics;
pub use certificates::CertificateMetrics;
pub use circuits::{CircuitGuard, CircuitMetrics};
pub use connections::{ConnectionGuard, ConnectionMetrics};
pub use declare::Counters;
pub use egress::EgressMetrics;
pub use identify::IdentifyMetrics;
pub use labels::{ConnectionLabels, Direction, IpVersion, Muxer, Security, Service, Transport};
pub use limits::LimitMetrics;
pub use listener::{ListenerMetrics, SocketGuard};
pub use locks::lock_waited;
pub use muxers::MuxerMetrics;
pub use peerstore::PeerstoreMetrics;
pub use pools::PoolMetrics;
pub use quic::{LingerGuard, QuicMetrics};
pub use relay::{RelayMetrics, ReservationGuard};
pub use sharded::{ShardedCounter, ShardedGauge, ShardedHistogram};
pub use store::StoreMetrics;
pub use streams::{StreamGuard, StreamMetrics};
pub use trimming::TrimMetrics;
pub use upgrade::{UpgradeMetrics, UpgradeTimer};

use declare::{Declarations, Declared};

/// `Content-Type` of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Every series of the process, with the registry that a scrape walks.
///
/// Each layer is shared on its own, so that a guard holds the one layer it has
/// to tell when it drops.
pub struct Metrics {
    pub listener: Arc<ListenerMetrics>,
    pub limits: Arc<LimitMetrics>,
    pub upgrade: Arc<UpgradeMetrics>,
    pub connections: Arc<ConnectionMetrics>,
    pub trimming: Arc<TrimMetrics>,
    pub streams: Arc<StreamMetrics>,
    pub muxers: Arc<MuxerMetrics>,
    pub egress: Arc<EgressMetrics>,
    pub relay: Arc<RelayMetrics>,
    pub circuits: Arc<CircuitMetrics>,
    pub identify: Arc<IdentifyMetrics>,
    pub peerstore: Arc<PeerstoreMetrics>,
    pub pools: Arc<PoolMetrics>,
    pub quic: Arc<QuicMetrics>,
    pub store: Arc<StoreMetrics>,
    pub access: Arc<AccessMetrics>,
    pub certificates: Arc<CertificateMetrics>,
    registry: Registry,
    declared: Vec<Declared>,
    refresh: OnceLock<Refresh>,
}

/// What brings gauges up to date before a scrape.
type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

impl Metrics {
    /// Declares every series in a registry of its own.
    ///
    /// Two servers in one process (as in tests) do not share numbers, except
    /// for those of the process and its allocator.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut declare = Declarations::new();
        process::declare(&mut declare);
        allocator::declare(&mut declare);
        locks::declare(&mut declare);
        let (relay, circuits) = relay::declare(&mut declare);
        let listener = Arc::new(ListenerMetrics::new(&mut declare));
        let limits = Arc::new(LimitMetrics::new(&mut declare));
        let upgrade = Arc::new(UpgradeMetrics::new(&mut declare));
        let connections = Arc::new(ConnectionMetrics::new(&mut declare));
        let trimming = Arc::new(TrimMetrics::new(&mut declare));
        let streams = Arc::new(StreamMetrics::new(&mut declare));
        let muxers = Arc::new(MuxerMetrics::new(&mut declare));
        let egress = Arc::new(EgressMetrics::new(&mut declare));
        let identify = Arc::new(IdentifyMetrics::new(&mut declare));
        let peerstore = Arc::new(PeerstoreMetrics::new(&mut declare));
        let pools = Arc::new(PoolMetrics::new(&mut declare));
        let quic = Arc::new(QuicMetrics::new(&mut declare));
        let store = Arc::new(StoreMetrics::new(&mut declare));
        let access = Arc::new(AccessMetrics::new(&mut declare));
        let certificates = Arc::new(CertificateMetrics::new(&mut declare));
        let (registry, declared) = declare.finish();
        Arc::new(Self {
            listener,
            limits,
            upgrade,
            connections,
            trimming,
            streams,
            muxers,
            egress,
            relay,
            circuits,
            identify,
            peerstore,
            pools,
            quic,
            store,
            access,
            certificates,
            registry,
            declared,
            refresh: OnceLock::new(),
        })
    }

    /// Has `refresh` called before each scrape, to copy levels that their owner
    /// knows anyway (sizes of tables) into their gauges. Only the first call
    /// takes effect: there is one server to a set of metrics.
    pub fn before_scrape(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        let _already_set = self.refresh.set(Box::new(refresh));
    }

    /// The Prometheus text exposition of every series, as of now.
    #[must_use]
    pub fn render(&self) -> String {
        if let Some(refresh) = self.refresh.get() {
            refresh(self);
        }
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("the registry admits only well-formed families")
    }

    /// What is taken and what may be taken of the resources that decide whether
    /// this server can serve one more peer.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            connections: self.connections.usage(),
            reservations: self.relay.usage(),
            circuits: self.circuits.usage(),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("families", &self.declared.len())
            .finish_non_exhaustive()
    }
}

/// Taken and available amounts of the resources that cap the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    pub connections: Usage,
    pub reservations: Usage,
    pub circuits: Usage,
}

/// One capped resource. The two numbers are read one after the other, so under
/// load `used` may lag a change of `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    pub max: u64,
}

impl Usage {
    /// How many more fit.
    #[must_use]
    pub const fn free(self) -> u64 {
        self.max.saturating_sub(self.used)
    }

    fn of(used: &prometheus::IntGauge, max: &prometheus::IntGauge) -> Self {
        Self {
            used: u64::try_from(used.get()).unwrap_or(0),
            max: u64::try_from(max.get()).unwrap_or(0),
        }
    }
}

/// A count as a gauge takes it.
fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
