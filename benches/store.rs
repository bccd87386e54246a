//! What a start and a batch cost: opening after a crash, reading everything,
//! writing.
//!
//! The store holds as many entries of the size of a known peer as a full
//! bootstrapper keeps. Under test each runs once over a smaller one.

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::{path::Path, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use waystation::{
    metrics::Metrics,
    store::{Change, Store, Table},
};

const ENTRIES: u64 = 100_000;
const ENTRIES_IN_TEST: u64 = 2_000;
/// A peer id, and what is known of a peer with three addresses.
const KEY: usize = 38;
const VALUE: usize = 400;
const BATCH: u64 = 1_000;

fn entries() -> u64 {
    if std::env::args().any(|argument| argument == "--test") {
        ENTRIES_IN_TEST
    } else {
        ENTRIES
    }
}

fn open(directory: &Path) -> Store {
    let metrics = Metrics::new();
    Store::open(directory, Arc::clone(&metrics.store))
        .unwrap()
        .store
}

/// Some thousand entries spread over the table.
fn batch(from: u64, count: u64) -> Vec<Change> {
    (from..from + count)
        .map(|entry| {
            // Odd, so that no two entries share a key.
            let spread = entry.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut key = spread.to_be_bytes().to_vec();
            key.resize(KEY, 0);
            let value = from.to_be_bytes().repeat(VALUE / 8);
            Change::Put { key, value }
        })
        .collect()
}

fn store(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for from in (0..entries()).step_by(usize::try_from(BATCH).unwrap()) {
        store.apply(Table::Peers, &batch(from, BATCH)).unwrap();
    }
    drop(store);

    let mut group = criterion.benchmark_group("store");
    group.sample_size(10);
    group.bench_function("start", |bencher| {
        bencher.iter(|| {
            let (store, mut bytes) = (open(directory.path()), 0);
            let count = |key: &[u8], value: &[u8]| bytes += key.len() + value.len();
            store.for_each(Table::Peers, count).unwrap();
            bytes
        });
    });
    let store = open(directory.path());
    let mut turn = 0;
    group.bench_function("batch of 1000", |bencher| {
        bencher.iter(|| {
            turn = (turn + 7 * BATCH) % entries();
            store.apply(Table::Peers, &batch(turn, BATCH)).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
