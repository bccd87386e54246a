//! The voucher of a reservation: the relay's word that a peer may be reached
//! through it (protocols.md §11). Bounded by the envelope around it; expiry is
//! for the holder to check.

use crate::wire::DecodeError;
use crate::wire::protobuf::{Fields, put_bytes, put_varint};

/// Signing domain of vouchers.
pub const VOUCHER_DOMAIN: &str = "libp2p-relay-rsvp";

/// Payload type of vouchers: two raw bytes, no varint.
pub const VOUCHER_TYPE: &[u8] = &[0x03, 0x02];

/// A reservation voucher, before sealing or after verification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Voucher<'a> {
    /// Binary peer id of the relay, which is the signer.
    pub relay: &'a [u8],
    /// Binary peer id of the reservation's holder.
    pub peer: &'a [u8],
    /// End of the reservation, in seconds since the Unix epoch.
    pub expiration: u64,
}

impl<'a> Voucher<'a> {
    /// Reads the voucher that makes up all of `input`; absent fields are empty
    /// or zero.
    ///
    /// # Errors
    /// `Malformed` for a broken body or a known field of the wrong wire type.
    pub fn decode(input: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let mut voucher = Self::default();
        for field in Fields::new(input) {
            let field = field?;
            match field.number {
                1 => voucher.relay = field.value.bytes()?,
                2 => voucher.peer = field.value.bytes()?,
                3 => voucher.expiration = field.value.varint()?,
                _ => {}
            }
        }
        Ok((voucher, input.len()))
    }

    /// Appends the voucher to `out` in canonical order.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.relay, out);
        put_bytes(2, self.peer, out);
        put_varint(3, self.expiration, out);
    }
}
