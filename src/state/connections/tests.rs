//! Counts that stay exact, and victims chosen as promised.

use std::{collections::HashMap, net::Ipv4Addr, thread, time::Duration};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::{
    clock,
    config::Config,
    metrics::{
        ConnectionGuard, ConnectionLabels, Direction, IpVersion, Metrics, Muxer, Security,
        Transport,
    },
    state::{
        access::Standing,
        circuits::{Circuit, Circuits},
        leg::{Effects, Gone, Leg, StreamKey, Untaken},
        limits::{ConnectionPermit, Limits},
        peerstore::{Announcement, Peerstore, Speaker},
        reservations::Reservations,
    },
};

/// A connection that only keeps what it is told.
#[derive(Default)]
struct Fake {
    told: Mutex<Vec<Ending>>,
}

impl Link for Fake {
    fn carry(&self, _: StreamKey, _: &[u8], _: &mut Effects) -> Result<(), Untaken> {
        Ok(())
    }

    fn grant(&self, _: StreamKey, _: u32, _: &mut Effects) {}

    fn join(&self, _: StreamKey, _: &[u8], _: Leg, _: &mut Effects) -> Result<(), Gone> {
        Ok(())
    }

    fn finish(&self, _: StreamKey, _: &mut Effects) {}

    fn reset(&self, _: StreamKey, _: u32, _: bool, _: &mut Effects) {}

    fn flush(&self, _: &mut Effects) {}

    fn deliver(&self, command: Command) -> Result<(), Command> {
        match command {
            Command::Close(ending) => {
                self.told.lock().push(ending);
                Ok(())
            }
            other => Err(other),
        }
    }
}

const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const GRACE: Duration = Duration::from_secs(60);
const MARKS: Marks = Marks {
    low: 80,
    high: 90,
    grace: GRACE,
};

/// A table with a time of its own.
struct Table {
    connections: Arc<Connections>,
    now: Instant,
}

impl Table {
    fn new() -> Self {
        let now = clock::now();
        Self {
            connections: Connections::new(MARKS, now),
            now,
        }
    }

    fn open(&self, peer: PeerId) -> (ConnectionId, Arc<Fake>) {
        let fake = Arc::new(Fake::default());
        let link = Arc::clone(&fake) as Arc<dyn Link>;
        let id = self.connections.register(peer, REMOTE, link, self.now);
        (id, fake)
    }

    fn past_grace(&mut self) {
        self.now += GRACE + Duration::from_secs(1);
    }

    fn snapshot(&self, reach: Class, listed: &[PeerId]) -> Snapshot {
        let mut snapshot = self.connections.snapshot(reach);
        for stripe in 0..self.connections.stripes() {
            let is_listed = |peer: &PeerId| listed.contains(peer);
            self.connections
                .collect(stripe, self.now, is_listed, &mut snapshot);
        }
        snapshot
    }

    /// The peers in the order in which they would go.
    fn order(&self, listed: &[PeerId]) -> Vec<PeerId> {
        let count = self.snapshot(Class::Listed, listed).len();
        let mut order = Vec::new();
        for first in 1..=count {
            let snapshot = self.snapshot(Class::Listed, listed);
            let chosen = snapshot.select(first);
            assert_eq!(chosen.len(), first);
            let new = chosen.iter().map(|candidate| candidate.peer);
            order.extend(new.filter(|peer| !order.contains(peer)).collect::<Vec<_>>());
        }
        order
    }
}

fn plan(close: usize, floor: usize, reach: Class) -> Plan {
    Plan {
        cause: Cause::HighWater,
        close,
        floor,
        reach,
    }
}

#[test]
fn an_ordinary_peer_takes_what_was_promised() {
    assert_eq!(size_of::<Peer>(), 96);
    // At the fullest and the emptiest a table gets while it grows: 8 of 7 and
    // 16 of 7 places to an entry, a byte of control each.
    let entry = size_of::<(PeerId, Peer)>() + 1;
    assert!(entry * 8 / 7 <= 250, "{entry}");
}

#[test]
fn connections_and_peers_are_counted_apart() {
    let table = Table::new();
    let (a, b) = (PeerId::random(), PeerId::random());
    let ids = [a, a, a, b].map(|peer| (peer, table.open(peer).0));
    let connections = &table.connections;
    assert_eq!((connections.open(), connections.peers()), (4, 2));
    for (index, (peer, id)) in ids.iter().enumerate() {
        let presence = connections.unregister(peer, *id);
        let last = index >= 2;
        assert_eq!(matches!(presence, Presence::Left(_)), last, "{index}");
        // A second time counts nothing.
        connections.unregister(peer, *id);
    }
    assert!(connections.is_clear());
}

