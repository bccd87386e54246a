//! The peerstore as its users see it, and against a naive model.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;

use libp2p_identity::Keypair;

use super::*;
use crate::clock;
use crate::metrics::Metrics;
use crate::state::connections::tests_support::connection;
use crate::wire::envelope::{self, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, PeerRecord};

mod model;
mod saving;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const REMOTE: &str = "8.8.4.4:4001";

/// A peerstore with its metrics and a moment that only tests move.
struct Bench {
    peers: Peerstore,
    metrics: Arc<Metrics>,
    now: Instant,
    connections: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut PeerstoreConfig)) -> Self {
        let mut config = PeerstoreConfig::default();
        change(&mut config);
        let (metrics, now) = (Metrics::new(), clock::now());
        Self {
            peers: Peerstore::new(&config, Arc::clone(&metrics.peerstore), now),
            metrics,
            now,
            connections: 0,
        }
    }

    fn connect(&mut self, peer: &PeerId) -> ConnectionId {
        self.connections += 1;
        let id = connection(self.connections);
        self.peers.connected(peer, id, self.now);
        id
    }

    fn leave(&self, peer: &PeerId, newest: ConnectionId) {
        let remote = REMOTE.parse().unwrap();
        self.peers.disconnected(peer, newest, remote, self.now);
    }

    /// The peer says where it is, over this connection.
    fn say(&self, peer: &PeerId, connection: ConnectionId, addresses: &[&str]) {
        self.announce(peer, connection, addresses, None);
    }

    fn announce(
        &self,
        peer: &PeerId,
        connection: ConnectionId,
        addresses: &[&str],
        record: Option<&[u8]>,
    ) {
        let speaker = Speaker {
            peer: *peer,
            connection,
            remote: REMOTE.parse().unwrap(),
        };
        let addresses: Vec<Vec<u8>> = addresses.iter().map(|text| bytes(text)).collect();
        let announcement = Announcement {
            agent: Some("agent/1"),
            protocols: Some("/one\n/two\n"),
            addresses: addresses.iter().map(Vec::as_slice),
            complete: true,
            record,
        };
        self.peers.announced(&speaker, announcement, self.now);
    }

    /// A whole visit.
    fn visit(&mut self, peer: &PeerId, stay: Duration, addresses: &[&str]) {
        let connection = self.connect(peer);
        self.say(peer, connection, addresses);
        self.now += stay;
        self.leave(peer, connection);
    }

    fn addresses(&self, peer: &PeerId) -> Vec<String> {
        let known = self.peers.get(peer, self.now);
        let addresses = known.map(|known| known.addresses).unwrap_or_default();
        addresses
            .iter()
            .map(|known| known.address.to_string())
            .collect()
    }

    fn sweep(&self) -> upkeep::Swept {
        let mut all = upkeep::Swept::default();
        for stripe in 0..self.peers.stripes() {
            let swept = self.peers.sweep(stripe, self.now);
            all.peers += swept.peers;
            all.addresses += swept.addresses;
        }
        all
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.metrics.peerstore.refusals(refusal.label())
    }

    /// That the order of expiry holds whoever can expire, and nobody else.
    fn assert_ordered(&self) {
        let mut queued = 0;
        self.peers.peers.for_each(|_, entry| {
            assert_eq!(entry.queued, entry.bucket());
            queued += usize::from(entry.queued != UNQUEUED);
        });
        let ordered: usize = self.peers.beside.iter().map(Beside::expiring).sum();
        assert_eq!(ordered, queued);
    }

    /// That nothing is left and nothing is counted.
    fn assert_clear(&self) {
        let usage = self.peers.usage();
        assert_eq!(usage.peers.0, 0, "peers");
        assert_eq!(usage.addresses.0, 0, "addresses");
        assert_eq!(usage.bytes.0, 0, "bytes");
        assert!(self.peers.is_empty());
        self.assert_ordered();
    }
}

fn bytes(address: &str) -> Vec<u8> {
    address.parse::<Multiaddr>().unwrap().to_vec()
}

fn public(index: u8) -> String {
    format!("/ip4/8.8.8.{index}/tcp/4001")
}

