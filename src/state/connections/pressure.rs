//! When memory asks for connections to go, and for how many.
//!
//! Pure: readings and time come in, demands go out. Bounded on purpose, since
//! the cause may lie elsewhere: a demand is for a share of what is open, the
//! next one waits until the last can have shown in the size of the process,
//! and waits twice as long each time it has not. How far down it goes is the
//! marks' ([`Marks::memory_floor`](super::Marks::memory_floor)).

use std::time::{Duration, Instant};

use super::marks::{Cause, Demand};

/// Time between two demands. The allocator gives pages back ten seconds after
/// they were freed (jemalloc's decay).
const COOL_DOWN: Duration = Duration::from_secs(15);

/// Longest time between two demands, when sending peers away does not help.
const COOL_DOWN_MAX: Duration = Duration::from_secs(240);

/// A demand that did not bring the size down by this share did not help.
const HELPED: f64 = 0.01;

/// Over budget, the size is to come down to this share of it.
const TARGET: f64 = 0.9;

/// Most connections that one demand is for, as a share of those open.
const SHARE_MAX: f64 = 0.25;

/// Share of ten seconds in which some task waited for memory (PSI, `some
/// avg10`) that counts as a stall. Services of this kind feel a few per cent;
/// a host that swaps shows tens.
const STALLED: f64 = 0.1;

/// A process below this share of its budget is not what the host is short of
/// memory for.
const STALL_SIZE: f64 = 0.5;

/// Share of the connections that a stall asks for.
const STALL_SHARE: f64 = 0.05;

/// How things stand. What the system does not tell is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// Resident size of the process in bytes, files aside.
    pub resident_bytes: Option<u64>,
    /// Share of the last ten seconds in which some task waited for memory.
    pub stalled: Option<f64>,
}

/// The budget of memory and when it was last enforced.
#[derive(Debug)]
pub struct Pressure {
    budget: u64,
    last: Option<Enforced>,
}

#[derive(Debug)]
struct Enforced {
    resident: f64,
    until: Instant,
    cool_down: Duration,
}

impl Pressure {
    /// A budget in bytes.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self { budget, last: None }
    }

    /// What a reading asks for while `staying` connections are open.
    pub fn judge(&mut self, reading: Reading, staying: usize, now: Instant) -> Option<Demand> {
        let resident = reading.resident_bytes? as f64;
        let budget = self.budget as f64;
        if let Some(last) = &self.last
            && now < last.until
        {
            return None;
        }
        let stalled = reading.stalled.is_some_and(|share| share >= STALLED);
        let (cause, share) = if resident > budget {
            let surplus = (resident - budget * TARGET) / resident;
            (Cause::Memory, surplus.min(SHARE_MAX))
        } else if stalled && resident >= budget * STALL_SIZE {
            (Cause::Stall, STALL_SHARE)
        } else {
            self.last = None;
            return None;
        };
        self.enforced(resident, now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let close = (staying as f64 * share).ceil() as usize;
        (close > 0).then_some(Demand { cause, close })
    }

    fn enforced(&mut self, resident: f64, now: Instant) {
        let helped = |last: &Enforced| resident < last.resident * (1.0 - HELPED);
        let cool_down = match &self.last {
            Some(last) if !helped(last) => (last.cool_down * 2).min(COOL_DOWN_MAX),
            _ => COOL_DOWN,
        };
        self.last = Some(Enforced {
            resident,
            until: now + cool_down,
            cool_down,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: u64 = 1 << 30;

    fn reading(resident_share: f64, stalled: f64) -> Reading {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a size"
        )]
        let resident = (BUDGET as f64 * resident_share) as u64;
        Reading {
            resident_bytes: Some(resident),
            stalled: Some(stalled),
        }
    }

    #[test]
    fn within_the_budget_nobody_goes() {
        let mut pressure = Pressure::new(BUDGET);
        let now = crate::clock::now();
        for (size, stalled) in [(0.1, 0.0), (1.0, 0.0), (0.9, 0.09), (0.4, 1.0)] {
            let reading = reading(size, stalled);
            assert_eq!(pressure.judge(reading, 1000, now), None, "{reading:?}");
        }
        assert_eq!(pressure.judge(Reading::default(), 1000, now), None);
    }

    #[test]
    fn over_the_budget_a_share_goes_that_brings_it_below() {
        let now = crate::clock::now();
        for (size, close) in [(1.01, 109), (1.1, 182), (1.2, 250), (50.0, 250)] {
            let demand = Pressure::new(BUDGET).judge(reading(size, 0.0), 1000, now);
            let demand = demand.expect("a demand");
            assert_eq!(demand.cause, Cause::Memory);
            assert_eq!(demand.close, close, "{size}");
        }
    }

    #[test]
    fn a_stall_takes_few_and_only_of_a_large_process() {
        let now = crate::clock::now();
        let demand = Pressure::new(BUDGET).judge(reading(0.6, 0.2), 1000, now);
        let expected = Demand {
            cause: Cause::Stall,
            close: 50,
        };
        assert_eq!(demand, Some(expected));
    }

    /// What an outside cause can take: the size never falls, whoever goes.
    #[test]
    fn what_does_not_help_is_asked_for_ever_more_seldom() {
        let mut pressure = Pressure::new(BUDGET);
        let mut now = crate::clock::now();
        let begin = now;
        let mut at = Vec::new();
        for _ in 0..900 {
            if pressure.judge(reading(2.0, 0.0), 1000, now).is_some() {
                at.push((now - begin).as_secs());
            }
            now += Duration::from_secs(1);
        }
        assert_eq!(at, [0, 15, 45, 105, 225, 465, 705]);
    }

    #[test]
    fn what_helps_goes_on_at_the_usual_pace_and_then_ends() {
        let mut pressure = Pressure::new(BUDGET);
        let mut now = crate::clock::now();
        for size in [2.0, 1.6, 1.3, 1.1] {
            assert!(pressure.judge(reading(size, 0.0), 1000, now).is_some());
            let soon = now + Duration::from_secs(14);
            assert_eq!(pressure.judge(reading(size, 0.0), 1000, soon), None);
            now += COOL_DOWN;
        }
        assert_eq!(pressure.judge(reading(0.9, 0.0), 1000, now), None);
        assert!(pressure.judge(reading(1.1, 0.0), 1000, now).is_some());
    }
}
