//! What the multiplexers had to stop or forbid.
//!
//! Counted where it is found; which peer it was stands in the log, at debug.

use prometheus::IntCounter;

use super::declare::Declarations;

/// Faults that a multiplexer found or caused.
#[derive(Debug)]
pub struct MuxerMetrics {
    stalls: IntCounter,
    stall_resets: IntCounter,
    window_violations: IntCounter,
}

impl MuxerMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        Self {
            stalls: declare.counter(
                "waystation_mplex_stalls_total",
                "Times that a full per-stream buffer of mplex began to hold a stream up.",
            ),
            stall_resets: declare.counter(
                "waystation_mplex_stall_resets_total",
                "Mplex streams reset because a stall lasted too long.",
            ),
            window_violations: declare.counter(
                "waystation_yamux_window_violations_total",
                "Connections closed because the peer sent more than its window allowed.",
            ),
        }
    }

    pub fn mplex_stalled(&self) {
        self.stalls.inc();
    }

    pub fn mplex_stall_reset(&self) {
        self.stall_resets.inc();
    }

    pub fn window_violated(&self) {
        self.window_violations.inc();
    }
}
