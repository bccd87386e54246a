//! The shared state as traffic uses it: connection table and peerstore together
//! under 64 tasks on two threads, beside the same in dashmap, and how long
//! anybody waits for a stripe.
//!
//! A visit is what one connection does to shared state: it registers, says who
//! it is, is looked for a few times as a circuit's target, is credited, and
//! leaves. The tables hold 50,000 peers that stay beside those that come and go.
//! The plain tables are what one would write first: two dashmaps from peer ids,
//! one to links, one to vectors of addresses with an agent and protocols; they
//! keep no caps, no order of expiry, no protection, no exact totals.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(
    clippy::disallowed_methods,
    reason = "a bench has its own runtime and clock"
)]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for reading, not for counting"
)]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tikv_jemalloc_ctl::{epoch, stats};
use waystation::config::{ConnectionsConfig, PeerstoreConfig};
use waystation::metrics::Metrics;
use waystation::state::connections::{ConnectionId, Connections, Marks, Tag};
use waystation::state::leg::{Command, Effects, Gone, Leg, Link, StreamKey, Untaken};
use waystation::state::peerstore::{Announcement, Peerstore, Speaker};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const AGENT: &str = "kubo/0.39.0/0a3b7c1/docker";
const PROTOCOLS: &str = "/ipfs/id/1.0.0\n/ipfs/id/push/1.0.0\n/ipfs/ping/1.0.0\n/ipfs/kad/1.0.0\n\
    /ipfs/bitswap/1.2.0\n/libp2p/circuit/relay/0.2.0/stop\n/libp2p/autonat/2/dial-back\n";

const TASKS: u64 = 64;
const THREADS: usize = 2;
/// Lookups of one visit: a peer is asked for more often than it comes.
const LOOKUPS: u64 = 8;
/// Times that one visit takes a stripe's lock: register, connected, announced,
/// lookups, credit, unregister, disconnected.
const LOCKS: u64 = 6 + LOOKUPS;
const SERIES: &str = "waystation_state_lock_wait_seconds";

/// A connection that nobody writes to.
struct Silent;

impl Link for Silent {
    fn carry(&self, _: StreamKey, _: &[u8], _: &mut Effects) -> Result<(), Untaken> {
        Err(Gone.into())
    }
    fn grant(&self, _: StreamKey, _: u32, _: &mut Effects) {}
    fn join(&self, _: StreamKey, _: &[u8], _: Leg, _: &mut Effects) -> Result<(), Gone> {
        Err(Gone)
    }
    fn finish(&self, _: StreamKey, _: &mut Effects) {}
    fn reset(&self, _: StreamKey, _: u32, _: bool, _: &mut Effects) {}
    fn flush(&self, _: &mut Effects) {}
    fn deliver(&self, command: Command) -> Result<(), Command> {
        Err(command)
    }
}

/// A peer as it comes in.
struct Visitor {
    peer: PeerId,
    remote: SocketAddr,
    addresses: [Vec<u8>; 3],
}

impl Visitor {
    fn new(number: u32) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        let ip = [52 + a % 64, b, c, d];
        let address = |text: String| {
            let address: Multiaddr = text.parse().expect("a literal multiaddr");
            address.to_vec()
        };
        let host = format!("/ip4/{}.{}.{}.{}", ip[0], ip[1], ip[2], ip[3]);
        Self {
            peer: PeerId::random(),
            remote: SocketAddr::new(IpAddr::from(ip), 4001),
            addresses: [
                address(format!("{host}/tcp/4001")),
                address(format!("{host}/udp/4001/quic-v1")),
                address(format!("/ip6/2a00:{b:x}{c:x}:{d:x}::1/tcp/4001")),
            ],
        }
    }
}

/// What both ways of keeping state can do.
trait State: Send + Sync + 'static {
    type Open: Send;
    fn come(&self, visitor: &Visitor, now: Instant) -> Self::Open;
    fn look(&self, peer: &PeerId) -> bool;
    fn credit(&self, peer: &PeerId, now: Instant);
    fn leave(&self, visitor: &Visitor, open: Self::Open, now: Instant);
}

struct Ours {
    connections: Arc<Connections>,
    peerstore: Peerstore,
    link: Arc<dyn Link>,
}

impl State for Ours {
    type Open = ConnectionId;

