//! Gathers one length-delimited message from however many pieces it comes in.
//!
//! A message that arrives whole is read where it lies. Otherwise its pieces
//! are kept until it is complete: at most the decoder's maximum, which the
//! decoder enforces on the announced length before the body arrives.

use crate::wire::{DecodeError, varint};

/// The front of a message whose end has not arrived.
#[derive(Debug, Default)]
pub struct Gather {
    kept: Vec<u8>,
}

impl Gather {
    /// Tries `decode` on what is there, `input` included.
    ///
    /// `Some` carries what it made of the message and how much of `input`
    /// belonged to it; what is behind that is the next protocol's.
    ///
    /// # Errors
    /// What `decode` says, other than that it needs more; or `TooLarge` if it
    /// needs more than `max` bytes and the length in front of them.
    pub fn message<T>(
        &mut self,
        input: &[u8],
        max: usize,
        decode: impl FnOnce(&[u8]) -> Result<(T, usize), DecodeError>,
    ) -> Result<Option<(T, usize)>, DecodeError> {
        let before = self.kept.len();
        let whole = if before == 0 {
            input
        } else {
            let room = max + varint::MAX_LEN - before;
            self.kept.extend_from_slice(&input[..input.len().min(room)]);
            &self.kept
        };
        match decode(whole) {
            Ok((message, used)) => {
                self.kept = Vec::new();
                Ok(Some((message, used.saturating_sub(before))))
            }
            Err(DecodeError::Incomplete) if whole.len() < max + varint::MAX_LEN => {
                if before == 0 {
                    self.kept.extend_from_slice(input);
                }
                Ok(None)
            }
            Err(DecodeError::Incomplete) => Err(DecodeError::TooLarge {
                what: "message",
                announced: whole.len() as u64,
                max: max as u64,
            }),
            Err(error) => Err(error),
        }
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::length_delimited;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize), DecodeError> {
        length_delimited::decode(input, 100, "test").map(|(body, used)| (body.to_vec(), used))
    }

    #[test]
    fn a_message_in_any_two_pieces_is_whole_and_leaves_the_rest() {
        let mut bytes = Vec::new();
        length_delimited::encode(b"the message", &mut bytes);
        let end = bytes.len();
        bytes.extend_from_slice(b"next");
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut gather = Gather::default();
            let early = gather.message(first, 100, decode);
            if cut >= end {
                assert_eq!(early, Ok(Some((b"the message".to_vec(), end))));
            } else {
                assert_eq!(early, Ok(None));
                let late = gather.message(second, 100, decode);
                assert_eq!(late, Ok(Some((b"the message".to_vec(), end - cut))));
            }
            assert!(!gather.has_begun());
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_body() {
        let refused = Gather::default().message(&[101], 100, decode);
        assert!(matches!(refused, Err(DecodeError::TooLarge { .. })));
    }
}
