//! Counts per key with a cap: circuits per peer, reservations per address.
//!
//! A key is held only while permits for it are out, so the table is bounded by
//! the number of permits, which their owner bounds in turn.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use super::StripedMap;

/// How many permits are out for each key.
#[derive(Debug)]
pub struct KeyedCounts<K: Hash + Eq> {
    counts: StripedMap<K, usize>,
}

/// One unit of a key's count, returned on drop.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts nothing"]
pub struct KeyPermit<K: Hash + Eq> {
    counts: Arc<KeyedCounts<K>>,
    key: K,
}

/// The key has as many permits out as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {max} places of this key are taken")]
pub struct Full {
    /// The cap that was met.
    pub max: usize,
}

impl<K: Hash + Eq + Clone> KeyedCounts<K> {
    /// Counts that all start at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: StripedMap::new(),
        })
    }

    /// Takes one unit of `key` unless `max` are out.
    ///
    /// # Errors
    ///
    /// [`Full`] if the key's count is at `max` or above.
    pub fn try_acquire(self: &Arc<Self>, key: K, max: usize) -> Result<KeyPermit<K>, Full> {
        self.counts.update(key.clone(), |count| {
            let taken = count.unwrap_or(0);
            if taken >= max {
                return Err(Full { max });
            }
            *count = Some(taken + 1);
            Ok(())
        })?;
        Ok(KeyPermit {
            counts: Arc::clone(self),
            key,
        })
    }
}

impl<K: Hash + Eq> KeyedCounts<K> {
    /// Permits that are out for `key`.
    #[must_use]
    pub fn count<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.counts
            .with(key, |count| count.map_or(0, |count| *count))
    }

    /// Keys that have permits out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether no permit is out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl<K: Hash + Eq> KeyPermit<K> {
    /// The key this permit counts for.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Hash + Eq> Drop for KeyPermit<K> {
    fn drop(&mut self) {
        self.counts.counts.remove_if(&self.key, |count| {
            *count -= 1;
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_forgotten_with_its_last_permit() {
        let counts = KeyedCounts::new();
        let first = counts.try_acquire("a", 2).expect("below the cap");
        let second = counts.try_acquire("a", 2).expect("below the cap");
        assert_eq!(counts.try_acquire("a", 2).err(), Some(Full { max: 2 }));
        assert_eq!((counts.count("a"), counts.len()), (2, 1));
        drop(first);
        assert_eq!(counts.count("a"), 1);
        drop(second);
        assert!(counts.is_empty());
    }

    #[test]
    fn a_refusal_leaves_no_entry_behind() {
        let counts = KeyedCounts::new();
        assert!(counts.try_acquire(7, 0).is_err());
        assert!(counts.is_empty());
    }

    #[test]
    fn threads_never_exceed_a_key_and_end_at_zero() {
        const MAX: usize = 2;
        let counts = KeyedCounts::new();
        let inside: [AtomicUsize; 4] = Default::default();
        thread::scope(|scope| {
            for thread in 0..8_usize {
                let (counts, inside) = (&counts, &inside);
                scope.spawn(move || {
                    for round in 0..10_000 {
                        let key = (thread + round) % inside.len();
                        if let Ok(permit) = counts.try_acquire(key, MAX) {
                            assert!(inside[key].fetch_add(1, Ordering::SeqCst) < MAX);
                            inside[key].fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!(counts.is_empty());
    }

    proptest! {
        #[test]
        fn behaves_like_a_multiset(steps in prop::collection::vec((0_u8..6, any::<bool>()), 0..200)) {
            const MAX: usize = 3;
            let counts = KeyedCounts::new();
            let mut model: HashMap<u8, Vec<KeyPermit<u8>>> = HashMap::new();
            for (key, take) in steps {
                let held = model.entry(key).or_default();
                if take {
                    let granted = counts.try_acquire(key, MAX);
                    prop_assert_eq!(granted.is_ok(), held.len() < 3);
                    held.extend(granted);
                } else {
                    held.pop();
                }
                prop_assert_eq!(counts.count(&key), held.len());
            }
            let keys = model.values().filter(|held| !held.is_empty()).count();
            prop_assert_eq!(counts.len(), keys);
            drop(model);
            prop_assert!(counts.is_empty());
        }
    }
}
