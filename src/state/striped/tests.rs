//! The striped map against a plain map, and against itself under threads.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail loudly; the model compiles no test"
)]

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;

#[test]
fn stripes_do_not_share_cache_lines() {
    assert_eq!(align_of::<Stripe<u64, u64>>(), 128);
    assert_eq!(size_of::<Stripe<u64, u64>>(), 128);
    assert!(StripedMap::<u8, u8>::new().stripe_count().is_power_of_two());
    assert_eq!(StripedMap::<u8, u8>::with_stripes(5).stripe_count(), 8);
    assert_eq!(StripedMap::<u8, u8>::with_stripes(0).stripe_count(), 1);
}

#[test]
fn keys_spread_over_all_stripes() {
    let map = StripedMap::with_stripes(16);
    for key in 0..16_000_u32 {
        map.insert(key, ());
    }
    for stripe in 0..map.stripe_count() {
        let mut held = 0;
        map.for_each_in(stripe, |_, ()| held += 1);
        // 1000 expected; twelve standard deviations either way.
        assert!((600..1400).contains(&held), "stripe {stripe} holds {held}");
    }
}

#[test]
fn memory_comes_back_after_a_flood() {
    let map = StripedMap::with_stripes(1);
    for key in 0..100_000_u32 {
        map.insert(key, key);
    }
    let flooded = map.stripe(0).table.lock().capacity();
    for key in 100..100_000 {
        map.remove(&key).unwrap();
    }
    assert!(map.stripe(0).table.lock().capacity() < flooded / 100);
    assert!((0..100).all(|key| map.get(&key) == Some(key)));
}

#[test]
fn a_panicking_closure_leaves_the_map_sound() {
    let map = StripedMap::new();
    map.insert(1, Arc::new(()));
    map.insert(2, Arc::new(()));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        map.update(1, |_| panic!("on purpose"));
    }));
    assert!(outcome.is_err());
    assert_eq!(map.len(), 1);
    assert!(map.get(&1).is_none());
    assert!(map.insert(1, Arc::new(())).is_none());
    assert_eq!(map.len(), 2);
}

#[test]
fn removed_values_are_dropped_outside_the_lock() {
    /// Asks the map it was in for its size and for another key.
    struct Nosy(std::sync::Weak<StripedMap<u8, Nosy>>);
    impl Drop for Nosy {
        fn drop(&mut self) {
            if let Some(map) = self.0.upgrade() {
                map.with(&0, |_| ());
            }
        }
    }
    let map = Arc::new(StripedMap::with_stripes(1));
    for key in 0..4 {
        map.insert(key, Nosy(Arc::downgrade(&map)));
    }
    map.insert(0, Nosy(Arc::downgrade(&map)));
    map.remove(&1);
    map.remove_if(&2, |_| true);
    assert_eq!(map.retain(|_, _| false), 2);
    assert!(map.is_empty());
}

#[test]
fn a_capped_table_is_exact_under_threads() {
    const MAX: usize = 50;
    let capacity = Capacity::new(MAX);
    let map = StripedMap::new();
    thread::scope(|scope| {
        for thread in 0..8_u32 {
            let (map, capacity) = (&map, &capacity);
            scope.spawn(move || {
                for round in 0..5_000_u32 {
                    let key = round.wrapping_mul(7) % 97;
                    if (round + thread) % 3 == 0 {
                        map.remove(&key);
                    } else if let Some(permit) = capacity.try_reserve() {
                        // What was there before gives its own unit back.
                        map.insert(key, permit);
                    }
                    assert!(capacity.taken() <= MAX);
                }
            });
        }
    });
    let mut held = 0;
    map.for_each(|_, _| held += 1);
    assert_eq!((map.len(), capacity.taken()), (held, held));
    map.retain(|_, _| false);
    assert_eq!((map.len(), capacity.taken()), (0, 0));
}

#[test]
fn no_update_is_lost_under_threads() {
    let map = StripedMap::<u32, u64>::new();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..20_000_u32 {
                    map.update(round % 64, |count| *count.get_or_insert(0) += 1);
                }
            });
        }
    });
    let mut total = 0;
    map.for_each(|_, count| total += *count);
    assert_eq!((total, map.len()), (160_000, 64));
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, u16),
    Remove(u8),
    RemoveIfOdd(u8),
    Add(u8, u16),
    Clear(u8),
    RetainBelow(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u8>(), any::<u16>()).prop_map(|(key, value)| Step::Insert(key, value)),
        any::<u8>().prop_map(Step::Remove),
        any::<u8>().prop_map(Step::RemoveIfOdd),
        (any::<u8>(), any::<u16>()).prop_map(|(key, value)| Step::Add(key, value)),
        any::<u8>().prop_map(Step::Clear),
        any::<u16>().prop_map(Step::RetainBelow),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_plain_map(steps in prop::collection::vec(step(), 0..400)) {
        let map = StripedMap::with_stripes(4);
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                }
                Step::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                Step::RemoveIfOdd(key) => {
                    let odd = model.get(&key).is_some_and(|value| value % 2 == 1);
                    let expected = if odd { model.remove(&key) } else { None };
                    prop_assert_eq!(map.remove_if(&key, |value| *value % 2 == 1), expected);
                }
                Step::Add(key, value) => {
                    map.update(key, |slot| *slot = Some(slot.unwrap_or(0).wrapping_add(value)));
                    let slot = model.entry(key).or_insert(0);
                    *slot = slot.wrapping_add(value);
                }
                Step::Clear(key) => {
                    prop_assert_eq!(map.update(key, Option::take), model.remove(&key));
                }
                Step::RetainBelow(bound) => {
                    let before = model.len();
                    model.retain(|_, value| *value < bound);
                    prop_assert_eq!(map.retain(|_, value| *value < bound), before - model.len());
                }
            }
            prop_assert_eq!(map.len(), model.len());
        }
        let mut found = HashMap::new();
        map.for_each(|key, value| { found.insert(*key, *value); });
        prop_assert_eq!(found, model);
    }
}
