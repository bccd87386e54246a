//! The task that keeps the number of connections where it should be.
//!
//! Woken when high water is crossed, when a socket is refused at the hard
//! maximum, and once a second to look at memory. It sends away in small
//! batches with pauses, so that goodbyes never hold up traffic for long. Who
//! goes is decided in `state::connections`.

use std::{sync::Arc, time::Duration, time::Instant};

use libp2p_identity::PeerId;
use tokio::time::MissedTickBehavior;

use crate::{
    clock,
    metrics::TrimMetrics,
    state::{
        connections::{Cause, Connections, Outcome, Plan, Pressure, Reading},
        leg::Ending,
    },
};

use super::{memory::MemoryProbe, worker::Shared};

/// How often memory and the marks are looked at without being asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Least time between two looks, so that a flood of refused sockets, each of
/// which asks for one, costs ten of them a second.
const LOOK_GAP: Duration = Duration::from_millis(100);

/// Connections told to end before others get their turn. A goodbye is a record,
/// a write and the end of a task, some 30 µs of a worker: a batch holds
/// circuits up for a tenth of a millisecond. With 16, their p99 was 2.5 times
/// what it is without a trim, with 4 it is 1.8 times (`loadtest trim`,
/// 2026-11-20).
const BATCH: usize = 4;

/// Pause behind a batch, the shortest that the timer has. With it, some 2,000 to
/// 4,000 connections go in a second, and the workers together spend at most an
/// eighth of a core on them.
const PAUSE: Duration = Duration::from_millis(1);

/// Rest after a trim at high water that found too few: until something has
/// left its grace there is nothing new to find.
const REST: Duration = Duration::from_secs(10);

/// Stripes copied before others get their turn.
const STRIPES_AT_ONCE: usize = 8;

/// The task that trims this server's connections; `memory_max` is in bytes.
pub(super) fn task(
    shared: &Shared,
    memory_max: Option<u64>,
) -> impl Future<Output = ()> + Send + use<> {
    let (context, limits) = (Arc::clone(&shared.context), Arc::clone(&shared.limits));
    let metrics = Arc::clone(&context.metrics.trimming);
    let marks = context.connections.marks();
    metrics.set_limits(marks.low, marks.high, memory_max);
    let trimmer = Trimmer {
        connections: Arc::clone(&context.connections),
        metrics,
        pressure: Pressure::new(memory_max.unwrap_or(u64::MAX)),
        max: move || limits.usage().total.max,
        listed: move |peer: &PeerId| context.relay.access.is_protected(peer),
        rest_until: None,
    };
    trimmer.run(MemoryProbe::new())
}

/// The trimming task.
struct Trimmer<Max, Listed> {
    connections: Arc<Connections>,
    metrics: Arc<TrimMetrics>,
    pressure: Pressure,
    /// Tells `connections.max` as it is now.
    max: Max,
    /// Tells whether a peer is on the operator's list.
    listed: Listed,
    rest_until: Option<Instant>,
}

impl<Max, Listed> Trimmer<Max, Listed>
where
    Max: Fn() -> usize,
    Listed: Fn(&PeerId) -> bool,
{
    /// Runs for ever; may be dropped at any point.
    async fn run(mut self, memory: MemoryProbe) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Both are cancel-safe: what is missed now is seen at the
                // next tick.
                () = self.connections.attention() => {}
                _ = ticks.tick() => {}
            }
            self.look(memory.read()).await;
            tokio::time::sleep(LOOK_GAP).await;
        }
    }

    /// Looks once and trims if there is a need.
    async fn look(&mut self, reading: Reading) {
        if let Some(share) = reading.stalled {
            self.metrics.set_memory_stalled(share);
        }
        let now = clock::now();
        let staying = self.connections.staying();
        let demand = self.pressure.judge(reading, staying, now);
        let marks = self.connections.marks();
        let Some(plan) = marks.plan(staying, (self.max)(), demand) else {
            return;
        };
        let resting = self.rest_until.is_some_and(|until| now < until);
        if plan.cause == Cause::HighWater && resting {
            return;
        }
        let (told, candidates) = self.trim(&plan).await;
        // Not when some have left by themselves: then there are more to choose.
        let short = candidates < plan.close && self.connections.staying() > plan.floor;
        if plan.cause == Cause::HighWater {
            self.rest_until = short.then(|| clock::now() + REST);
        }
        let seconds = seconds_since(now);
        self.metrics.trimmed(plan.cause.label(), short, seconds);
        if told > 0 {
            let cause = plan.cause.label();
            tracing::info!(cause, connections = told, "shed connections");
        }
    }

    /// Chooses and tells; how many were told, and of how many.
    async fn trim(&self, plan: &Plan) -> (usize, usize) {
        let begin = clock::now();
        let mut snapshot = self.connections.snapshot(plan.reach);
        for stripe in 0..self.connections.stripes() {
            if stripe % STRIPES_AT_ONCE == STRIPES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            self.connections
                .collect(stripe, begin, &self.listed, &mut snapshot);
        }
        let candidates = snapshot.len();
        let victims = snapshot.select(plan.close);
        self.metrics.selected(candidates, seconds_since(begin));
        let ending = match plan.cause {
            Cause::HighWater | Cause::HardMaximum => Ending::Trimmed,
            Cause::Memory | Cause::Stall => Ending::MemoryShort,
        };
        let mut told = 0;
        for batch in victims.chunks(BATCH) {
            let now = clock::now();
            for victim in batch {
                match self.connections.dismiss(victim, plan, ending, now) {
                    Outcome::Told(class) => {
                        told += 1;
                        self.metrics.told(plan.cause.label(), class.label());
                    }
                    Outcome::Spared => {}
                    Outcome::Enough => return (told, candidates),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        (told, candidates)
    }
}

fn seconds_since(begin: Instant) -> f64 {
    clock::now().saturating_duration_since(begin).as_secs_f64()
}

#[cfg(test)]
mod tests;
