//! Pure codecs: a slice in, a value and the number of bytes it took out.
//!
//! Every announced length is checked against a named maximum before anything
//! is allocated. No async, no clock, no logging.

/// What stood at the front of a slice instead of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes may complete it.
    #[error("incomplete")]
    Incomplete,
    /// The length that was announced is above the limit.
    #[error("{what} of {announced} bytes exceeds {max}")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// The length on the wire.
        announced: u64,
        /// The limit it was held against.
        max: u64,
    },
    /// No continuation can make it valid.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}
