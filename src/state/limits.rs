//! Admission: who may open a socket, decided before any crypto is done for it.
//!
//! Owns the totals (all, and those not yet authenticated) and, for each remote
//! host and network, the count and the rate of new sockets. Everything has a
//! cap, the tables of hosts and networks too, so no number of addresses makes
//! this grow. Time is an argument. What to do with a refused socket is the
//! listener's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use self::groups::{GroupPermit, GroupRefusal, GroupTable};
use super::striped::{Capacity, Permit};
use crate::config::ConnectionsConfig;
use crate::engine::token_bucket::Rate;

pub use self::origin::{HostKey, Origin, PrefixKey};

mod groups;
mod origin;

/// Places in each table beyond one for every connection there may be.
///
/// A group without connections is kept until its bucket is full again, 250 ms
/// after a single connection at the default rate, so this many addresses would
/// have to come and go within that time before strangers share a bucket.
const TABLE_SLACK: usize = 16_384;

/// The limits that decide whether a socket may stay.
#[derive(Debug)]
pub struct Limits {
    draining: AtomicBool,
    total: Arc<Capacity>,
    transient: Arc<Capacity>,
    hosts: Arc<GroupTable<HostKey>>,
    prefixes: Arc<GroupTable<PrefixKey>>,
}

/// Why a socket was not admitted: the limit that fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// `connections.max`.
    #[error("too many connections")]
    Total,
    /// `connections.transient_max`.
    #[error("too many sockets that have not authenticated")]
    Transient,
    /// `connections.per_ip_max`.
    #[error("too many connections from this address")]
    PerIp,
    /// `connections.per_prefix_max`.
    #[error("too many connections from this network")]
    PerPrefix,
    /// `connections.rate_per_ip`.
    #[error("too many new connections from this address")]
    RatePerIp,
    /// `connections.rate_per_prefix`.
    #[error("too many new connections from this network")]
    RatePerPrefix,
    /// The server is about to stop.
    #[error("shutting down")]
    Draining,
}

/// The right to a socket that has not authenticated: counts in the total, as
/// transient, and for its host and network, until dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts nothing"]
pub struct SocketPermit {
    _transient: Permit,
    connection: ConnectionPermit,
}

/// The right to a connection: counts in the total and for its host and
/// network, until dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts nothing"]
pub struct ConnectionPermit {
    _total: Permit,
    /// `None` for loopback, to which no limit by address applies.
    _origin: Option<OriginPermit>,
}

#[derive(Debug)]
struct OriginPermit {
    _host: GroupPermit<HostKey>,
    _prefix: GroupPermit<PrefixKey>,
}

/// What is taken of each limit, for gauges. Not a snapshot: the numbers are
/// read one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Sockets and connections together.
    pub total: Level,
    /// Sockets that have not authenticated.
    pub transient: Level,
    /// Hosts in the table, with or without connections.
    pub hosts: Level,
    /// Networks in the table, with or without connections.
    pub prefixes: Level,
    /// Connections of hosts that came when the table was full.
    pub hosts_overflow: usize,
    /// Connections of networks that came when the table was full.
    pub prefixes_overflow: usize,
}

/// How much of a cap is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Units taken.
    pub taken: usize,
    /// The cap.
    pub max: usize,
}

impl Limits {
    /// Limits as configured, with nothing taken.
    #[must_use]
    pub fn new(config: &ConnectionsConfig) -> Arc<Self> {
        let places = config.max.saturating_add(TABLE_SLACK);
        let burst = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        Arc::new(Self {
            draining: AtomicBool::new(false),
            total: Capacity::new(config.max),
            transient: Capacity::new(config.transient_max),
            hosts: GroupTable::new(
                places,
                config.per_ip_max,
                Rate::new(config.rate_per_ip, burst(config.burst_per_ip)),
            ),
            prefixes: GroupTable::new(
                places,
                config.per_prefix_max,
                Rate::new(config.rate_per_prefix, burst(config.burst_per_prefix)),
            ),
        })
    }

