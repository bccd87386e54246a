//! The rules made at run time, one for each subject.
//!
//! A striped table, capped, asked once for the peer and once for each prefix
//! length that some rule has. Expired rules go with [`Live::expire`], which
//! walks the table only when the first of them is due; time is wall-clock
//! seconds, so that a rule runs on while the server is stopped.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use libp2p_identity::PeerId;

use crate::{
    config::Subject,
    state::striped::{Capacity, Permit, StripedMap},
};

use super::{Said, Verdict};

/// Longest note on a rule, in bytes.
pub const NOTE_MAX: usize = 256;

/// As many rules as there may be (`access.rules_max`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are as many rules as access.rules_max = {max} allows")]
pub struct RulesFull {
    /// The cap.
    pub max: usize,
}

/// One rule, without whom it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it says.
    pub verdict: Verdict,
    /// When it was made, in seconds since the Unix epoch.
    pub made: u64,
    /// When it ends, likewise; never if none.
    pub expires: Option<u64>,
    /// Why, in the operator's words; at most [`NOTE_MAX`] bytes.
    pub note: Box<str>,
}

impl Rule {
    /// Whether it has ended.
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[derive(Debug)]
struct Kept {
    rule: Rule,
    _place: Permit,
}

/// The table.
#[derive(Debug)]
pub(super) struct Live {
    rules: StripedMap<Subject, Kept>,
    places: Arc<Capacity>,
    /// Rules by prefix length, counted before one is there and until it is
    /// gone, so that no lookup leaves out a length.
    v4: [AtomicU32; 33],
    v6: [AtomicU32; 129],
    /// Denying, allowing.
    counts: [AtomicUsize; 2],
    /// No rule ends before this.
    next_expiry: AtomicU64,
}

impl Live {
    pub(super) fn new(max: usize) -> Self {
        Self {
            rules: StripedMap::new(),
            places: Capacity::new(max),
            v4: std::array::from_fn(|_| AtomicU32::new(0)),
            v6: std::array::from_fn(|_| AtomicU32::new(0)),
            counts: Default::default(),
            next_expiry: AtomicU64::new(u64::MAX),
        }
    }

    /// Puts a rule in place of the one that the subject had.
    pub(super) fn insert(&self, subject: Subject, rule: Rule) -> Result<(), RulesFull> {
        let known = self.rules.with(&subject, |kept| {
            // Replaced where it is, so that a full table takes a change.
            kept.map(|kept| std::mem::replace(&mut kept.rule, rule.clone()))
        });
        self.next_expiry
            .fetch_min(rule.expires.unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(replaced) = known {
            self.count(replaced.verdict).fetch_sub(1, Ordering::Relaxed);
            self.count(rule.verdict).fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let max = self.places.max();
        let place = self.places.try_reserve().ok_or(RulesFull { max })?;
        if let Some(length) = self.length(&subject) {
            length.fetch_add(1, Ordering::Release);
        }
        self.count(rule.verdict).fetch_add(1, Ordering::Relaxed);
        let kept = Kept {
            rule,
            _place: place,
        };
        if let Some(replaced) = self.rules.insert(subject, kept) {
            self.forget(&subject, &replaced.rule);
        }
        Ok(())
    }

    /// The subject's rule.
    pub(super) fn get(&self, subject: &Subject) -> Option<Rule> {
        self.rules
            .with(subject, |kept| kept.map(|kept| kept.rule.clone()))
    }

    /// Takes the subject's rule out.
    pub(super) fn remove(&self, subject: &Subject) -> Option<Rule> {
        let kept = self.rules.remove(subject)?;
        self.forget(subject, &kept.rule);
        Some(kept.rule)
    }

    /// Whether [`Self::expire`] may have something to do.
    pub(super) fn is_expiry_due(&self, now: u64) -> bool {
        self.next_expiry.load(Ordering::Relaxed) <= now
    }

    /// Takes out what has ended, and tells whom it was about.
    pub(super) fn expire(&self, now: u64) -> Vec<(Subject, Rule)> {
        if !self.is_expiry_due(now) {
            return Vec::new();
        }
        // Rules that come during the walk lower it again.
        self.next_expiry.store(u64::MAX, Ordering::Relaxed);
        let (mut ended, mut next) = (Vec::new(), u64::MAX);
        for stripe in 0..self.rules.stripe_count() {
            self.rules.for_each_in(stripe, |subject, kept| {
                if kept.rule.is_expired(now) {
                    ended.push(*subject);
                } else {
                    next = next.min(kept.rule.expires.unwrap_or(u64::MAX));
                }
            });
        }
        self.next_expiry.fetch_min(next, Ordering::Relaxed);
        ended
            .into_iter()
            .filter_map(|subject| {
                let kept = self
                    .rules
                    .remove_if(&subject, |kept| kept.rule.is_expired(now))?;
                self.forget(&subject, &kept.rule);
                Some((subject, kept.rule))
            })
            .collect()
    }

    pub(super) fn of_peer(&self, peer: &PeerId) -> Said {
        if self.places.taken() == 0 {
            return Said::default();
        }
        self.of_subject(&Subject::Peer(*peer))
    }

    /// What the rules for the address and every range around it say whose prefix
    /// is as long as `shortest`.
    pub(super) fn of_address(&self, address: IpAddr, shortest: u8) -> Said {
        if self.places.taken() == 0 {
            return Said::default();
        }
        let lengths: &[AtomicU32] = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let used = (0_u8..).zip(lengths).skip(shortest.into());
        used.filter(|(_, count)| count.load(Ordering::Acquire) > 0)
            .filter_map(|(length, _)| IpNet::new(address, length).ok())
            .map(|range| self.of_subject(&Subject::Range(range.trunc())))
            .fold(Said::default(), Said::and)
    }

    pub(super) fn list(&self) -> Vec<(Subject, Rule)> {
        let mut rules = Vec::new();
        for stripe in 0..self.rules.stripe_count() {
            self.rules.for_each_in(stripe, |subject, kept| {
                rules.push((*subject, kept.rule.clone()));
            });
        }
        rules
    }

    /// Rules that deny, rules that allow.
    pub(super) fn counts(&self) -> [usize; 2] {
        self.counts
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    fn of_subject(&self, subject: &Subject) -> Said {
        let verdict = self
            .rules
            .with(subject, |kept| kept.map(|kept| kept.rule.verdict));
        Said {
            denied: verdict == Some(Verdict::Deny),
            allowed: verdict == Some(Verdict::Allow),
        }
    }

    /// Takes a rule that is out of the table off the counts.
    fn forget(&self, subject: &Subject, rule: &Rule) {
        if let Some(length) = self.length(subject) {
            length.fetch_sub(1, Ordering::Release);
        }
        self.count(rule.verdict).fetch_sub(1, Ordering::Relaxed);
    }

    fn length(&self, subject: &Subject) -> Option<&AtomicU32> {
        match subject {
            Subject::Peer(_) => None,
            Subject::Range(IpNet::V4(range)) => self.v4.get(usize::from(range.prefix_len())),
            Subject::Range(IpNet::V6(range)) => self.v6.get(usize::from(range.prefix_len())),
        }
    }

    fn count(&self, verdict: Verdict) -> &AtomicUsize {
        match verdict {
            Verdict::Deny => &self.counts[0],
            Verdict::Allow => &self.counts[1],
        }
    }
}
