//! Changing rules while the server runs: in the table, on what is open, and in
//! the store, so that they outlive a restart.
//!
//! A rule holds from the moment it is made, also when the store cannot take
//! it; then the whole table is written as soon as it can. What the store has
//! and this program cannot read is never taken out of it. Every call may wait
//! for a disk: never on a worker. Changes are made one after the other, and
//! written one after the other, each under a lock that no traffic takes: a
//! slow disk does not hold up the next rule.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    config::Subject,
    store::{Change, Store, StoreError, Table},
};

use super::{Access, NOTE_MAX, Rule, RulesFull, Verdict};

/// Changes written at once.
const BATCH_MAX: usize = 4_096;

/// Why a rule cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// No room for another.
    #[error(transparent)]
    Full(#[from] RulesFull),
    /// More than a note may be.
    #[error("the note is longer than {NOTE_MAX} bytes")]
    NoteTooLong,
    /// Nothing to remove.
    #[error("there is no rule about {0}")]
    Unknown(Subject),
    /// Fixed until the next start.
    #[error("{0} is in the configuration (access.{1}, access.{1}_file)")]
    Configured(Subject, &'static str),
}

/// Why the stored rules cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// They cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are more than the table takes.
    #[error("the store has {stored} rules, all of which have to hold")]
    TooMany {
        /// Rules in the store that have not ended.
        stored: usize,
    },
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Connections that are being closed because of it.
    pub closing: usize,
    /// Whether it is on disk; if not yet, it is tried again.
    pub kept: bool,
}

/// Closes the connections that a subject covers and counts them.
type Cut = Box<dyn Fn(&Subject) -> usize + Send + Sync>;

/// The rules and where they are kept.
pub struct Rulebook {
    access: Arc<Access>,
    store: Arc<Store>,
    cut: Cut,
    changing: Mutex<()>,
    /// Whoever has it writes what the table has at that time.
    writing: Mutex<()>,
    /// The store does not have what the table has.
    behind: AtomicBool,
    /// [`Store::renewals`] when it was last known to have everything.
    renewals: AtomicU64,
}

/// A rule in the store. Unknown fields are ignored.
#[derive(Serialize, Deserialize)]
struct Stored {
    verdict: String,
    made: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    note: Box<str>,
}

impl Rulebook {
    /// Takes over the rules that the store has and that have not ended. `cut`
    /// closes what a subject covers.
    ///
    /// # Errors
    /// [`LoadError`] if they cannot be read or are more than
    /// `access.rules_max`: a server that forgets whom it denies must not start.
    pub fn load(
        access: Arc<Access>,
        store: Arc<Store>,
        now: u64,
        cut: impl Fn(&Subject) -> usize + Send + Sync + 'static,
    ) -> Result<Self, LoadError> {
        let mut left_out = 0_usize;
        let mut read = Vec::new();
        store.for_each(Table::Access, |key, value| match decode(key, value) {
            Some(entry) => read.push(entry),
            None => left_out += 1,
        })?;
        if left_out > 0 {
            tracing::warn!(
                left_out,
                "rules in the store that cannot be read do not hold; they stay in it"
            );
        }
        let found = read.len();
        read.retain(|(_, rule): &(Subject, Rule)| !rule.is_expired(now));
        let stored = read.len();
        for (subject, rule) in read {
            let full = |_| LoadError::TooMany { stored };
            access.live.insert(subject, rule).map_err(full)?;
        }
        let renewals = AtomicU64::new(store.renewals());
        Ok(Self {
            access,
            store,
            cut: Box::new(cut),
            changing: Mutex::new(()),
            writing: Mutex::new(()),
            behind: AtomicBool::new(stored < found),
            renewals,
        })
    }

    /// Makes a rule, in place of the one that the subject had, and closes what
    /// it denies.
    ///
    /// # Errors
    /// [`RuleError`] if nothing was changed.
    pub fn add(&self, subject: Subject, rule: &Rule) -> Result<Changed, RuleError> {
        if rule.note.len() > NOTE_MAX {
            return Err(RuleError::NoteTooLong);
        }
        let one = self.changing.lock();
        self.access.live.insert(subject, rule.clone())?;
        let closing = match rule.verdict {
            Verdict::Deny => (self.cut)(&subject),
            Verdict::Allow => 0,
        };
        tracing::info!(%subject, verdict = rule.verdict.name(), expires = rule.expires, note = ?rule.note, closing, "rule made");
        drop(one);
        let kept = self.keep(&[subject]);
        Ok(Changed { closing, kept })
    }

