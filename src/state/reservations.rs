//! Who may be reached through the relay: reservations, their expiry and their
//! limits.
//!
//! A peer has at most one; asking again renews it and counts nothing twice. It
//! ends at its expiry, or when the peer's last direct connection goes. Bounds:
//! in total, by address and by network (loopback excepted), each counted by a
//! permit that the reservation holds; and how often a peer may ask, since an
//! answer is a signature.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p_identity::PeerId;

use crate::{
    config::Config,
    metrics::{RelayMetrics, ReservationGuard},
    state::{
        access::Standing,
        connections::{ConnectionId, Connections, Reason, Tag},
        limits::{HostKey, Origin, PeerRates, PrefixKey, TableUsage},
        striped::{Capacity, KeyPermit, KeyedCounts, Permit, StripedMap},
    },
};

/// Which limit refused a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReservationRefusal {
    /// `relay.reservations_max`
    #[error("all reservations are taken (relay.reservations_max)")]
    Total,
    /// `relay.reservations_per_ip_max`
    #[error("the address has all its reservations (relay.reservations_per_ip_max)")]
    PerIp,
    /// `relay.reservations_per_prefix_max`
    #[error("the network has all its reservations (relay.reservations_per_prefix_max)")]
    PerPrefix,
    /// `relay.reserve_rate_per_peer`
    #[error("the peer asks too often (relay.reserve_rate_per_peer)")]
    Rate,
}

impl ReservationRefusal {
    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::PerIp => "per_ip",
            Self::PerPrefix => "per_prefix",
            Self::Rate => "rate_per_peer",
        }
    }
}

/// Whether a request made a new reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// The peer had none.
    New,
    /// The peer's reservation goes on.
    Renewed,
}

struct Reservation {
    expires: Instant,
    address: IpAddr,
    /// The newest connection that asked for it.
    connection: ConnectionId,
    permits: Permits,
}

struct Permits {
    _total: Permit,
    _host: Option<KeyPermit<HostKey>>,
    _network: Option<KeyPermit<PrefixKey>>,
    guard: ReservationGuard,
}

/// The reservations by peer.
pub struct Reservations {
    peers: StripedMap<PeerId, Reservation>,
    total: Arc<Capacity>,
    hosts: Arc<KeyedCounts<HostKey>>,
    networks: Arc<KeyedCounts<PrefixKey>>,
    per_ip_max: usize,
    per_prefix_max: usize,
    ttl: Duration,
    connections: Arc<Connections>,
    rates: PeerRates,
    metrics: Arc<RelayMetrics>,
}

impl Reservations {
    /// No reservation yet; limits as configured.
    #[must_use]
    pub fn new(config: &Config, connections: Arc<Connections>, metrics: Arc<RelayMetrics>) -> Self {
        let connections_max = config.connections.max;
        let config = &config.relay;
        metrics.set_max(config.reservations_max);
        Self {
            peers: StripedMap::new(),
            total: Capacity::new(config.reservations_max),
            hosts: KeyedCounts::new(),
            networks: KeyedCounts::new(),
            per_ip_max: config.reservations_per_ip_max,
            per_prefix_max: config.reservations_per_prefix_max,
            ttl: config.reservation_ttl,
            connections,
            rates: PeerRates::new(
                config.reserve_rate_per_peer,
                config.reserve_burst_per_peer,
                connections_max,
            ),
            metrics,
        }
    }

