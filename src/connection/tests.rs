//! Whole connections over loopback sockets, driven by peers that are written
//! frame by frame.

mod churn;
mod circuits;
mod commands;
pub(super) mod ear;
mod limits;
mod muxers;
mod pacing;
mod patience;
mod peer;
mod refusals;
mod services;
mod telling;
mod tls;
mod trimming;

/// What connections share, for tests of those who bring them in.
pub(crate) fn context(
    change: impl FnOnce(&mut crate::config::Config),
) -> std::sync::Arc<super::Context> {
    peer::Server::with(change).context
}
