//! What we ask a peer on a stream of our own: identify, once, when it
//! connects.

use std::time::Duration;

use crate::engine::negotiate::{Dialer, NegotiateError, Reply};
use crate::metrics::Service;
use crate::service::identify::{self, ListenError};

use super::{read_pass::Pass, stream::Handler, task::Connection};

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

impl Connection {
    /// Asks the peer who it is.
    pub(super) fn ask_identity(&mut self, pass: &mut Pass<'_>) {
        pass.output.clear();
        let question = Question {
            dialer: Some(Dialer::propose(identify::PROTOCOL, pass.output)),
            listener: identify::Listener::default(),
        };
        let handler = Handler::Question(Box::new(question));
        let stream = self.open_stream(handler, Service::Identify);
        self.set_deadline(stream, Some(pass.now + PATIENCE));
        self.send(stream, pass);
    }
}
