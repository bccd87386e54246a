//! A look at a server from outside: dials it as any peer would and tells what
//! it finds.
//!
//! Owns the order of the questions and the one deadline over all of them; what
//! a server may answer is bounded by the codecs. How to reach it is left to
//! `target`, the streams to `session`, what is shown to `report`.

mod questions;
mod report;
pub mod roots;
mod session;
mod target;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use rustls::{CertificateError, Error, RootCertStore};

use crate::clock;
use crate::connection::carrier::CarrierError;
use crate::engine::{
    demux::DemuxError, muxer::Muxer, negotiate::NegotiateError, private_network::PrivateKey,
    record::RecordError, security::Security, tls::TlsError,
};
use crate::identity::Identity;
use crate::upgrade::{self, ContextError, UpgradeContext, UpgradeError, Web};
use crate::wire::{
    DecodeError,
    envelope::EnvelopeError,
    relay::{HOP_PROTOCOL, Status},
};

use session::Session;
use target::Way;

pub use report::Report;
pub use target::{Target, TargetError};

/// What to ask of which server.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where it is.
    pub target: Target,
    /// Muxers to offer, the preferred one first.
    pub muxers: Vec<Muxer>,
    /// What to propose for securing the connection.
    pub security: Security,
    /// The key of the private network that the server is in.
    pub private: Option<PrivateKey>,
    /// Whose certificates are believed on secure WebSocket, in place of the
    /// system's.
    pub roots: Option<Arc<RootCertStore>>,
    /// Deadline over everything.
    pub timeout: Duration,
    /// Whether to ask for a reservation.
    pub reserve: bool,
}

