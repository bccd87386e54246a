//! Pure codecs: a slice in, a value and the number of bytes it took out.
//!
//! Every announced length is checked against a named maximum before anything
//! is allocated, and every list a peer can fill has a bound. Values borrow
//! from the slice. No async, no clock, no logging; deciding what a malformed
//! message costs its sender is left to `engine` and `service`.

pub mod certificate;
pub mod envelope;
pub mod identify;
pub mod length_delimited;
pub mod mplex;
pub mod multistream;
pub mod noise;
pub mod protobuf;
pub mod proxy;
pub mod relay;
pub mod tls;
pub mod varint;
pub mod websocket;
pub mod yamux;

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

/// Bytes of a captured vector, written in hexadecimal with spaces at will.
#[cfg(test)]
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    let (pairs, odd) = digits.as_chunks::<2>();
    assert!(odd.is_empty(), "odd number of digits");
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(high << 4 | low).expect("two digits make a byte"))
        .collect()
}
