//! Token bucket: how often something may happen, with room for a burst.
//!
//! One `Instant` per bucket and integer arithmetic (the generic cell rate
//! algorithm, ITU-T I.371): nothing to refill on a timer, and a bucket that is
//! full again can be forgotten. Who owns a bucket bounds how many there are.

use std::time::{Duration, Instant};

/// The slowest rate: one token a day. What is asked for below that, or is not
/// a rate at all, gets this; the configuration refuses such values earlier.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What all buckets of a kind share: the time a token takes, and how many may
/// be saved up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    /// Time in which an empty bucket fills: the interval times the burst.
    span: Duration,
}

/// A bucket, known by the time at which it will be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    full_at: Instant,
}

/// The bucket holds fewer tokens than were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate exceeded, next in {wait:?}")]
pub struct Exceeded {
    /// Time until the same request would be granted, if nothing else is taken.
    /// A request above the burst is never granted.
    pub wait: Duration,
}

impl Rate {
    /// `per_second` tokens a second, of which `burst` (at least one) can be
    /// saved up.
    #[must_use]
    pub fn new(per_second: f64, burst: u32) -> Self {
        let seconds = if per_second > 0.0 {
            per_second.recip()
        } else {
            f64::INFINITY
        };
        let interval = Duration::try_from_secs_f64(seconds)
            .unwrap_or(INTERVAL_MAX)
            .clamp(Duration::from_nanos(1), INTERVAL_MAX);
        Self {
            interval,
            span: interval.saturating_mul(burst.max(1)),
        }
    }
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes `tokens`, all or none.
    ///
    /// # Errors
    ///
    /// [`Exceeded`] if the bucket holds fewer; it then keeps what it has.
    pub fn take(&mut self, rate: &Rate, tokens: u32, now: Instant) -> Result<(), Exceeded> {
        let cost = rate.interval.saturating_mul(tokens);
        let missing = self
            .full_at
            .saturating_duration_since(now)
            .saturating_add(cost);
        if missing > rate.span {
            let wait = missing - rate.span;
            return Err(Exceeded { wait });
        }
        // At most the span ahead of now, so the sum only fails at the end of
        // the clock, where a bucket that never empties does no harm.
        self.full_at = now.checked_add(missing).unwrap_or(now);
        Ok(())
    }

    /// Puts back `tokens` that were taken for something that was then refused.
    pub fn give_back(&mut self, rate: &Rate, tokens: u32) {
        let cost = rate.interval.saturating_mul(tokens);
        self.full_at = self.full_at.checked_sub(cost).unwrap_or(self.full_at);
    }

    /// Whether this bucket is as good as a new one.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let start = clock::now();
        let rate = Rate::new(4.0, 3);
        let mut bucket = TokenBucket::new(start);
        for _ in 0..3 {
            assert_eq!(bucket.take(&rate, 1, start), Ok(()));
        }
        let wait = Duration::from_millis(250);
        assert_eq!(bucket.take(&rate, 1, start), Err(Exceeded { wait }));
        assert!(bucket.take(&rate, 1, start + wait - MILLISECOND).is_err());
        assert_eq!(bucket.take(&rate, 1, start + wait), Ok(()));
        assert!(bucket.take(&rate, 1, start + wait).is_err());
    }

    #[test]
    fn a_refusal_costs_nothing_and_a_token_given_back_is_there_again() {
        let start = clock::now();
        let rate = Rate::new(1.0, 2);
        let mut bucket = TokenBucket::new(start);
        assert!(bucket.take(&rate, 3, start).is_err());
        assert!(bucket.is_full(start));
        assert_eq!(bucket.take(&rate, 2, start), Ok(()));
        bucket.give_back(&rate, 1);
        assert_eq!(bucket.take(&rate, 1, start), Ok(()));
        assert!(bucket.take(&rate, 1, start).is_err());
    }

    #[test]
    fn nothing_is_saved_beyond_the_burst() {
        let start = clock::now();
        let rate = Rate::new(10.0, 2);
        let mut bucket = TokenBucket::new(start);
        bucket.give_back(&rate, 5);
        let later = start + Duration::from_secs(1_000);
        assert_eq!(bucket.take(&rate, 2, later), Ok(()));
        assert!(bucket.take(&rate, 1, later).is_err());
        assert!(!bucket.is_full(later));
        assert!(bucket.is_full(later + Duration::from_millis(200)));
    }

    #[test]
    fn values_that_are_no_rate_are_slow_not_open() {
        let start = clock::now();
        for per_second in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY, 1e-300] {
            let rate = Rate::new(per_second, 0);
            let mut bucket = TokenBucket::new(start);
            assert_eq!(bucket.take(&rate, 1, start), Ok(()), "{per_second}");
            let hour = start + Duration::from_secs(3600);
            assert!(bucket.take(&rate, 1, hour).is_err(), "{per_second}");
        }
        let rate = Rate::new(f64::MAX, u32::MAX);
        assert_eq!(TokenBucket::new(start).take(&rate, 1, start), Ok(()));
    }

    proptest! {
        /// The promise: in any span of time at most the burst and what the
        /// rate yields, and a client that keeps to the rate is never refused.
        #[test]
        fn grants_stay_within_burst_and_rate(
            per_second in 1_u32..50,
            burst in 1_u32..20,
            gaps in prop::collection::vec(0_u64..400, 1..300),
        ) {
            let start = clock::now();
            let rate = Rate::new(f64::from(per_second), burst);
            let mut bucket = TokenBucket::new(start);
            let mut now = start;
            let mut granted: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += MILLISECOND * u32::try_from(gap).expect("small");
                if bucket.take(&rate, 1, now).is_ok() {
                    granted.push(now);
                }
            }
            for (first, from) in granted.iter().enumerate() {
                for (last, to) in granted.iter().enumerate().skip(first) {
                    let allowed = f64::from(burst)
                        + (*to - *from).as_secs_f64() * f64::from(per_second);
                    let taken = f64::from(u32::try_from(last - first + 1).expect("small"));
                    prop_assert!(taken <= allowed + 1e-6, "{taken} of {allowed}");
                }
            }
        }

        #[test]
        fn a_client_at_the_rate_is_never_refused(per_second in 1_u32..1_000) {
            let rate = Rate::new(f64::from(per_second), 1);
            let mut now = clock::now();
            let mut bucket = TokenBucket::new(now);
            for _ in 0..50 {
                prop_assert_eq!(bucket.take(&rate, 1, now), Ok(()));
                now += Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(per_second)));
            }
        }
    }
}
