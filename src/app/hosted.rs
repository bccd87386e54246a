//! A whole server on the caller's runtime: one worker, on that thread, with the
//! listeners that it is given.
//!
//! The same parts as the program's, put together in the same way; what differs
//! is that nobody reads signals and that time is the runtime's. With a listener
//! in memory a test can let hours pass at once.

use std::sync::Arc;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio::sync::mpsc;

use crate::config::Loaded;
use crate::identity::Identity;
use crate::listener::WorkerSocket;
use crate::metrics::Metrics;

use super::server::{Files, Server};
use super::shutdown::Signals;

/// A server that has not been run yet.
pub struct Hosted {
    server: Server,
    signals: Signals,
    stop: Stop,
}

/// Has a server stop.
#[derive(Debug, Clone)]
pub struct Stop(mpsc::Sender<()>);

impl Stop {
    /// As a signal does: the first has the server shut down in phases, the
    /// second ends them at once.
    pub fn signal(&self) {
        // More than two say nothing new.
        let _ = self.0.try_send(());
    }
}

impl Hosted {
    /// Puts a server together that listens on `sockets`, and tells peers that
    /// it is reached at `bound`.
    ///
    /// # Errors
    /// As a start of the program.
    pub async fn new(
        loaded: &Loaded,
        identity: Identity,
        bound: &[Multiaddr],
        sockets: Vec<WorkerSocket>,
    ) -> anyhow::Result<Self> {
        let files = Files::read(loaded)?;
        let server = Server::hosted(loaded, identity, files, bound, sockets).await?;
        let (stop, asked) = mpsc::channel(2);
        Ok(Self {
            server,
            signals: Signals::Asked(asked),
            stop: Stop(stop),
        })
    }

    /// Who it is.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.server.peer_id()
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.server.metrics()
    }

    /// How to have it stop.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until it is stopped.
    pub async fn run(self) {
        self.server.run(self.signals).await;
    }
}
