//! The water marks, and what they ask for at a given number of connections.
//!
//! Reaching high water asks to go down to low water, once: below high water
//! nothing happens, so between the two marks the number rises and falls freely
//! (hysteresis), and with a steady stream of newcomers a trim comes each time
//! as many have come as lie between the marks. A steady number above high
//! water means that the rest is protected or in its grace. Numbers are those
//! of connections that have not been told to end, so none is asked for twice.

use std::time::Duration;

use crate::config::ConnectionsConfig;

use super::select::Class;

/// The marks. `low` ≤ `high` ≤ `connections.max`, as the configuration holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// What a trim leaves.
    pub low: usize,
    /// What starts a trim.
    pub high: usize,
    /// How long a connection is new.
    pub grace: Duration,
}

/// Why connections are sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// `connections.high_water` was reached.
    HighWater,
    /// There are more than `connections.max`.
    HardMaximum,
    /// The process is larger than its budget of memory.
    Memory,
    /// The kernel says that tasks wait for memory.
    Stall,
}

impl Cause {
    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::HighWater => "high_water",
            Self::HardMaximum => "hard_max",
            Self::Memory => "memory",
            Self::Stall => "memory_stall",
        }
    }
}

/// What memory asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// [`Cause::Memory`] or [`Cause::Stall`].
    pub cause: Cause,
    /// Connections to close.
    pub close: usize,
}

/// What one trim is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Why.
    pub cause: Cause,
    /// Connections to close.
    pub close: usize,
    /// Connections to leave in any case.
    pub floor: usize,
    /// The best protected class that may be touched.
    pub reach: Class,
}

impl Marks {
    /// The marks as configured.
    #[must_use]
    pub fn new(config: &ConnectionsConfig) -> Self {
        Self {
            low: config.low_water,
            high: config.high_water,
            grace: config.grace_period,
        }
    }

    /// Connections that pressure of memory leaves, so that memory that others
    /// take, or that connections do not give back, cannot empty the server.
    #[must_use]
    pub fn memory_floor(&self) -> usize {
        self.low / 4
    }

    /// What is to be done with this many connections and this maximum. The
    /// hardest demand first; the others are looked at again afterwards.
    #[must_use]
    pub fn plan(&self, staying: usize, max: usize, demand: Option<Demand>) -> Option<Plan> {
        let plan = if staying > max {
            Plan {
                cause: Cause::HardMaximum,
                close: staying - max,
                floor: max,
                reach: Class::Listed,
            }
        } else if let Some(Demand { cause, close }) = demand {
            let floor = self.memory_floor();
            Plan {
                cause,
                close: close.min(staying.saturating_sub(floor)),
                floor,
                reach: match cause {
                    // Others may be at fault: nobody who is protected goes.
                    Cause::Stall => Class::New,
                    _ => Class::Relaying,
                },
            }
        } else if staying >= self.high {
            Plan {
                cause: Cause::HighWater,
                close: staying.saturating_sub(self.low),
                floor: self.low,
                reach: Class::Ordinary,
            }
        } else {
            return None;
        };
        (plan.close > 0).then_some(plan)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARKS: Marks = Marks {
        low: 80,
        high: 90,
        grace: Duration::ZERO,
    };

    #[test]
    fn nothing_is_asked_for_until_high_water_and_then_down_to_low_water() {
        for staying in 0..90 {
            assert_eq!(MARKS.plan(staying, 100, None), None, "{staying}");
        }
        for staying in 90..=100 {
            let plan = MARKS.plan(staying, 100, None).expect("a trim");
            assert_eq!(plan.cause, Cause::HighWater);
            assert_eq!(staying - plan.close, 80);
            assert_eq!(plan.reach, Class::Ordinary);
        }
    }

    #[test]
    fn a_lowered_maximum_reaches_everybody_and_only_down_to_it() {
        let plan = MARKS.plan(90, 50, None).expect("a trim");
        assert_eq!(plan.cause, Cause::HardMaximum);
        assert_eq!((plan.close, plan.floor), (40, 50));
        assert_eq!(plan.reach, Class::Listed);
    }

    #[test]
    fn equal_marks_switch_trimming_off() {
        let marks = Marks {
            low: 100,
            high: 100,
            grace: Duration::ZERO,
        };
        assert_eq!(marks.plan(100, 100, None), None);
    }

    #[test]
    fn memory_goes_below_low_water_but_not_below_its_floor() {
        let demand = |cause, close| Some(Demand { cause, close });
        let plan = |staying, demand| MARKS.plan(staying, 100, demand);
        let trim = plan(60, demand(Cause::Memory, 15)).expect("a trim");
        assert_eq!((trim.close, trim.floor), (15, 20));
        assert_eq!(trim.reach, Class::Relaying);
        let trim = plan(25, demand(Cause::Stall, 15)).expect("a trim");
        assert_eq!((trim.close, trim.reach), (5, Class::New));
        assert_eq!(plan(20, demand(Cause::Memory, 15)), None);
        assert_eq!(plan(3, demand(Cause::Memory, 15)), None);
    }

    proptest! {
        #[test]
        fn no_plan_goes_below_its_floor(low in 0..100_usize, above in 0..50_usize, staying in 0..300_usize, max in 1..200_usize, close in 0..300_usize, pressed in any::<bool>()) {
            let marks = Marks { low, high: low + above, grace: Duration::ZERO };
            let demand = pressed.then_some(Demand { cause: Cause::Memory, close });
            if let Some(plan) = marks.plan(staying, max, demand) {
                prop_assert!(staying - plan.close >= plan.floor);
                prop_assert!(plan.cause == Cause::Memory || plan.cause == Cause::HardMaximum || plan.floor == low);
            }
        }
    }
}