    /// How long a reservation lasts if it is not renewed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Reserves or renews.
    ///
    /// A renewal from another address keeps counting where the reservation
    /// was made: moving is not a way around the limits, nor a way to lose a
    /// place one has. Whom the operator trusts counts in the total only.
    ///
    /// # Errors
    /// [`ReservationRefusal`] names the limit; what the peer had stays.
    pub fn reserve(
        &self,
        peer: PeerId,
        address: IpAddr,
        connection: ConnectionId,
        standing: Standing,
        now: Instant,
    ) -> Result<Granted, ReservationRefusal> {
        if !standing.uncapped {
            let asked = self.rates.take(&peer, now);
            asked.map_err(|_| ReservationRefusal::Rate)?;
        }
        let expires = now + self.ttl;
        let renewed = self.peers.with(&peer, |reservation| match reservation {
            Some(reservation) => {
                reservation.expires = expires;
                reservation.connection = reservation.connection.max(connection);
                true
            }
            None => false,
        });
        if renewed {
            self.metrics.reservation_renewed();
            self.connections.credit(&peer, Tag::Reserved, now);
            return Ok(Granted::Renewed);
        }
        // Permits are taken outside the stripe's lock; if two connections of
        // one peer reserve at once, the later one's permits are given back.
        let permits = self.permits(address, standing)?;
        // As long as it is in the table, or will be in a moment, it protects.
        self.connections.protect(peer, Reason::Reservation);
        self.connections.credit(&peer, Tag::Reserved, now);
        let previous = self.peers.insert(
            peer,
            Reservation {
                expires,
                address,
                connection,
                permits,
            },
        );
        if previous.is_some() {
            self.connections.unprotect(&peer, Reason::Reservation);
        }
        drop(previous);
        Ok(Granted::New)
    }

    /// Whether the peer can be reached: a reservation that has not expired.
    #[must_use]
    pub fn holds(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.with(peer, |reservation| {
            reservation.is_some_and(|reservation| reservation.expires > now)
        })
    }

    /// The peer has left, and this is the newest connection it may have had. A
    /// reservation that was made since, over a newer one, stays.
    pub fn release(&self, peer: &PeerId, last: ConnectionId) {
        let released = self
            .peers
            .remove_if(peer, |reservation| reservation.connection <= last);
        if released.is_some() {
            self.connections.unprotect(peer, Reason::Reservation);
        }
        drop(released);
    }

    /// Takes out what has expired in one stripe. Called for each in turn, so
    /// that one call holds one lock for as long as that stripe takes.
    pub fn sweep(&self, stripe: usize, now: Instant) {
        let mut expired = Vec::new();
        self.peers
            .for_each_in(stripe % self.peers.stripe_count(), |peer, reservation| {
                if reservation.expires <= now {
                    expired.push(*peer);
                }
            });
        for peer in expired {
            let removed = self
                .peers
                .remove_if(&peer, |reservation| reservation.expires <= now);
            if let Some(reservation) = removed {
                tracing::debug!(%peer, address = %reservation.address, "reservation expired");
                reservation.permits.guard.expired();
                self.connections.unprotect(&peer, Reason::Reservation);
            }
        }
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

    /// Number of stripes to sweep.
    #[must_use]
    pub fn stripes(&self) -> usize {
        self.peers.stripe_count()
    }

    /// Reservations held, expired ones included until they are swept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.total.taken()
    }

    /// Most reservations at once.
    #[must_use]
    pub fn max(&self) -> usize {
        self.total.max()
    }

    /// Whether nothing is counted any more, in total or for any address.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.total.taken() == 0 && self.hosts.is_empty() && self.networks.is_empty()
    }

    fn permits(&self, address: IpAddr, standing: Standing) -> Result<Permits, ReservationRefusal> {
        let total = self.total.try_reserve().ok_or(ReservationRefusal::Total)?;
        let (host, network) = match Origin::of(address).filter(|_| !standing.uncapped) {
            None => (None, None),
            Some(origin) => {
                let host = self
                    .hosts
                    .try_acquire(origin.host, self.per_ip_max)
                    .map_err(|_| ReservationRefusal::PerIp)?;
                let network = self
                    .networks
                    .try_acquire(origin.prefix, self.per_prefix_max)
                    .map_err(|_| ReservationRefusal::PerPrefix)?;
                (Some(host), Some(network))
            }
        };
        Ok(Permits {
            _total: total,
            _host: host,
            _network: network,
            guard: self.metrics.reservation_opened(),
        })
    }
}
