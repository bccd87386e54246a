//! Streams over all connections: in total, by protocol, and by protocol and
//! peer.
//!
//! A stream holds a permit from its opening to its end. What it runs is
//! counted from the moment a protocol is agreed on until it ends; for hop only
//! until it is answered, since a limit on hop must not be a hidden limit on
//! circuits, which have limits of their own. Streams that are opened for circuits (stop) are
//! bounded by circuits as well. Peers leave some of the total to us, so that
//! theirs cannot keep us from asking them who they are and from offering them
//! circuits.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use libp2p_identity::PeerId;

use super::super::striped::{Capacity, KeyPermit, KeyedCounts, Permit};
use super::Level;
use crate::config::{Config, StreamsConfig};

/// Streams of one connection that may run nothing at a time, because no
/// protocol is agreed on yet or because all is said. Peers name theirs with the
/// first bytes and end it when they are answered, so few are on their way.
const IDLE_MAX: usize = 32;

/// One in so many of `streams.max` is kept for streams that we open.
const OURS: usize = 8;

/// A protocol that peers open streams for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `streams.ping_max`
    Ping,
    /// `streams.identify_max`
    Identify,
    /// `streams.push_max`
    Push,
    /// `streams.hop_max`
    Hop,
}

/// Which limit refused a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamRefusal {
    /// `connections.streams_max`
    #[error("too many streams of this connection (connections.streams_max)")]
    Connection,
    /// More than a peer needs that run nothing.
    #[error("too many streams of this connection that run no protocol")]
    Idle,
    /// `streams.max`
    #[error("too many streams (streams.max)")]
    Total,
    /// `connections.buffers_max`
    #[error("the memory for buffers is taken (connections.buffers_max)")]
    Memory,
    /// The total of a protocol.
    #[error("too many streams of this protocol (streams.{}_max)", .0.name())]
    Protocol(Protocol),
    /// A protocol's streams of one peer.
    #[error("too many streams of this peer (streams.{}_per_peer_max)", .0.name())]
    Peer(Protocol),
    /// More pushes than a peer has news.
    #[error("too many identify pushes of this connection")]
    PushRate,
}

/// The limits on streams, and what is taken of them.
#[derive(Debug)]
pub struct StreamLimits {
    total: Arc<Capacity>,
    /// Those of them that peers open.
    theirs: Arc<Capacity>,
    protocols: [ProtocolLimit; 4],
    per_connection_max: usize,
    /// Peer and protocol in 64 bits under a random key.
    peers: Arc<KeyedCounts<u64>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct ProtocolLimit {
    total: Arc<Capacity>,
    per_peer_max: usize,
}

/// One stream, counted until it is dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts nothing"]
pub struct StreamPermit {
    _total: Permit,
    /// For a stream that a peer opened.
    _theirs: Option<Permit>,
    protocol: Option<ProtocolPermit>,
}

#[derive(Debug)]
struct ProtocolPermit {
    _total: Permit,
    _peer: KeyPermit<u64>,
}

impl StreamLimits {
    /// Limits as configured, with nothing taken.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        let StreamsConfig {
            max,
            ping_max,
            ping_per_peer_max,
            identify_max,
            identify_per_peer_max,
            push_max,
            push_per_peer_max,
            hop_max,
            hop_per_peer_max,
        } = config.streams;
        let limit = |max, per_peer_max| ProtocolLimit {
            total: Capacity::new(max),
            per_peer_max,
        };
        Arc::new(Self {
            total: Capacity::new(max),
            theirs: Capacity::new(max - max / OURS),
            // In the order of `Protocol::ALL`.
            protocols: [
                limit(ping_max, ping_per_peer_max),
                limit(identify_max, identify_per_peer_max),
                limit(push_max, push_per_peer_max),
                limit(hop_max, hop_per_peer_max),
            ],
            per_connection_max: config.connections.streams_max,
            peers: KeyedCounts::new(),
            hasher: RandomState::new(),
        })
    }

    /// Counts a stream that a peer opens on a connection where it has `open`
    /// already, of which `idle` run nothing.
    ///
    /// # Errors
    /// The limit that is met.
    pub fn accept(&self, open: usize, idle: usize) -> Result<StreamPermit, StreamRefusal> {
        if open >= self.per_connection_max {
            return Err(StreamRefusal::Connection);
        }
        if idle >= IDLE_MAX {
            return Err(StreamRefusal::Idle);
        }
        let theirs = self.theirs.try_reserve().ok_or(StreamRefusal::Total)?;
        Ok(StreamPermit {
            _theirs: Some(theirs),
            ..self.open()?
        })
    }

    /// Counts a stream that we open.
    ///
    /// # Errors
    /// [`StreamRefusal::Total`].
    pub fn open(&self) -> Result<StreamPermit, StreamRefusal> {
        Ok(StreamPermit {
            _total: self.total.try_reserve().ok_or(StreamRefusal::Total)?,
            _theirs: None,
            protocol: None,
        })
    }

    /// Counts what the stream of `permit` runs from now on.
    ///
    /// # Errors
    /// The limit that is met; the stream then counts in total only.
    pub fn agreed(
        &self,
        permit: &mut StreamPermit,
        protocol: Protocol,
        peer: &PeerId,
    ) -> Result<(), StreamRefusal> {
        permit.protocol = None;
        let limit = &self.protocols[protocol as usize];
        let total = limit.total.try_reserve();
        let total = total.ok_or(StreamRefusal::Protocol(protocol))?;
        let key = self.hasher.hash_one((peer, protocol));
        let peer = self
            .peers
            .try_acquire(key, limit.per_peer_max)
            .map_err(|_| StreamRefusal::Peer(protocol))?;
        permit.protocol = Some(ProtocolPermit {
            _total: total,
            _peer: peer,
        });
        Ok(())
    }

    /// Streams open, in total and then by protocol as in [`Protocol::ALL`].
    #[must_use]
    pub fn usage(&self) -> [Level; 5] {
        let [ping, identify, push, hop] = &self.protocols;
        [
            &self.total,
            &ping.total,
            &identify.total,
            &push.total,
            &hop.total,
        ]
        .map(|capacity| Level::of(capacity))
    }

    /// Whether nothing is counted any more, in total or for any peer.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.usage().iter().all(|level| level.taken == 0) && self.peers.is_empty()
    }
}

