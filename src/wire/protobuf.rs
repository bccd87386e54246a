//! The protobuf wire format, as far as libp2p's messages need it.
//!
//! A borrowing field iterator and the few writers that go with it. Works on a
//! complete body, so its length bounds everything: each step takes at least
//! two bytes and nothing is copied. What a field number means, and merging of
//! repeated ones, is left to the message codecs.

use super::{DecodeError, length_delimited};

/// Longest varint in bytes: protobuf sign-extends negative enums to 64 bits.
const VARINT_MAX: usize = 10;

/// Largest field number (protobuf encoding specification).
const FIELD_NUMBER_MAX: u32 = (1 << 29) - 1;

/// The fields of one message body, in the order they stand there.
///
/// Yields `Malformed` once, then ends, for a body that is cut short, a field
/// number of zero or above 2^29 - 1, a varint above 64 bits, and the group and
/// undefined wire types. Never `Incomplete`: the body is whole by contract.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Iterates over the complete message `body`.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn read(&mut self) -> Result<Field<'a>, DecodeError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..=FIELD_NUMBER_MAX).contains(number))
            .ok_or(DecodeError::Malformed("protobuf field number"))?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(DecodeError::Malformed("protobuf wire type")),
        };
        Ok(Field { number, value })
    }

    /// Unlike [`varint`](super::varint), accepts what every protobuf reader
    /// does: non-minimal forms and all 64 bits.
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().take(VARINT_MAX).enumerate() {
            if index == VARINT_MAX - 1 && byte > 1 {
                return Err(DecodeError::Malformed("protobuf varint above 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(TRUNCATED)
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| TRUNCATED)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

const TRUNCATED: DecodeError = DecodeError::Malformed("protobuf field is cut short");

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// One field: its number, at least 1, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Field number from the schema.
    pub number: u32,
    /// Value as the wire type tells it.
    pub value: Value<'a>,
}

/// A value by wire type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Integers, booleans and enums.
    Varint(u64),
    /// `fixed64`, `sfixed64` and `double`.
    Fixed64(u64),
    /// `fixed32`, `sfixed32` and `float`.
    Fixed32(u32),
    /// Bytes, strings and nested messages.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes of a field the schema calls bytes, string or message.
    ///
    /// # Errors
    /// `Malformed` for any other wire type.
    pub const fn bytes(self) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(DecodeError::Malformed("protobuf field is not bytes")),
        }
    }

    /// The value of a field the schema calls an integer or enum.
    ///
    /// # Errors
    /// `Malformed` for any other wire type.
    pub const fn varint(self) -> Result<u64, DecodeError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(DecodeError::Malformed("protobuf field is not a varint")),
        }
    }
}

/// Appends an integer or enum field. Zero is written too: absent and zero
/// differ to some readers (protocols.md §11).
pub fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    put_tag(number, 0, out);
    put_raw_varint(value, out);
}

/// Appends a bytes or string field, also when empty.
pub fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_tag(number, 2, out);
    length_delimited::encode(bytes, out);
}

/// Appends a nested message of whatever `write` appends.
pub fn put_message(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    put_tag(number, 2, out);
    length_delimited::encode_with(out, write);
}

fn put_tag(number: u32, wire_type: u64, out: &mut Vec<u8>) {
    debug_assert!((1..=FIELD_NUMBER_MAX).contains(&number));
    put_raw_varint(u64::from(number) << 3 | wire_type, out);
}

fn put_raw_varint(value: u64, out: &mut Vec<u8>) {
    let mut rest = value;
    while rest >= 0x80 {
        let [low, ..] = rest.to_le_bytes();
        out.push(low | 0x80);
        rest >>= 7;
    }
    let [low, ..] = rest.to_le_bytes();
    out.push(low);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    fn read(body: &[u8]) -> Result<Vec<Field<'_>>, DecodeError> {
        Fields::new(body).collect()
    }

    #[test]
    fn every_wire_type_is_read() {
        let body = hex("089601 1106000000000000 00 1a0474657374 250a000000");
        assert_eq!(
            read(&body).unwrap(),
            [
                (1, Value::Varint(150)),
                (2, Value::Fixed64(6)),
                (3, Value::Bytes(b"test")),
                (4, Value::Fixed32(10)),
            ]
            .map(|(number, value)| Field { number, value })
        );
    }

    #[test]
    fn negative_enums_take_ten_bytes() {
        let body = hex("08ffffffffffffffffff01");
        assert_eq!(read(&body).unwrap()[0].value, Value::Varint(u64::MAX));
        let mut out = Vec::new();
        put_varint(1, u64::MAX, &mut out);
        assert_eq!(out, body);
    }

    #[test]
    fn non_minimal_varints_are_read() {
        assert_eq!(
            read(&hex("888000e480808000")).unwrap()[0].value,
            Value::Varint(100)
        );
        assert_eq!(
            read(&hex("0a83800061626300")),
            Err(DecodeError::Malformed("protobuf field number"))
        );
    }

    #[test]
    fn what_no_schema_can_produce_is_malformed() {
        for (body, why) in [
            ("00", "field number 0"),
            ("8080808010", "field number 2^29"),
            ("f8ffffff7f00", "field number above 32 bits"),
            ("0b", "group start"),
            ("0c", "group end"),
            ("0e", "wire type 6"),
            ("0f", "wire type 7"),
            ("08", "no value"),
            ("0880", "value cut short"),
            ("08ffffffffffffffffff02", "65 bits"),
            ("08ffffffffffffffffffff01", "eleven bytes"),
            ("0a", "no length"),
            ("0a0261", "bytes cut short"),
            ("0affffffffffffffffff01", "length of 2^64 - 1"),
            ("09000000", "fixed64 cut short"),
            ("0d0000", "fixed32 cut short"),
        ] {
            assert!(
                matches!(read(&hex(body)), Err(DecodeError::Malformed(_))),
                "{why}"
            );
        }
    }

    #[test]
    fn the_iterator_ends_at_its_first_error() {
        let body = hex("0801000801");
        let mut fields = Fields::new(&body);
        assert!(fields.next().unwrap().is_ok());
        assert!(fields.next().unwrap().is_err());
        assert!(fields.next().is_none());
    }

    #[test]
    fn a_value_of_another_type_is_malformed() {
        assert!(Value::Varint(1).bytes().is_err());
        assert!(Value::Fixed32(1).varint().is_err());
        assert!(Value::Bytes(b"").varint().is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            numbers in prop::collection::vec(1..=FIELD_NUMBER_MAX, 3),
            integer in any::<u64>(),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut out = Vec::new();
            put_varint(numbers[0], integer, &mut out);
            put_bytes(numbers[1], &bytes, &mut out);
            put_message(numbers[2], &mut out, |out| put_bytes(1, &bytes, out));
            let fields = read(&out).unwrap();
            prop_assert_eq!(fields.iter().map(|field| field.number).collect::<Vec<_>>(), numbers);
            prop_assert_eq!(fields[0].value.varint(), Ok(integer));
            prop_assert_eq!(fields[1].value.bytes(), Ok(&bytes[..]));
            let nested = read(fields[2].value.bytes().unwrap()).unwrap();
            prop_assert_eq!(nested[0].value.bytes(), Ok(&bytes[..]));
        }

        #[test]
        fn any_bytes_end_in_bounded_steps(body in any::<Vec<u8>>()) {
            prop_assert!(Fields::new(&body).count() <= body.len().div_ceil(2));
        }
    }
}
