//! The upgrade of a raw byte stream to a secured one with a muxer, sans-IO and
//! in both roles: multistream → Noise XX → muxer.
//!
//! ```text
//! responder   Security ── /noise ─▶ Noise ── message 3 ─▶ Muxer ── token ─▶ Over
//! initiator   Proposed ── echo ───▶ Noise ── message 2 ─▶ Muxer ── echo ──▶ Over
//!                                     └───── muxer in both payloads ────────▲
//! ```
//!
//! Holds, between inputs, one incomplete frame: [`MESSAGE_MAX`] bytes before
//! the peer is authenticated, one record after. The deadline over all of it,
//! and what becomes of bytes behind the handshake, are left to the caller.

mod crypto;
mod select;
mod session;

use libp2p_identity::{PeerId, PublicKey};

pub use crypto::KeyError;
pub use session::{Local, MESSAGE_MAX, StaticKey};

use self::select::Selection;
use self::session::{Authenticated, Session};
use crate::engine::muxer::Muxer;
use crate::engine::negotiate::{Dialer, NegotiateError, Negotiation, Reply, Responder};
use crate::engine::record::{HEADER_LEN, OpenKey, RecordError, SealKey};
use crate::wire::{DecodeError, noise};

/// Protocol id of Noise on the wire.
pub const NOISE: &str = "/noise";