#[test]
fn the_least_valuable_goes_first_and_of_equals_the_newest() {
    let mut table = Table::new();
    let [
        old,
        identified,
        relayed,
        was_relayed,
        reserved,
        circuit,
        both,
        listed,
    ] = std::array::from_fn(|_| PeerId::random());
    for peer in [
        old,
        identified,
        relayed,
        was_relayed,
        reserved,
        circuit,
        both,
        listed,
    ] {
        table.open(peer);
    }
    let connections = Arc::clone(&table.connections);
    connections.credit(&identified, Tag::Identified, table.now);
    connections.credit(&was_relayed, Tag::Relayed, table.now);
    table.now += Duration::from_secs(3600);
    let newer = PeerId::random();
    table.open(newer);
    table.past_grace();
    connections.credit(&relayed, Tag::Relayed, table.now);
    connections.protect(reserved, Reason::Reservation);
    connections.protect(circuit, Reason::Circuit);
    connections.protect(both, Reason::Reservation);
    connections.protect(both, Reason::Circuit);
    let fresh = PeerId::random();
    table.open(fresh);
    let order = [
        newer,
        old,
        was_relayed,
        identified,
        relayed,
        fresh,
        reserved,
        both,
        circuit,
        listed,
    ];
    assert_eq!(table.order(&[listed]), order);
    // Whoever may not be touched is not even copied.
    assert_eq!(table.snapshot(Class::Ordinary, &[listed]).len(), 5);
    assert_eq!(table.snapshot(Class::Relaying, &[listed]).len(), 9);
}

#[test]
fn what_has_changed_since_it_was_chosen_is_seen() {
    let mut table = Table::new();
    let peers: [PeerId; 4] = std::array::from_fn(|_| PeerId::random());
    let [stays, goes, leaves, told_before] = peers;
    let opened = peers.map(|peer| table.open(peer));
    table.past_grace();
    let victims = table.snapshot(Class::Ordinary, &[]).select(4);
    let connections = &table.connections;
    connections.protect(stays, Reason::Reservation);
    connections.unregister(&leaves, opened[2].0);
    connections.close_where(|peer, _| *peer == told_before, Ending::Denied);
    let plan = plan(4, 0, Class::Ordinary);
    for victim in &victims {
        let outcome = connections.dismiss(victim, &plan, Ending::Trimmed, table.now);
        let expected = if victim.peer == goes {
            Outcome::Told(Class::Ordinary)
        } else {
            Outcome::Spared
        };
        assert_eq!(outcome, expected);
    }
    let told = opened.each_ref().map(|(_, fake)| fake.told.lock().clone());
    assert_eq!(
        told,
        [vec![], vec![Ending::Trimmed], vec![], vec![Ending::Denied]]
    );
    assert_eq!((connections.open(), connections.staying()), (3, 1));
    // What has been told to end is no candidate, and is found last.
    assert!(table.snapshot(Class::New, &[]).is_empty());
    let (newer, _) = (table.open(goes), ());
    let found = connections.find(&goes).expect("connected");
    assert!(std::ptr::addr_eq(
        Arc::as_ptr(&found),
        Arc::as_ptr(&newer.1)
    ));
}

#[test]
fn the_floor_holds_whatever_the_plan_says() {
    let mut table = Table::new();
    for _ in 0..50 {
        table.open(PeerId::random());
    }
    table.past_grace();
    let plan = plan(50, 20, Class::Ordinary);
    let victims = table.snapshot(plan.reach, &[]).select(plan.close);
    let outcomes: Vec<_> = victims
        .iter()
        .map(|victim| {
            let connections = &table.connections;
            connections.dismiss(victim, &plan, Ending::Trimmed, table.now)
        })
        .collect();
    assert!(
        outcomes[..30]
            .iter()
            .all(|outcome| *outcome == Outcome::Told(Class::Ordinary))
    );
    assert!(
        outcomes[30..]
            .iter()
            .all(|outcome| *outcome == Outcome::Enough)
    );
    assert_eq!(table.connections.staying(), 20);
}

#[test]
fn a_grace_is_never_cut_short() {
    let mut table = Table::new();
    table.now += Duration::from_millis(190);
    table.open(PeerId::random());
    table.now += GRACE;
    assert!(table.snapshot(Class::Ordinary, &[]).is_empty());
    table.now += Duration::from_millis(200);
    assert_eq!(table.snapshot(Class::Ordinary, &[]).len(), 1);
}

#[test]
fn a_snapshot_takes_no_more_than_it_has_room_for() {
    let mut table = Table::new();
    table.open(PeerId::random());
    table.past_grace();
    let mut snapshot = table.connections.snapshot(Class::New);
    // All in one stripe.
    let peer = PeerId::random();
    for _ in 0..200 {
        table.open(peer);
    }
    for stripe in 0..table.connections.stripes() {
        table
            .connections
            .collect(stripe, table.now, |_| false, &mut snapshot);
    }
    assert!((60..100).contains(&snapshot.len()), "{}", snapshot.len());
}

