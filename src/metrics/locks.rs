//! How long threads wait for the locks of shared tables.
//!
//! One histogram for the process, as the tables are deep below whoever holds a
//! set of metrics. Only waits are observed: a lock that is free is not timed.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts};

use super::declare::Declarations;

const NAME: &str = "waystation_state_lock_wait_seconds";
const HELP: &str = "Waits for a stripe of a shared table that another thread held; \
                    finding it free is not counted.";

/// From what a short closure takes to a scheduler's time slice.
const BUCKETS: &[f64] = &[
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2,
];

static WAITS: LazyLock<Histogram> = LazyLock::new(|| {
    let opts = HistogramOpts::new(NAME, HELP).buckets(BUCKETS.to_vec());
    Histogram::with_opts(opts).expect("a valid name and ascending buckets")
});

pub(super) fn declare(declare: &mut Declarations) {
    declare.shared_histogram(NAME, HELP, &WAITS);
}

/// A thread waited this long for a stripe.
pub fn lock_waited(wait: Duration) {
    WAITS.observe(wait.as_secs_f64());
}
