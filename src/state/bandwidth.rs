//! Bytes a second: of all circuits together, of each peer, of each circuit.
//!
//! Owns the rates and how far each is used up. Nothing is dropped or delayed in
//! here: a charge tells when it is paid for, and whoever charges withholds the
//! sender's credit until then. A meter is one atomic, so workers never wait for
//! each other. Bounds the meters of peers by their circuits: one that no circuit
//! uses is kept until it is paid for, so that a new circuit is no fresh start.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p_identity::PeerId;

use crate::{clock, config::RelayConfig, state::striped::StripedMap};

/// Time for which an unused rate is saved up: what may pass at once after a
/// pause is the rate times this.
const BURST: Duration = Duration::from_secs(1);

const BURST_NANOS: u64 = BURST.as_secs() * NANOS_PER_SECOND;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Which rate a charge has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shaped {
    /// `relay.bandwidth_max`
    Total,
    /// `relay.bandwidth_per_peer_max`
    PerPeer,
    /// `relay.bandwidth_per_circuit_max`
    PerCircuit,
}

impl Shaped {
    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::PerPeer => "per_peer",
            Self::PerCircuit => "per_circuit",
        }
    }
}

/// When a charge is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Credit for the charged bytes is to be withheld until then.
    pub at: Instant,
    /// The rate that takes longest.
    pub by: Shaped,
}

/// How far one rate is used up (the generic cell rate algorithm, with debt:
/// what has been carried is charged whether or not there is room).
#[derive(Debug)]
struct Meter {
    per_second: NonZeroU64,
    started: Instant,
    /// Nanoseconds after the start at which nothing is owed any more.
    clear_at: AtomicU64,
}

impl Meter {
    fn new(per_second: NonZeroU64, now: Instant) -> Self {
        Self {
            per_second,
            started: now,
            clear_at: AtomicU64::new(0),
        }
    }

    /// Charges `bytes`; they are paid for at the returned time, which may have
    /// passed.
    fn charge(&self, bytes: usize, now: Instant) -> Instant {
        let now = self.nanos(now);
        let cost = (bytes as u64).saturating_mul(NANOS_PER_SECOND) / self.per_second;
        let charged = |clear_at: u64| clear_at.max(now).saturating_add(cost);
        let before = self
            .clear_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |clear_at| {
                Some(charged(clear_at))
            });
        let clear_at = match before {
            Ok(before) | Err(before) => charged(before),
        };
        let wait = Duration::from_nanos(clear_at.saturating_sub(BURST_NANOS));
        self.started.checked_add(wait).unwrap_or(self.started)
    }

    /// Whether it is as good as a new one.
    fn is_clear(&self, now: Instant) -> bool {
        self.clear_at.load(Ordering::Relaxed) <= self.nanos(now)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

/// The configured rates. Hands each circuit what it is charged against.
#[derive(Debug)]
pub struct Bandwidth {
    total: Option<Arc<Meter>>,
    peers: Option<Arc<PeerMeters>>,
    per_circuit: Option<NonZeroU64>,
}

impl Bandwidth {
    /// Rates as configured, with nothing charged.
    #[must_use]
    pub fn new(config: &RelayConfig) -> Self {
        let rate = |bytes: Option<u64>| bytes.and_then(NonZeroU64::new);
        let now = clock::now();
        Self {
            total: rate(config.bandwidth_max).map(|rate| Arc::new(Meter::new(rate, now))),
            peers: rate(config.bandwidth_per_peer_max).map(|per_second| {
                Arc::new(PeerMeters {
                    per_second,
                    meters: StripedMap::new(),
                })
            }),
            per_circuit: rate(config.bandwidth_per_circuit_max),
        }
    }

    /// What a circuit between these peers is charged against; `None` if
    /// nothing limits it.
    #[must_use]
    pub fn pace(&self, source: PeerId, destination: PeerId, now: Instant) -> Option<Pace> {
        if self.total.is_none() && self.peers.is_none() && self.per_circuit.is_none() {
            return None;
        }
        let of_peer = |peer| {
            let peers = self.peers.as_ref()?;
            Some(peers.join(peer, now))
        };
        Some(Pace {
            total: self.total.clone(),
            source: of_peer(source),
            destination: of_peer(destination),
            circuit: self.per_circuit.map(|rate| Meter::new(rate, now)),
        })
    }

    /// Forgets the meters of peers that have no circuit and owe nothing.
    pub fn sweep(&self, now: Instant) {
        if let Some(peers) = &self.peers {
            peers
                .meters
                .retain(|_, entry| entry.circuits > 0 || !entry.meter.is_clear(now));
        }
    }

    /// Peers that have a meter.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.as_ref().map_or(0, |peers| peers.meters.len())
    }
}

#[derive(Debug)]
struct PeerMeters {
    per_second: NonZeroU64,
    meters: StripedMap<PeerId, PeerEntry>,
}

#[derive(Debug)]
struct PeerEntry {
    meter: Arc<Meter>,
    circuits: usize,
}

impl PeerMeters {
    fn join(self: &Arc<Self>, peer: PeerId, now: Instant) -> PeerMeter {
        let meter = self.meters.update(peer, |entry| {
            let entry = entry.get_or_insert_with(|| PeerEntry {
                meter: Arc::new(Meter::new(self.per_second, now)),
                circuits: 0,
            });
            entry.circuits += 1;
            Arc::clone(&entry.meter)
        });
        PeerMeter {
            peers: Arc::clone(self),
            peer,
            meter,
        }
    }
}

/// A circuit's use of its peer's meter.
#[derive(Debug)]
struct PeerMeter {
    peers: Arc<PeerMeters>,
    peer: PeerId,
    meter: Arc<Meter>,
}