    /// Decides about a socket that was just accepted.
    ///
    /// A refused socket costs nobody a token.
    ///
    /// # Errors
    ///
    /// The first limit that is met: total, transient, network, host.
    pub fn admit(
        self: &Arc<Self>,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<SocketPermit, Refusal> {
        self.admit_as(Origin::of(remote.ip()), now)
    }

    /// Decides about a socket from an address that the operator trusts: only
    /// the totals apply.
    ///
    /// # Errors
    ///
    /// The total that is met.
    pub fn admit_uncapped(self: &Arc<Self>, now: Instant) -> Result<SocketPermit, Refusal> {
        self.admit_as(None, now)
    }

    fn admit_as(
        self: &Arc<Self>,
        origin: Option<Origin>,
        now: Instant,
    ) -> Result<SocketPermit, Refusal> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::Draining);
        }
        let total = self.total.try_reserve().ok_or(Refusal::Total)?;
        let transient = self.transient.try_reserve().ok_or(Refusal::Transient)?;
        let origin = origin
            .map(|origin| self.admit_origin(origin, now))
            .transpose()?;
        Ok(SocketPermit {
            _transient: transient,
            connection: ConnectionPermit {
                _total: total,
                _origin: origin,
            },
        })
    }

    /// Refuses everything from now on; what was admitted stays.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Forgets hosts and networks that have no connection and a full bucket.
    ///
    /// Admission does the same piecemeal; a timer that calls this, say, every
    /// ten seconds keeps the gauges honest when nobody new comes.
    pub fn sweep(&self, now: Instant) {
        self.hosts.sweep(now);
        self.prefixes.sweep(now);
    }

    /// What is taken of each limit.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let level = |capacity: &Capacity| Level {
            taken: capacity.taken(),
            max: capacity.max(),
        };
        Usage {
            total: level(&self.total),
            transient: level(&self.transient),
            hosts: level(self.hosts.places()),
            prefixes: level(self.prefixes.places()),
            hosts_overflow: self.hosts.overflowed(),
            prefixes_overflow: self.prefixes.overflowed(),
        }
    }

    /// The network goes first, so that hosts out of one network whose limit is
    /// reached do not fill the table of hosts; what it gave is returned when
    /// the host is refused, so that one loud host does not use up its
    /// neighbours' share.
    fn admit_origin(&self, origin: Origin, now: Instant) -> Result<OriginPermit, Refusal> {
        let prefix =
            self.prefixes
                .acquire(origin.prefix, now)
                .map_err(|refusal| match refusal {
                    GroupRefusal::Count => Refusal::PerPrefix,
                    GroupRefusal::Rate => Refusal::RatePerPrefix,
                })?;
        match self.hosts.acquire(origin.host, now) {
            Ok(host) => Ok(OriginPermit {
                _host: host,
                _prefix: prefix,
            }),
            Err(refusal) => {
                prefix.undo();
                Err(match refusal {
                    GroupRefusal::Count => Refusal::PerIp,
                    GroupRefusal::Rate => Refusal::RatePerIp,
                })
            }
        }
    }
}

impl Refusal {
    /// Every refusal, for registering one series per label.
    pub const ALL: [Self; 7] = [
        Self::Total,
        Self::Transient,
        Self::PerIp,
        Self::PerPrefix,
        Self::RatePerIp,
        Self::RatePerPrefix,
        Self::Draining,
    ];

    /// Name for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Transient => "transient",
            Self::PerIp => "per_ip",
            Self::PerPrefix => "per_prefix",
            Self::RatePerIp => "rate_per_ip",
            Self::RatePerPrefix => "rate_per_prefix",
            Self::Draining => "draining",
        }
    }
}

impl SocketPermit {
    /// The peer has shown who it is: its transient place goes to the next.
    pub fn authenticated(self) -> ConnectionPermit {
        self.connection
    }
}

#[cfg(test)]
mod tests;
