//! The way out, in phases: stop accepting, grant nothing new, let circuits
//! finish until a deadline, say goodbye to every connection, stop.
//!
//! A second signal ends the phases at once. The exit code is 0 either way: the
//! operator asked for it.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::{
    admin::{Health, Phase},
    state::leg::Ending,
};

use super::worker::Shared;

/// How long connections may take to say goodbye when circuits have ended.
const GOODBYE_MAX: Duration = Duration::from_secs(3);

/// How often the phases look whether they are done.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What has a server stop.
pub(super) enum Signals {
    /// SIGTERM and SIGINT; SIGHUP, which stops nothing, for who takes it.
    System {
        terminate: Signal,
        interrupt: Signal,
        hangup: Option<Signal>,
    },
    /// Whoever runs the server in its own process.
    Asked(mpsc::Receiver<()>),
}

impl Signals {
    /// Takes the signals over from the system's default.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self::System {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: Some(listen(SignalKind::hangup())?),
        })
    }

    /// SIGHUP, once.
    pub(super) fn take_hangup(&mut self) -> Option<Signal> {
        match self {
            Self::System { hangup, .. } => hangup.take(),
            Self::Asked(_) => None,
        }
    }

    /// Waits for the next.
    pub(super) async fn first(&mut self) {
        match self {
            Self::System {
                terminate,
                interrupt,
                ..
            } => tokio::select! {
                // Both are cancel-safe.
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            },
            // Who can ask no more has no wish left.
            Self::Asked(asked) => {
                if asked.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Goes through the phases; returns when nothing is left or a signal says so.
pub(super) async fn run(
    shared: &Shared,
    health: &Arc<Health>,
    drain_timeout: Duration,
    signals: &mut Signals,
) {
    health.set_phase(Phase::Draining);
    notify(&[NotifyState::Stopping]);
    shared.context.drain();
    shared.accepting.cancel();
    let circuits = shared.context.relay.circuits.open_count();
    tracing::info!(
        circuits,
        "stopping: no new connections, reservations or circuits; a second signal ends at once"
    );
    tokio::select! {
        // Cancel-safe: the phases only look and wait.
        () = signals.first() => tracing::info!("second signal: ending at once"),
        () = phases(shared, drain_timeout) => {}
    }
}

async fn phases(shared: &Shared, drain_timeout: Duration) {
    let circuits = &shared.context.relay.circuits;
    if !until(drain_timeout, || circuits.open_count() == 0).await {
        tracing::info!(circuits = circuits.open_count(), "ending circuits");
    }
    shared.context.connections.close_all(Ending::Shutdown);
    let connections = &shared.context.connections;
    if !until(GOODBYE_MAX, || connections.not_gone() == 0).await {
        tracing::warn!(
            connections = connections.not_gone(),
            "ending without goodbye"
        );
    }
}

/// Waits for a condition, at most for `limit`; whether it came true.
async fn until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let waited = tokio::time::timeout(limit, async {
        while !condition() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    waited.await.is_ok()
}

/// Tells the service manager that peers can connect.
pub(super) fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells the service manager that the workers live.
pub(super) fn notify_alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(state: &[NotifyState<'_>]) {
    // Without a service manager this does nothing and succeeds.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot reach the service manager");
    }
}