#[tokio::test]
async fn crossing_high_water_asks_for_attention() {
    let table = Table::new();
    for _ in 0..89 {
        table.open(PeerId::random());
    }
    let asked = || {
        let attention = table.connections.attention();
        tokio::time::timeout(Duration::ZERO, attention)
    };
    assert!(asked().await.is_err());
    table.open(PeerId::random());
    assert!(asked().await.is_ok());
}

/// All that counts connections, and what one of them holds.
struct Everything {
    connections: Arc<Connections>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    reservations: Reservations,
    circuits: Circuits,
    peerstore: Peerstore,
}

struct Held {
    peer: PeerId,
    id: ConnectionId,
    _permit: ConnectionPermit,
    _guard: ConnectionGuard,
    circuit: Option<Arc<Circuit>>,
}

impl Everything {
    fn new() -> Self {
        let mut config = Config::default();
        config.connections.max = 600;
        config.relay.reservations_max = 40;
        let metrics = Metrics::new();
        let connections = Connections::new(Marks::new(&config.connections), clock::now());
        let table = || Arc::clone(&connections);
        Self {
            limits: Limits::new(&config.connections),
            reservations: Reservations::new(&config, table(), Arc::clone(&metrics.relay)),
            circuits: Circuits::new(&config, table(), Arc::clone(&metrics.circuits)),
            peerstore: Peerstore::new(
                &config.peerstore,
                Arc::clone(&metrics.peerstore),
                clock::now(),
            ),
            connections,
            metrics,
        }
    }

    fn open(&self, peer: PeerId) -> Option<Held> {
        let now = clock::now();
        let remote = ([127, 0, 0, 1], 1).into();
        let permit = self.limits.admit(remote, false, now).ok()?;
        // A peer with too many is refused here, and gives back what it took.
        let permit = permit.authenticated(&peer, false).ok()?;
        let labels = ConnectionLabels {
            direction: Direction::Inbound,
            transport: Transport::Tcp,
            security: Security::Noise,
            muxer: Muxer::Yamux,
            early_muxer: true,
            ip_version: IpVersion::V4,
        };
        let link = Arc::new(Fake::default()) as Arc<dyn Link>;
        let id = self.connections.register(peer, REMOTE, link, now);
        self.peerstore.connected(&peer, id, now);
        Some(Held {
            peer,
            id,
            _permit: permit,
            _guard: self.metrics.connections.opened(labels, now),
            circuit: None,
        })
    }

    /// What peers do while they are here.
    fn act(&self, held: &mut Held, target: PeerId, step: u32) {
        let now = clock::now();
        match step % 4 {
            0 => {
                let _ =
                    self.reservations
                        .reserve(held.peer, REMOTE, held.id, Standing::default(), now);
            }
            1 => {
                let speaker = Speaker {
                    peer: held.peer,
                    connection: held.id,
                    remote: (REMOTE, 1).into(),
                };
                let announcement = Announcement {
                    agent: Some("agent"),
                    protocols: None,
                    addresses: [&[4, 192, 0, 2, 1, 6, 0x0f, 0xa1][..]],
                    complete: true,
                    record: None,
                };
                self.peerstore.announced(&speaker, announcement, now);
            }
            2 => {
                held.circuit = self
                    .circuits
                    .open(held.peer, target, Default::default(), now)
                    .ok();
                if let Some(circuit) = &held.circuit {
                    circuit.started();
                }
            }
            _ => {
                self.connections
                    .close_where(|peer, _| *peer == held.peer, Ending::Denied);
            }
        }
    }

    /// As a connection ends.
    fn close(&self, held: Held) {
        if let Presence::Left(newest) = self.connections.unregister(&held.peer, held.id) {
            self.reservations.release(&held.peer, newest);
            let remote = (REMOTE, 1).into();
            self.peerstore
                .disconnected(&held.peer, newest, remote, clock::now());
        }
        drop(held);
    }
}

