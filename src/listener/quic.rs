//! QUIC on UDP sockets: one loop for each worker over quinn's state machines.
//!
//! Owns the endpoint of each worker, its timers and its sending; connections are
//! `connection::quic`'s. A datagram is received, routed by its connection id to
//! the worker that has the connection, and worked through with all others that
//! came with it; what everybody has to say then leaves in as few system calls
//! as the kernel allows. There is no task for a connection.

use std::{io, net::UdpSocket, sync::Arc, time::Duration};

use quinn_proto::{EndpointConfig, ServerConfig, ValidationTokenConfig};
use tokio_util::sync::CancellationToken;

use crate::connection::{
    Context,
    quic::{self, Tls, TlsUnfit},
};
use crate::identity::Secret;
use crate::state::limits::Limits;

use drive::Loop;
use handover::Inbox;
use ids::{Ids, WorkerIds};
use keys::{Keys, ResetKey};

mod admit;
mod drive;
mod handover;
mod ids;
mod keys;
mod sockets;
mod table;

/// Handshakes that have begun and not been decided about. Each is decided about
/// at once, so that this and the next two bound nothing but a mistake.
const INCOMING_MAX: usize = 64;
const INCOMING_BYTES: u64 = 16 * 1024;

/// Least time between two stateless resets of a worker: after a restart tens of
/// thousands of peers are to hear of it before they give up by themselves. Each
/// is smaller than the datagram it answers.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// How long a token that shows an address is good for: a round trip on the
/// slowest of paths.
const TOKEN_LIFETIME: Duration = Duration::from_secs(15);

/// What the loops of all workers have in common.
pub struct Server {
    context: Arc<Context>,
    limits: Arc<Limits>,
    config: Arc<ServerConfig>,
    reset: Arc<ResetKey>,
    ids: Ids,
    inboxes: Vec<Inbox>,
    /// Deadline over the whole handshake.
    timeout: Duration,
    /// Ends accepting.
    accepting: CancellationToken,
}

impl Server {
    /// A server for this many workers. What it signs with the secret, resets and
    /// tokens and ids, it knows again after a restart.
    ///
    /// # Errors
    /// [`TlsUnfit`].
    pub fn new(
        context: Arc<Context>,
        limits: Arc<Limits>,
        tls: rustls::ServerConfig,
        secret: &Secret,
        workers: usize,
        timeout: Duration,
        accepting: CancellationToken,
    ) -> Result<Arc<Self>, TlsUnfit> {
        let crypto = Arc::new(Tls::new(tls)?);
        let keys = Keys::new(secret.bytes());
        let mut config = ServerConfig::new(crypto, Arc::new(keys.token()));
        config
            .transport_config(Arc::new(quic::transport_config()))
            .retry_token_lifetime(TOKEN_LIFETIME)
            .validation_token_config(no_tokens())
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES);
        Ok(Arc::new(Self {
            context,
            limits,
            config: Arc::new(config),
            reset: Arc::new(keys.reset()),
            ids: Ids::new(keys.ids(), workers),
            inboxes: (0..workers.clamp(1, ids::WORKERS_MAX))
                .map(|_| Inbox::new())
                .collect(),
            timeout,
            accepting,
        }))
    }

    /// Whether ids can name a worker of this number.
    #[must_use]
    pub fn takes(&self, worker: usize) -> bool {
        worker < self.inboxes.len()
    }

    /// Drives a worker's sockets, at least one, until it is dropped. Has to run on the worker's
    /// runtime, and on one that it [takes](Self::takes).
    ///
    /// # Errors
    /// Only if the sockets cannot be registered with the runtime.
    pub async fn serve(self: Arc<Self>, worker: usize, sockets: Vec<UdpSocket>) -> io::Result<()> {
        Loop::new(self, worker, sockets)?.run().await;
        Ok(())
    }

    fn endpoint_config(&self, worker: usize) -> Arc<EndpointConfig> {
        let mut config = EndpointConfig::new(Arc::clone(&self.reset) as _);
        let ids = self.ids;
        let worker = u8::try_from(worker).unwrap_or(u8::MAX);
        config
            .cid_generator(move || Box::new(WorkerIds { ids, worker }))
            .min_reset_interval(RESET_INTERVAL)
            .supported_versions(vec![quic::VERSION]);
        Arc::new(config)
    }
}

/// Peers are given no tokens for a later connection: they would save a round
/// trip only under load, and cost memory of those that were used.
fn no_tokens() -> ValidationTokenConfig {
    let mut config = ValidationTokenConfig::default();
    config.sent(0);
    config
}

#[cfg(test)]
mod tests;
