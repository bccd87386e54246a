//! The striped map beside one lock and beside dashmap: operations a second
//! under 1, 2, 8 and 64 threads, and memory for each entry.
//!
//! All hold the same table under the same hash, with keys as long as those of
//! shared tables (38 bytes of a peer id and what its type adds). "read" looks
//! up in 95 of 100 steps and changes an entry in place in the rest; "write"
//! looks up in 50, inserts in 25 and removes in 25. The maps take turns within a
//! cell, so that all of them meet the same machine; ratios are what holds.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "a bench has its own threads")]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for reading, not for counting"
)]

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use tikv_jemalloc_ctl::{epoch, stats};
use waystation::state::striped::StripedMap;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const THREADS: [usize; 4] = [1, 2, 8, 64];
const ENTRIES: [u64; 3] = [1_000, 100_000, 1_000_000];
const SLICE: Duration = Duration::from_millis(60);
const ROUNDS: usize = 3;
/// Steps between two looks at the clock's word.
const STRIDE: u64 = 64;

/// As long as a peer id in memory.
type Key = [u64; 5];
type Value = [u64; 4];

type Striped = StripedMap<Key, Value>;
type Dashed = DashMap<Key, Value, RandomState>;
type Locked = Mutex<HashMap<Key, Value>>;

fn key(number: u64) -> Key {
    [number, 1, 2, 3, 4]
}

/// What the three have in common.
trait Table: Sync {
    fn empty() -> Self;
    fn look(&self, key: &Key) -> u64;
    fn change(&self, key: &Key);
    fn put(&self, key: Key, value: Value);
    fn take(&self, key: &Key);
}

impl Table for Striped {
    fn empty() -> Self {
        Self::new()
    }
    fn look(&self, key: &Key) -> u64 {
        self.with(key, |value| value.map_or(0, |value| value[0]))
    }
    fn change(&self, key: &Key) {
        self.with(key, |value| {
            if let Some(value) = value {
                value[0] += 1;
            }
        });
    }
    fn put(&self, key: Key, value: Value) {
        self.insert(key, value);
    }
    fn take(&self, key: &Key) {
        self.remove(key);
    }
}

impl Table for Dashed {
    fn empty() -> Self {
        Self::with_hasher(RandomState::new())
    }
    fn look(&self, key: &Key) -> u64 {
        self.get(key).map_or(0, |value| value[0])
    }
    fn change(&self, key: &Key) {
        if let Some(mut value) = self.get_mut(key) {
            value[0] += 1;
        }
    }
    fn put(&self, key: Key, value: Value) {
        self.insert(key, value);
    }
    fn take(&self, key: &Key) {
        self.remove(key);
    }
}

impl Table for Locked {
    fn empty() -> Self {
        Self::default()
    }
    fn look(&self, key: &Key) -> u64 {
        self.lock().get(key).map_or(0, |value| value[0])
    }
    fn change(&self, key: &Key) {
        if let Some(value) = self.lock().get_mut(key) {
            value[0] += 1;
        }
    }
    fn put(&self, key: Key, value: Value) {
        self.lock().insert(key, value);
    }
    fn take(&self, key: &Key) {
        self.lock().remove(key);
    }
}

/// A table that holds every second key of twice as many, and what it costs.
fn filled<T: Table>(entries: u64) -> (T, f64) {
    let before = allocated();
    let table = T::empty();
    for number in 0..entries {
        table.put(key(number * 2), [number; 4]);
    }
    let bytes = allocated().saturating_sub(before);
    (table, bytes as f64 / entries as f64)
}

fn allocated() -> usize {
    epoch::advance().ok();
    stats::allocated::read().unwrap_or(0)
}

/// Xorshift: the same steps for every table.
struct Steps(u64);

impl Steps {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn step<T: Table>(table: &T, steps: &mut Steps, entries: u64, reads: u64) {
    let random = steps.next();
    let key = key((random >> 16) % (entries * 2));
    let kind = random % 100;
    if kind < reads {
        black_box(table.look(&key));
    } else if reads > 90 {
        table.change(&key);
    } else if random & 0x80 == 0 {
        table.put(key, [random; 4]);
    } else {
        table.take(&key);
    }
}

/// Operations a microsecond, all threads together.
fn run<T: Table>(table: &T, threads: usize, entries: u64, reads: u64, slice: Duration) -> f64 {
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let barrier = Barrier::new(threads + 1);
    let mut began = Instant::now();
    thread::scope(|scope| {
        for number in 0..threads {
            let (stop, done, barrier) = (&stop, &done, &barrier);
            scope.spawn(move || {
                let mut steps = Steps(0x9E37_79B9_7F4A_7C15 ^ (number as u64 + 1));
                let mut count = 0;
                barrier.wait();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..STRIDE {
                        step(table, &mut steps, entries, reads);
                    }
                    count += STRIDE;
                }
                done.fetch_add(count, Ordering::Relaxed);
            });
        }
        barrier.wait();
        began = Instant::now();
        thread::sleep(slice);
        stop.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_micros() as f64
}

struct Cell {
    entries: u64,
    threads: usize,
    reads: u64,
}

/// The best of some rounds each, in turns: what the machine's other work takes
/// away is no property of a table.
fn cell(
    cell: &Cell,
    tables: &(Striped, Dashed, Locked),
    rounds: usize,
    slice: Duration,
) -> [f64; 3] {
    let Cell {
        entries,
        threads,
        reads,
    } = *cell;
    let mut best = [0_f64; 3];
    for _ in 0..rounds {
        let round = [
            run(&tables.0, threads, entries, reads, slice),
            run(&tables.1, threads, entries, reads, slice),
            run(&tables.2, threads, entries, reads, slice),
        ];
        for (best, got) in best.iter_mut().zip(round) {
            *best = best.max(got);
        }
    }
    best
}

fn main() {
    let brief = !std::env::args().any(|argument| argument == "--bench");
    let (entries, threads, rounds, slice): (&[u64], &[usize], _, _) = if brief {
        (&ENTRIES[..1], &THREADS[1..2], 1, Duration::from_millis(5))
    } else {
        (&ENTRIES, &THREADS, ROUNDS, SLICE)
    };
    println!(
        "operations a microsecond, all threads together; in brackets, the striped map's ratio"
    );
    println!(
        "{:>9} {:>7} {:>6} | {:>8} | {:>16} | {:>16}",
        "entries", "threads", "mix", "striped", "dashmap", "one lock"
    );
    for &entries in entries {
        let (striped, striped_bytes) = filled(entries);
        let (dashed, dashed_bytes) = filled(entries);
        let (locked, locked_bytes) = filled(entries);
        let tables = (striped, dashed, locked);
        for (reads, mix) in [(95, "read"), (50, "write")] {
            for &threads in threads {
                let wanted = Cell {
                    entries,
                    threads,
                    reads,
                };
                let [striped, dashed, locked] = cell(&wanted, &tables, rounds, slice);
                println!(
                    "{entries:>9} {threads:>7} {mix:>6} | {striped:>8.2} | {dashed:>8.2} ({:>4.2}×) | {locked:>8.2} ({:>4.2}×)",
                    striped / dashed,
                    striped / locked
                );
            }
        }
        println!(
            "{entries:>9} bytes an entry   | {striped_bytes:>8.0} | {dashed_bytes:>8.0}         | {locked_bytes:>8.0}"
        );
    }
}