/// A record of this peer, signed by `signer`.
fn signed(signer: &Keypair, about: &PeerId, seq: u64, addresses: &[&str]) -> Vec<u8> {
    let (peer_id, addresses) = (
        about.to_bytes(),
        addresses.iter().map(|text| bytes(text)).collect::<Vec<_>>(),
    );
    let mut payload = Vec::new();
    PeerRecord {
        peer_id: &peer_id,
        seq,
        addresses: addresses.iter().map(Vec::as_slice).collect(),
    }
    .encode(&mut payload);
    let key = signer.public().encode_protobuf();
    envelope::seal(
        PEER_RECORD_DOMAIN,
        PEER_RECORD_TYPE,
        &payload,
        &key,
        |bytes| signer.sign(bytes).unwrap(),
    )
}

#[test]
fn a_peer_is_known_while_it_is_connected_and_for_a_time_after() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    let connection = bench.connect(&peer);
    bench.say(&peer, connection, &[&public(1), &public(2)]);
    bench.now += 30 * DAY;
    bench.sweep();
    let known = bench.peers.get(&peer, bench.now).unwrap();
    assert!(known.connected);
    assert_eq!(known.agent.as_deref(), Some("agent/1"));
    assert_eq!(known.protocols.as_deref(), Some("/one\n/two\n"));
    assert_eq!(known.addresses[0].class, Class::Connected);
    assert_eq!(known.addresses[0].expires_in, None);

    bench.leave(&peer, connection);
    let known = bench.peers.get(&peer, bench.now).unwrap();
    assert!(!known.connected);
    assert_eq!(known.addresses.len(), 2);
    assert_eq!(known.addresses[0].class, Class::RecentlyConnected);
    assert_eq!(known.addresses[0].expires_in, Some(DAY));
    bench.now += DAY;
    assert_eq!(bench.peers.get(&peer, bench.now), None, "swept or not");
}

/// go-libp2p never collects what was connected once: its entries do not enter
/// the order of expiry when they begin to expire.
#[test]
fn who_was_connected_is_collected_after_leaving() {
    let mut bench = Bench::new();
    let peers: Vec<PeerId> = (0..200).map(|_| PeerId::random()).collect();
    for peer in &peers {
        bench.visit(peer, Duration::ZERO, &[&public(1), &public(2), &public(3)]);
    }
    // Some come back for a second visit before they expire.
    bench.now += 5 * MINUTE;
    for peer in &peers[..50] {
        bench.visit(peer, Duration::ZERO, &[&public(4)]);
    }
    bench.assert_ordered();
    assert_eq!(bench.peers.usage().addresses.0, 150 * 3 + 50);
    bench.now += 11 * MINUTE + MINUTE;
    assert_eq!(
        bench.sweep(),
        upkeep::Swept {
            peers: 150,
            addresses: 450
        }
    );
    bench.now += 5 * MINUTE;
    assert_eq!(bench.sweep().peers, 50);
    bench.assert_clear();
}

#[test]
fn a_long_visit_is_remembered_longer_than_a_short_one() {
    let mut bench = Bench::new();
    for (stay, remembered) in [
        (Duration::from_secs(1), 15 * MINUTE),
        (HOUR, 8 * HOUR),
        (10 * HOUR, DAY),
    ] {
        let peer = PeerId::random();
        bench.visit(&peer, stay, &[&public(1)]);
        let known = bench.peers.get(&peer, bench.now).unwrap();
        assert_eq!(known.addresses[0].expires_in, Some(remembered));
        // A glance in between takes nothing away.
        bench.visit(&peer, Duration::ZERO, &[&public(1)]);
        let known = bench.peers.get(&peer, bench.now).unwrap();
        assert_eq!(known.addresses[0].expires_in, Some(remembered));
    }
}

#[test]
fn what_a_later_connection_says_outlives_the_end_of_an_earlier_one() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    let first = bench.connect(&peer);
    let second = bench.connect(&peer);
    bench.say(&peer, second, &[&public(1)]);
    bench.leave(&peer, first);
    assert!(bench.peers.get(&peer, bench.now).unwrap().connected);
    bench.leave(&peer, second);
    assert!(!bench.peers.get(&peer, bench.now).unwrap().connected);
}

