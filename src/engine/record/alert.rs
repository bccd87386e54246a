//! What TLS says at the end of a connection (RFC 8446 §6): that nothing more
//! comes, or which of our errors ended it.
//!
//! One byte for each. What comes behind one is left to whoever says it.

use super::RecordError;

/// The reason that a last record gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alert(pub(super) u8);

impl Alert {
    /// Nothing more comes, and nothing was cut off.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// Of a handshake that somebody has thought better of: means nothing once
    /// there is a connection.
    pub(super) const USER_CANCELED: Self = Self(90);

    const UNEXPECTED_MESSAGE: Self = Self(10);
    const BAD_RECORD_MAC: Self = Self(20);
    const RECORD_OVERFLOW: Self = Self(22);
    const INTERNAL_ERROR: Self = Self(80);

    /// Level and reason, as a record has them.
    pub(super) fn message(self) -> [u8; 2] {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let level = match self {
            Self::CLOSE_NOTIFY | Self::USER_CANCELED => WARNING,
            Self(_) => FATAL,
        };
        [level, self.0]
    }
}

impl RecordError {
    /// What the peer is told of it; nothing where it has told us.
    #[must_use]
    pub const fn alert(self) -> Option<Alert> {
        match self {
            Self::Authentication => Some(Alert::BAD_RECORD_MAC),
            Self::Exhausted => Some(Alert::INTERNAL_ERROR),
            Self::TooLarge => Some(Alert::RECORD_OVERFLOW),
            Self::Unexpected | Self::Flood => Some(Alert::UNEXPECTED_MESSAGE),
            Self::Alert(_) => None,
        }
    }
}
