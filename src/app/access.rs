//! The operator's rules in the running server: what a new rule cuts, and the
//! task that ends rules in time.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use crate::{
    clock,
    config::{Loaded, Subject},
    connection::Context,
    state::{
        access::rulebook::{LoadError, Rulebook},
        leg::Ending,
    },
    store::Store,
};

use super::store;

/// How late a rule may end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks between two tries to write to a store that did not take a rule.
const LOOKS_PER_RETRY: u32 = 10;

/// The rules that the store has, and what a new one does to what is open: a
/// closed connection takes its peer's reservation and circuits with it.
///
/// # Errors
/// The line about `state.directory` if the store cannot be read, or about
/// `access.rules_max` if it has more rules.
pub(super) fn rulebook(
    loaded: &Loaded,
    context: &Arc<Context>,
    store: &Arc<Store>,
) -> anyhow::Result<Arc<Rulebook>> {
    let access = Arc::clone(&context.relay.access);
    let context = Arc::downgrade(context);
    let cut = move |subject: &Subject| {
        let Some(context) = context.upgrade() else {
            return 0;
        };
        let closing = context.connections.close_where(
            |peer, address| subject.covers(peer, address),
            Ending::Denied,
        );
        context.metrics.access.closed(closing);
        closing
    };
    let rulebook =
        Rulebook::load(access, Arc::clone(store), clock::unix_seconds(), cut).map_err(|error| {
            match error {
                LoadError::Store(error) => store::refusal(loaded, &error),
                error @ LoadError::TooMany { .. } => {
                    loaded.refuse("access.rules_max", &error).into()
                }
            }
        })?;
    Ok(Arc::new(rulebook))
}

/// Tries for the last time to write what the store did not take before.
pub(super) async fn write_rules(rulebook: Arc<Rulebook>) {
    if !rulebook.is_behind() {
        return;
    }
    let written = tokio::task::spawn_blocking(move || {
        rulebook.tend(clock::unix_seconds());
        !rulebook.is_behind()
    });
    if !written.await.unwrap_or(false) {
        tracing::error!("the store did not take all rules made at run time; they are lost");
    }
}

/// Ends rules when it is time, and writes what the store did not take before.
pub(super) async fn tend_rules(rulebook: Arc<Rulebook>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = 0_u32;
    loop {
        ticks.tick().await;
        let now = clock::unix_seconds();
        let retry = look.is_multiple_of(LOOKS_PER_RETRY) && rulebook.is_behind();
        look = look.wrapping_add(1);
        if rulebook.is_expiry_due(now) || retry {
            let rulebook = Arc::clone(&rulebook);
            // The disk may take its time, and this thread answers the operator.
            let tended = tokio::task::spawn_blocking(move || rulebook.tend(now)).await;
            if let Err(error) = tended {
                tracing::error!(%error, "tending the rules panicked; this is a bug");
            }
        }
    }
}