#[test]
fn ten_thousand_opens_and_closes_on_eight_threads_end_at_zero_everywhere() {
    const THREADS: u32 = 8;
    const STEPS: u32 = 4_000;
    let everything = Everything::new();
    let peers: Vec<PeerId> = (0..60).map(|_| PeerId::random()).collect();
    let opened = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (everything, peers, opened) = (&everything, &peers, &opened);
            scope.spawn(move || {
                let mut held: Vec<Held> = Vec::new();
                let mut random = thread + 1;
                for _ in 0..STEPS {
                    // xorshift32
                    random ^= random << 13;
                    random ^= random >> 17;
                    random ^= random << 5;
                    let index = random as usize;
                    let peer = peers[index % peers.len()];
                    let many = !held.is_empty();
                    match random >> 16 & 3 {
                        0 if many => everything.close(held.swap_remove(index % held.len())),
                        1 if many => {
                            let place = index % held.len();
                            everything.act(&mut held[place], peer, random >> 20);
                        }
                        _ => {
                            if let Some(new) = everything.open(peer) {
                                opened.fetch_add(1, Ordering::Relaxed);
                                held.push(new);
                            }
                        }
                    }
                }
                held.into_iter().for_each(|held| everything.close(held));
            });
        }
    });
    // Each of them was closed as well.
    assert!(opened.load(Ordering::Relaxed) >= 5_000, "{opened:?} opens");
    let Everything {
        connections,
        limits,
        metrics,
        reservations,
        circuits,
        peerstore,
    } = everything;
    assert!(connections.is_clear());
    assert_eq!(limits.usage().total.taken, 0);
    assert_eq!(limits.usage().transient.taken, 0);
    assert!(reservations.is_clear());
    assert!(circuits.is_clear());
    // Nobody counts as connected: all of them expire.
    let later = clock::now() + Duration::from_secs(7 * 24 * 60 * 60);
    for stripe in 0..peerstore.stripes() {
        peerstore.sweep(stripe, later);
    }
    assert!(peerstore.is_empty());
    assert_eq!(peerstore.usage().bytes.0, 0);
    let occupancy = metrics.occupancy();
    for usage in [
        occupancy.connections,
        occupancy.reservations,
        occupancy.circuits,
    ] {
        assert_eq!(usage.used, 0);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Open(usize),
    Close(usize),
    Protect(usize, Reason),
    Unprotect(usize),
    Dismiss,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_usize).prop_map(Step::Open),
        3 => (0..64_usize).prop_map(Step::Close),
        1 => (0..6_usize, any::<bool>()).prop_map(|(peer, circuit)| {
            let reason = if circuit { Reason::Circuit } else { Reason::Reservation };
            Step::Protect(peer, reason)
        }),
        1 => (0..64_usize).prop_map(Step::Unprotect),
        1 => Just(Step::Dismiss),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn counts_are_those_of_a_naive_table(steps in steps()) {
        let mut table = Table::new();
        let peers: Vec<PeerId> = (0..6).map(|_| PeerId::random()).collect();
        let mut open: Vec<(PeerId, ConnectionId, Arc<Fake>)> = Vec::new();
        let mut protections: Vec<(PeerId, Reason)> = Vec::new();
        for step in steps {
            let connections = Arc::clone(&table.connections);
            match step {
                Step::Open(peer) => {
                    let (id, fake) = table.open(peers[peer]);
                    open.push((peers[peer], id, fake));
                }
                Step::Close(index) if !open.is_empty() => {
                    let (peer, id, _) = open.swap_remove(index % open.len());
                    let presence = connections.unregister(&peer, id);
                    let left = open.iter().all(|(other, ..)| *other != peer);
                    prop_assert_eq!(matches!(presence, Presence::Left(_)), left);
                }
                Step::Protect(peer, reason) => {
                    connections.protect(peers[peer], reason);
                    protections.push((peers[peer], reason));
                }
                Step::Unprotect(index) if !protections.is_empty() => {
                    let (peer, reason) = protections.swap_remove(index % protections.len());
                    connections.unprotect(&peer, reason);
                }
                Step::Close(_) | Step::Unprotect(_) => {}
                Step::Dismiss => {
                    table.past_grace();
                    let floor = open.len() / 2;
                    let plan = plan(3, floor, Class::Reserved);
                    for victim in table.snapshot(plan.reach, &[]).select(plan.close) {
                        connections.dismiss(&victim, &plan, Ending::Trimmed, table.now);
                    }
                }
            }
            let mut by_peer: HashMap<PeerId, usize> = HashMap::new();
            for (peer, ..) in &open {
                *by_peer.entry(*peer).or_default() += 1;
            }
            let told = open.iter().filter(|(.., fake)| !fake.told.lock().is_empty()).count();
            prop_assert_eq!(connections.open(), open.len());
            prop_assert_eq!(connections.peers(), by_peer.len());
            prop_assert_eq!(connections.staying(), open.len() - told);
            for reason in Reason::ALL {
                let mut protected: Vec<_> = protections.iter().filter(|(_, why)| *why == reason).map(|(peer, _)| *peer).collect();
                protected.sort();
                protected.dedup();
                prop_assert_eq!(connections.protected(reason), protected.len());
            }
        }
        for (peer, id, _) in open {
            table.connections.unregister(&peer, id);
        }
        for (peer, reason) in protections {
            table.connections.unprotect(&peer, reason);
        }
        prop_assert!(table.connections.is_clear());
    }
}
