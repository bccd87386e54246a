//! Whether the server lives and whether it takes new peers.
//!
//! Workers tell it that their loop turns and that what they consist of has not
//! ended; the shutdown sequence tells it the phase. All are atomics, so telling
//! costs a worker nothing that it could wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a worker should beat.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// A worker silent for this long counts as stuck: ten missed beats, far beyond
/// the longest read pass and any scheduling delay a loaded host shows.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Where the server is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not listening yet.
    Starting,
    /// Listening and taking new peers.
    Serving,
    /// Letting circuits finish; new peers are refused.
    Draining,
}

/// The workers' heartbeats and the server's phase.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    beats: Box<[Beat]>,
    phase: AtomicU8,
}

/// What a worker says, on a cache line of its own because each writes its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Beat {
    /// Milliseconds from the start to the last one.
    last: AtomicU64,
    /// A part of the worker has ended before its time.
    broken: AtomicBool,
}

impl Health {
    /// All workers count as having beaten now, so that they have
    /// [`STALLED_AFTER`] to start.
    #[must_use]
    pub fn new(workers: usize, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            started: now,
            beats: (0..workers).map(|_| Beat::default()).collect(),
            phase: AtomicU8::new(Phase::Starting as u8),
        })
    }

    /// The handle with which a worker says that it is alive.
    ///
    /// # Panics
    /// When there is no worker of this number.
    #[must_use]
    pub fn heartbeat(self: &Arc<Self>, worker: usize) -> Heartbeat {
        assert!(worker < self.beats.len(), "workers are numbered from zero");
        Heartbeat {
            health: Arc::clone(self),
            worker,
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Numbers of the workers that have not beaten for [`STALLED_AFTER`]; the
    /// server lives while there are none.
    #[must_use]
    pub fn stalled(&self, now: Instant) -> Vec<usize> {
        let now = self.since_start(now);
        let limit = milliseconds(STALLED_AFTER);
        self.beats
            .iter()
            .enumerate()
            .filter(|(_, beat)| now.saturating_sub(beat.last.load(Ordering::Relaxed)) > limit)
            .map(|(worker, _)| worker)
            .collect()
    }

    /// Numbers of the workers of which a part has ended, though nobody asked it
    /// to. It does not come back by itself.
    #[must_use]
    pub fn broken(&self) -> Vec<usize> {
        self.beats
            .iter()
            .enumerate()
            .filter(|(_, beat)| beat.broken.load(Ordering::Relaxed))
            .map(|(worker, _)| worker)
            .collect()
    }

    /// Whether there is nothing that a restart would mend.
    #[must_use]
    pub fn is_live(&self, now: Instant) -> bool {
        self.stalled(now).is_empty() && self.broken().is_empty()
    }

    fn since_start(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.started))
    }
}

/// One worker's way to say that its loop turns.
#[derive(Debug)]
pub struct Heartbeat {
    health: Arc<Health>,
    worker: usize,
}

impl Heartbeat {
    pub fn beat(&self, now: Instant) {
        let now = self.health.since_start(now);
        self.health.beats[self.worker]
            .last
            .store(now, Ordering::Relaxed);
    }

    /// What a task holds without which the worker is not whole: if it ends
    /// while the server serves, by an error or a panic, the worker is broken.
    #[must_use]
    pub fn part(&self) -> Part {
        Part {
            health: Arc::clone(&self.health),
            worker: self.worker,
        }
    }
}

/// A part of a worker that lasts as long as the server.
#[derive(Debug)]
pub struct Part {
    health: Arc<Health>,
    worker: usize,
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.health.phase() != Phase::Draining {
            self.health.beats[self.worker]
                .broken
                .store(true, Ordering::Relaxed);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_worker_is_named_until_it_beats_again() {
        let start = crate::clock::now();
        let health = Health::new(3, start);
        let beats: Vec<_> = (0..3).map(|worker| health.heartbeat(worker)).collect();
        let at = |seconds| start + Duration::from_secs(seconds);

        assert!(
            health.stalled(at(10)).is_empty(),
            "workers have time to start"
        );
        beats[0].beat(at(9));
        beats[2].beat(at(9));
        assert_eq!(health.stalled(at(11)), [1]);
        beats[1].beat(at(12));
        assert!(health.stalled(at(13)).is_empty());
        assert_eq!(health.stalled(at(60)), [0, 1, 2]);
    }

    #[test]
    fn a_worker_that_loses_a_part_is_broken_for_good_unless_the_server_stops() {
        let start = crate::clock::now();
        let health = Health::new(2, start);
        let parts: Vec<_> = (0..2).map(|_| health.heartbeat(1).part()).collect();
        health.set_phase(Phase::Serving);
        assert!(health.is_live(start));
        let mut parts = parts.into_iter();
        drop(parts.next());
        health.heartbeat(1).beat(start);
        assert_eq!(health.broken(), [1]);
        assert!(!health.is_live(start));

        let health = Health::new(1, start);
        let part = health.heartbeat(0).part();
        health.set_phase(Phase::Draining);
        drop(part);
        assert!(health.is_live(start));
    }

    #[test]
    fn the_phase_is_the_one_last_set() {
        let health = Health::new(1, crate::clock::now());
        assert_eq!(health.phase(), Phase::Starting);
        for phase in [Phase::Serving, Phase::Draining] {
            health.set_phase(phase);
            assert_eq!(health.phase(), phase);
        }
    }
}
