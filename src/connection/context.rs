//! What a connection works with: the server's parts, and who is on the other
//! side.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use libp2p_identity::PeerId;

use crate::{
    config::Transport,
    metrics::Metrics,
    service::{Menu, hop::Relay, identify::Answer},
    state::{connections::Connections, limits::StreamLimits, peerstore::Peerstore},
};

/// The server, as its connections see it.
pub struct Context {
    /// What peers may open streams for.
    pub menu: Menu,
    /// What identify answers.
    pub answer: Answer,
    /// RESERVE and CONNECT.
    pub relay: Relay,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// The peers we have met.
    pub peerstore: Peerstore,
    /// Counters of every layer.
    pub metrics: Arc<Metrics>,
    /// How many streams may be open.
    pub streams: Arc<StreamLimits>,
    draining: AtomicBool,
}

impl Context {
    /// A server that is not stopping.
    #[must_use]
    pub fn new(
        menu: Menu,
        answer: Answer,
        relay: Relay,
        connections: Arc<Connections>,
        peerstore: Peerstore,
        metrics: Arc<Metrics>,
        streams: Arc<StreamLimits>,
    ) -> Self {
        Self {
            menu,
            answer,
            relay,
            connections,
            peerstore,
            metrics,
            streams,
            draining: AtomicBool::new(false),
        }
    }

    /// Grants nothing new from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the server is about to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// The other side of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Remote {
    /// Who it has proved to be.
    pub peer: PeerId,
    /// Where it comes from.
    pub address: SocketAddr,
    /// What carries the connection.
    pub transport: Transport,
}