impl StreamPermit {
    /// The stream's request has been answered, or has become a circuit: from
    /// now on it counts in total only.
    pub fn protocol_done(&mut self) {
        self.protocol = None;
    }
}

impl Protocol {
    /// Every protocol, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Ping, Self::Identify, Self::Push, Self::Hop];

    const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Identify => "identify",
            Self::Push => "push",
            Self::Hop => "hop",
        }
    }
}

impl StreamRefusal {
    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connection => "per_connection",
            Self::Idle => "idle",
            Self::Total => "total",
            Self::Memory => "memory",
            Self::Protocol(Protocol::Ping) => "ping",
            Self::Protocol(Protocol::Identify) => "identify",
            Self::Protocol(Protocol::Push) => "push",
            Self::Protocol(Protocol::Hop) => "hop",
            Self::Peer(Protocol::Ping) => "ping_per_peer",
            Self::Peer(Protocol::Identify) => "identify_per_peer",
            Self::Peer(Protocol::Push) => "push_per_peer",
            Self::Peer(Protocol::Hop) => "hop_per_peer",
            Self::PushRate => "push_rate",
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut Config)) -> Arc<StreamLimits> {
        let mut config = Config::default();
        change(&mut config);
        StreamLimits::new(&config)
    }

    #[test]
    fn each_limit_refuses_by_its_own_name_and_a_drop_makes_room() {
        let limits = limits(|config| {
            config.streams.max = 4;
            config.streams.hop_max = 2;
            config.streams.ping_per_peer_max = 1;
            config.connections.streams_max = 3;
        });
        let [one, two, three] = [PeerId::random(), PeerId::random(), PeerId::random()];
        assert_eq!(limits.accept(3, 0).err(), Some(StreamRefusal::Connection));
        let mut first = limits.accept(0, 0).unwrap();
        let mut second = limits.accept(1, 0).unwrap();
        let mut third = limits.accept(2, 0).unwrap();
        let fourth = limits.open().unwrap();
        assert_eq!(limits.accept(0, 0).err(), Some(StreamRefusal::Total));
        drop(fourth);

        limits.agreed(&mut first, Protocol::Hop, &one).unwrap();
        limits.agreed(&mut second, Protocol::Hop, &two).unwrap();
        let full = Err(StreamRefusal::Protocol(Protocol::Hop));
        assert_eq!(limits.agreed(&mut third, Protocol::Hop, &three), full);
        first.protocol_done();
        limits.agreed(&mut third, Protocol::Hop, &three).unwrap();

        limits.agreed(&mut first, Protocol::Ping, &one).unwrap();
        let often = Err(StreamRefusal::Peer(Protocol::Ping));
        assert_eq!(limits.agreed(&mut second, Protocol::Ping, &one), often);
        limits.agreed(&mut second, Protocol::Ping, &two).unwrap();

        assert_eq!(limits.usage().map(|level| level.taken), [3, 2, 0, 0, 1]);
        drop((first, second, third));
        assert!(limits.is_clear());
    }

    #[test]
    fn peers_leave_streams_to_us_and_do_not_open_all_of_theirs_at_once() {
        let limits = limits(|config| config.streams.max = 16);
        let theirs: Vec<_> = (0..14).map(|_| limits.accept(0, 0).unwrap()).collect();
        assert_eq!(limits.accept(0, 0).err(), Some(StreamRefusal::Total));
        let ours = [limits.open().unwrap(), limits.open().unwrap()];
        assert_eq!(limits.open().err(), Some(StreamRefusal::Total));
        drop((theirs, ours));
        assert!(limits.is_clear());
        let silent = limits.accept(200, IDLE_MAX);
        assert_eq!(silent.err(), Some(StreamRefusal::Idle));
        drop(limits.accept(200, IDLE_MAX - 1).unwrap());
        assert!(limits.is_clear());
    }

    #[test]
    fn the_words_name_the_key() {
        let refusal = StreamRefusal::Peer(Protocol::Push);
        assert!(refusal.to_string().ends_with("(streams.push_per_peer_max)"));
        let refusal = StreamRefusal::Protocol(Protocol::Identify);
        assert!(refusal.to_string().ends_with("(streams.identify_max)"));
    }
}
