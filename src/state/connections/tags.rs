//! What a peer is worth: points for what it has done, which fade.
//!
//! A closed list of tags, each with its points, a cap and a half-life. Decay
//! is worked out when somebody looks; no timer runs for it. 24 bytes a peer.
//!
//! | tag | points | at most | half-life |
//! |---|---|---|---|
//! | identified: has said who it is | 5 | 5 | none |
//! | reserved: asked for a reservation and got it | 10 | 20 | 1 h, as long as a reservation holds |
//! | relayed: was an end of a circuit that opened | 10 | 100 | 10 min |

use std::time::Duration;

use super::moment::{Moment, tenths};

/// What a peer gets points for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// It has said who it is.
    Identified,
    /// It was granted a reservation, new or renewed.
    Reserved,
    /// It was an end of a circuit that opened.
    Relayed,
}

/// Points are kept in parts, so that a few of them can fade.
const PARTS: u32 = 256;

/// How a tag counts.
struct Rule {
    points: u32,
    most: u32,
    /// Zero: does not fade.
    half_life: Duration,
}

const RULES: [Rule; 3] = [
    Rule {
        points: 5,
        most: 5,
        half_life: Duration::ZERO,
    },
    Rule {
        points: 10,
        most: 20,
        half_life: Duration::from_secs(60 * 60),
    },
    Rule {
        points: 10,
        most: 100,
        half_life: Duration::from_secs(10 * 60),
    },
];

/// The points of one peer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tags([Score; RULES.len()]);

/// The points of one tag as they were at some moment.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    parts: u32,
    at: Moment,
}

impl Tags {
    /// Adds the points of a tag.
    pub(super) fn credit(&mut self, tag: Tag, now: Moment) {
        let rule = &RULES[tag as usize];
        let score = &mut self.0[tag as usize];
        let faded = score.at(rule, now);
        *score = Score {
            parts: (faded + rule.points * PARTS).min(rule.most * PARTS),
            at: now,
        };
    }

    /// All points as of now, in parts.
    pub(super) fn value(&self, now: Moment) -> u32 {
        let scores = self.0.iter().zip(&RULES);
        scores.map(|(score, rule)| score.at(rule, now)).sum()
    }
}

impl Score {
    fn at(self, rule: &Rule, now: Moment) -> u32 {
        let half_life = tenths(rule.half_life);
        if self.parts == 0 || half_life == 0 {
            return self.parts;
        }
        let age = now.since(self.at);
        fade(self.parts, age, half_life)
    }
}

/// Halves once each half-life, and goes down in a straight line in between:
/// at most 6 % above the exponential, and nothing but integers.
fn fade(parts: u32, age: u32, half_life: u32) -> u32 {
    let whole = parts.checked_shr(age / half_life).unwrap_or(0);
    let rest = u64::from(age % half_life);
    let lost = u64::from(whole) * rest / (2 * u64::from(half_life));
    // `lost` is at most half of `whole`.
    whole - u32::try_from(lost).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::super::moment::Epoch;
    use super::*;

    fn moments() -> impl Fn(u64) -> Moment {
        let start = crate::clock::now();
        let epoch = Epoch::new(start);
        move |seconds| {
            let at: Instant = start + Duration::from_secs(seconds);
            epoch.moment(at)
        }
    }

    #[test]
    fn points_add_up_to_their_cap_and_halve_with_time() {
        let at = moments();
        let mut tags = Tags::default();
        assert_eq!(tags.value(at(0)), 0);
        for _ in 0..30 {
            tags.credit(Tag::Relayed, at(0));
            tags.credit(Tag::Identified, at(0));
        }
        let points = |tags: &Tags, seconds| tags.value(at(seconds)) / PARTS;
        assert_eq!(points(&tags, 0), 105);
        assert_eq!(points(&tags, 600), 55);
        assert_eq!(points(&tags, 900), 42, "halfway to the next half");
        assert_eq!(points(&tags, 1200), 30);
        assert_eq!(points(&tags, 365 * 86_400), 5, "what does not fade stays");
    }

    #[test]
    fn a_circuit_now_counts_more_than_many_long_ago() {
        let at = moments();
        let (mut once, mut often) = (Tags::default(), Tags::default());
        for _ in 0..10 {
            often.credit(Tag::Relayed, at(0));
        }
        once.credit(Tag::Relayed, at(3600));
        assert!(once.value(at(3600)) > often.value(at(3600)));
    }

    proptest! {
        #[test]
        fn fading_never_rises_and_follows_the_exponential(parts in 0..30_000_u32, half_life in 1..100_000_u32, age in any::<u32>()) {
            let faded = fade(parts, age, half_life);
            prop_assert!(faded <= parts);
            prop_assert!(fade(parts, age.saturating_add(1), half_life) <= faded);
            let exact = f64::from(parts) * 0.5_f64.powf(f64::from(age) / f64::from(half_life));
            prop_assert!((f64::from(faded) - exact).abs() <= exact * 0.062 + 1.5, "{faded} for {exact}");
        }
    }
}