    /// Takes back a rule that was made at run time, and closes what has from
    /// it what only trust gives.
    ///
    /// # Errors
    /// [`RuleError::Unknown`] if there is none, [`RuleError::Configured`] if
    /// the configuration has one.
    pub fn remove(&self, subject: &Subject) -> Result<Changed, RuleError> {
        let one = self.changing.lock();
        let Some(rule) = self.access.live.remove(subject) else {
            return Err(match self.access.configured(subject) {
                Some(verdict) => RuleError::Configured(*subject, verdict.name()),
                None => RuleError::Unknown(*subject),
            });
        };
        let closing = self.end(subject, &rule);
        tracing::info!(%subject, closing, "rule removed");
        drop(one);
        let kept = self.keep(&[*subject]);
        Ok(Changed { closing, kept })
    }

    /// Whether a rule may have ended, for [`Self::tend`] to see to.
    #[must_use]
    pub fn is_expiry_due(&self, now: u64) -> bool {
        self.access.live.is_expiry_due(now)
    }

    /// Whether the store lacks something, for [`Self::tend`] to write.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
            || self.store.renewals() != self.renewals.load(Ordering::Relaxed)
    }

    /// Ends what has expired, and brings a store that is behind up to date.
    pub fn tend(&self, now: u64) {
        let one = self.changing.lock();
        let ended = self.access.live.expire(now);
        for (subject, rule) in &ended {
            self.access.metrics.expired();
            let closing = self.end(subject, rule);
            tracing::info!(%subject, verdict = rule.verdict.name(), closing, "rule expired");
        }
        drop(one);
        let ended: Vec<Subject> = ended.into_iter().map(|(subject, _)| subject).collect();
        for batch in ended.chunks(BATCH_MAX) {
            self.keep(batch);
        }
        let _one = self.writing.lock();
        let renewals = self.store.renewals();
        if self.is_behind() && self.write_all().is_ok() {
            self.behind.store(false, Ordering::Relaxed);
            self.renewals.store(renewals, Ordering::Relaxed);
        }
    }

    /// The rules and the lists.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Closes what an ended rule's subject covers if it may hold what only
    /// trust gives. Who is trusted otherwise comes back with it.
    fn end(&self, subject: &Subject, rule: &Rule) -> usize {
        if rule.verdict == Verdict::Allow && self.access.trust_gives() {
            (self.cut)(subject)
        } else {
            0
        }
    }

    /// Writes the rules of these subjects as they are now.
    fn keep(&self, subjects: &[Subject]) -> bool {
        let _one = self.writing.lock();
        let now = |subject| match self.access.live.get(subject) {
            Some(rule) => encode(subject, &rule),
            None => Change::Delete { key: key(subject) },
        };
        let changes: Vec<Change> = subjects.iter().map(now).collect();
        let kept = self.store.apply(Table::Access, &changes).is_ok();
        if !kept {
            self.behind.store(true, Ordering::Relaxed);
        }
        kept
    }

    /// Makes the stored table what the table is. All rules that can be read
    /// were taken over at the start, so one that is not there any more has
    /// ended or was taken back; what cannot be read is not ours to take out.
    fn write_all(&self) -> Result<(), StoreError> {
        let rules = self.access.live.list();
        let mut wanted: HashMap<Vec<u8>, Vec<u8>> = rules
            .iter()
            .map(|(subject, rule)| (key(subject), value(rule)))
            .collect();
        let mut changes = Vec::new();
        self.store
            .for_each(Table::Access, |key, value| match wanted.get(key) {
                None if decode(key, value).is_none() => {}
                None => changes.push(Change::Delete { key: key.to_vec() }),
                Some(same) if same == value => {
                    wanted.remove(key);
                }
                Some(_) => {}
            })?;
        let puts = wanted.into_iter();
        changes.extend(puts.map(|(key, value)| Change::Put { key, value }));
        changes
            .chunks(BATCH_MAX)
            .try_for_each(|batch| self.store.apply(Table::Access, batch))
    }
}

impl std::fmt::Debug for Rulebook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rulebook").finish_non_exhaustive()
    }
}

fn encode(subject: &Subject, rule: &Rule) -> Change {
    Change::Put {
        key: key(subject),
        value: value(rule),
    }
}

fn key(subject: &Subject) -> Vec<u8> {
    subject.to_string().into_bytes()
}

fn value(rule: &Rule) -> Vec<u8> {
    let stored = Stored {
        verdict: rule.verdict.name().to_owned(),
        made: rule.made,
        expires: rule.expires,
        note: rule.note.clone(),
    };
    serde_json::to_vec(&stored).expect("numbers and texts become JSON")
}

fn decode(key: &[u8], value: &[u8]) -> Option<(Subject, Rule)> {
    let subject = str::from_utf8(key).ok()?.parse().ok()?;
    let stored: Stored = serde_json::from_slice(value).ok()?;
    let rule = Rule {
        verdict: Verdict::named(&stored.verdict)?,
        made: stored.made,
        expires: stored.expires,
        note: stored.note,
    };
    (rule.note.len() <= NOTE_MAX).then_some((subject, rule))
}
