//! Why a peer is kept whatever it is worth.
//!
//! Counts, not flags: each thing that protects counts in when it begins and
//! out when it ends, so a reservation that ends late cannot take away what a
//! newer one gave. Peers on the operator's list are known by that list alone
//! (`access`), which may change at any time.

/// What protects a peer, in the order in which it stops doing so when there
/// is no other way ([`Class`](super::Class)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It holds a reservation: others reach it through us.
    Reservation,
    /// It is an end of a circuit, being set up or running.
    Circuit,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; Self::COUNT] = [Self::Reservation, Self::Circuit];

    pub(super) const COUNT: usize = 2;

    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reservation => "reservation",
            Self::Circuit => "circuit",
        }
    }
}

/// How often a peer is protected for each reason. Bounded by the limits on
/// reservations and circuits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Protections([u32; Reason::COUNT]);

impl Protections {
    /// Counts one in; whether it is the first of its reason.
    pub(super) fn add(&mut self, reason: Reason) -> bool {
        let count = &mut self.0[reason as usize];
        *count += 1;
        *count == 1
    }

    /// Counts one out; whether it was the last of its reason.
    pub(super) fn remove(&mut self, reason: Reason) -> bool {
        let count = &mut self.0[reason as usize];
        debug_assert!(*count > 0, "a protection was taken back twice");
        let was_last = *count == 1;
        *count = count.saturating_sub(1);
        was_last
    }

    pub(super) fn has(self, reason: Reason) -> bool {
        self.0[reason as usize] > 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == [0; Reason::COUNT]
    }
}
