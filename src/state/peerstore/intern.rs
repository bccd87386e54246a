//! Texts that many peers share, agents and protocol lists, each kept once.
//!
//! Bounded in bytes; a text that does not fit is not kept. A text that nobody
//! holds any more goes when its stripe is collected, which housekeeping does
//! for one stripe at a time, so that no peer pays for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::state::striped::StripedMap;

/// What one more text costs beside itself: its place in the table, counts and
/// the allocation's rounding.
const TEXT_COST: usize = 80;

/// The handles that the table itself holds: key and value.
const OWN_HANDLES: usize = 2;

/// A table of texts.
pub(super) struct Interner {
    texts: StripedMap<Arc<str>, Arc<str>>,
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Interner {
    /// A table of at most `bytes_max` bytes, its own cost included.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            texts: StripedMap::new(),
            bytes: AtomicUsize::new(0),
            bytes_max,
        }
    }

    /// The one copy of this text; `None` if it is new and does not fit.
    pub(super) fn intern(&self, text: &str) -> Option<Arc<str>> {
        if let Some(known) = self.texts.get(text) {
            return Some(known);
        }
        let cost = cost(text);
        self.bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
                (bytes + cost <= self.bytes_max).then_some(bytes + cost)
            })
            .ok()?;
        let new: Arc<str> = text.into();
        let (kept, inserted) = self.texts.update(Arc::clone(&new), |slot| {
            let inserted = slot.is_none();
            (Arc::clone(slot.get_or_insert(new)), inserted)
        });
        if !inserted {
            // Another thread was faster with the same text.
            self.bytes.fetch_sub(cost, Ordering::Relaxed);
        }
        Some(kept)
    }

    /// Lets go of what nobody holds in one stripe (taken modulo their number).
    pub(super) fn collect(&self, stripe: usize) {
        let mut bytes = 0;
        // Handles are cloned from the table under the stripe's lock or from a
        // handle that is out, so a count of the table's own cannot grow here.
        self.texts.retain_in(stripe, |text, _| {
            let held = Arc::strong_count(text) > OWN_HANDLES;
            if !held {
                bytes += cost(text);
            }
            held
        });
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Number of different texts.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }
}

fn cost(text: &str) -> usize {
    text.len() + TEXT_COST
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_kept_once() {
        let interner = Interner::new(1024);
        let (one, two) = (interner.intern("a").unwrap(), interner.intern("a").unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(interner.len(), 1);
    }

    #[test]
    fn texts_stop_being_kept_at_the_bound_until_some_are_let_go() {
        const COUNT: usize = 16;
        let interner = Interner::new(COUNT * (100 + TEXT_COST));
        let text = |index: usize| format!("{index:0>100}");
        let mut held: Vec<_> = (0..COUNT)
            .map(|index| interner.intern(&text(index)).unwrap())
            .collect();
        assert_eq!(interner.intern(&text(COUNT)), None);
        assert!(interner.intern(&text(0)).is_some(), "known ones go on");
        held.pop();
        (0..interner.texts.stripe_count()).for_each(|stripe| interner.collect(stripe));
        assert_eq!(interner.len(), COUNT - 1);
        assert!(interner.intern(&text(COUNT)).is_some());
    }
}
