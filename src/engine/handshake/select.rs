//! The muxer negotiation inside the secured channel, for peers that did not
//! settle it in the handshake: multistream-select in records.
//!
//! Holds no bytes besides an incomplete multistream message. Plaintext behind
//! the muxer's token belongs to the muxer and is handed on.

use super::session::{Authenticated, Local};
use super::{HandshakeError, Role};
use crate::engine::muxer::Muxer;
use crate::engine::negotiate::{Dialer, NegotiateError, Negotiation, Reply, Responder};
use crate::engine::record::{Opened, RecordError, SealKey};

/// One negotiation, in either role.
pub(super) struct Selection {
    pub(super) peer: Authenticated,
    side: Side,
}

enum Side {
    Responder(Responder),
    Initiator {
        dialer: Dialer,
        /// The muxer proposed last, as an index into our list.
        proposed: usize,
    },
}

/// A muxer, and the plaintext of the same record behind its token.
pub(super) struct Selected {
    pub(super) muxer: Muxer,
    pub(super) plaintext: Vec<u8>,
}

impl Selection {
    /// The initiator proposes at once, in the same flight as message 3.
    pub(super) fn start(
        mut peer: Authenticated,
        role: Role,
        local: &Local,
        output: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        let side = match role {
            Role::Responder => Side::Responder(Responder::new()),
            Role::Initiator => {
                let first = proposal(local, 0)?;
                let dialer = seal_into(&mut peer.seal, output, |plain| {
                    Dialer::propose(first.protocol(), plain)
                })?;
                Side::Initiator {
                    dialer,
                    proposed: 0,
                }
            }
        };
        Ok(Self { peer, side })
    }

    /// Tells the peer what was wrong with a record of its own, where the record
    /// layer has words for it.
    pub(super) fn refuse(&mut self, error: RecordError, output: &mut Vec<u8>) -> HandshakeError {
        if let Some(alert) = error.alert() {
            // Without a key there is nothing to be said.
            let _ = self.peer.seal.close(alert, output);
        }
        HandshakeError::Record(error)
    }

    /// Opens one record in place and answers what stands in it.
    pub(super) fn handle_record(
        &mut self,
        record: &mut [u8],
        local: &Local,
        output: &mut Vec<u8>,
    ) -> Result<Option<Selected>, HandshakeError> {
        let Authenticated { seal, open, .. } = &mut self.peer;
        let opened = open.expand().and_then(|mut opener| opener.open(record));
        let plaintext = match opened.map_err(HandshakeError::Record)? {
            Opened::Plaintext(plaintext) => plaintext,
            Opened::Nothing => return Ok(None),
            Opened::Renew => {
                seal.renew(output).map_err(HandshakeError::Record)?;
                return Ok(None);
            }
            Opened::Closed => return Err(HandshakeError::Record(RecordError::Alert(0))),
        };
        match &mut self.side {
            Side::Responder(responder) => {
                let names: Vec<_> = local.muxers.iter().map(|muxer| muxer.protocol()).collect();
                let negotiation = seal_into(seal, output, |plain| {
                    responder.handle_input(plaintext, &names, plain)
                })?;
                Ok(match negotiation.map_err(HandshakeError::Muxer)? {
                    Negotiation::NeedMore => None,
                    Negotiation::Accepted { protocol, consumed } => Some(Selected {
                        muxer: local.muxers[protocol],
                        plaintext: plaintext[consumed..].to_vec(),
                    }),
                })
            }
            Side::Initiator { dialer, proposed } => {
                let mut rest = plaintext;
                loop {
                    match dialer.handle_input(rest).map_err(HandshakeError::Muxer)? {
                        Reply::NeedMore => return Ok(None),
                        Reply::Accepted { consumed } => {
                            return Ok(Some(Selected {
                                muxer: proposal(local, *proposed)?,
                                plaintext: rest[consumed..].to_vec(),
                            }));
                        }
                        Reply::Refused { consumed } => {
                            rest = &mut rest[consumed..];
                            *proposed += 1;
                            let next = proposal(local, *proposed)?;
                            seal_into(seal, output, |plain| {
                                dialer.propose_next(next.protocol(), plain);
                            })?;
                        }
                    }
                }
            }
        }
    }
}

fn proposal(local: &Local, index: usize) -> Result<Muxer, HandshakeError> {
    local
        .muxers
        .get(index)
        .copied()
        .ok_or(HandshakeError::Muxer(NegotiateError::NoAgreement))
}

/// Lets `write` append plaintext to `output` and makes one record of it, where
/// it stands; nothing if nothing was written.
fn seal_into<R>(
    seal: &mut SealKey,
    output: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> R,
) -> Result<R, HandshakeError> {
    let (start, framing) = (output.len(), seal.framing());
    let body = start + framing.header();
    output.resize(body, 0);
    let written = write(output);
    if output.len() == body {
        output.truncate(start);
    } else {
        output.resize(output.len() + framing.trailer(), 0);
        seal.seal(&mut output[start..])
            .map_err(HandshakeError::Record)?;
    }
    Ok(written)
}
