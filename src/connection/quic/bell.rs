//! Who of a worker's QUIC connections has something to do, and the waking of
//! the one loop that drives them all.
//!
//! Each connection stands in the list at most once, so the list is bounded by
//! their number. What there is to do is the connection's own to know.

use std::{
    mem,
    sync::{Arc, OnceLock},
    task::Waker,
};

use parking_lot::Mutex;

/// The loop's bell: rung by whoever gives one of its connections something to
/// do, on any thread.
#[derive(Default)]
pub struct Bell {
    state: Mutex<State>,
    waker: OnceLock<Waker>,
}

#[derive(Default)]
struct State {
    rung: Vec<usize>,
    /// The loop is about to look again by itself.
    awake: bool,
}

impl Bell {
    /// A bell that nobody hears yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Tells whom to wake. Called by the loop's task at each poll; a task has
    /// one waker for its life.
    pub fn hear(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
        self.state.lock().awake = true;
    }

    /// Takes out who has something to do.
    pub fn take(&self, into: &mut Vec<usize>) {
        let mut state = self.state.lock();
        if into.is_empty() {
            mem::swap(into, &mut state.rung);
        } else {
            into.append(&mut state.rung);
        }
    }

    /// The loop goes to sleep, unless there is something to do after all.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        let mut state = self.state.lock();
        state.awake = !state.rung.is_empty();
        !state.awake
    }

    /// Notes that a connection has something to do. Called once for each
    /// connection until the loop comes to it. Whether the loop has to be
    /// [woken](Self::wake), which is left to a caller who may hold a lock.
    #[must_use]
    pub(super) fn ring(&self, handle: usize) -> bool {
        let mut state = self.state.lock();
        state.rung.push(handle);
        !mem::replace(&mut state.awake, true)
    }

    /// Wakes the loop for something that is in no connection's list.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_a_sleeping_loop_once_and_an_awake_one_never() {
        let count = Arc::new(Count::default());
        let bell = Bell::new();
        bell.hear(&Waker::from(Arc::clone(&count)));
        assert!(!bell.ring(1));
        assert!(!bell.may_sleep(), "somebody has something to do");
        let mut rung = Vec::new();
        bell.take(&mut rung);
        assert_eq!(rung, [1]);
        assert!(bell.may_sleep());
        assert!(bell.ring(2));
        assert!(!bell.ring(3));
        bell.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        bell.take(&mut rung);
        assert_eq!(rung, [1, 2, 3]);
    }
}
