//! Admission: who may open a socket, decided before any crypto is done for it,
//! and who may stay once it has shown who it is.
//!
//! Owns the totals (all, and those not yet authenticated), the connections of
//! each peer and, for each remote host, site, network and autonomous system,
//! the count and the rate of new sockets. Everything has a cap, the tables
//! too, so no number of addresses makes this grow. Time is an argument. What to
//! do with a refused socket is the listener's. Beside it stand the limits that
//! others ask: streams, memory in buffers, rates by peer.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use libp2p_identity::PeerId;

use self::origins::{OriginPermit, Origins};
use super::striped::{Capacity, KeyPermit, KeyedCounts, Permit};
use crate::config::ConnectionsConfig;

pub use self::asn::{AsnDatabase, AsnError};
pub use self::buffers::Buffers;
pub use self::origin::{HostKey, Origin, PrefixKey, SiteKey};
pub use self::origins::TableUsage;
pub use self::rates::{PeerRates, TooOften};
pub use self::refusal::Refusal;
pub use self::streams::{Protocol, StreamLimits, StreamPermit, StreamRefusal};

mod asn;
mod buffers;
mod groups;
mod origin;
mod origins;
mod rates;
mod refusal;
mod streams;

/// The limits that decide whether a socket may stay.
#[derive(Debug)]
pub struct Limits {
    draining: AtomicBool,
    total: Arc<Capacity>,
    /// Those of the total that take a descriptor each.
    sockets: Arc<Capacity>,
    transient: Arc<Capacity>,
    origins: Origins,
    /// By 64 bits of the peer id under a random key: half the memory of the id,
    /// and of a million peers hardly two share a count.
    peers: Arc<KeyedCounts<u64>>,
    per_peer_max: usize,
    hasher: RandomState,
}

/// The right to a socket that has not authenticated: counts in the total, as
/// transient, and for where it comes from, until dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts nothing"]
pub struct SocketPermit {
    limits: Arc<Limits>,
    total: Permit,
    socket: Option<Permit>,
    _transient: Permit,
    origin: Option<OriginPermit>,
}

/// The right to a connection: counts in the total, for its peer and for where
/// it comes from, until dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts nothing"]
pub struct ConnectionPermit {
    _total: Permit,
    _socket: Option<Permit>,
    _peer: KeyPermit<u64>,
    /// `None` for loopback and exempt addresses, to which no limit by address
    /// applies.
    _origin: Option<OriginPermit>,
}

/// What is taken of each limit, for gauges. Not a snapshot: the numbers are
/// read one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Sockets and connections together.
    pub total: Level,
    /// Those of them that take a descriptor each.
    pub sockets: Level,
    /// Sockets that have not authenticated.
    pub transient: Level,
    /// Peers that have connections.
    pub peers: usize,
    /// Hosts, as far as they are kept track of.
    pub hosts: TableUsage,
    /// IPv6 sites.
    pub sites: TableUsage,
    /// Networks.
    pub prefixes: TableUsage,
    /// Autonomous systems.
    pub systems: TableUsage,
}

/// How much of a cap is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Units taken.
    pub taken: usize,
    /// The cap.
    pub max: usize,
}

impl Level {
    pub(super) fn of(capacity: &Capacity) -> Self {
        Self {
            taken: capacity.taken(),
            max: capacity.max(),
        }
    }
}

impl Limits {
    /// Limits as configured but for autonomous systems, with nothing taken.
    #[must_use]
    pub fn new(config: &ConnectionsConfig) -> Arc<Self> {
        Self::with_systems(config, None)
    }

    /// Limits as configured; those by autonomous system need to be told who
    /// announces what.
    #[must_use]
    pub fn with_systems(config: &ConnectionsConfig, systems: Option<AsnDatabase>) -> Arc<Self> {
        Arc::new(Self {
            draining: AtomicBool::new(false),
            total: Capacity::new(config.max),
            sockets: Capacity::new(config.sockets_max),
            transient: Capacity::new(config.transient_max),
            origins: Origins::new(config, systems),
            peers: KeyedCounts::new(),
            per_peer_max: config.per_peer_max,
            hasher: RandomState::new(),
        })
    }

    /// Decides about a socket that was just accepted, and that takes a descriptor
    /// as long as it is open.
    ///
    /// A refused socket costs nobody a token. An `exempt` one is not counted by
    /// where it comes from; the totals hold for everybody.
    ///
    /// # Errors
    ///
    /// The first limit that is met: total, sockets, transient, autonomous system,
    /// network, site, host.
    pub fn admit(
        self: &Arc<Self>,
        remote: SocketAddr,
        exempt: bool,
        now: Instant,
    ) -> Result<SocketPermit, Refusal> {
        let mut permit = self.admit_unplaced()?;
        permit.origin = self.origin(remote, exempt, now)?;
        Ok(permit)
    }