#[test]
fn a_peer_that_cannot_be_reached_is_forgotten_when_it_leaves() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    bench.visit(&peer, HOUR, &["/ip4/10.0.0.1/tcp/4001"]);
    assert_eq!(bench.refused(Refusal::Private), 1);
    bench.assert_clear();
}

#[test]
fn an_address_is_marked_when_the_peer_is_seen_at_it() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    bench.visit(&peer, HOUR, &[&public(1), "/ip4/8.8.4.4/tcp/4001"]);
    bench.now += MINUTE;
    let known = bench.peers.get(&peer, bench.now).unwrap();
    let seen: Vec<_> = known
        .addresses
        .iter()
        .map(|known| known.last_success)
        .collect();
    assert_eq!(seen, [Some(MINUTE), None], "and comes first");
}

#[test]
fn what_a_peer_announces_is_bounded_and_counted_and_the_rest_is_kept() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    let connection = bench.connect(&peer);
    let many: Vec<String> = (0..5000u32)
        .map(|index| format!("/ip4/8.{}.{}.1/tcp/4001", index / 256, index % 256))
        .collect();
    let many: Vec<Vec<u8>> = many.iter().map(|text| bytes(text)).collect();
    let names: String = (0..10_000)
        .map(|index| format!("/proto/{index}\n"))
        .collect();
    let agent = "é".repeat(1 << 19);
    let announcement = Announcement {
        agent: Some(&agent),
        protocols: Some(&names),
        addresses: many.iter().map(Vec::as_slice),
        complete: true,
        record: None,
    };
    let speaker = Speaker {
        peer,
        connection,
        remote: REMOTE.parse().unwrap(),
    };
    bench.peers.announced(&speaker, announcement, bench.now);
    let known = bench.peers.get(&peer, bench.now).unwrap();
    assert_eq!(known.addresses.len(), ADDRESSES_MAX);
    assert_eq!(known.agent.unwrap().len(), 128);
    let protocols = known.protocols.unwrap();
    assert!(protocols.len() <= 8 * 1024 && protocols.ends_with('\n'));
    assert_eq!(bench.refused(Refusal::Addresses), 5000 - 64);
    assert_eq!(bench.refused(Refusal::Agent), 1);
    let dropped = 10_000 - protocols.lines().count() as u64;
    assert_eq!(bench.refused(Refusal::Protocols), dropped);

    bench.leave(&peer, connection);
    let known = bench.peers.get(&peer, bench.now).unwrap();
    assert_eq!(known.addresses.len(), ADDRESSES_KEPT);
}

#[test]
fn each_bad_address_is_counted_by_what_is_wrong_and_the_good_ones_kept() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    let connection = bench.connect(&peer);
    let other = format!("{}/p2p/{}", public(1), PeerId::random());
    let said = [
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        &other,
        &public(7),
        &public(7),
    ];
    bench.say(&peer, connection, &said);
    assert_eq!(bench.addresses(&peer), [public(7)]);
    assert_eq!(bench.refused(Refusal::Private), 2);
    assert_eq!(bench.refused(Refusal::Unreachable), 1);
    assert_eq!(bench.refused(Refusal::OtherPeer), 1);
}

#[test]
fn a_signed_record_is_preferred_and_only_a_newer_one_replaces_it() {
    let mut bench = Bench::new();
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id();
    let connection = bench.connect(&peer);
    bench.say(&peer, connection, &[&public(1)]);
    let record = signed(&key, &peer, 5, &[&public(2), "/ip4/10.0.0.1/tcp/1"]);
    bench.announce(&peer, connection, &[&public(1)], Some(&record));
    assert_eq!(
        bench.addresses(&peer),
        [public(2)],
        "certified ones replace"
    );
    let known = bench.peers.get(&peer, bench.now).unwrap();
    assert_eq!(known.record, Some((5, record)), "kept whole");
    assert_eq!(known.addresses[0].source, Source::Record);

    for seq in [4, 5] {
        let stale = signed(&key, &peer, seq, &[&public(3)]);
        bench.now += MINUTE;
        bench.announce(&peer, connection, &[&public(4)], Some(&stale));
        let kept = [public(2), public(4)];
        assert_eq!(bench.addresses(&peer), kept, "certified ones first");
    }
    assert_eq!(bench.refused(Refusal::RecordSequence), 2);

    let newer = signed(&key, &peer, 6, &[&public(5)]);
    bench.announce(&peer, connection, &[&public(4)], Some(&newer));
    assert_eq!(bench.addresses(&peer), [public(5)]);
    // The same again is no news and no fault.
    bench.announce(&peer, connection, &[], Some(&newer));
    assert_eq!(bench.addresses(&peer), [public(5)]);
    assert_eq!(bench.refused(Refusal::RecordSequence), 2);
}