impl Drop for PeerMeter {
    fn drop(&mut self) {
        let now = clock::now();
        self.peers.meters.remove_if(&self.peer, |entry| {
            entry.circuits -= 1;
            entry.circuits == 0 && entry.meter.is_clear(now)
        });
    }
}

/// What one circuit is charged against.
#[derive(Debug)]
pub struct Pace {
    total: Option<Arc<Meter>>,
    source: Option<PeerMeter>,
    destination: Option<PeerMeter>,
    circuit: Option<Meter>,
}

impl Pace {
    /// Charges bytes that one end has sent to the other, whichever: a rate is
    /// about both directions together. `None` if they are paid for at once.
    #[must_use]
    pub fn charge(&self, bytes: usize, now: Instant) -> Option<Due> {
        let peer = |meter: &Option<PeerMeter>| Some(meter.as_ref()?.meter.charge(bytes, now));
        let charges = [
            (
                Shaped::Total,
                self.total.as_ref().map(|meter| meter.charge(bytes, now)),
            ),
            (Shaped::PerPeer, peer(&self.source)),
            (Shaped::PerPeer, peer(&self.destination)),
            (
                Shaped::PerCircuit,
                self.circuit.as_ref().map(|meter| meter.charge(bytes, now)),
            ),
        ];
        charges
            .into_iter()
            .filter_map(|(by, at)| Some(Due { at: at?, by }))
            .filter(|due| due.at > now)
            .max_by_key(|due| due.at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;

    fn bandwidth(total: u64, per_peer: u64, per_circuit: u64) -> Bandwidth {
        let rate = |kib| (kib > 0).then_some(kib * KIB);
        Bandwidth::new(&RelayConfig {
            bandwidth_max: rate(total),
            bandwidth_per_peer_max: rate(per_peer),
            bandwidth_per_circuit_max: rate(per_circuit),
            ..RelayConfig::default()
        })
    }

    fn wait(pace: &Pace, kib: usize, now: Instant) -> Duration {
        pace.charge(kib * 1024, now)
            .map_or(Duration::ZERO, |due| due.at - now)
    }

    #[test]
    fn nothing_is_charged_where_no_rate_is_set() {
        let free = bandwidth(0, 0, 0);
        assert!(
            free.pace(PeerId::random(), PeerId::random(), clock::now())
                .is_none()
        );
    }

    #[test]
    fn a_second_is_saved_up_and_then_the_rate_holds() {
        let now = clock::now();
        let bandwidth = bandwidth(0, 0, 64);
        let pace = bandwidth
            .pace(PeerId::random(), PeerId::random(), now)
            .expect("shaped");
        assert_eq!(wait(&pace, 64, now), Duration::ZERO);
        assert_eq!(wait(&pace, 64, now), Duration::from_secs(1));
        assert_eq!(wait(&pace, 128, now), Duration::from_secs(3));
        let later = now + Duration::from_secs(60);
        assert_eq!(wait(&pace, 64, later), Duration::ZERO);
        assert_eq!(wait(&pace, 32, later), Duration::from_millis(500));
    }

    #[test]
    fn circuits_of_one_peer_share_its_rate_and_all_share_the_total() {
        let bandwidth = bandwidth(128, 64, 0);
        let now = clock::now();
        let (a, b, c, d) = (
            PeerId::random(),
            PeerId::random(),
            PeerId::random(),
            PeerId::random(),
        );
        let pace = |source, destination| bandwidth.pace(source, destination, now).expect("shaped");
        let (ab, ca) = (pace(a, b), pace(c, a));
        assert_eq!(wait(&ab, 64, now), Duration::ZERO);
        let due = ca.charge(32 * 1024, now).expect("a has used up its rate");
        assert_eq!(
            (due.by, due.at - now),
            (Shaped::PerPeer, Duration::from_millis(500))
        );
        let cd = pace(d, PeerId::random());
        let due = cd.charge(64 * 1024, now).expect("the total is used up");
        assert_eq!(
            (due.by, due.at - now),
            (Shaped::Total, Duration::from_millis(250))
        );
    }

    #[test]
    fn a_new_circuit_is_no_fresh_start_and_a_paid_meter_is_forgotten() {
        let now = clock::now();
        let bandwidth = bandwidth(0, 64, 0);
        let (a, b) = (PeerId::random(), PeerId::random());
        for round in 1..=3_u32 {
            let pace = bandwidth.pace(a, b, now).expect("shaped");
            assert_eq!(
                wait(&pace, 64, now),
                Duration::from_secs((round - 1).into())
            );
        }
        assert_eq!(bandwidth.peers(), 2);
        bandwidth.sweep(now + Duration::from_millis(2999));
        assert_eq!(bandwidth.peers(), 2);
        bandwidth.sweep(now + Duration::from_secs(3));
        assert_eq!(bandwidth.peers(), 0);
    }

    proptest! {
        /// Whoever waits until each charge is due never gets more than the
        /// rate and the burst.
        #[test]
        fn what_is_paid_for_keeps_to_the_rate(
            charges in prop::collection::vec((1_usize..300_000, 0_u64..3_000), 1..100),
        ) {
            let start = clock::now();
            let bandwidth = bandwidth(0, 0, 64);
            let pace = bandwidth.pace(PeerId::random(), PeerId::random(), start).expect("shaped");
            let (mut now, mut carried) = (start, 0_u64);
            for (bytes, pause) in charges {
                now += Duration::from_millis(pause);
                carried += bytes as u64;
                if let Some(due) = pace.charge(bytes, now) {
                    now = due.at;
                }
                let elapsed = (now - start + BURST).as_secs_f64();
                // A nanosecond of rounding for each charge.
                prop_assert!(carried as f64 <= elapsed * 64.0 * 1024.0 + 1.0);
            }
        }
    }
}
