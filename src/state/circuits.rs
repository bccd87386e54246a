//! The circuits that run: their permits, their limits and how they ended.
//!
//! A [`Circuit`] is held by the tables of both connections that it joins and
//! by whoever is setting it up; when the last of them lets go, its permits
//! return. Bounds: circuits in total, and for each peer as source and as
//! target; how often a peer may ask for one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use crate::{
    clock,
    config::Config,
    metrics::{CircuitGuard, CircuitMetrics},
    state::{
        access::Standing,
        bandwidth::{Bandwidth, Due, Pace},
        connections::{Connections, Reason, Tag},
        limits::{Buffers, PeerRates, TableUsage},
        striped::{Capacity, KeyPermit, KeyedCounts, Permit},
    },
    wire::relay::Limit,
};

pub use refusal::CircuitRefusal;

mod refusal;

/// One circuit, for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CircuitId(u64);

/// Why a circuit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// Both directions were finished.
    Finished,
    /// One direction carried all that it may.
    ByteLimit,
    /// It was open for as long as it may be.
    DurationLimit,
    /// The source reset its stream.
    SourceReset,
    /// The target reset its stream.
    DestinationReset,
    /// The source's connection ended.
    SourceClosed,
    /// The target's connection ended.
    DestinationClosed,
    /// A side without flow control sent more than the other one takes.
    Stalled,
    /// Its bytes would have had to wait, and the memory for that was taken.
    Memory,
    /// The server stopped.
    Shutdown,
}

impl EndCause {
    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ByteLimit => "byte_limit",
            Self::DurationLimit => "duration_limit",
            Self::SourceReset => "source_reset",
            Self::DestinationReset => "destination_reset",
            Self::SourceClosed => "source_closed",
            Self::DestinationClosed => "destination_closed",
            Self::Stalled => "stalled",
            Self::Memory => "memory",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Hands out circuits.
pub struct Circuits {
    total: Arc<Capacity>,
    sources: Arc<KeyedCounts<PeerId>>,
    destinations: Arc<KeyedCounts<PeerId>>,
    per_peer_max: usize,
    /// For a target that is trusted: what its connection bears.
    borne_max: usize,
    duration_max: Option<Duration>,
    bytes_max: Option<u64>,
    connections: Arc<Connections>,
    bandwidth: Bandwidth,
    metrics: Arc<CircuitMetrics>,
    rates: PeerRates,
    buffers: Arc<Buffers>,
    next: AtomicU64,
}

impl Circuits {
    /// No circuit yet; limits as configured.
    #[must_use]
    pub fn new(
        config: &Config,
        connections: Arc<Connections>,
        metrics: Arc<CircuitMetrics>,
    ) -> Self {
        let connections_max = config.connections.max;
        let borne_max = config.circuits_borne();
        let config = &config.relay;
        metrics.set_max(config.circuits_max);
        metrics.set_rates([
            config.bandwidth_max,
            config.bandwidth_per_peer_max,
            config.bandwidth_per_circuit_max,
        ]);
        Self {
            total: Capacity::new(config.circuits_max),
            sources: KeyedCounts::new(),
            destinations: KeyedCounts::new(),
            per_peer_max: config.circuits_per_peer_max,
            borne_max,
            duration_max: config.circuit_duration_max,
            bytes_max: config.circuit_bytes_max,
            connections,
            bandwidth: Bandwidth::new(config),
            metrics,
            rates: PeerRates::new(
                config.connect_rate_per_peer,
                config.connect_burst_per_peer,
                connections_max,
            ),
            buffers: Buffers::new(None),
            next: AtomicU64::new(0),
        }
    }

    /// Refuses circuits also while this account is full.
    #[must_use]
    pub fn with_buffers(self, buffers: Arc<Buffers>) -> Self {
        Self { buffers, ..self }
    }

    /// Takes the permits for a circuit. What the operator's trust in an end
    /// lifts is lifted: the count of a source, that of a target up to what its
    /// connection bears, and for the circuit as a whole the limits on bytes and
    /// time.
    ///
    /// # Errors
    /// [`CircuitRefusal`] names the limit; nothing is held then.
    pub fn open(
        &self,
        source: PeerId,
        destination: PeerId,
        standings: [Standing; 2],
        now: Instant,
    ) -> Result<Arc<Circuit>, CircuitRefusal> {
        if self.buffers.is_full() {
            return Err(CircuitRefusal::Memory);
        }
        let most = |standing: Standing, trusted| {
            if standing.uncapped {
                trusted
            } else {
                self.per_peer_max
            }
        };
        let source_max = most(standings[0], usize::MAX);
        // Peers end a connection on which we open too many streams.
        let destination_max = most(standings[1], self.borne_max);
        self.bandwidth
            .admits(&source, &destination, now)
            .map_err(CircuitRefusal::Bandwidth)?;
        let unlimited = standings.iter().any(|standing| standing.unlimited);
        let total = self.total.try_reserve().ok_or(CircuitRefusal::Total)?;
        let source_permit = self
            .sources
            .try_acquire(source, source_max)
            .map_err(|_| CircuitRefusal::Source)?;
        let destination_permit = self
            .destinations
            .try_acquire(destination, destination_max)
            .map_err(|_| CircuitRefusal::Destination)?;
        // Taken back when the circuit is dropped.
        for peer in [source, destination] {
            self.connections.protect(peer, Reason::Circuit);
        }
        Ok(Arc::new(Circuit {
            id: CircuitId(self.next.fetch_add(1, Ordering::Relaxed)),
            bytes_max: self.bytes_max.filter(|_| !unlimited),
            duration_max: self.duration_max.filter(|_| !unlimited),
            connections: Arc::clone(&self.connections),
            pace: self.bandwidth.pace(source, destination, now),
            metrics: Arc::clone(&self.metrics),
            running: Mutex::new(None),
            permits: Permits {
                _total: total,
                source: source_permit,
                destination: destination_permit,
            },
        }))
    }

