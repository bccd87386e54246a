//! The striped map, its capacities and its counts over every interleaving of
//! two or three threads (loom; all orders that the C11 memory model allows).
//!
//! The tables' own files are compiled here a second time, with the model's
//! lock and atomics. What is asserted is what the tables promise: a cap is
//! never overshot, what is taken comes back, nothing inserted is lost, and
//! whoever gets a permit sees what its last holder did.
#![expect(
    clippy::print_stdout,
    reason = "a test of its own harness tells its results"
)]

#[expect(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the models use a part of the tables"
)]
mod striped;
mod sync;

use std::sync::Arc;

use loom::{cell::UnsafeCell, thread};

use striped::{Capacity, KeyedCounts, Permit, StripedMap};

/// One stripe, so that every two operations meet on its lock.
fn map<V>() -> Arc<StripedMap<u8, V>> {
    Arc::new(StripedMap::with_stripes(1))
}

/// Two threads insert different keys, a third removes one of them.
fn insertions_are_not_lost() {
    let map = map();
    let other = Arc::clone(&map);
    let inserting = thread::spawn(move || other.insert(1, "one"));
    let other = Arc::clone(&map);
    let removing = thread::spawn(move || other.remove(&1));
    map.insert(2, "two");
    let replaced = inserting.join().expect("no panic");
    let removed = removing.join().expect("no panic");
    assert_eq!(replaced, None);
    assert_eq!(map.get(&2), Some("two"));
    assert_eq!(map.get(&1).is_some(), removed.is_none());
    assert_eq!(map.len(), 1 + usize::from(removed.is_none()));
}

/// Read, change and write of one entry are one step.
fn updates_are_not_lost() {
    let map = map();
    let add = |map: &StripedMap<u8, u32>| map.update(1, |count| *count.get_or_insert(0) += 1);
    let other = Arc::clone(&map);
    let adding = thread::spawn(move || add(&other));
    add(&map);
    let taken = map.remove_if(&1, |count| *count == 1);
    adding.join().expect("no panic");
    let left = map.get(&1);
    match taken {
        Some(_) => assert_eq!(left, Some(1)),
        None => assert_eq!(left, Some(2)),
    }
}

/// A walk that removes, beside an insertion: each entry is either kept or
/// reported gone, and the size is that of what is there.
fn a_walk_loses_nothing() {
    let map = map();
    map.insert(1, ());
    let other = Arc::clone(&map);
    let inserting = thread::spawn(move || other.insert(2, ()));
    let gone = map.retain(|_, ()| false);
    inserting.join().expect("no panic");
    assert_eq!(map.len() + gone, 2);
    assert!(map.get(&1).is_none());
}

/// With one unit there is one holder, and it sees what the last one did: the
/// cell is unsynchronised but for the permit, which the checker would tell.
fn a_permit_is_a_right() {
    let capacity = Capacity::new(1);
    let cell = loom::sync::Arc::new(UnsafeCell::new(0_u32));
    let work = |capacity: &Arc<Capacity>, cell: &UnsafeCell<u32>| {
        let permit = capacity.try_reserve();
        if permit.is_some() {
            assert_eq!(capacity.taken(), 1);
            cell.with_mut(|_| ());
        }
        permit.is_some()
    };
    let (capacity_, cell_) = (Arc::clone(&capacity), cell.clone());
    let other = thread::spawn(move || work(&capacity_, &cell_));
    let mine = work(&capacity, &cell);
    let theirs = other.join().expect("no panic");
    assert!(mine || theirs, "a free unit was refused to both");
    assert_eq!(capacity.taken(), 0);
}

/// A lowered cap holds against whoever comes after it was lowered.
fn a_cap_is_never_overshot() {
    let capacity = Capacity::new(2);
    let spawn = |capacity: &Arc<Capacity>| {
        let capacity = Arc::clone(capacity);
        thread::spawn(move || capacity.try_reserve())
    };
    let threads = [spawn(&capacity), spawn(&capacity)];
    let mine = capacity.try_reserve();
    let theirs = threads.map(|thread| thread.join().expect("no panic"));
    let held = usize::from(mine.is_some()) + theirs.iter().flatten().count();
    assert_eq!((held, capacity.taken()), (2, 2));
    drop((mine, theirs));
    assert_eq!(capacity.taken(), 0);
}

/// A capped table: what is reserved before insertion is given back by whoever
/// takes the entry out, or replaces it.
fn a_capped_table_counts_what_it_holds() {
    let capacity = Capacity::new(2);
    let map = map::<Permit>();
    let put = |map: &StripedMap<u8, Permit>, capacity: &Arc<Capacity>| {
        if let Some(permit) = capacity.try_reserve() {
            drop(map.insert(1, permit));
        }
    };
    let (map_, capacity_) = (Arc::clone(&map), Arc::clone(&capacity));
    let putting = thread::spawn(move || put(&map_, &capacity_));
    put(&map, &capacity);
    drop(map.remove(&1));
    putting.join().expect("no panic");
    assert_eq!(map.len(), capacity.taken());
    map.retain(|_, _| false);
    assert_eq!(capacity.taken(), 0);
}

/// The count of one key: never above its cap, and gone with its last permit.
fn a_key_is_counted_exactly() {
    let counts = KeyedCounts::new();
    let other = Arc::clone(&counts);
    let thread = thread::spawn(move || other.try_acquire(7_u8, 1).is_ok());
    let mine = counts.try_acquire(7, 1);
    assert!(counts.count(&7) <= 1);
    let held = mine.is_ok();
    drop(mine);
    let theirs = thread.join().expect("no panic");
    assert!(held || theirs, "a free place was refused to both");
    assert!(counts.is_empty());
}

fn main() {
    let models: [(&str, fn()); 7] = [
        ("insertions_are_not_lost", insertions_are_not_lost),
        ("updates_are_not_lost", updates_are_not_lost),
        ("a_walk_loses_nothing", a_walk_loses_nothing),
        ("a_permit_is_a_right", a_permit_is_a_right),
        ("a_cap_is_never_overshot", a_cap_is_never_overshot),
        (
            "a_capped_table_counts_what_it_holds",
            a_capped_table_counts_what_it_holds,
        ),
        ("a_key_is_counted_exactly", a_key_is_counted_exactly),
    ];
    // As the test harness has it: words without a dash choose by name.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part));
    println!("\nevery interleaving of {} models", models.len());
    for (name, model) in models {
        if chosen(name) {
            loom::model(model);
            println!("model {name} ... ok");
        }
    }
}
