//! The peerstore: memory for each known peer, what a sweep costs beside a
//! growing number of peers that stay, operations a second under threads beside
//! a plain table in dashmap, and loading what a restart finds.
//!
//! The plain table is what one would write first: peer ids to a vector of
//! multiaddrs with their expiry, an agent and protocols. It goes through the
//! same visit: marked as connected, told three addresses, marked as gone. It
//! keeps no order of expiry, no caps, no totals and nothing for the disk, and
//! judges no address.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "a bench has its own threads")]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for reading, not for counting"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tikv_jemalloc_ctl::{epoch, stats};
use waystation::config::PeerstoreConfig;
use waystation::metrics::Metrics;
use waystation::state::connections::ConnectionId;
use waystation::state::peerstore::{Announcement, Peerstore, Speaker, Wall};
use waystation::store::{Change, Store, Table};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const AGENT: &str = "kubo/0.39.0/0a3b7c1/docker";
const PROTOCOLS: &str = "/ipfs/id/1.0.0\n/ipfs/id/push/1.0.0\n/ipfs/ping/1.0.0\n/ipfs/kad/1.0.0\n\
    /ipfs/bitswap/1.2.0\n/libp2p/circuit/relay/0.2.0/stop\n/libp2p/autonat/2/dial-back\n";

const THREADS: [usize; 4] = [1, 2, 8, 64];
const HOUR: Duration = Duration::from_secs(60 * 60);

/// How much is done: little when run as a test.
struct Size {
    peers: u64,
    live: [u64; 3],
    expiring: u64,
    slice: Duration,
}

const BENCH: Size = Size {
    peers: 100_000,
    live: [10_000, 100_000, 1_000_000],
    expiring: 2_000,
    slice: Duration::from_millis(200),
};

const TEST: Size = Size {
    peers: 200,
    live: [100, 200, 400],
    expiring: 50,
    slice: Duration::from_millis(1),
};

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let size = if is_bench { BENCH } else { TEST };
    memory(&size);
    sweep(&size);
    throughput(&size);
    load(&size);
}

/// As an Ed25519 key makes it.
fn peer(number: u64) -> PeerId {
    let mut bytes = vec![0, 36, 8, 1, 18, 32];
    bytes.extend(number.to_be_bytes().repeat(4));
    PeerId::from_bytes(&bytes).expect("a peer id")
}

/// Three addresses, as most peers have them.
fn addresses(number: u64) -> [Vec<u8>; 3] {
    let [.., a, b, c] = number.to_be_bytes();
    let texts = [
        format!("/ip4/8.{a}.{b}.{c}/tcp/4001"),
        format!("/ip4/8.{a}.{b}.{c}/udp/4001/quic-v1"),
        format!("/ip6/2a00:{a:x}:{b:x}::{c:x}/tcp/4001"),
    ];
    texts.map(|text| text.parse::<Multiaddr>().expect("an address").to_vec())
}

fn peerstore(now: Instant) -> Peerstore {
    let config = PeerstoreConfig {
        peers_max: 4_000_000,
        addresses_max: 40_000_000,
        memory_max: None,
        ..PeerstoreConfig::default()
    };
    Peerstore::new(&config, Arc::clone(&Metrics::new().peerstore), now)
}

fn come(peers: &Peerstore, id: PeerId, said: &[Vec<u8>; 3], now: Instant) {
    let connection = ConnectionId::default();
    peers.connected(&id, connection, now);
    let speaker = Speaker {
        peer: id,
        connection,
        remote: ([8, 8, 8, 8], 4001).into(),
    };
    let announcement = Announcement {
        agent: Some(AGENT),
        protocols: Some(PROTOCOLS),
        addresses: said.iter().map(Vec::as_slice),
        complete: true,
        record: None,
    };
    peers.announced(&speaker, announcement, now);
}

fn leave(peers: &Peerstore, id: &PeerId, now: Instant) {
    let remote = ([8, 8, 8, 8], 4001).into();
    peers.disconnected(id, ConnectionId::default(), remote, now);
}

