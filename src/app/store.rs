//! The store of the running server: opened before anything that it holds is
//! needed, and told of when a file had to be set aside.

use std::{io::ErrorKind, sync::Arc};

use crate::{
    config::Loaded,
    metrics::Metrics,
    store::{Store, StoreError},
};

/// The store, with a line about a file that could not be used.
///
/// # Errors
/// The line about `state.directory` if there can be none.
pub(super) fn open(loaded: &Loaded, metrics: &Metrics) -> anyhow::Result<Arc<Store>> {
    let directory = &loaded.config.state.directory;
    let opened = Store::open(directory, Arc::clone(&metrics.store))
        .map_err(|error| refusal(loaded, &error))?;
    if let Some(aside) = opened.set_aside {
        aside.tell();
    }
    Ok(Arc::new(opened.store))
}

/// The line about `state.directory`. What the system may take back by itself,
/// as a device that is slow to answer, is not marked as the operator's to put
/// right: the service manager is to try again.
pub(super) fn refusal(loaded: &Loaded, error: &StoreError) -> anyhow::Error {
    let line = loaded.refuse("state.directory", error);
    let passing = match error {
        StoreError::Io { source, .. } => !matches!(
            source.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::AlreadyExists
                | ErrorKind::NotFound
                | ErrorKind::InvalidInput
        ),
        _ => false,
    };
    if passing {
        anyhow::Error::msg(line.to_string())
    } else {
        line.into()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::config::{ConfigError, Sources};

    #[test]
    fn only_what_the_operator_can_put_right_is_marked_so() {
        let sources = Sources {
            flags: vec!["state.directory=/nonexistent".to_owned()],
            ..Sources::default()
        };
        let loaded = Loaded::load(&sources).expect("the directory is not looked at yet");
        let refused = |source: io::Error| {
            let path = "/nonexistent/store".into();
            refusal(&loaded, &StoreError::Io { path, source })
        };
        let denied = refused(ErrorKind::PermissionDenied.into());
        assert!(denied.is::<ConfigError>());
        // EIO
        let broken = refused(io::Error::from_raw_os_error(5));
        assert!(!broken.is::<ConfigError>());
        assert!(broken.to_string().starts_with("state.directory = "));
    }
}
