//! What we ask a peer on a stream of our own: identify, once, when it
//! connects.

use std::time::{Duration, Instant};

use crate::engine::muxer::Muxer;
use crate::engine::negotiate::{Dialer, NegotiateError, Reply};
use crate::metrics::Service;
use crate::service::identify::{self, ListenError};
use crate::state::leg::StreamKey;
use crate::state::limits::StreamRefusal;

use super::{
    read_pass::Pass,
    session::{Sending, Session},
    stream::{Entry, Handler, Origin},
};

/// How long a peer may take to identify itself (go-libp2p and js-libp2p: 5 s;
/// doubled for peers on slow links).
const PATIENCE: Duration = Duration::from_secs(10);

/// identify, asked by us.
pub(super) struct Question {
    dialer: Option<Dialer>,
    pub(super) listener: identify::Listener,
}

/// Why a peer could not be identified.
#[derive(Debug, thiserror::Error)]
pub(super) enum QuestionError {
    #[error("the peer does not speak identify")]
    NotSpoken,
    #[error(transparent)]
    Negotiate(#[from] NegotiateError),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Question {
    pub(super) fn handle_input(
        &mut self,
        peer: &libp2p_identity::PeerId,
        input: &[u8],
    ) -> Result<(), QuestionError> {
        let mut rest = input;
        if let Some(dialer) = &mut self.dialer {
            match dialer.handle_input(input)? {
                Reply::NeedMore => return Ok(()),
                Reply::Refused { .. } => return Err(QuestionError::NotSpoken),
                Reply::Accepted { consumed } => {
                    rest = &input[consumed..];
                    self.dialer = None;
                }
            }
        }
        Ok(self.listener.handle_input(peer, rest)?)
    }
}

/// js-libp2p's mplex ends a connection on which a sixth stream is opened within
/// a second, whatever its limits.
const JS_MPLEX_OPENS_MAX: u8 = 5;

/// How that peer's agent string begins.
const JS_AGENT: &str = "js-libp2p/";

/// Streams opened within the current second.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Option<Instant>,
    opened: u8,
}

impl Pace {
    /// Counts one more; whether the peer bears it. Keeps to half of what the
    /// peer allows, whose seconds do not begin when ours do.
    fn bears(&mut self, now: Instant) -> bool {
        let same = self
            .since
            .is_some_and(|since| now.saturating_duration_since(since) < Duration::from_secs(1));
        if !same {
            *self = Self {
                since: Some(now),
                opened: 0,
            };
        }
        self.opened += 1;
        self.opened <= JS_MPLEX_OPENS_MAX / 2
    }
}

impl<E: Sending> Session<E> {
    /// Whether the peer bears one more stream of ours now.
    pub(super) fn bears_opening(&mut self, now: Instant) -> bool {
        let peer = &self.remote.peer;
        let counts = self.egress.muxer() == Some(Muxer::Mplex)
            && self.context.peerstore.agent_begins(peer, JS_AGENT);
        !counts || self.pace.bears(now)
    }

    /// Asks the peer who it is.
    pub(super) fn ask_identity(&mut self, pass: &mut Pass<'_>) {
        pass.output.clear();
        let question = Question {
            dialer: Some(Dialer::propose(identify::PROTOCOL, pass.output)),
            listener: identify::Listener::default(),
        };
        let handler = Handler::Question(Box::new(question));
        let Some(stream) = self.open_stream(handler, Service::Identify) else {
            return;
        };
        self.set_deadline(stream, Some(pass.now + PATIENCE));
        self.send(stream, pass);
    }

    /// Tells the log and the metrics which limit a stream met.
    pub(super) fn stream_refused(&self, refusal: StreamRefusal) {
        tracing::debug!(peer = %self.remote.peer, limit = refusal.label(), %refusal, "stream refused");
        self.context.metrics.streams.refused(refusal.label());
    }

    /// Opens a stream of ours; `None` when every id has been used, or when
    /// there are as many streams as there may be.
    pub(super) fn open_stream(&mut self, handler: Handler, service: Service) -> Option<StreamKey> {
        let permit = self.context.streams.open();
        let permit = permit
            .inspect_err(|refusal| self.stream_refused(*refusal))
            .ok()?;
        let stream = self.egress.open_stream()?;
        let mut guard = self
            .context
            .metrics
            .streams
            .opened(crate::metrics::Direction::Outbound);
        guard.serves(service);
        self.table
            .insert(Entry::new(stream, Origin::Us, handler, guard, permit));
        Some(stream)
    }
}
