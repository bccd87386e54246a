//! STOP: offering a circuit to its target (circuit relay v2, "Stop protocol").
//!
//! One [`Offer`] per circuit being set up. The stream's header, the protocol
//! and the request leave in one flight; what the target says behind its answer
//! belongs to the circuit. Bounds: [`PATIENCE`] from the offer to the answer,
//! 4 KiB for the answer.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::negotiate::{Dialer, NegotiateError, Reply},
    service::gather::Gather,
    state::{circuits::Circuit, leg::Leg},
    wire::{
        DecodeError,
        relay::{MAX_MESSAGE, STOP_PROTOCOL, Status, StopKind, StopMessage, encode_stop_connect},
    },
};

/// How long a target may take to answer. go-libp2p's client gives up on the
/// whole circuit after 60 s; rust-libp2p after 30 s or less.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a target did not take a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It does not speak STOP.
    #[error("the target does not speak stop")]
    NotSpoken,
    /// The protocol could not be agreed on.
    #[error(transparent)]
    Negotiate(#[from] NegotiateError),
    /// Its answer could not be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Its answer was no.
    #[error("the target answered {0:?}")]
    Refused(Option<Status>),
}

/// A circuit on offer.
pub struct Offer {
    /// What is offered.
    pub circuit: Arc<Circuit>,
    /// The end that is there already.
    pub source: Leg,
    dialer: Option<Dialer>,
    gather: Gather,
}

impl Offer {
    /// Makes the offer; its bytes go to the end of `output`.
    pub fn new(circuit: Arc<Circuit>, source: Leg, output: &mut Vec<u8>) -> Self {
        let dialer = Dialer::propose(STOP_PROTOCOL, output);
        let limit = circuit.limit();
        encode_stop_connect(&circuit.source().to_bytes(), limit.as_ref(), output);
        Self {
            circuit,
            source,
            dialer: Some(dialer),
            gather: Gather::default(),
        }
    }

    /// Takes bytes from the target. `Some` means that it accepts, and tells how
    /// many of these bytes were its answer.
    ///
    /// # Errors
    /// [`OfferError`] when it does not.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<Option<usize>, OfferError> {
        let mut consumed = 0;
        if let Some(dialer) = &mut self.dialer {
            match dialer.handle_input(input)? {
                Reply::NeedMore => return Ok(None),
                Reply::Refused { .. } => return Err(OfferError::NotSpoken),
                Reply::Accepted { consumed: used } => {
                    consumed = used;
                    self.dialer = None;
                }
            }
        }
        if consumed == input.len() {
            return Ok(None);
        }
        let answer = self
            .gather
            .message(&input[consumed..], MAX_MESSAGE, |bytes| {
                let (message, used) = StopMessage::decode(bytes)?;
                Ok(((message.kind, message.status), used))
            })?;
        match answer {
            None => Ok(None),
            Some(((Some(StopKind::Status), Some(Status::Ok)), used)) => Ok(Some(consumed + used)),
            Some(((_, status), _)) => Err(OfferError::Refused(status)),
        }
    }
}