    /// As [`Self::admit`], for a connection that shares its socket with others
    /// (QUIC).
    ///
    /// # Errors
    ///
    /// The first limit that is met: total, transient, autonomous system,
    /// network, site, host.
    pub fn admit_shared(
        self: &Arc<Self>,
        remote: SocketAddr,
        exempt: bool,
        now: Instant,
    ) -> Result<SocketPermit, Refusal> {
        let mut permit = self.enter(None)?;
        permit.origin = self.origin(remote, exempt, now)?;
        Ok(permit)
    }

    /// Decides about a socket of which is not known yet where it comes from: it
    /// counts in the totals only, until [`SocketPermit::place`].
    ///
    /// # Errors
    ///
    /// The first limit that is met: total, sockets, transient.
    pub fn admit_unplaced(self: &Arc<Self>) -> Result<SocketPermit, Refusal> {
        self.enter(Some(&self.sockets))
    }

    fn enter(self: &Arc<Self>, sockets: Option<&Arc<Capacity>>) -> Result<SocketPermit, Refusal> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::Draining);
        }
        let total = self.total.try_reserve().ok_or(Refusal::Total)?;
        let socket = sockets
            .map(|sockets| sockets.try_reserve().ok_or(Refusal::Sockets))
            .transpose()?;
        let transient = self.transient.try_reserve().ok_or(Refusal::Transient)?;
        Ok(SocketPermit {
            limits: Arc::clone(self),
            total,
            socket,
            _transient: transient,
            origin: None,
        })
    }

    /// As [`Self::admit_shared`], for a sender whose address may be forged: it
    /// counts in the totals only, until [`SocketPermit::place`].
    ///
    /// # Errors
    ///
    /// The first limit that is met: total, transient.
    pub fn admit_shared_unplaced(self: &Arc<Self>) -> Result<SocketPermit, Refusal> {
        self.enter(None)
    }

    /// Whether a socket from there would be admitted by where it comes from.
    /// Counts nothing.
    pub fn would_place(&self, remote: SocketAddr, exempt: bool, now: Instant) -> bool {
        match self.origin(remote, exempt, now) {
            Ok(permit) => {
                permit.into_iter().for_each(OriginPermit::undo);
                true
            }
            Err(_) => false,
        }
    }

    /// Sockets that have not authenticated.
    #[must_use]
    pub fn transient(&self) -> Level {
        Level::of(&self.transient)
    }

    fn origin(
        &self,
        remote: SocketAddr,
        exempt: bool,
        now: Instant,
    ) -> Result<Option<OriginPermit>, Refusal> {
        Origin::of(remote.ip())
            .filter(|_| !exempt)
            .map(|origin| self.origins.admit(origin, remote.ip(), now))
            .transpose()
    }

    /// Refuses everything from now on; what was admitted stays.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Forgets origins that have no connection and a full bucket.
    ///
    /// Admission does the same piecemeal; a timer that calls this, say, every
    /// ten seconds keeps the gauges honest when nobody new comes.
    pub fn sweep(&self, now: Instant) {
        self.origins.sweep(now);
    }

    /// What is taken of each limit.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let [hosts, sites, prefixes, systems] = self.origins.usage();
        Usage {
            total: Level::of(&self.total),
            sockets: Level::of(&self.sockets),
            transient: Level::of(&self.transient),
            peers: self.peers.len(),
            hosts,
            sites,
            prefixes,
            systems,
        }
    }
}

impl SocketPermit {
    /// Has the socket count for where it comes from, as [`Limits::admit`] does,
    /// once that is known.
    ///
    /// # Errors
    ///
    /// The first limit by address that is met; the socket counts nowhere then.
    pub fn place(
        mut self,
        remote: SocketAddr,
        exempt: bool,
        now: Instant,
    ) -> Result<Self, Refusal> {
        self.origin = self.limits.origin(remote, exempt, now)?;
        Ok(self)
    }

    /// The peer has shown who it is: its transient place goes to the next. An
    /// `exempt` peer is counted, and not refused.
    ///
    /// # Errors
    /// [`Refusal::PerPeer`]: the peer has all its connections.
    pub fn authenticated(self, peer: &PeerId, exempt: bool) -> Result<ConnectionPermit, Refusal> {
        let Self {
            limits,
            total,
            socket,
            origin,
            ..
        } = self;
        let key = limits.hasher.hash_one(peer);
        let peer = limits
            .peers
            .try_acquire(
                key,
                if exempt {
                    usize::MAX
                } else {
                    limits.per_peer_max
                },
            )
            .map_err(|_| Refusal::PerPeer)?;
        Ok(ConnectionPermit {
            _total: total,
            _socket: socket,
            _peer: peer,
            _origin: origin,
        })
    }
}

#[cfg(test)]
mod tests;
