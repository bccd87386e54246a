//! The store against `kill -9`: a writer is killed a hundred times at random
//! moments, and each time the file opens with every batch that was
//! acknowledged, whole, and nothing of one that was not finished.
//!
//! The writer is this test's own program, started again with a variable set.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use waystation::{
    metrics::Metrics,
    store::{Change, Opened, Store, Table},
};

const DIRECTORY: &str = "WAYSTATION_TEST_STORE";
const ROUNDS: u32 = 100;
/// Entries of a batch.
const BATCH: u64 = 50;
/// Entries in the table: batches go round, so that they replace and delete.
const ENTRIES: u64 = 1_000;
/// Longest life of a writer. Most of its short life it writes: an open takes
/// about 10 ms, a batch a few.
const LIFE_MAX: Duration = Duration::from_millis(120);

fn open(directory: &Path) -> Opened {
    Store::open(directory, Arc::clone(&Metrics::new().store)).unwrap()
}

/// Batch `number`: its number in each of its entries, and in one for itself.
fn batch(number: u64) -> Vec<Change> {
    let value = number.to_be_bytes().repeat(50);
    let key = |entry: u64| entry.to_be_bytes().to_vec();
    let mut changes: Vec<Change> = (0..BATCH)
        .map(|entry| Change::Put {
            key: key((number * BATCH + entry) % ENTRIES),
            value: value.clone(),
        })
        .collect();
    changes.push(Change::Put {
        key: key(u64::MAX),
        value,
    });
    changes
}

/// The last batch in the store. Every entry has to be of the batch that wrote
/// it last.
fn verify(store: &Store) -> u64 {
    let mut found = Vec::new();
    let look = |key: &[u8], value: &[u8]| {
        let number = u64::from_be_bytes(value[..8].try_into().unwrap());
        assert_eq!(value, number.to_be_bytes().repeat(50), "half an entry");
        found.push((u64::from_be_bytes(key.try_into().unwrap()), number));
    };
    store.for_each(Table::Peers, look).unwrap();
    let Some((u64::MAX, last)) = found.pop() else {
        assert!(found.is_empty(), "half a batch");
        return 0;
    };
    let turn = ENTRIES / BATCH;
    let written: Vec<_> = (last.saturating_sub(turn - 1).max(1)..=last).collect();
    assert_eq!(found.len() as u64, written.len() as u64 * BATCH);
    for (key, number) in found {
        assert!(written.contains(&number), "an older batch came back");
        assert_eq!(number % turn, key / BATCH);
    }
    last
}

/// Writes batches and tells the number of each that is acknowledged, until it
/// is killed.
#[test]
fn writer() {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return;
    };
    let store = open(Path::new(&directory)).store;
    let mut number = verify(&store);
    loop {
        number += 1;
        store.apply(Table::Peers, &batch(number)).unwrap();
        writeln!(io::stdout(), "\nacknowledged {number}").unwrap();
    }
}

#[test]
fn a_hundred_kills_lose_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let seed = std::process::id() | 1;
    let mut random = seed;
    let mut acknowledged = 0;
    let mut rounds_with_progress = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before = acknowledged;
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        thread::sleep(LIFE_MAX * (random % 1_000) / 1_000);
        child.kill().unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse().unwrap_or(acknowledged);
            }
        }
        child.wait().unwrap();

        let opened = open(directory.path());
        // Killed while it made the file, of which there is nothing to lose.
        let unmade = acknowledged == 0;
        assert!(
            opened.set_aside.is_none() || unmade,
            "round {round}, seed {seed}"
        );
        let last = verify(&opened.store);
        // One more than acknowledged: written, and killed before it said so.
        assert!(
            last == acknowledged || last == acknowledged + 1,
            "round {round}, seed {seed}: {acknowledged} acknowledged, {last} found"
        );
        rounds_with_progress += u32::from(last > before);
        acknowledged = last;
    }
    assert!(
        rounds_with_progress >= ROUNDS / 4,
        "only {rounds_with_progress} writers lived long enough, seed {seed}"
    );
}
