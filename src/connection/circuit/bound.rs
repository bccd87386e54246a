//! One end of a running circuit: where its bytes go, and what they are counted
//! against.
//!
//! Owns the budget of one direction and the credit that it is owed. Who starts
//! and ends circuits is the parent's.

use std::{mem, sync::Arc, time::Instant};

use crate::connection::{pacing::Withheld, read_pass::Pass};
use crate::engine::budget::Budget;
use crate::metrics::CircuitMetrics;
use crate::state::{
    circuits::{Circuit, EndCause},
    leg::{Command, Effects, Leg, Untaken},
};

/// Bytes that are charged at once: small beside every rate.
const CHARGE_AT: usize = 4096;

/// Which end of a circuit a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connection) enum End {
    Source,
    Destination,
}

impl End {
    /// The cause when this end's stream is reset by its peer.
    pub(super) fn reset(self) -> EndCause {
        match self {
            Self::Source => EndCause::SourceReset,
            Self::Destination => EndCause::DestinationReset,
        }
    }

    /// The cause when this end's connection goes.
    pub(in crate::connection) fn closed(self) -> EndCause {
        match self {
            Self::Source => EndCause::SourceClosed,
            Self::Destination => EndCause::DestinationClosed,
        }
    }
}

/// One end of a running circuit.
pub(in crate::connection) struct Bound {
    pub(in crate::connection) circuit: Arc<Circuit>,
    pub(in crate::connection) end: End,
    out: Leg,
    budget: Budget,
    pub(in crate::connection) withheld: Withheld,
    /// Bytes carried and not yet charged against a rate.
    uncharged: usize,
}

/// Why a circuit cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connection) enum Broken {
    /// The other end is not there any more.
    Gone,
    /// Its bytes would have had to wait, and there is no memory for it.
    Memory,
    /// This direction has carried all that it may.
    ByteLimit,
}

impl Bound {
    pub(super) fn new(circuit: Arc<Circuit>, end: End, out: Leg) -> Self {
        let budget = Budget::new(circuit.bytes_max());
        Self {
            circuit,
            end,
            out,
            budget,
            withheld: Withheld::default(),
            uncharged: 0,
        }
    }

    /// Passes bytes on to the other end.
    #[inline]
    pub(in crate::connection) fn forward(
        &mut self,
        payload: &[u8],
        metrics: &CircuitMetrics,
        pass: &mut Pass<'_>,
    ) -> Result<(), Broken> {
        let admitted = self.budget.admit(payload.len());
        if admitted.bytes > 0 {
            self.out
                .link
                .carry(self.out.stream, &payload[..admitted.bytes], pass.effects)
                .map_err(|untaken| match untaken {
                    Untaken::Gone(_) => Broken::Gone,
                    Untaken::Memory => Broken::Memory,
                })?;
            if self.circuit.is_paced() {
                self.charge(admitted.bytes, pass.now);
            }
            match self.end {
                End::Source => metrics.relayed_to_destination(admitted.bytes),
                End::Destination => metrics.relayed_to_source(admitted.bytes),
            }
        }
        if admitted.exhausted {
            return Err(Broken::ByteLimit);
        }
        Ok(())
    }

    /// Charges what was carried, not each small frame by itself: the meters are
    /// shared by all workers.
    fn charge(&mut self, bytes: usize, now: Instant) {
        self.uncharged += bytes;
        if self.uncharged >= CHARGE_AT
            && let Some(due) = self.circuit.charge(mem::take(&mut self.uncharged), now)
        {
            self.withheld.owed_until(due);
        }
    }

    pub(super) fn finish(&self, effects: &mut Effects) {
        self.out.link.finish(self.out.stream, effects);
    }

    /// Resets the other end, at once or behind what it was given.
    pub(super) fn reset_other(&self, code: u32, drain: bool, effects: &mut Effects) {
        if drain {
            let draining = Command::Draining(self.out.stream);
            // If the other end's connection has ended there is nothing to
            // drain.
            let _ = self.out.link.deliver(draining);
        }
        self.out.link.reset(self.out.stream, code, drain, effects);
    }
}
