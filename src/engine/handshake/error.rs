//! What can go wrong in an upgrade. Owns the words for it; what becomes of the
//! connection is the caller's to see to.

use super::MESSAGE_MAX;
use crate::engine::negotiate::NegotiateError;
use crate::engine::record::RecordError;
use crate::engine::tls::TlsError;
use crate::wire::DecodeError;

/// Why an upgrade cannot succeed. Every one closes the connection; nothing more
/// is sent but what [`leaves_alert`](HandshakeError::leaves_alert) tells.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// No security protocol was agreed on.
    #[error("security negotiation: {0}")]
    Security(#[source] NegotiateError),
    /// A handshake message above [`MESSAGE_MAX`].
    #[error("noise message of {0} bytes exceeds {MESSAGE_MAX}")]
    MessageTooLarge(usize),
    /// The TLS handshake failed, or the certificate is no good.
    #[error(transparent)]
    Tls(#[from] TlsError),
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

impl HandshakeError {
    /// Whether the output of the input that failed is to be sent all the same:
    /// it ends with an alert that tells the peer why, if TLS is what secures the
    /// connection. Behind a Noise handshake it is what was answered before.
    #[must_use]
    pub fn leaves_alert(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Record(_))
    }
}