/// Why an upgrade cannot succeed. Every one closes the connection, and nothing
/// more is sent.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// No security protocol was agreed on.
    #[error("security negotiation: {0}")]
    Security(#[source] NegotiateError),
    /// A handshake message above [`MESSAGE_MAX`].
    #[error("noise message of {0} bytes exceeds {MESSAGE_MAX}")]
    MessageTooLarge(usize),
    /// The cryptographic handshake failed.
    #[error("noise handshake: {0}")]
    Noise(#[from] snow::Error),
    /// The handshake payload does not decode.
    #[error("noise payload: {0}")]
    Payload(#[from] DecodeError),
    /// The identity key in the payload is no key.
    #[error("identity key does not decode")]
    IdentityKey,
    /// The identity did not sign this Noise static key, or its key is too
    /// weak to count.
    #[error("identity signature does not verify")]
    Signature,
    /// A record of the muxer negotiation could not be opened.
    #[error("record of the muxer negotiation: {0}")]
    Record(#[source] RecordError),
    /// No muxer was agreed on.
    #[error("muxer negotiation: {0}")]
    Muxer(#[source] NegotiateError),
    /// Input for a handshake that has already ended.
    #[error("the handshake has ended")]
    Over,
}

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The peer came to us.
    Responder,
    /// We went to the peer.
    Initiator,
}

/// What an input led to.
#[must_use]
pub enum Progress {
    /// The peer has to send more, once the output is written.
    NeedMore,
    /// The connection is up, once the output is written.
    Established(Box<Established>),
}

/// An upgraded connection.
pub struct Established {
    /// Who the peer is, from the canonical encoding of its key.
    pub peer_id: PeerId,
    /// The key that the peer proved to hold.
    pub public_key: PublicKey,
    /// The muxer agreed on.
    pub muxer: Muxer,
    /// Whether the Noise payloads settled the muxer.
    pub early_muxer: bool,
    /// Seals what we send next.
    pub seal: SealKey,
    /// Opens what comes next: `ciphertext` first.
    pub open: OpenKey,
    /// Opened bytes of the muxer, from the record that carried its token.
    pub plaintext: Vec<u8>,
    /// Raw bytes behind the handshake, not yet opened.
    pub ciphertext: Vec<u8>,
}

/// One upgrade under way.
pub struct Handshake<'a> {
    local: &'a Local,
    phase: Phase,
    /// The incomplete frame at the end of the last input.
    pending: Vec<u8>,
}

enum Phase {
    /// Responder: the peer chooses a security protocol.
    Security(Responder),
    /// Initiator: proposal and Noise message 1 are out in one flight.
    Proposed(Dialer, Box<Session>),
    /// Noise messages.
    Noise(Box<Session>),
    /// The muxer is negotiated in records.
    Muxer(Box<Selection>),
    /// Established or failed.
    Over,
}

/// What one phase made of the bytes at hand, and how many it is done with.
enum Step {
    /// The rest is the start of a frame, or nothing.
    Starved(usize, Phase),
    /// The rest is for this phase.
    Next(usize, Phase),
    /// The rest is for the connection.
    Established(usize, Box<Established>),
}

impl<'a> Handshake<'a> {
    /// Awaits the peer's first flight.
    #[must_use]
    pub fn responder(local: &'a Local) -> Self {
        Self {
            local,
            phase: Phase::Security(Responder::new()),
            pending: Vec::new(),
        }
    }

    /// Appends the first flight to `output`: proposal and Noise message 1.
    ///
    /// # Errors
    /// [`HandshakeError::Noise`] if the system's random source fails.
    pub fn initiator(local: &'a Local, output: &mut Vec<u8>) -> Result<Self, HandshakeError> {
        let dialer = Dialer::propose(NOISE, output);
        let mut session = Box::new(Session::new(Role::Initiator, local)?);
        session.start(output)?;
        Ok(Self {
            local,
            phase: Phase::Proposed(dialer, session),
            pending: Vec::new(),
        })
    }

    /// Takes the next bytes from the peer, in place, and appends all answers
    /// to `output`: one flight to write.
    ///
    /// # Errors
    /// [`HandshakeError`]; what `output` holds then must not be sent.
    pub fn handle_input(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        if self.pending.is_empty() {
            let (used, established) = self.advance(input, output)?;
            Ok(self.keep(input[used..].to_vec(), established))
        } else {
            let mut held = std::mem::take(&mut self.pending);
            held.extend_from_slice(input);
            let (used, established) = self.advance(&mut held, output)?;
            held.drain(..used);
            Ok(self.keep(held, established))
        }
    }

    /// Runs phases until the bytes are used up or the handshake is; returns
    /// how many were used. A phase is taken out while it runs, so an error
    /// leaves the handshake over.
    fn advance(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Option<Box<Established>>), HandshakeError> {
        let mut phase = std::mem::replace(&mut self.phase, Phase::Over);
        let mut consumed = 0;
        loop {
            match step(phase, self.local, &mut input[consumed..], output)? {
                Step::Starved(used, same) => {
                    self.phase = same;
                    return Ok((consumed + used, None));
                }
                Step::Next(used, next) => {
                    consumed += used;
                    phase = next;
                }
                Step::Established(used, established) => {
                    return Ok((consumed + used, Some(established)));
                }
            }
        }
    }

    fn keep(&mut self, rest: Vec<u8>, established: Option<Box<Established>>) -> Progress {
        match established {
            Some(mut established) => {
                established.ciphertext = rest;
                Progress::Established(established)
            }
            None => {
                self.pending = rest;
                Progress::NeedMore
            }
        }
    }
}

fn step(
    phase: Phase,
    local: &Local,
    input: &mut [u8],
    output: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    match phase {
        Phase::Security(responder) => agree_on_security(responder, local, input, output),
        Phase::Proposed(dialer, session) => confirm_security(dialer, session, input),
        Phase::Noise(session) => exchange_message(session, local, input, output),
        Phase::Muxer(selection) => agree_on_muxer(selection, local, input, output),
        Phase::Over => Err(HandshakeError::Over),
    }
}

fn agree_on_security(
    mut responder: Responder,
    local: &Local,
    input: &[u8],
    output: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    let negotiation = responder
        .handle_input(input, &[NOISE], output)
        .map_err(HandshakeError::Security)?;
    Ok(match negotiation {
        Negotiation::NeedMore => Step::Starved(input.len(), Phase::Security(responder)),
        Negotiation::Accepted { consumed, .. } => {
            let session = Session::new(Role::Responder, local)?;
            Step::Next(consumed, Phase::Noise(Box::new(session)))
        }
    })
}

fn confirm_security(
    mut dialer: Dialer,
    session: Box<Session>,
    input: &[u8],
) -> Result<Step, HandshakeError> {
    match dialer
        .handle_input(input)
        .map_err(HandshakeError::Security)?
    {
        Reply::NeedMore => Ok(Step::Starved(input.len(), Phase::Proposed(dialer, session))),
        Reply::Accepted { consumed } => Ok(Step::Next(consumed, Phase::Noise(session))),
        Reply::Refused { .. } => Err(HandshakeError::Security(NegotiateError::NoAgreement)),
    }
}

fn exchange_message(
    mut session: Box<Session>,
    local: &Local,
    input: &[u8],
    output: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    if let [high, low, ..] = *input {
        let announced = usize::from(u16::from_be_bytes([high, low]));
        if announced > MESSAGE_MAX {
            return Err(HandshakeError::MessageTooLarge(announced));
        }
    }
    let Some(used) = frame_len(input)? else {
        return Ok(Step::Starved(0, Phase::Noise(session)));
    };
    let message = &input[HEADER_LEN..used];
    let Some(peer) = session.handle_message(message, local, output)? else {
        return Ok(Step::Next(used, Phase::Noise(session)));
    };
    Ok(match peer.early_muxer {
        Some(muxer) => Step::Established(used, Established::new(peer, muxer, Vec::new())),
        None => {
            let selection = Selection::start(peer, session.role(), local, output)?;
            Step::Next(used, Phase::Muxer(Box::new(selection)))
        }
    })
}

fn agree_on_muxer(
    mut selection: Box<Selection>,
    local: &Local,
    input: &mut [u8],
    output: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    let Some(used) = frame_len(input)? else {
        return Ok(Step::Starved(0, Phase::Muxer(selection)));
    };
    let record = &mut input[HEADER_LEN..used];
    Ok(match selection.handle_record(record, local, output)? {
        None => Step::Next(used, Phase::Muxer(selection)),
        Some(selected) => {
            let established = Established::new(selection.peer, selected.muxer, selected.plaintext);
            Step::Established(used, established)
        }
    })
}

/// Length of the whole frame at the front of `input`, if it is all there.
fn frame_len(input: &[u8]) -> Result<Option<usize>, DecodeError> {
    match noise::decode_frame(input) {
        Ok((_, used)) => Ok(Some(used)),
        Err(DecodeError::Incomplete) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Established {
    fn new(peer: Authenticated, muxer: Muxer, plaintext: Vec<u8>) -> Box<Self> {
        Box::new(Self {
            peer_id: peer.peer_id,
            public_key: peer.public_key,
            muxer,
            early_muxer: peer.early_muxer.is_some(),
            seal: peer.seal,
            open: peer.open,
            plaintext,
            ciphertext: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests;