fn allocated() -> usize {
    epoch::advance().expect("statistics");
    stats::allocated::read().expect("statistics")
}

fn memory(size: &Size) {
    let now = Instant::now();
    let per_peer = |before: usize| (allocated() - before) as f64 / size.peers as f64;

    let before = allocated();
    let peers = peerstore(now);
    for number in 0..size.peers {
        come(&peers, peer(number), &addresses(number), now);
    }
    forget_changes(&peers);
    let connected = per_peer(before);
    for number in 0..size.peers {
        leave(&peers, &peer(number), now);
    }
    forget_changes(&peers);
    let left = per_peer(before);
    let counted = peers.usage().bytes.0 as f64 / size.peers as f64;
    drop(peers);

    let before = allocated();
    let plain = Plain::default();
    for number in 0..size.peers {
        plain.come(peer(number), &addresses(number));
    }
    let naive = per_peer(before);
    println!(
        "memory for each of {} peers with three addresses (goal 500 bytes):",
        size.peers
    );
    println!("  connected {connected:.0}, left {left:.0}, as counted {counted:.0}");
    println!("  plain dashmap {naive:.0}");
}

/// As writing behind does every few seconds.
fn forget_changes(peers: &Peerstore) {
    for stripe in 0..peers.stripes() {
        let _ = peers.take_changes(stripe);
    }
}

fn sweep(size: &Size) {
    println!("a sweep that finds {} peers expired:", size.expiring);
    for live in size.live {
        let start = Instant::now();
        let peers = peerstore(start);
        for number in 0..live {
            come(&peers, peer(number), &addresses(number), start);
        }
        // Half of them stay for a day after a long visit, half are connected.
        for number in 0..live / 2 {
            leave(&peers, &peer(number), start + 3 * HOUR);
        }
        for number in live..live + size.expiring {
            come(&peers, peer(number), &addresses(number), start);
            leave(&peers, &peer(number), start);
        }
        forget_changes(&peers);
        let now = start + 4 * HOUR;
        let began = Instant::now();
        let swept: usize = (0..peers.stripes())
            .map(|stripe| peers.sweep(stripe, now).peers)
            .sum();
        let took = began.elapsed();
        assert_eq!(swept as u64, size.expiring);
        let began = Instant::now();
        for stripe in 0..peers.stripes() {
            black_box(peers.sweep(stripe, now));
        }
        let idle = began.elapsed();
        println!(
            "  beside {live:>9} that stay: {:>7.0} ns for each; {:>6.1} µs if none has",
            took.as_nanos() as f64 / size.expiring as f64,
            idle.as_nanos() as f64 / 1e3,
        );
    }
}

/// What one would write first.
#[derive(Default)]
struct Plain(DashMap<PeerId, PlainPeer>);

#[derive(Default)]
struct PlainPeer {
    connected: bool,
    agent: String,
    protocols: Vec<String>,
    addresses: Vec<(Multiaddr, Option<Instant>)>,
}

impl Plain {
    fn come(&self, id: PeerId, said: &[Vec<u8>; 3]) {
        self.0.entry(id).or_default().connected = true;
        let addresses = said
            .iter()
            .filter_map(|bytes| Multiaddr::try_from(bytes.clone()).ok())
            .map(|address| (address, None))
            .collect();
        let protocols = PROTOCOLS.lines().map(str::to_owned).collect();
        if let Some(mut known) = self.0.get_mut(&id) {
            known.agent = AGENT.to_owned();
            known.protocols = protocols;
            known.addresses = addresses;
        }
    }

    fn leave(&self, id: &PeerId, now: Instant) {
        if let Some(mut known) = self.0.get_mut(id) {
            known.connected = false;
            for (_, expires) in &mut known.addresses {
                *expires = Some(now + HOUR);
            }
        }
    }

    fn agent_begins(&self, id: &PeerId, prefix: &str) -> bool {
        self.0
            .get(id)
            .is_some_and(|known| known.agent.starts_with(prefix) && !known.protocols.is_empty())
    }
}

