//! The HTTP side for operators: metrics, liveness, readiness, the rules of
//! access, and the addresses.
//!
//! Owns the listener on `admin.address`. Bounds what its clients may hold: a
//! number of connections, one request for each, a deadline for the request's
//! head and one over everything. It runs on the main thread's
//! runtime, so that it answers while workers are busy.

pub mod addresses;
pub mod api;
mod endpoints;
mod guard;
mod health;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::state::access::rulebook::Rulebook;
use crate::state::addresses::Addresses;

use guard::Guard;

pub use health::{HEARTBEAT_EVERY, Health, Heartbeat, Part, Phase, STALLED_AFTER};

/// Why the admin server could not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin.address = \"{address}\": cannot listen: {source}")]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// What the endpoints read and change.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub rulebook: Arc<Rulebook>,
    pub addresses: Arc<Addresses>,
}

/// What clients of the admin server may hold.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Connections at once. Each carries one request, so this caps the requests
    /// too. A few scrapers, probes and a person with a browser fit.
    connections: NonZeroUsize,
    /// From the first byte we wait for to the end of the request's head.
    head: Duration,
    /// From accept to close, however fast the client reads.
    whole: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: NonZeroUsize::new(32).expect("32 is not zero"),
            head: Duration::from_secs(3),
            // Prometheus gives up on a scrape after 10 s unless told otherwise.
            whole: Duration::from_secs(10),
        }
    }
}

/// Bytes of a request's head, and of a connection's buffers.
const HEAD_MAX: usize = 8 * 1024;

/// Header fields of a request.
const HEADERS_MAX: usize = 64;

/// After a failed accept, most likely for want of file descriptors: long enough
/// not to spin, short enough to be back for the next scrape.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The admin server, bound and not yet serving.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    state: AdminState,
    guard: Arc<Guard>,
    bounds: Bounds,
}

impl AdminServer {
    /// Takes the address; with port 0, the one that [`Self::address`] tells.
    /// With a token, the API asks everybody for it; without one, it is there
    /// for programs on this host if the address is a loopback address.
    ///
    /// # Errors
    /// [`AdminError::Bind`] when the address cannot be listened on.
    pub async fn bind(
        address: SocketAddr,
        state: AdminState,
        token: Option<String>,
    ) -> Result<Self, AdminError> {
        let refused = |source| AdminError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        Ok(Self {
            address: listener.local_addr().map_err(refused)?,
            listener,
            state,
            guard: Guard::new(address, token),
            bounds: Bounds::default(),
        })
    }

    /// The address that clients reach.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is cancelled, then drops what is open.
    ///
    /// Meant to be cancelled last, so that the server tells that it drains
    /// while it does.
    pub async fn serve(self, shutdown: CancellationToken) {
        let router = endpoints::router(self.state, self.guard);
        let slots = Arc::new(Semaphore::new(self.bounds.connections.get()));
        // Holds one finished task per slot at most: reaped before each accept.
        let mut open = JoinSet::new();
        while let Some(permit) = slot(&slots, &shutdown).await {
            while let Some(ended) = open.try_join_next() {
                report(ended);
            }
            // Both branches are cancel-safe: no connection is lost in `accept`.
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    open.spawn(answer(stream, router.clone(), self.bounds, permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "admin server cannot accept");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
        open.shutdown().await;
    }
}

/// Room for one more connection; none any more once shutdown is asked for.
async fn slot(
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        permit = Arc::clone(slots).acquire_owned() => permit.ok(),
    }
}

/// Serves one request of one client, within its bounds.
///
/// No keep-alive: scrapes are seconds apart, and a connection that ends with
/// its answer has one deadline instead of a state for being idle. A
/// request's body is read by the API only, which bounds it.
async fn answer(stream: TcpStream, router: Router, bounds: Bounds, _permit: OwnedSemaphorePermit) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(bounds.whole, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin request failed"),
        Err(_) => tracing::debug!("admin request took too long"),
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "admin request panicked");
    }
}

#[cfg(test)]
mod tests;
