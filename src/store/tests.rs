//! What an operator may rely on when a disk or a file does not behave.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;
use redb::ReadableDatabase;

use super::*;
use crate::metrics::Metrics;

fn open(directory: &Path) -> Opened {
    Store::open(directory, Arc::clone(&Metrics::new().store)).unwrap()
}

fn put(key: u32, value: &[u8]) -> Change {
    Change::Put {
        key: key.to_be_bytes().to_vec(),
        value: value.to_vec(),
    }
}

fn entries(store: &Store, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    let look = |key: &[u8], value: &[u8]| entries.push((key.to_vec(), value.to_vec()));
    store.for_each(table, look).unwrap();
    entries
}

/// A file with two hundred entries, and its directory.
fn filled() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    let changes: Vec<Change> = (0..200).map(|key| put(key, &[7; 400])).collect();
    store.apply(Table::Peers, &changes).unwrap();
    let path = store.path().to_owned();
    (directory, path)
}

#[test]
fn what_was_applied_is_there_after_opening_again_and_tables_are_apart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    let batch = [put(1, b"one"), put(2, b"two"), put(2, b"again")];
    store.apply(Table::Peers, &batch).unwrap();
    let delete = |key: u32| Change::Delete {
        key: key.to_be_bytes().to_vec(),
    };
    let more = [delete(1), delete(9)];
    store.apply(Table::Peers, &more).unwrap();
    store.apply(Table::Access, &[put(1, b"rule")]).unwrap();
    drop(store);

    let opened = open(directory.path());
    assert_eq!(opened.set_aside, None);
    let two = (2_u32.to_be_bytes().to_vec(), b"again".to_vec());
    assert_eq!(entries(&opened.store, Table::Peers), [two]);
    let one = (1_u32.to_be_bytes().to_vec(), b"rule".to_vec());
    assert_eq!(entries(&opened.store, Table::Access), [one]);
}

#[test]
fn only_the_owner_may_look() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let store = open(&directory).store;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(store.path()), 0o600);
    assert_eq!(mode(&directory), 0o700);
}

#[test]
fn a_file_in_use_is_refused_and_stays() {
    let (directory, path) = filled();
    let first = open(directory.path()).store;
    let second = Store::open(directory.path(), Arc::clone(&Metrics::new().store));
    let error = second.unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
    assert_eq!(entries(&first, Table::Peers).len(), 200);
    drop(first);
    assert_eq!(
        entries(&open(directory.path()).store, Table::Peers).len(),
        200
    );
}

#[test]
fn a_damaged_file_is_kept_aside_and_never_written_over() {
    let (directory, path) = filled();
    for number in 1..=3 {
        let garbage = format!("garbage {number} ").repeat(2_000);
        fs::write(&path, &garbage).unwrap();
        let opened = open(directory.path());
        let aside = opened.set_aside.unwrap();
        assert_eq!(aside.from, path);
        assert!(aside.path.ends_with(format!("store.redb.aside-{number}")));
        assert!(
            aside.reason.starts_with("it is damaged: "),
            "{}",
            aside.reason
        );
        assert_eq!(fs::read_to_string(aside.path).unwrap(), garbage);
        assert!(entries(&opened.store, Table::Peers).is_empty());
        opened.store.apply(Table::Peers, &[put(1, b"new")]).unwrap();
    }
}

#[test]
fn files_aside_do_not_pile_up_for_ever() {
    let (directory, path) = filled();
    for number in 1..=file::ASIDE_MAX {
        fs::write(format!("{}.aside-{number}", path.display()), "").unwrap();
    }
    fs::write(&path, "garbage").unwrap();
    let refused = Store::open(directory.path(), Arc::clone(&Metrics::new().store));
    let error = refused.unwrap_err().to_string();
    assert!(
        error.ends_with("16 files are set aside already, remove some"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "garbage");
}

#[test]
fn a_truncated_file_is_set_aside_and_an_empty_one_is_new() {
    let (directory, path) = filled();
    let whole = fs::read(&path).unwrap();
    for length in [1, 100, 512, 4_096, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let opened = open(directory.path());
        assert!(opened.set_aside.is_some(), "{length}");
    }
    fs::write(&path, "").unwrap();
    assert_eq!(open(directory.path()).set_aside, None);
}

#[test]
fn a_newer_store_is_set_aside_as_it_is() {
    let (directory, path) = filled();
    let schema = redb::TableDefinition::<&str, u32>::new("schema");
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(schema)
        .unwrap()
        .insert("version", 2)
        .unwrap();
    write.commit().unwrap();
    drop(database);

    let aside = open(directory.path()).set_aside.unwrap();
    assert_eq!(
        aside.reason,
        "it was written by a newer version (schema 2, known is 1)"
    );
    let kept = redb::Database::open(&aside.path).unwrap();
    let read = kept.begin_read().unwrap();
    let version = read.open_table(schema).unwrap().get("version").unwrap();
    assert_eq!(version.unwrap().value(), 2);
}

#[test]
fn somebody_elses_database_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let database = redb::Database::create(directory.path().join(FILE_NAME)).unwrap();
    let write = database.begin_write().unwrap();
    let other = redb::TableDefinition::<u64, u64>::new("theirs");
    write.open_table(other).unwrap().insert(1, 1).unwrap();
    write.commit().unwrap();
    drop(database);
    assert!(open(directory.path()).set_aside.is_some());
}

