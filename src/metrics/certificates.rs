//! The operator's certificates: when they expire, and whether renewals arrive.
//!
//! Told by whoever reads the files; nothing here knows what is in them.

use prometheus::{IntCounter, IntGauge};

use super::declare::Declarations;

/// What becomes of the certificates of secure WebSocket.
#[derive(Debug)]
pub struct CertificateMetrics {
    expiry: IntGauge,
    reloads: IntCounter,
    failures: IntCounter,
}

impl CertificateMetrics {
    pub(super) fn new(declare: &mut Declarations) -> Self {
        Self {
            expiry: declare.gauge(
                "waystation_certificate_expiry_timestamp_seconds",
                "When the first of the certificates that are served expires, in seconds since 1970; 0 without any.",
            ),
            reloads: declare.counter(
                "waystation_certificate_reloads_total",
                "Times that changed certificate files were read and are served.",
            ),
            failures: declare.counter(
                "waystation_certificate_reload_failures_total",
                "Times that changed certificate files could not be served, so that the ones before go on.",
            ),
        }
    }

    /// These are served from now on.
    pub fn served(&self, expiry: i64) {
        self.expiry.set(expiry);
    }

    /// Changed files were taken over.
    pub fn reloaded(&self) {
        self.reloads.inc();
    }

    /// Changed files could not be.
    pub fn failed(&self) {
        self.failures.inc();
    }
}