fn throughput(size: &Size) {
    let now = Instant::now();
    let ids: Vec<PeerId> = (0..size.peers).map(peer).collect();
    let said: Vec<_> = (0..size.peers).map(addresses).collect();
    let (ours, plain) = (peerstore(now), Plain::default());
    for (id, said) in ids.iter().zip(&said) {
        come(&ours, *id, said, now);
        plain.come(*id, said);
    }
    forget_changes(&ours);
    println!("operations a second, in thousands (ours / plain dashmap):");
    for threads in THREADS {
        let look = race(threads, size, |at| {
            black_box(ours.agent_begins(&ids[at], "js-libp2p/"));
        });
        let plain_look = race(threads, size, |at| {
            black_box(plain.agent_begins(&ids[at], "js-libp2p/"));
        });
        let visit = race(threads, size, |at| {
            come(&ours, ids[at], &said[at], now);
            leave(&ours, &ids[at], now);
        });
        forget_changes(&ours);
        let plain_visit = race(threads, size, |at| {
            plain.come(ids[at], &said[at]);
            plain.leave(&ids[at], now);
        });
        println!(
            "  {threads:>2} threads: look up {look:>6.0} / {plain_look:>6.0}, \
             visits {visit:>5.0} / {plain_visit:>5.0}"
        );
    }
}

/// Thousands of steps a second over all threads.
fn race(threads: usize, size: &Size, step: impl Fn(usize) + Sync) -> f64 {
    let (done, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    let barrier = Barrier::new(threads + 1);
    let (mut took, peers) = (Duration::ZERO, size.peers);
    thread::scope(|scope| {
        for thread in 0..threads as u64 {
            let (done, steps, barrier, step) = (&done, &steps, &barrier, &step);
            scope.spawn(move || {
                let (mut at, mut count) = (thread.wrapping_mul(7919), 0);
                barrier.wait();
                while !done.load(Ordering::Relaxed) {
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    step(usize::try_from((at >> 33) % peers).expect("an index"));
                    count += 1;
                }
                steps.fetch_add(count, Ordering::Relaxed);
            });
        }
        barrier.wait();
        let began = Instant::now();
        thread::sleep(size.slice);
        done.store(true, Ordering::Relaxed);
        took = began.elapsed();
    });
    steps.load(Ordering::Relaxed) as f64 / took.as_secs_f64() / 1e3
}

fn load(size: &Size) {
    let now = Instant::now();
    let wall = Wall {
        now,
        unix_seconds: 1_800_000_000,
    };
    let peers = peerstore(now);
    for number in 0..size.peers {
        come(&peers, peer(number), &addresses(number), now);
    }
    let mut changes = Vec::new();
    for stripe in 0..peers.stripes() {
        changes.extend(peers.peers_in(stripe).iter().filter_map(|key| {
            let value = peers.save(key, wall)?;
            Some(Change::Put {
                key: key.to_bytes(),
                value,
            })
        }));
    }
    drop(peers);
    let directory = tempfile::tempdir().expect("a directory");
    let open = || {
        let metrics = Metrics::new();
        let opened = Store::open(directory.path(), Arc::clone(&metrics.store));
        opened.expect("a store").store
    };
    let store = open();
    let began = Instant::now();
    for batch in changes.chunks(1000) {
        store.apply(Table::Peers, batch).expect("room on the disk");
    }
    let wrote = began.elapsed();
    drop(store);
    let began = Instant::now();
    let (store, peers) = (open(), peerstore(now));
    let opened = began.elapsed();
    let mut taken = 0;
    store
        .for_each(Table::Peers, |key, value| {
            taken += u64::from(peers.load(key, value, wall).is_ok());
        })
        .expect("what was written");
    let took = began.elapsed();
    assert_eq!(taken, size.peers);
    println!(
        "{} peers: written in {wrote:?}, opened and checked in {opened:?}, loaded in {took:?} in all (goal 1 s)",
        size.peers
    );
}
