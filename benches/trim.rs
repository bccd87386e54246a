//! What choosing the connections to shed costs, and for how long it holds a
//! stripe: 50,000 peers, of which all, or half, may go.
//!
//! Prints, beside the time of a whole selection, for how long one stripe was
//! held for copying (with the look at the lists behind it, which takes no
//! lock) and the memory that a peer takes in the table.

#![expect(clippy::print_stdout, reason = "a bench tells its figures")]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use libp2p_identity::PeerId;
use tikv_jemalloc_ctl::{epoch, stats};
use waystation::state::{
    connections::{Class, Connections, Marks, Reason, Tag},
    leg::{Command, Effects, Gone, Leg, Link, StreamKey, Untaken},
};

const PEERS: usize = 50_000;

/// Sent away, as from high to low water.
const VICTIMS: usize = 5_000;

/// A connection that nothing is asked of.
struct Idle;

impl Link for Idle {
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

    fn deliver(&self, _: Command) -> Result<(), Command> {
        Ok(())
    }
}

/// A table of peers that have done different things, a while ago.
fn table(protected: bool) -> (Arc<Connections>, Instant) {
    let start = now();
    let marks = Marks {
        low: 40_000,
        high: 45_000,
        grace: Duration::from_secs(60),
    };
    let connections = Connections::new(marks, start);
    let peers: Vec<PeerId> = (0..PEERS).map(|_| PeerId::random()).collect();
    let link = Arc::new(Idle) as Arc<dyn Link>;
    let before = allocated();
    for (index, peer) in peers.iter().enumerate() {
        let remote = IpAddr::V4(Ipv4Addr::LOCALHOST);
        connections.register(*peer, remote, Arc::clone(&link), start);
        connections.credit(peer, Tag::Identified, start);
        if index % 3 == 0 {
            connections.credit(peer, Tag::Relayed, start);
            connections.credit(peer, Tag::Reserved, start);
        }
        if protected && index % 2 == 0 {
            connections.protect(*peer, Reason::Reservation);
        }
    }
    let bytes = allocated().saturating_sub(before);
    println!("{} bytes of memory for a peer", bytes / PEERS);
    (connections, start + Duration::from_secs(1_000))
}

fn allocated() -> usize {
    epoch::advance().expect("statistics");
    stats::allocated::read().expect("statistics")
}

fn select(connections: &Connections, at: Instant) -> usize {
    let mut snapshot = connections.snapshot(Class::Ordinary);
    for stripe in 0..connections.stripes() {
        connections.collect(stripe, at, |_| false, &mut snapshot);
    }
    snapshot.select(VICTIMS).len()
}

/// Median, 99.9th percentile and maximum of the time that copying one stripe
/// takes; in CPU time of this thread, so that a busy host does not show.
fn holds(connections: &Connections, at: Instant) -> [Duration; 3] {
    let mut holds = Vec::new();
    for _ in 0..50 {
        let mut snapshot = connections.snapshot(Class::Ordinary);
        for stripe in 0..connections.stripes() {
            let begin = cpu_time();
            connections.collect(stripe, at, |_| false, &mut snapshot);
            holds.push(cpu_time() - begin);
        }
        black_box(snapshot);
    }
    holds.sort_unstable();
    let last = holds.len() - 1;
    [last / 2, last - last / 1_000, last].map(|index| holds[index])
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("time goes forward");
    Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}

fn selection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("selection");
    for (protected, name) in [(false, "all may go"), (true, "half may go")] {
        let (connections, at) = table(protected);
        let [median, rare, longest] = holds(&connections, at);
        println!("{name}: a stripe is held for {median:?}, p99.9 {rare:?}, at most {longest:?}");
        group.bench_function(format!("{PEERS} peers/{name}"), |bencher| {
            bencher.iter(|| black_box(select(&connections, at)));
        });
    }
    group.finish();
}

/// Choosing alone, the copy being there.
fn choice(criterion: &mut Criterion) {
    let (connections, at) = table(false);
    criterion.bench_function("choice/50000 candidates", |bencher| {
        bencher.iter_batched(
            || {
                let mut snapshot = connections.snapshot(Class::Ordinary);
                for stripe in 0..connections.stripes() {
                    connections.collect(stripe, at, |_| false, &mut snapshot);
                }
                snapshot
            },
            |snapshot| snapshot.select(VICTIMS),
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(trim, selection, choice);
criterion_main!(trim);