#[test]
fn a_full_disk_is_counted_and_gets_over() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Arc::clone(&Metrics::new().store);
    let store = Store::open(directory.path(), Arc::clone(&metrics))
        .unwrap()
        .store;
    store.apply(Table::Peers, &[put(1, b"before")]).unwrap();

    store.disk_full.store(true, Ordering::Release);
    for _ in 0..3 {
        let failed = store.apply(Table::Peers, &[put(2, b"lost")]);
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    }
    assert_eq!(metrics.failures(), 3);

    store.disk_full.store(false, Ordering::Release);
    store.apply(Table::Peers, &[put(3, b"after")]).unwrap();
    let keys: Vec<_> = entries(&store, Table::Peers)
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, [1_u32.to_be_bytes(), 3_u32.to_be_bytes()]);
    drop(store);
    let opened = open(directory.path());
    assert_eq!(opened.set_aside, None);
    assert_eq!(entries(&opened.store, Table::Peers).len(), 2);
}

#[test]
fn a_disk_that_is_full_at_the_start_does_not_keep_the_server_down() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Arc::clone(&Metrics::new().store);
    let store = Store::closed(directory.path(), Arc::clone(&metrics));
    store.disk_full.store(true, Ordering::Release);
    assert_eq!(store.begin(directory.path()).unwrap(), None);
    assert!(entries(&store, Table::Peers).is_empty());
    assert!(store.apply(Table::Peers, &[put(1, b"lost")]).is_err());
    assert_eq!(metrics.failures(), 2);

    store.disk_full.store(false, Ordering::Release);
    store.apply(Table::Peers, &[put(2, b"kept")]).unwrap();
    assert_eq!(entries(&store, Table::Peers).len(), 1);
    // The file that could not be begun was no damaged one.
    assert_eq!(store.renewals(), 0);
    let files = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(files, 1);

    // What an earlier run has kept is known nevertheless.
    let (directory, _) = filled();
    let store = Store::closed(directory.path(), metrics);
    store.disk_full.store(true, Ordering::Release);
    assert_eq!(store.begin(directory.path()).unwrap(), None);
    assert_eq!(entries(&store, Table::Peers).len(), 200);
}

#[test]
fn a_file_that_is_damaged_while_it_is_used_is_set_aside_too() {
    let (directory, path) = filled();
    let store = open(directory.path()).store;
    store.spoil();
    store.apply(Table::Peers, &[put(2, b"new")]).unwrap();
    assert_eq!(store.renewals(), 1);
    assert_eq!(entries(&store, Table::Peers).len(), 1);
    let aside = format!("{}.aside-1", path.display());
    assert!(fs::read_to_string(aside).unwrap().starts_with("garbage"));
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file, Arc::clone(&Metrics::new().store)).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

/// Where redb's file says which of its two commit slots is the newest (its
/// design document: behind the nine bytes of the magic number).
const NEWEST_COMMIT_AT: usize = 9;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the file's bytes: it opens with everything, or it
    /// is set aside. Nothing in between, and no panic. One byte tells which of
    /// the last two commits is the newest; if it flips, the one before is whole
    /// and true, and here that is an empty one.
    #[test]
    fn flipped_bytes_are_noticed(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..8),
        in_header: bool,
    ) {
        let (directory, path) = filled();
        let mut bytes = fs::read(&path).unwrap();
        let newest = bytes[NEWEST_COMMIT_AT];
        let range = if in_header { 512 } else { bytes.len() };
        for (index, mask) in flips {
            bytes[index.index(range)] ^= mask;
        }
        fs::write(&path, &bytes).unwrap();
        let opened = open(directory.path());
        let found = entries(&opened.store, Table::Peers);
        if opened.set_aside.is_some() {
            prop_assert!(found.is_empty());
        } else {
            let one_before = bytes[NEWEST_COMMIT_AT] != newest && found.is_empty();
            prop_assert!(found.len() == 200 || one_before);
            prop_assert!(found.iter().all(|(_, value)| value == &[7; 400]));
        }
        opened.store.apply(Table::Peers, &[put(1, b"new")]).unwrap();
    }
}
