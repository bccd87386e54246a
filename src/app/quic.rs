//! What serves QUIC: its certificate, and the secret that outlives restarts.
//! Serving is left to `listener::quic`.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    config::Loaded,
    identity::{Identity, Secret, certificate::ALPN},
    listener::{UdpListeners, quic::Server},
};

use super::worker::Shared;

/// The secret's name in the state directory.
const SECRET_FILE: &str = "quic.secret";

/// The server for UDP listeners, if there are any.
///
/// # Errors
/// The line about `state.directory` if the secret cannot be used.
pub(super) fn server(
    loaded: &Loaded,
    identity: &Identity,
    shared: &Shared,
    listeners: &UdpListeners,
) -> anyhow::Result<Option<Arc<Server>>> {
    if listeners.addresses().next().is_none() {
        return Ok(None);
    }
    let path = loaded.config.state.directory.join(SECRET_FILE);
    let secret =
        Secret::load_or_create(&path).map_err(|error| loaded.refuse("state.directory", &error))?;
    let certificate = identity.certificate()?;
    let server = Server::new(
        Arc::clone(&shared.context),
        Arc::clone(&shared.limits),
        certificate.server(&[ALPN]),
        &secret,
        loaded.workers(),
        shared.upgrade.timeout,
        shared.accepting.clone(),
    );
    Ok(Some(server.context("cannot prepare QUIC")?))
}
