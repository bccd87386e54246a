//! What has to be done from time to time, whatever peers do: once a second, a
//! stripe of each table, so that a round is short.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use crate::{admin::Health, clock, connection::observe_pool};

use super::{shutdown, worker};

/// Sweeps expired reservations and peers, a stripe a second, and keeps the service
/// manager's watchdog at rest while every worker lives and is whole.
pub(super) async fn keep(shared: worker::Shared, health: Arc<Health>) {
    // Walks over all connections let go of the last end of some on this thread.
    observe_pool(
        Arc::clone(&shared.context.metrics.pools),
        Arc::clone(&shared.buffers),
    );
    let reservations = &shared.context.relay.reservations;
    let peerstore = &shared.context.peerstore;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watchdog = sd_notify::watchdog_enabled().is_some();
    let mut stripe = 0;
    loop {
        ticks.tick().await;
        let now = clock::now();
        reservations.sweep(stripe, now);
        peerstore.sweep(stripe, now);
        // Both take a stripe modulo how many they have.
        stripe = stripe.wrapping_add(1);
        shared.limits.sweep(now);
        shared.context.relay.circuits.bandwidth().sweep(now);
        reservations.sweep_rates(now);
        shared.context.relay.circuits.sweep_rates(now);
        if watchdog && health.is_live(now) {
            shutdown::notify_alive();
        }
    }
}
