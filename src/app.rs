//! From configuration to running server.

pub mod cli;
pub mod logging;

/// PLACEHOLDER until the server is assembled: the real one replaces this file.
///
/// # Errors
///
/// When the identity cannot be opened.
#[expect(clippy::needless_pass_by_value, reason = "the placeholder only looks")]
pub fn run(loaded: crate::config::Loaded) -> anyhow::Result<()> {
    let (identity, _) = cli::open_identity(&loaded)?;
    logging::init(&loaded)?;
    tracing::info!(peer_id = %identity.peer_id(), "placeholder: nothing is served");
    Ok(())
}
