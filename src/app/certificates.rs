//! The operator's certificates from start to end: what a start refuses, and when
//! the files are read again.
//!
//! Files are looked at every [`LOOK_EVERY`] and at SIGHUP, on a thread that
//! serves nobody, and held against what is served: a renewal that fails is tried
//! again at every look, whatever the cause was, and told once for each change.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

use crate::certificates::{CertificateFault, Certificates, Files, Part, Print};
use crate::clock;
use crate::config::{ConfigError, ListenAddress, Loaded};
use crate::metrics::CertificateMetrics;

use super::worker::Shared;

/// How often the files are looked at: a renewal comes weeks before it is needed.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The certificates that the configuration names, if it does.
///
/// # Errors
/// The line about the key whose file cannot be served.
pub(super) fn open(loaded: &Loaded) -> Result<Option<Arc<Certificates>>, ConfigError> {
    let config = &loaded.config;
    let files: Vec<Files> = config
        .tls
        .certificate_files
        .iter()
        .zip(&config.tls.key_files)
        .map(|(chain, key)| Files {
            chain: chain.clone(),
            key: key.clone(),
        })
        .collect();
    if files.is_empty() {
        return Ok(None);
    }
    let addresses = config.listen.addresses.iter();
    let promised = addresses
        .filter_map(ListenAddress::of)
        .filter_map(|address| address.server_name)
        .collect();
    Certificates::load(files, promised, clock::unix_seconds())
        .map(|certificates| Some(Arc::new(certificates)))
        .map_err(|fault| loaded.refuse(key_of(&fault), &fault))
}

/// The key that names the file.
const fn key_of(fault: &CertificateFault) -> &'static str {
    match fault.part {
        Part::Chain => "tls.certificate_files",
        Part::Key => "tls.key_files",
    }
}

/// Reads the files again when they hold something else than what is served, or
/// when a signal asks for it. Does not end.
pub(super) fn tend(
    certificates: Option<Arc<Certificates>>,
    shared: &Shared,
    hangup: Option<Signal>,
) -> impl Future<Output = ()> + use<> {
    let metrics = Arc::clone(&shared.context.metrics.certificates);
    look_after(certificates, metrics, hangup)
}

async fn look_after(
    certificates: Option<Arc<Certificates>>,
    metrics: Arc<CertificateMetrics>,
    mut hangup: Option<Signal>,
) {
    let Some(certificates) = certificates else {
        loop {
            asked(&mut hangup).await;
            tracing::info!("SIGHUP: there is no certificate to read again");
        }
    };
    metrics.served(certificates.expiry());
    // What was refused and has been told.
    let mut refused = Vec::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            // Both are cancel-safe.
            () = asked(&mut hangup) => true,
            _ = ticks.tick() => false,
        };
        let served = Arc::clone(&certificates);
        let read =
            tokio::task::spawn_blocking(move || look(&served, asked, clock::unix_seconds())).await;
        let Ok(look) = read else {
            // It panicked, which has been told.
            continue;
        };
        match look {
            Look::Same => refused.clear(),
            Look::Renewed => {
                refused.clear();
                metrics.reloaded();
                metrics.served(certificates.expiry());
                tracing::info!("certificates read again; new connections are shown them");
            }
            Look::Refused(prints, _) if !asked && prints == refused => {}
            Look::Refused(prints, fault) => {
                refused = prints;
                metrics.failed();
                let key = key_of(&fault);
                tracing::warn!(key, %fault, "certificates not taken over, the ones before are served on");
            }
        }
    }
}

/// Waits for the signal. Cancel-safe.
async fn asked(hangup: &mut Option<Signal>) {
    let received = match hangup {
        Some(hangup) => hangup.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}

/// What a look at the files has found.
enum Look {
    /// What is served.
    Same,
    /// Something else, which is served now.
    Renewed,
    /// Something else, which cannot be served.
    Refused(Vec<Print>, CertificateFault),
}

/// Reads the files if they have changed or if it is asked for.
fn look(certificates: &Certificates, asked: bool, now: u64) -> Look {
    let prints = certificates.prints();
    if !asked && certificates.serves(&prints) {
        return Look::Same;
    }
    match certificates.reload(now) {
        Ok(()) => Look::Renewed,
        Err(fault) => Look::Refused(prints, fault),
    }
}