    /// What circuits may carry in a second.
    #[must_use]
    pub fn bandwidth(&self) -> &Bandwidth {
        &self.bandwidth
    }

    /// Counts a request for a circuit, whatever becomes of it.
    ///
    /// # Errors
    /// [`CircuitRefusal::Rate`]
    pub fn asked(&self, source: &PeerId, now: Instant) -> Result<(), CircuitRefusal> {
        let asked = self.rates.take(source, now);
        asked.map_err(|_| CircuitRefusal::Rate)
    }

    /// Forgets the rates of peers that have not asked lately.
    pub fn sweep_rates(&self, now: Instant) {
        self.rates.sweep(now);
    }

    /// Peers whose rate of requests is kept track of.
    #[must_use]
    pub fn rates_usage(&self) -> TableUsage {
        self.rates.usage()
    }

    /// The limit as peers of this standing are told it; absent if there is
    /// none.
    #[must_use]
    pub fn limit(&self, standing: Standing) -> Option<Limit> {
        if standing.unlimited {
            return None;
        }
        wire_limit(self.duration_max, self.bytes_max)
    }

    /// Circuits that hold a permit, being set up or running.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.total.taken()
    }

    /// Most circuits at once.
    #[must_use]
    pub fn max(&self) -> usize {
        self.total.max()
    }

    /// Whether nothing is counted any more, in total or for any peer.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.total.taken() == 0 && self.sources.is_empty() && self.destinations.is_empty()
    }
}

struct Permits {
    _total: Permit,
    source: KeyPermit<PeerId>,
    destination: KeyPermit<PeerId>,
}

/// A circuit between two peers.
pub struct Circuit {
    id: CircuitId,
    bytes_max: Option<u64>,
    duration_max: Option<Duration>,
    connections: Arc<Connections>,
    pace: Option<Pace>,
    metrics: Arc<CircuitMetrics>,
    /// Counts it as open from the moment that both ends are there.
    running: Mutex<Option<CircuitGuard>>,
    permits: Permits,
}

impl Circuit {
    /// Which circuit this is.
    #[must_use]
    pub fn id(&self) -> CircuitId {
        self.id
    }

    /// The peer that asked for it.
    #[must_use]
    pub fn source(&self) -> &PeerId {
        self.permits.source.key()
    }

    /// The peer that was asked for.
    #[must_use]
    pub fn destination(&self) -> &PeerId {
        self.permits.destination.key()
    }

    /// Bytes that each direction may carry.
    #[must_use]
    pub fn bytes_max(&self) -> Option<u64> {
        self.bytes_max
    }

    /// Whether its bytes are charged against a rate.
    #[must_use]
    pub fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// Charges bytes that were carried; `None` if they are paid for at once.
    #[inline]
    #[must_use]
    pub fn charge(&self, bytes: usize, now: Instant) -> Option<Due> {
        self.pace.as_ref()?.charge(bytes, now)
    }

    /// When it has to end if it starts now.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.duration_max.and_then(|limit| now.checked_add(limit))
    }

    /// The limit as peers are told it.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        wire_limit(self.duration_max, self.bytes_max)
    }

    /// Both ends are there.
    pub fn started(&self) {
        let now = clock::now();
        *self.running.lock() = Some(self.metrics.opened(now));
        for peer in [self.source(), self.destination()] {
            self.connections.credit(peer, Tag::Relayed, now);
        }
    }

    /// Tells why it ends; the first cause told is the one that is counted.
    pub fn ended(&self, cause: EndCause) {
        if let Some(running) = self.running.lock().as_mut() {
            running.ending(cause.label());
        }
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        for peer in [self.source(), self.destination()] {
            self.connections.unprotect(peer, Reason::Circuit);
        }
    }
}

/// Circuit relay v2, "Limit": absent or zero means unlimited.
fn wire_limit(duration: Option<Duration>, bytes: Option<u64>) -> Option<Limit> {
    if duration.is_none() && bytes.is_none() {
        return None;
    }
    Some(Limit {
        duration_seconds: duration.map_or(0, |limit| {
            // Less than a second is told as a second: zero would be no limit.
            u32::try_from(limit.as_secs().max(1)).unwrap_or(u32::MAX)
        }),
        data_bytes: bytes.unwrap_or(0),
    })
}