#[test]
fn a_record_that_a_peer_stops_repeating_expires_though_the_peer_comes_again() {
    let mut bench = Bench::new();
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id();
    let connection = bench.connect(&peer);
    let record = signed(&key, &peer, 1, &[&public(1)]);
    bench.announce(&peer, connection, &[], Some(&record));
    bench.now += 10 * HOUR;
    bench.leave(&peer, connection);
    bench.now += HOUR;
    bench.visit(&peer, HOUR, &[&public(2)]);
    let mut both = bench.addresses(&peer);
    both.sort();
    assert_eq!(both, [public(1), public(2)]);
    bench.now += 22 * HOUR;
    bench.visit(&peer, 10 * HOUR, &[&public(2)]);
    assert_eq!(bench.addresses(&peer), [public(2)]);
}

#[test]
fn a_record_that_is_not_the_peers_own_is_refused_and_the_rest_kept() {
    let mut bench = Bench::new();
    let (key, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let peer = key.public().to_peer_id();
    let connection = bench.connect(&peer);
    let foreign = signed(&other, &other.public().to_peer_id(), 1, &[&public(2)]);
    let forged = signed(&other, &peer, 1, &[&public(2)]);
    let mut large = signed(&key, &peer, 1, &[&public(2)]);
    large.resize(RECORD_BYTES_MAX + 1, 0);
    for (record, refusal) in [
        (&foreign[..], Refusal::RecordForeign),
        (&forged, Refusal::RecordSignature),
        (&large, Refusal::RecordTooLarge),
        (b"\xff\xff", Refusal::RecordMalformed),
    ] {
        bench.announce(&peer, connection, &[&public(1)], Some(record));
        assert_eq!(bench.refused(refusal), 1, "{refusal:?}");
        assert_eq!(bench.addresses(&peer), [public(1)]);
        let known = bench.peers.get(&peer, bench.now).unwrap();
        assert_eq!(known.record, None);
    }
}

#[test]
fn signatures_of_one_peer_are_verified_at_a_bounded_rate() {
    let mut bench = Bench::new();
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id();
    let connection = bench.connect(&peer);
    for seq in 1..=100 {
        let record = signed(&key, &peer, seq, &[&public(1)]);
        bench.announce(&peer, connection, &[], Some(&record));
        bench.now += Duration::from_secs(1);
    }
    assert_eq!(bench.refused(Refusal::RecordRate), 90);
    let known = bench.peers.get(&peer, bench.now).unwrap();
    assert_eq!(known.record.unwrap().0, 91);
}

#[test]
fn a_full_peerstore_lets_go_of_who_expires_first_and_never_of_who_must_stay() {
    const MAX: usize = 100;
    let mut bench = Bench::with(|config| config.peers_max = MAX);
    let connected: Vec<PeerId> = (0..40).map(|_| PeerId::random()).collect();
    for peer in &connected {
        let connection = bench.connect(peer);
        bench.say(peer, connection, &[&public(1)]);
    }
    let permanent: Vec<PeerId> = (0..10).map(|_| PeerId::random()).collect();
    for peer in &permanent {
        let (class, source) = (Class::Permanent, Source::Operator);
        let address = bytes(&public(2));
        bench
            .peers
            .heard_of(peer, class, source, [&address[..]], bench.now);
    }
    for _ in 0..2_000 {
        bench.visit(&PeerId::random(), Duration::from_secs(1), &[&public(3)]);
        assert!(bench.peers.usage().peers.0 <= MAX);
    }
    for peer in connected.iter().chain(&permanent) {
        assert_eq!(bench.addresses(peer).len(), 1);
    }
    bench.assert_ordered();
    assert_eq!(
        bench.refused(Refusal::Peer),
        0,
        "there was somebody to evict"
    );
}

#[test]
fn with_nobody_to_evict_the_newcomer_is_not_kept() {
    const MAX: usize = 10;
    let mut bench = Bench::with(|config| config.peers_max = MAX);
    let peers: Vec<PeerId> = (0..=MAX).map(|_| PeerId::random()).collect();
    let connections: Vec<_> = peers.iter().map(|peer| bench.connect(peer)).collect();
    assert_eq!(bench.peers.len(), MAX);
    assert_eq!(bench.refused(Refusal::Peer), 1);
    bench.say(&peers[MAX], connections[MAX], &[&public(1)]);
    assert_eq!(bench.peers.get(&peers[MAX], bench.now), None);
    for (peer, connection) in peers.iter().zip(connections) {
        bench.leave(peer, connection);
    }
    bench.assert_clear();
}

#[test]
fn addresses_and_bytes_are_capped_in_all() {
    let peers: Vec<PeerId> = (0..200).map(|_| PeerId::random()).collect();
    let said: Vec<String> = (1..=50).map(public).collect();
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    for change in [
        |config: &mut PeerstoreConfig| config.addresses_max = 1_000,
        |config: &mut PeerstoreConfig| config.memory_max = Some(96 * 1024),
    ] {
        let mut bench = Bench::with(change);
        for peer in &peers {
            let connection = bench.connect(peer);
            bench.say(peer, connection, &said);
            let usage = bench.peers.usage();
            assert!(usage.addresses.0 <= usage.addresses.1);
            assert!(usage.bytes.0 <= usage.bytes.1);
        }
        assert!(bench.refused(Refusal::Memory) > 0);
        let known: usize = peers.iter().map(|peer| bench.addresses(peer).len()).sum();
        assert_eq!(known, bench.peers.usage().addresses.0);
    }
}

#[test]
fn every_refusal_is_counted() {
    let bench = Bench::new();
    let all = [
        Refusal::Malformed,
        Refusal::TooLong,
        Refusal::OtherPeer,
        Refusal::Private,
        Refusal::Unreachable,
        Refusal::Addresses,
        Refusal::Protocols,
        Refusal::Agent,
        Refusal::Texts,
        Refusal::RecordMalformed,
        Refusal::RecordTooLarge,
        Refusal::RecordForeign,
        Refusal::RecordSignature,
        Refusal::RecordSequence,
        Refusal::RecordRate,
        Refusal::Peer,
        Refusal::Memory,
    ];
    let labels = all.map(Refusal::label);
    assert_eq!(bench.metrics.peerstore.reasons(), labels);
}

#[test]
fn an_entry_stays_small() {
    assert_eq!(size_of::<(PeerKey, Entry)>(), 136);
}

#[test]
fn threads_that_come_and_go_leave_nothing() {
    let bench = Bench::with(|config| config.peers_max = 50);
    let peers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
    let remote: SocketAddr = REMOTE.parse().unwrap();
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (bench, peers, next) = (&bench, &peers, &next);
            scope.spawn(move || {
                for round in 0..2_000 {
                    let peer = &peers[(thread * 31 + round * 7) % peers.len()];
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let id = connection(number);
                    bench.peers.connected(peer, id, bench.now);
                    bench.say(peer, id, &[&public(1), &public(2)]);
                    bench.peers.disconnected(peer, id, remote, bench.now);
                    bench.peers.sweep(round, bench.now);
                }
            });
        }
    });
    let mut bench = bench;
    for peer in &peers {
        bench.leave(peer, connection(u64::MAX));
    }
    assert!(bench.peers.len() <= 50);
    bench.assert_ordered();
    bench.now += 2 * DAY;
    bench.sweep();
    bench.assert_clear();
}
