//! Time in four bytes: tenths of a second since the table was made.
//!
//! Fit for grace periods and decay, where a tenth more does not matter. Holds
//! for thirteen years and then stands still.

use std::time::{Duration, Instant};

/// Where moments are counted from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch(Instant);

/// A point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u32);

impl Epoch {
    pub(super) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// The moment of an instant; one before the epoch is the epoch.
    pub(super) fn moment(self, at: Instant) -> Moment {
        Moment(tenths(at.saturating_duration_since(self.0)))
    }
}

impl Moment {
    /// Tenths of a second since an earlier moment.
    #[must_use]
    pub(super) fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A duration in tenths of a second, rounded down.
pub(super) fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}
