//! Unsigned LEB128 as multiformats bounds it: minimal, at most nine bytes.
//!
//! Used wherever the wire has a bare `uvarint`: length prefixes, multistream
//! and mplex. Protobuf fields keep their own, more lenient reader in
//! [`protobuf`](super::protobuf).

use super::DecodeError;

/// Longest encoding in bytes; nine groups of seven bits (multiformats
/// `unsigned-varint`).
pub const MAX_LEN: usize = 9;

/// Largest value nine bytes carry: 2^63 - 1.
pub const MAX: u64 = (1 << 63) - 1;

/// Reads one varint from the front of `input`; returns it with its length.
///
/// # Errors
/// `Incomplete` while the last byte has not arrived, `Malformed` for a
/// non-minimal form or one that runs past [`MAX_LEN`] bytes.
#[inline]
pub fn decode(input: &[u8]) -> Result<(u64, usize), DecodeError> {
    // Stream ids and most frame lengths fit in two bytes: keep those in the
    // caller and everything longer out of its instruction stream.
    match *input {
        [low @ 0..0x80, ..] => Ok((u64::from(low), 1)),
        [low, high @ 1..0x80, ..] => Ok((u64::from(low & 0x7f) | u64::from(high) << 7, 2)),
        _ => decode_long(input),
    }
}

/// Appends `value` to `out`.
///
/// # Panics
/// If `value` is above [`MAX`]: callers encode lengths and ids of their own.
#[inline]
pub fn encode(value: u64, out: &mut Vec<u8>) {
    let mut bytes = [0; MAX_LEN];
    let len = encode_into(value, &mut bytes);
    out.extend_from_slice(&bytes[..len]);
}

/// Writes `value` to the front of `out` and returns the number of bytes used.
///
/// # Panics
/// If `value` is above [`MAX`].
#[inline]
pub fn encode_into(value: u64, out: &mut [u8; MAX_LEN]) -> usize {
    assert!(value <= MAX, "varint of more than 63 bits");
    let mut rest = value;
    let mut len = 0;
    for byte in out {
        len += 1;
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            *byte = low;
            break;
        }
        *byte = low | 0x80;
    }
    len
}

/// Length in bytes of the minimal encoding of `value`.
#[inline]
#[must_use]
pub const fn encoded_len(value: u64) -> usize {
    // Seven bits a byte; `| 1` gives zero its one byte.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cold]
fn decode_long(input: &[u8]) -> Result<(u64, usize), DecodeError> {
    let mut value = 0;
    for (index, &byte) in input.iter().take(MAX_LEN).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte == 0 && index > 0 {
            return Err(DecodeError::Malformed("varint is not minimal"));
        }
        if byte < 0x80 {
            return Ok((value, index + 1));
        }
    }
    if input.len() < MAX_LEN {
        Err(DecodeError::Incomplete)
    } else {
        Err(DecodeError::Malformed("varint is longer than nine bytes"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    #[test]
    fn reference_values_have_their_documented_bytes() {
        for (value, bytes) in [
            (0, "00"),
            (1, "01"),
            (127, "7f"),
            (128, "8001"),
            (255, "ff01"),
            (300, "ac02"),
            (16_384, "808001"),
            (MAX, "ffffffffffffffff7f"),
        ] {
            let bytes = hex(bytes);
            let mut out = Vec::new();
            encode(value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(decode(&bytes).unwrap(), (value, bytes.len()));
        }
    }

    #[test]
    fn non_minimal_forms_are_malformed() {
        for bytes in ["8000", "808000", "ff00", "ffffffffffffffff00"] {
            assert_eq!(
                decode(&hex(bytes)),
                Err(DecodeError::Malformed("varint is not minimal")),
                "{bytes}"
            );
        }
    }

    #[test]
    fn ten_byte_forms_are_malformed_from_the_ninth_byte_on() {
        for bytes in [
            "ffffffffffffffffff01",
            "80808080808080808001",
            "ffffffffffffffffff",
        ] {
            assert!(
                matches!(decode(&hex(bytes)), Err(DecodeError::Malformed(_))),
                "{bytes}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "more than 63 bits")]
    fn values_above_the_bound_are_not_written() {
        encode(MAX + 1, &mut Vec::new());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(bits in 0..64_u32, noise in any::<u64>(), tail in any::<Vec<u8>>()) {
            let value = (noise & MAX) >> bits.min(62);
            let mut out = Vec::new();
            encode(value, &mut out);
            let len = out.len();
            prop_assert_eq!(len, encoded_len(value));
            for end in 0..len {
                prop_assert_eq!(decode(&out[..end]), Err(DecodeError::Incomplete));
            }
            out.extend(tail);
            prop_assert_eq!(decode(&out), Ok((value, len)));
        }

        #[test]
        fn what_is_read_has_only_one_spelling(input in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok((value, used)) = decode(&input) {
                let mut out = Vec::new();
                encode(value, &mut out);
                prop_assert_eq!(&out[..], &input[..used]);
            }
        }
    }
}
