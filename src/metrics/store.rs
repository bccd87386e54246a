//! The embedded store: what was written, and whether it can be.
//!
//! Sizes of the tables in it are told by their owners.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::declare::Declarations;
use super::gauge_value;

/// What happens to the store's file.
#[derive(Debug)]
pub struct StoreMetrics {
    changes: IntCounter,
    failures: IntCounter,
    write_seconds: Histogram,
    available: IntGauge,
    file_bytes: IntGauge,
    set_aside: IntCounter,
}

impl StoreMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        Self {
            changes: declare.counter(
                "waystation_store_changes_total",
                "Entries written to or deleted from the store.",
            ),
            failures: declare.counter(
                "waystation_store_failures_total",
                "Batches that the store could not take, as on a full disk.",
            ),
            write_seconds: declare.histogram(
                "waystation_store_write_seconds",
                "Time to bring one batch of changes to disk.",
                vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
            ),
            available: declare.gauge(
                "waystation_store_available",
                "1 while the store takes what is written to it, else 0.",
            ),
            file_bytes: declare.gauge("waystation_store_file_bytes", "Size of the store's file."),
            set_aside: declare.counter(
                "waystation_store_set_aside_total",
                "Files that were damaged or of a newer version and were kept aside.",
            ),
        }
    }

    /// A batch of this many changes is on disk.
    pub fn wrote(&self, changes: usize, took: Duration) {
        self.changes.inc_by(changes as u64);
        self.write_seconds.observe(took.as_secs_f64());
    }

    /// A batch was not taken.
    pub fn failed(&self) {
        self.failures.inc();
    }

    pub fn set_available(&self, available: bool) {
        self.available.set(i64::from(available));
    }

    pub fn set_file_bytes(&self, bytes: u64) {
        self.file_bytes
            .set(gauge_value(usize::try_from(bytes).unwrap_or(usize::MAX)));
    }

    /// A file was set aside.
    pub fn set_aside(&self) {
        self.set_aside.inc();
    }

    /// Batches that were not taken, for tests of the store.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.get()
    }
}