    fn come(&self, visitor: &Visitor, now: Instant) -> ConnectionId {
        let Visitor { peer, remote, .. } = *visitor;
        let link = Arc::clone(&self.link);
        let connection = self.connections.register(peer, remote.ip(), link, now);
        self.peerstore.connected(&peer, connection, now);
        let speaker = Speaker {
            peer,
            connection,
            remote,
        };
        let announcement = Announcement {
            agent: Some(AGENT),
            protocols: Some(PROTOCOLS),
            addresses: visitor.addresses.iter().map(Vec::as_slice),
            complete: true,
            record: None,
        };
        self.peerstore.announced(&speaker, announcement, now);
        connection
    }

    fn look(&self, peer: &PeerId) -> bool {
        self.connections.find(peer).is_some()
    }

    fn credit(&self, peer: &PeerId, now: Instant) {
        self.connections.credit(peer, Tag::Relayed, now);
    }

    fn leave(&self, visitor: &Visitor, open: ConnectionId, now: Instant) {
        let Visitor { peer, remote, .. } = *visitor;
        if let waystation::state::connections::Presence::Left(newest) =
            self.connections.unregister(&peer, open)
        {
            self.peerstore.disconnected(&peer, newest, remote, now);
        }
    }
}

/// What is known of a peer, as one would write it first.
struct Plain {
    addresses: Vec<(Multiaddr, Instant)>,
    agent: String,
    protocols: Vec<String>,
}

/// One connection: its number, how to reach it, since when.
type PlainOpen = (u64, Arc<dyn Link>, Instant);

struct Theirs {
    links: DashMap<PeerId, Vec<PlainOpen>>,
    values: DashMap<PeerId, u64>,
    known: DashMap<PeerId, Plain>,
    next: AtomicU64,
    link: Arc<dyn Link>,
}

impl State for Theirs {
    type Open = u64;

    fn come(&self, visitor: &Visitor, now: Instant) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let link = Arc::clone(&self.link);
        self.links
            .entry(visitor.peer)
            .or_default()
            .push((id, link, now));
        let until = now + Duration::from_secs(3600);
        let addresses = visitor
            .addresses
            .iter()
            .filter_map(|bytes| Multiaddr::try_from(bytes.clone()).ok())
            .map(|address| (address, until))
            .collect();
        let plain = Plain {
            addresses,
            agent: AGENT.to_owned(),
            protocols: PROTOCOLS.lines().map(str::to_owned).collect(),
        };
        self.known.insert(visitor.peer, plain);
        id
    }

    fn look(&self, peer: &PeerId) -> bool {
        self.links
            .get(peer)
            .is_some_and(|links| links.last().is_some())
    }

    fn credit(&self, peer: &PeerId, _now: Instant) {
        *self.values.entry(*peer).or_default() += 1;
    }

    fn leave(&self, visitor: &Visitor, open: u64, now: Instant) {
        self.links.remove_if_mut(&visitor.peer, |_, links| {
            links.retain(|(id, ..)| *id != open);
            links.is_empty()
        });
        self.values.remove(&visitor.peer);
        if let Some(mut plain) = self.known.get_mut(&visitor.peer) {
            black_box((&plain.agent, &plain.protocols));
            let until = now + Duration::from_secs(900);
            for (_, expires) in &mut plain.addresses {
                *expires = until;
            }
        }
    }
}

/// How much is done: little when run as a test.
struct Size {
    staying: u32,
    visitors: u32,
    slice: Duration,
    rounds: usize,
}

const BENCH: Size = Size {
    staying: 50_000,
    visitors: 20_000,
    slice: Duration::from_millis(1_500),
    rounds: 4,
};

const TEST: Size = Size {
    staying: 200,
    visitors: 200,
    slice: Duration::from_millis(20),
    rounds: 1,
};

fn allocated() -> usize {
    epoch::advance().ok();
    stats::allocated::read().unwrap_or(0)
}

