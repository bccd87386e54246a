//! Signed peer records as peers hand them in: what is cheap to check is checked
//! first, and a signature only when everything else speaks for the record.
//!
//! Bounds a record to 4 KiB and the verifying to once in ten seconds for each
//! peer, so that pushing records costs a peer more than us.

use super::{Refusal, entry::Record, packed::Seconds};
use crate::state::peer_key::PeerKey;
use crate::wire::envelope::{
    Envelope, LEGACY_PEER_RECORD_TYPE, PEER_RECORD_TYPE, PeerRecord as Statement,
};

/// Longest envelope that is kept, in bytes: some thirty addresses of the
/// longest usual kind.
pub const RECORD_BYTES_MAX: usize = 4096;

/// Seconds between two signatures of one peer that are verified.
pub(super) const VERIFY_EVERY: Seconds = 10;

/// What is known of a peer's records before a new one is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// Sequence number of the one that is held.
    pub(super) seq: Option<u64>,
    /// Whether that one is the same, byte for byte.
    pub(super) same: bool,
    /// When a signature was verified last.
    pub(super) checked: Seconds,
}

impl Before {
    pub(super) fn new(held: Option<&Record>, envelope: &[u8], checked: Seconds) -> Self {
        Self {
            seq: held.map(|record| record.seq),
            same: held.is_some_and(|record| *record.envelope == *envelope),
            checked,
        }
    }
}

/// A record that has not been verified.
pub(super) struct Claim<'a> {
    envelope: Envelope<'a>,
    statement: Statement<'a>,
}

/// Reads what is cheap to read.
///
/// # Errors
/// Why it cannot be a record of this peer.
pub(super) fn read<'a>(bytes: &'a [u8], peer: &PeerKey) -> Result<Claim<'a>, Refusal> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(Refusal::RecordTooLarge);
    }
    let (envelope, _) = Envelope::decode(bytes).map_err(|_| Refusal::RecordMalformed)?;
    if ![PEER_RECORD_TYPE, LEGACY_PEER_RECORD_TYPE].contains(&envelope.payload_type) {
        return Err(Refusal::RecordMalformed);
    }
    let (statement, _) =
        Statement::decode(envelope.payload).map_err(|_| Refusal::RecordMalformed)?;
    if statement.peer_id != peer.to_bytes() {
        return Err(Refusal::RecordForeign);
    }
    Ok(Claim {
        envelope,
        statement,
    })
}

impl<'a> Claim<'a> {
    /// Whether the record says anything new; nothing is verified for one that
    /// does not.
    ///
    /// # Errors
    /// A record that is older than the one that is held, or another one of the
    /// same age; one that comes too soon after the last.
    pub(super) fn is_news(&self, before: Before, now: Seconds) -> Result<bool, Refusal> {
        if before.same {
            return Ok(false);
        }
        if before.seq.is_some_and(|seq| self.statement.seq <= seq) {
            return Err(Refusal::RecordSequence);
        }
        if before.checked != 0 && now < before.checked.saturating_add(VERIFY_EVERY) {
            return Err(Refusal::RecordRate);
        }
        Ok(true)
    }

    /// Verifies the signature.
    ///
    /// # Errors
    /// A signature that is not the peer's.
    pub(super) fn verify(&self) -> Result<(), Refusal> {
        // The signer is the peer it speaks for, and `read` has seen that this
        // is the peer that hands it in.
        Statement::open(&self.envelope)
            .map(|_| ())
            .map_err(|_| Refusal::RecordSignature)
    }

    pub(super) fn seq(&self) -> u64 {
        self.statement.seq
    }

    pub(super) fn addresses(&self) -> &[&'a [u8]] {
        &self.statement.addresses
    }
}
