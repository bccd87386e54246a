//! Messages behind a varint length, the frame of nearly every libp2p protocol.
//!
//! The caller names the cap; a length above it is refused before a byte of the
//! body has arrived. Bytes behind the body are left alone, because they belong
//! to whatever protocol comes next (protocols.md §0).

use super::{DecodeError, varint};

/// Reads one message of at most `max` bytes; returns its body and the length
/// of prefix and body together. `what` names the message in the error.
///
/// # Errors
/// `TooLarge` as soon as the prefix is complete, `Malformed` for a prefix that
/// is no minimal varint, `Incomplete` otherwise.
#[inline]
pub fn decode<'a>(
    input: &'a [u8],
    max: usize,
    what: &'static str,
) -> Result<(&'a [u8], usize), DecodeError> {
    let (announced, prefix) = varint::decode(input)?;
    let length = match usize::try_from(announced) {
        Ok(length) if length <= max => length,
        _ => {
            return Err(DecodeError::TooLarge {
                what,
                announced,
                max: max as u64,
            });
        }
    };
    let body = input[prefix..]
        .get(..length)
        .ok_or(DecodeError::Incomplete)?;
    Ok((body, prefix + length))
}

/// Appends `body` to `out` behind its length.
#[inline]
pub fn encode(body: &[u8], out: &mut Vec<u8>) {
    varint::encode(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// Appends whatever `write` appends, behind its length.
///
/// The body is written in place. One byte is kept for the prefix; a body of
/// 128 bytes or more is moved up by the rest of it.
pub fn encode_with(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    write(out);
    let mut prefix = [0; varint::MAX_LEN];
    let length = out.len() - start - 1;
    let used = varint::encode_into(length as u64, &mut prefix);
    if used == 1 {
        out[start] = prefix[0];
    } else {
        out.splice(start..=start, prefix[..used].iter().copied());
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cap_is_inclusive_and_holds_before_the_body_arrives() {
        assert_eq!(
            decode(&[3, 1, 2, 3, 9], 3, "token"),
            Ok((&[1, 2, 3][..], 4))
        );
        assert_eq!(
            decode(&[4], 3, "token"),
            Err(DecodeError::TooLarge {
                what: "token",
                announced: 4,
                max: 3
            })
        );
    }

    #[test]
    fn a_length_near_the_end_of_the_address_space_is_too_large() {
        let mut input = Vec::new();
        varint::encode(varint::MAX, &mut input);
        assert!(matches!(
            decode(&input, 4096, "token"),
            Err(DecodeError::TooLarge {
                announced: varint::MAX,
                ..
            })
        ));
    }

    #[test]
    fn a_non_minimal_length_is_malformed() {
        assert!(matches!(
            decode(&[0x81, 0x00, 7], 9, "token"),
            Err(DecodeError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn both_writers_agree_and_are_read_back(
            before in any::<Vec<u8>>(),
            body in prop::collection::vec(any::<u8>(), 0..300),
            after in any::<Vec<u8>>(),
        ) {
            let mut out = before.clone();
            encode(&body, &mut out);
            let mut in_place = before.clone();
            encode_with(&mut in_place, |out| out.extend_from_slice(&body));
            prop_assert_eq!(&out, &in_place);

            let message = &out[before.len()..];
            for end in 0..message.len() {
                prop_assert_eq!(decode(&message[..end], 300, "body"), Err(DecodeError::Incomplete));
            }
            let whole = message.len();
            out.extend(after);
            let (read, used) = decode(&out[before.len()..], 300, "body").unwrap();
            prop_assert_eq!((read, used), (&body[..], whole));
        }
    }
}
