//! What we open a stream for: to ask a peer who it is, once, when it connects,
//! and to tell it when our addresses change; and how often it may tell us.
//!
//! Bounds how long either may take, and the pushes that a peer may send.

use std::time::{Duration, Instant};

use crate::engine::muxer::Muxer;
use crate::engine::negotiate::{Dialer, NegotiateError, Reply};
use crate::engine::token_bucket::Rate;
use crate::metrics::Service;
use crate::service::identify::{self, ListenError};
use crate::state::leg::{StreamKey, reset_code};
use crate::state::limits::StreamRefusal;

use super::{
    context::Remote,
    read_pass::Pass,
    session::{Sending, Session},
    stream::{Entry, Handler, Origin},
};

/// How long a peer may take to identify itself (go-libp2p and js-libp2p: 5 s;
/// doubled for peers on slow links).
const PATIENCE: Duration = Duration::from_secs(10);

/// Pushes that a peer may send: one each five seconds, and ten at once, as
/// go-libp2p takes them from a network. Each may bring new texts to keep.
const PUSHES_PER_SECOND: f64 = 0.2;
const PUSHES_AT_ONCE: u32 = 10;

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
    /// peer allows, whose seconds do not begin when ours do. Of its five that
    /// leaves one, for a push: those come seconds apart.
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
        // Refused ones count too, however many there are.
        self.opened = self.opened.saturating_add(1);
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

    /// Tells the peer anew who we are, if it takes pushes. That takes no opening
    /// from a circuit: see [`Pace`].
    pub(super) fn push_identity(&mut self, pass: &mut Pass<'_>) {
        if self.going_away {
            return;
        }
        pass.output.clear();
        let dialer = Dialer::propose(identify::PUSH_PROTOCOL, pass.output);
        let handler = Handler::Telling(Box::new(dialer));
        let Some(stream) = self.open_stream(handler, Service::IdentifyPush) else {
            return;
        };
        self.set_deadline(stream, Some(pass.now + PATIENCE));
        self.send(stream, pass);
    }

    /// The peer has answered whether it takes the push.
    pub(super) fn tell(
        &mut self,
        stream: StreamKey,
        mut dialer: Box<Dialer>,
        payload: &[u8],
        pass: &mut Pass<'_>,
    ) {
        match dialer.handle_input(payload) {
            Ok(Reply::NeedMore) => {
                if let Some(entry) = self.table.find_mut(stream) {
                    entry.handler = Handler::Telling(dialer);
                }
                self.consumed(stream, payload.len(), pass);
            }
            Ok(Reply::Accepted { .. }) => {
                pass.output.clear();
                let Remote {
                    address, transport, ..
                } = self.remote;
                self.context.answer.write(address, transport, pass.output);
                self.send(stream, pass);
                self.finish_stream(stream, pass);
                self.context.metrics.identify.push_sent();
            }
            Ok(Reply::Refused { .. }) | Err(_) => {
                tracing::debug!(peer = %self.remote.peer, "takes no identify push");
                self.reset_stream(stream, reset_code::NONE, pass);
            }
        }
    }

    /// Whether the peer may push once more.
    pub(super) fn may_push(&mut self, now: Instant) -> Result<(), StreamRefusal> {
        let rate = Rate::new(PUSHES_PER_SECOND, PUSHES_AT_ONCE);
        let taken = self.pushes.take(&rate, 1, now);
        taken.map_err(|_| StreamRefusal::PushRate)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn no_number_of_openings_within_a_second_begins_anew() {
        let (mut pace, now) = (Pace::default(), clock::now());
        let borne = (0..1_000).filter(|_| pace.bears(now)).count();
        assert_eq!(borne, usize::from(JS_MPLEX_OPENS_MAX / 2));
        assert!(pace.bears(now + Duration::from_secs(1)));
    }
}
