//! Totals with a cap: a permit is reserved before the thing it counts exists
//! and is given back by drop, so a cap is never overshot and never leaks.

use std::sync::Arc;

use super::super::sync::{AtomicUsize, Ordering};

/// A number of permits of which at most `max` are out at once.
///
/// One atomic on its own cache lines. Taking and returning are lock-free; the
/// count is exact at every moment, because it is raised only by a successful
/// compare-and-swap from below the cap.
#[derive(Debug)]
#[repr(align(128))]
pub struct Capacity {
    taken: AtomicUsize,
    max: AtomicUsize,
}

/// One unit of a [`Capacity`], returned on drop.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts nothing"]
pub struct Permit {
    capacity: Arc<Capacity>,
}

impl Capacity {
    /// A total of at most `max`.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
        })
    }

    /// Takes one unit, or `None` at the cap.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max.load(Ordering::Relaxed);
        // Acquire, against the release of `drop`: who takes a unit sees all
        // that its last holder did while it had it.
        self.taken
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
                (taken < max).then(|| taken + 1)
            })
            .ok()?;
        Some(Permit {
            capacity: Arc::clone(self),
        })
    }

    /// Units that are out.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The cap.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the cap. Units above a lowered cap stay out until they are
    /// dropped; none is handed out before.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.capacity.taken.fetch_sub(1, Ordering::Release);
        debug_assert!(before > 0, "a permit was returned twice");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn the_cap_holds_and_drop_returns_a_unit() {
        let capacity = Capacity::new(2);
        let first = capacity.try_reserve();
        let second = capacity.try_reserve();
        assert!(first.is_some() && second.is_some());
        assert!(capacity.try_reserve().is_none());
        drop(first);
        assert_eq!(capacity.taken(), 1);
        assert!(capacity.try_reserve().is_some());
    }

    #[test]
    fn nothing_is_handed_out_above_a_lowered_cap() {
        let capacity = Capacity::new(3);
        let held: Vec<_> = std::iter::from_fn(|| capacity.try_reserve()).collect();
        capacity.set_max(1);
        assert_eq!(capacity.taken(), 3);
        for permit in held {
            assert!(capacity.try_reserve().is_none());
            drop(permit);
        }
        assert!(capacity.try_reserve().is_some());
    }

    #[test]
    fn threads_never_overshoot_and_end_at_zero() {
        const MAX: usize = 3;
        let capacity = Capacity::new(MAX);
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(permit) = capacity.try_reserve() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < MAX);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert_eq!(capacity.taken(), 0);
    }
}
