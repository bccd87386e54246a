//! The store of the running server: opened before anything that it holds is
//! needed, and told of when a file had to be set aside.

use std::sync::Arc;

use crate::{config::Loaded, metrics::Metrics, store::Store};

/// The store, with a line about a file that could not be used.
///
/// # Errors
/// The line about `state.directory` if there can be none.
pub(super) fn open(loaded: &Loaded, metrics: &Metrics) -> anyhow::Result<Arc<Store>> {
    let directory = &loaded.config.state.directory;
    let opened = Store::open(directory, Arc::clone(&metrics.store))
        .map_err(|error| loaded.refuse("state.directory", &error))?;
    if let Some(aside) = opened.set_aside {
        tracing::warn!(
            file = %aside.from.display(),
            reason = %aside.reason,
            kept_as = %aside.path.display(),
            "the store cannot be used and was set aside; starting with an empty one"
        );
    }
    Ok(Arc::new(opened.store))
}