/// Why a server did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It took too long.
    #[error("no answer within {limit:?} ({step})")]
    Timeout {
        /// The deadline over everything.
        limit: Duration,
        /// What was waited for when it passed.
        step: &'static str,
    },
    /// Its name has no address.
    #[error("cannot resolve {name}: {error}")]
    Resolve {
        /// As in the multiaddr.
        name: String,
        /// What the system's resolver says.
        error: io::Error,
    },
    /// None of its addresses takes connections; each with its reason.
    #[error("cannot connect to {0}")]
    Connect(String),
    /// We cannot even begin.
    #[error("cannot prepare the handshake: {0}")]
    Context(ContextError),
    /// Nobody's certificates are believed.
    #[error("{0}")]
    Roots(String),
    /// It has a certificate that browsers would refuse.
    #[error("certificate: {0}")]
    Certificate(Error),
    /// It has one that nobody vouches for who is believed here.
    #[error(
        "certificate: {0}; --certificate-roots names whom to believe in place of the system's list"
    )]
    UnknownIssuer(Error),
    /// It is no libp2p peer, or speaks nothing that we do.
    #[error("handshake: {0}")]
    Upgrade(UpgradeError),
    /// It is somebody else.
    #[error("another peer answers there: {0}")]
    OtherPeer(PeerId),
    /// The socket failed.
    #[error("connection: {0}")]
    Io(io::Error),
    /// The socket failed, or what lies between it and the records.
    #[error("connection: {0}")]
    Carrier(CarrierError),
    /// It closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// It said goodbye on the muxer.
    #[error("the server goes away (code {0})")]
    GoAway(u32),
    /// A record did not open, or none can be sealed any more.
    #[error("connection: {0}")]
    Record(RecordError),
    /// Frames without meaning.
    #[error("muxer: {0}")]
    Muxer(DemuxError),
    /// A service is not there.
    #[error("the server does not offer {0}")]
    NotOffered(&'static str),
    /// A service's protocol could not be agreed on.
    #[error("{protocol}: {error}")]
    Negotiate {
        /// The protocol proposed.
        protocol: &'static str,
        /// What was wrong with the answer.
        error: NegotiateError,
    },
    /// A stream ended or was reset before the answer was complete.
    #[error("{0}: the stream ended before the answer")]
    StreamEnded(&'static str),
    /// An answer that cannot be read.
    #[error("{protocol}: {error}")]
    Answer {
        /// The protocol it belongs to.
        protocol: &'static str,
        /// What was wrong with it.
        error: DecodeError,
    },
    /// The public key in identify is not the one that the peer proved to hold.
    #[error("identify carries the key of another peer")]
    OtherKey,
    /// Ping bytes came back changed.
    #[error("ping came back with other bytes")]
    Echo,
    /// No reservation.
    #[error("reservation refused: {} ({})", questions::name(*.0), .0.code())]
    Refused(Status),
    /// A reservation whose voucher is worth nothing.
    #[error("voucher: {0}")]
    Voucher(EnvelopeError),
}

/// Dials the server and asks. What it answers goes into `report` as it comes,
/// so that there is something to show when a later question fails.
///
/// # Errors
/// The first question that was not answered properly.
pub async fn run(request: &Request, report: &mut Report) -> Result<(), ProbeError> {
    let deadline = Deadline::after(request.timeout);
    let identity = Identity::generate();
    let web = web(request)?;
    let socket = target::connect(&request.target, &deadline).await?;
    let remote = socket.peer_addr().map_err(ProbeError::Io)?;

    let mut context = UpgradeContext::offering(&identity, &[request.security], &request.muxers)
        .map_err(ProbeError::Context)?;
    context.timeout = request.timeout;
    context.private.clone_from(&request.private);
    let begun = clock::now();
    let upgrade = async {
        match web {
            None => upgrade::dial(socket, &context).await,
            Some(web) => upgrade::dial_web(socket, web, &context).await,
        }
    };
    let upgraded = deadline.within("handshake", upgrade).await?;
    // Of the two deadlines either may be seen first: they are the same to whoever
    // asks.
    let upgraded = upgraded.map_err(|error| match error {
        UpgradeError::Timeout(_) => deadline.passed("handshake"),
        UpgradeError::Secure(TlsError::Refused(Error::InvalidCertificate(fault))) => {
            let unknown = fault == CertificateError::UnknownIssuer;
            let error = Error::InvalidCertificate(fault);
            if unknown {
                ProbeError::UnknownIssuer(error)
            } else {
                ProbeError::Certificate(error)
            }
        }
        error => ProbeError::Upgrade(error),
    })?;
    let took = clock::now().saturating_duration_since(begun);
    let peer_id = upgraded.peer_id;
    if request.target.peer_id.is_some_and(|id| id != peer_id) {
        return Err(ProbeError::OtherPeer(peer_id));
    }
    report.add("address", remote);
    report.add("peer id", peer_id);
    describe_way(request, report);
    let muxer = upgraded.muxer.name();
    let security = upgraded.security.name();
    report.add("security", security);
    let when = match (upgraded.early_muxer, upgraded.security) {
        (true, _) => "early",
        (false, Security::Noise) => "after noise",
        (false, Security::Tls) => "after tls",
    };
    report.add("muxer", format_args!("{muxer}, negotiated {when}"));
    report.add_time("handshake", took);

    let mut session = Session::begin(upgraded)?;
    let identify = questions::identify(&mut session, &peer_id, report);
    deadline.within("identify", identify).await??;
    let ping = questions::ping(&mut session, report);
    deadline.within("ping", ping).await??;
    if request.reserve {
        let us = identity.peer_id();
        let reserve = questions::reserve(&mut session, &peer_id, &us, report);
        deadline.within("reservation", reserve).await??;
    }
    // All questions are answered; a goodbye that does not get through changes
    // nothing about that.
    let _ = deadline.within("goodbye", session.end()).await;
    Ok(())
}

/// How WebSocket is asked for, where the address says that it is.
fn web(request: &Request) -> Result<Option<Web>, ProbeError> {
    let secure = match &request.target.way {
        Way::Tcp => return Ok(None),
        Way::WebSocket => None,
        Way::SecureWebSocket(name) => {
            let roots = match &request.roots {
                Some(roots) => Arc::clone(roots),
                None => roots::of_system().map_err(ProbeError::Roots)?,
            };
            Some((roots::client_config(roots), name.clone()))
        }
    };
    let host = request.target.authority();
    Ok(Some(Web { host, secure }))
}

/// What lies under the handshake.
fn describe_way(request: &Request, report: &mut Report) {
    match &request.target.way {
        Way::Tcp => report.add("transport", "tcp"),
        Way::WebSocket => report.add("transport", "websocket"),
        Way::SecureWebSocket(name) => {
            let name = name.to_str();
            report.add(
                "transport",
                format_args!("secure websocket, with a valid certificate for {name}"),
            );
        }
    }
    if let Some(key) = &request.private {
        report.add("network", format_args!("private, {}", key.fingerprint()));
    }
}

/// The one deadline over all steps.
struct Deadline {
    limit: Duration,
    at: Instant,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self {
            limit,
            at: clock::now() + limit,
        }
    }

    fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(clock::now())
    }

    /// Lets `work` take what remains.
    async fn within<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, ProbeError> {
        // Boxed: the handshake's future is large.
        tokio::time::timeout(self.remaining(), Box::pin(work))
            .await
            .map_err(|_| self.passed(step))
    }

    fn passed(&self, step: &'static str) -> ProbeError {
        let limit = self.limit;
        ProbeError::Timeout { limit, step }
    }
}