/// Visits a second by 64 tasks.
fn run<S: State>(
    runtime: &tokio::runtime::Runtime,
    state: &Arc<S>,
    staying: &Arc<Vec<Visitor>>,
    visitors: &Arc<Vec<Visitor>>,
    slice: Duration,
) -> (f64, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (state, stop) = (Arc::clone(state), Arc::clone(&stop));
            let (staying, visitors) = (Arc::clone(staying), Arc::clone(visitors));
            runtime.spawn(async move {
                let share = visitors.len() as u64 / TASKS;
                let (mut visits, mut random) = (0_u64, 0x9E37_79B9_7F4A_7C15 ^ (task + 1));
                while !stop.load(Ordering::Relaxed) {
                    // Each task has visitors of its own: a peer comes once.
                    let index = task * share + visits % share.max(1);
                    let visitor = &visitors[usize::try_from(index).expect("an index")];
                    let now = Instant::now();
                    let open = state.come(visitor, now);
                    for _ in 0..LOOKUPS {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let index = random % staying.len() as u64;
                        let target = &staying[usize::try_from(index).expect("an index")];
                        black_box(state.look(&target.peer));
                    }
                    state.credit(&visitor.peer, now);
                    state.leave(visitor, open, now);
                    visits += 1;
                    if visits.is_multiple_of(8) {
                        tokio::task::yield_now().await;
                    }
                }
                visits
            })
        })
        .collect();
    std::thread::sleep(slice);
    stop.store(true, Ordering::Relaxed);
    let visits: u64 = runtime.block_on(async {
        let mut visits = 0;
        for task in tasks {
            visits += task.await.expect("a task without panic");
        }
        visits
    });
    (visits as f64 / began.elapsed().as_secs_f64(), visits)
}

/// Waits for stripes so far: all, and those above 50 µs.
fn waits(metrics: &Metrics) -> (u64, u64) {
    let text = metrics.render();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    };
    let all = value(&format!("{SERIES}_count "));
    let short = value(&format!("{SERIES}_bucket{{le=\"0.00005\"}} "));
    (all, all - short)
}

/// The plain tables with the peers that stay, and the bytes for each of these.
fn plain(staying: &[Visitor], link: Arc<dyn Link>, now: Instant) -> (Arc<Theirs>, f64) {
    let before = allocated();
    let theirs = Arc::new(Theirs {
        links: DashMap::new(),
        values: DashMap::new(),
        known: DashMap::new(),
        next: AtomicU64::new(0),
        link,
    });
    for visitor in staying {
        theirs.come(visitor, now);
    }
    let bytes = (allocated() - before) as f64 / staying.len() as f64;
    (theirs, bytes)
}

fn main() {
    let bench = std::env::args().any(|argument| argument == "--bench");
    let size = if bench { BENCH } else { TEST };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .build()
        .expect("a runtime");
    let metrics = Metrics::new();
    let now = Instant::now();
    let link: Arc<dyn Link> = Arc::new(Silent);
    let staying: Arc<Vec<_>> = Arc::new((0..size.staying).map(Visitor::new).collect());
    let visitors: Arc<Vec<_>> = Arc::new(
        (0..size.visitors)
            .map(|number| Visitor::new(number + (1 << 20)))
            .collect(),
    );

    let before = allocated();
    let ours = Arc::new(Ours {
        connections: Connections::new(Marks::new(&ConnectionsConfig::default()), now),
        peerstore: Peerstore::new(
            &PeerstoreConfig::default(),
            Arc::clone(&metrics.peerstore),
            now,
        ),
        link: Arc::clone(&link),
    });
    for visitor in staying.iter() {
        ours.come(visitor, now);
    }
    let ours_bytes = (allocated() - before) as f64 / f64::from(size.staying);
    let (theirs, theirs_bytes) = plain(&staying, link, now);

    let (waits_before, long_before) = waits(&metrics);
    let (mut best, mut visits) = ([0_f64; 2], 0);
    for _ in 0..size.rounds {
        let (rate, count) = run(&runtime, &ours, &staying, &visitors, size.slice);
        best[0] = best[0].max(rate);
        visits += count;
        let (rate, _) = run(&runtime, &theirs, &staying, &visitors, size.slice);
        best[1] = best[1].max(rate);
    }
    let (waits_after, long_after) = waits(&metrics);
    let locks = visits * LOCKS;
    println!(
        "{TASKS} tasks on {THREADS} threads, {} peers that stay",
        size.staying
    );
    println!(
        "visits a second     | ours {:>9.0} | dashmap {:>9.0} | ratio {:.2}",
        best[0],
        best[1],
        best[0] / best[1]
    );
    println!(
        "bytes a known peer  | ours {ours_bytes:>9.0} | dashmap {theirs_bytes:>9.0} | ratio {:.2}",
        ours_bytes / theirs_bytes
    );
    println!(
        "waits for a stripe  | {} in {locks} locks ({:.4} %), above 50 µs: {} ({:.5} %)",
        waits_after - waits_before,
        (waits_after - waits_before) as f64 / locks as f64 * 100.0,
        long_after - long_before,
        (long_after - long_before) as f64 / locks as f64 * 100.0,
    );
}
