//! A look at a server from outside: dials it as any peer would and tells what
//! it finds.
//!
//! Owns the order of the questions and the one deadline over all of them; what
//! a server may answer is bounded by the codecs. How to reach it is left to
//! `target`, the streams to `session`, what is shown to `report`.

mod questions;
mod report;
mod session;
mod target;

use std::io;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::clock;
use crate::engine::{
    demux::DemuxError, muxer::Muxer, negotiate::NegotiateError, record::RecordError,
    security::Security,
};
use crate::identity::Identity;
use crate::upgrade::{self, ContextError, UpgradeContext, UpgradeError};
use crate::wire::{
    DecodeError,
    envelope::EnvelopeError,
    relay::{HOP_PROTOCOL, Status},
};

use session::Session;

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
    /// It is no libp2p peer, or speaks nothing that we do.
    #[error("handshake: {0}")]
    Upgrade(UpgradeError),
    /// It is somebody else.
    #[error("another peer answers there: {0}")]
    OtherPeer(PeerId),
    /// The socket failed.
    #[error("connection: {0}")]
    Io(io::Error),
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
    let socket = target::connect(&request.target, &deadline).await?;
    let remote = socket.peer_addr().map_err(ProbeError::Io)?;

    let mut context = UpgradeContext::offering(&identity, &[request.security], &request.muxers)
        .map_err(ProbeError::Context)?;
    context.timeout = request.timeout;
    let begun = clock::now();
    let upgrade = upgrade::dial(socket, &context);
    let upgraded = deadline.within("handshake", upgrade).await?;
    // Of the two deadlines either may be seen first: they are the same to whoever
    // asks.
    let upgraded = upgraded.map_err(|error| match error {
        UpgradeError::Timeout(_) => deadline.passed("handshake"),
        error => ProbeError::Upgrade(error),
    })?;
    let took = clock::now().saturating_duration_since(begun);
    let peer_id = upgraded.peer_id;
    if request.target.peer_id.is_some_and(|id| id != peer_id) {
        return Err(ProbeError::OtherPeer(peer_id));
    }
    report.add("address", remote);
    report.add("peer id", peer_id);
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
