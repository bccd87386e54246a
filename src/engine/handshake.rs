//! The upgrade of a raw byte stream to a secured one with a muxer, sans-IO and
//! in both roles: multistream → Noise XX or TLS 1.3 → muxer.
//!
//! ```text
//! responder   Security ── /noise, /tls ─▶ Noise, Tls ── peer known ─▶ Muxer ── token ─▶ Over
//! initiator   Proposed ── echo ─────────▶ Noise, Tls ── peer known ─▶ Muxer ── echo ──▶ Over
//!                                             └── muxer in payloads or ALPN ────────────▲
//! ```
//!
//! Holds, between inputs, one incomplete frame: [`MESSAGE_MAX`] bytes before
//! the peer is authenticated (16 KiB with TLS, all records together), one
//! record after. The deadline over all of it,
//! and what becomes of bytes behind the handshake, are left to the caller.

mod crypto;
mod error;
mod select;
mod session;
mod tls;

use libp2p_identity::{PeerId, PublicKey};

pub use crypto::KeyError;
pub use error::HandshakeError;
pub use session::{Local, MESSAGE_MAX, StaticKey};
pub use tls::TlsLocal;

use self::select::Selection;
use self::session::{Authenticated, Session};
use self::tls::TlsSession;
use crate::engine::muxer::Muxer;
use crate::engine::negotiate::{Dialer, NegotiateError, Negotiation, Reply, Responder};
use crate::engine::record::{HEADER_LEN, OpenKey, SealKey};
use crate::engine::security::Security;
use crate::wire::{DecodeError, noise};

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
    /// What secures the connection.
    pub security: Security,
    /// The muxer agreed on.
    pub muxer: Muxer,
    /// Whether the handshake itself settled the muxer.
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
    /// Initiator: proposal and first message are out in one flight.
    Proposed(Dialer, Secure),
    /// Messages of the security protocol.
    Secure(Secure),
    /// The muxer is negotiated in records.
    Muxer(Box<Selection>),
    /// Established or failed.
    Over,
}

/// A security protocol under way.
enum Secure {
    Noise(Box<Session>),
    Tls(Box<TlsSession>),
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

    /// Appends the first flight to `output`: proposal and first message of the
    /// security protocol that we prefer.
    ///
    /// # Errors
    /// [`HandshakeError`] if the system's random source fails.
    pub fn initiator(local: &'a Local, output: &mut Vec<u8>) -> Result<Self, HandshakeError> {
        let security = *local.security.first().ok_or(HandshakeError::Over)?;
        let dialer = Dialer::propose(security.protocol(), output);
        let secure = match (security, &local.tls) {
            (Security::Noise, _) => {
                let mut session = Box::new(Session::new(Role::Initiator, local)?);
                session.start(output)?;
                Secure::Noise(session)
            }
            (Security::Tls, Some(tls)) => {
                Secure::Tls(Box::new(TlsSession::initiator(tls, output)?))
            }
            (Security::Tls, None) => return Err(HandshakeError::Over),
        };
        Ok(Self {
            local,
            phase: Phase::Proposed(dialer, secure),
            pending: Vec::new(),
        })
    }

    /// Takes the next bytes from the peer, in place, and appends all answers
    /// to `output`: one flight to write.
    ///
    /// # Errors
    /// [`HandshakeError`]; what `output` holds then is sent only where the error
    /// [says so](HandshakeError::leaves_alert).
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
        Phase::Proposed(dialer, secure) => confirm_security(dialer, secure, input),
        Phase::Secure(Secure::Noise(session)) => exchange_message(session, local, input, output),
        Phase::Secure(Secure::Tls(session)) => exchange_records(session, local, input, output),
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
    let names: Vec<_> = local.security.iter().map(|one| one.protocol()).collect();
    let negotiation = responder
        .handle_input(input, &names, output)
        .map_err(HandshakeError::Security)?;
    Ok(match negotiation {
        Negotiation::NeedMore => Step::Starved(input.len(), Phase::Security(responder)),
        Negotiation::Accepted { consumed, protocol } => {
            let secure = match local.security[protocol] {
                Security::Noise => Secure::Noise(Box::new(Session::new(Role::Responder, local)?)),
                Security::Tls => Secure::Tls(Box::new(TlsSession::responder())),
            };
            Step::Next(consumed, Phase::Secure(secure))
        }
    })
}

fn confirm_security(
    mut dialer: Dialer,
    secure: Secure,
    input: &[u8],
) -> Result<Step, HandshakeError> {
    match dialer
        .handle_input(input)
        .map_err(HandshakeError::Security)?
    {
        Reply::NeedMore => Ok(Step::Starved(input.len(), Phase::Proposed(dialer, secure))),
        Reply::Accepted { consumed } => Ok(Step::Next(consumed, Phase::Secure(secure))),
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
        return Ok(Step::Starved(0, Phase::Secure(Secure::Noise(session))));
    };
    let message = &input[HEADER_LEN..used];
    match session.handle_message(message, local, output)? {
        None => Ok(Step::Next(used, Phase::Secure(Secure::Noise(session)))),
        Some(peer) => secured(used, peer, session.role(), local, output),
    }
}

fn exchange_records(
    mut session: Box<TlsSession>,
    local: &Local,
    input: &mut [u8],
    output: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    let (used, peer) = session.handle_input(input, local, output)?;
    match peer {
        None => Ok(Step::Starved(used, Phase::Secure(Secure::Tls(session)))),
        Some(peer) => secured(used, peer, session.role(), local, output),
    }
}

/// The peer is known: what is left is the muxer, if it is not known as well.
fn secured(
    used: usize,
    peer: Authenticated,
    role: Role,
    local: &Local,
    output: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    Ok(match peer.early_muxer {
        Some(muxer) => Step::Established(used, Established::new(peer, muxer, Vec::new())),
        None => {
            let selection = Selection::start(peer, role, local, output)?;
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
    let framing = selection.peer.open.framing();
    let announced = framing.announced(input);
    let announced = announced.map_err(|error| selection.refuse(error, output))?;
    let Some(used) = announced.filter(|length| *length <= input.len()) else {
        return Ok(Step::Starved(0, Phase::Muxer(selection)));
    };
    let record = &mut input[framing.header()..used];
    let taken = selection.handle_record(record, local, output);
    let taken = taken.map_err(|error| match error {
        HandshakeError::Record(error) => selection.refuse(error, output),
        error => error,
    });
    Ok(match taken? {
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
            security: peer.security,
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
