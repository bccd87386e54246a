//! Peer records (RFC 0003): the addresses a peer vouches for, under the names
//! go and js use and under those of the specification's text (protocols.md §8).
//! Keeps at most 500 addresses; whether one parses is for the caller.

use libp2p_identity::PublicKey;

use super::{Envelope, EnvelopeError};
use crate::wire::DecodeError;
use crate::wire::protobuf::{Fields, put_bytes, put_message, put_varint};

/// Signing domain of peer records in go, js and rust's interop form.
pub const PEER_RECORD_DOMAIN: &str = "libp2p-peer-record";

/// Payload type that goes with [`PEER_RECORD_DOMAIN`]: two raw bytes, no
/// varint.
pub const PEER_RECORD_TYPE: &[u8] = &[0x03, 0x01];

/// Signing domain in the text of RFC 0003 and rust's default; read, never
/// written.
pub const LEGACY_PEER_RECORD_DOMAIN: &str = "libp2p-routing-state";

/// Payload type that goes with [`LEGACY_PEER_RECORD_DOMAIN`].
pub const LEGACY_PEER_RECORD_TYPE: &[u8] = b"/libp2p/routing-state-record";

/// Addresses kept of a record; those beyond are dropped, as in identify.
pub const MAX_RECORD_ADDRS: usize = 500;

/// A peer's addresses with a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerRecord<'a> {
    /// Binary peer id, which must be the signer's.
    pub peer_id: &'a [u8],
    /// Grows with each record of a peer; comparable only within one peer.
    pub seq: u64,
    /// Binary multiaddrs as received; some may not parse. At most
    /// [`MAX_RECORD_ADDRS`].
    pub addresses: Vec<&'a [u8]>,
}

impl<'a> PeerRecord<'a> {
    /// Verifies an envelope of either format and reads the record its signer
    /// made about itself.
    ///
    /// # Errors
    /// `PayloadType` for another kind of record, `PublicKey` and `Signature` as
    /// [`Envelope::verify`], `Decode` for a broken record, `Signer` when the
    /// record names another peer.
    pub fn open(envelope: &Envelope<'a>) -> Result<(Self, PublicKey), EnvelopeError> {
        let domain = match envelope.payload_type {
            PEER_RECORD_TYPE => PEER_RECORD_DOMAIN,
            LEGACY_PEER_RECORD_TYPE => LEGACY_PEER_RECORD_DOMAIN,
            _ => return Err(EnvelopeError::PayloadType),
        };
        let signer = envelope.verify(domain)?;
        let (record, _) = Self::decode(envelope.payload)?;
        if signer.to_peer_id().to_bytes() != record.peer_id {
            return Err(EnvelopeError::Signer);
        }
        Ok((record, signer))
    }

    /// Reads the record that makes up all of `input`; absent fields are empty
    /// or zero.
    ///
    /// # Errors
    /// `Malformed` for a broken body or a known field of the wrong wire type.
    pub fn decode(input: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let mut record = Self::default();
        for field in Fields::new(input) {
            let field = field?;
            match field.number {
                1 => record.peer_id = field.value.bytes()?,
                2 => record.seq = field.value.varint()?,
                3 => {
                    let addr = read_address(field.value.bytes()?)?;
                    if record.addresses.len() < MAX_RECORD_ADDRS {
                        record.addresses.push(addr);
                    }
                }
                _ => {}
            }
        }
        Ok((record, input.len()))
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.peer_id, out);
        put_varint(2, self.seq, out);
        for addr in &self.addresses {
            put_message(3, out, |out| put_bytes(1, addr, out));
        }
    }
}

fn read_address(body: &[u8]) -> Result<&[u8], DecodeError> {
    let mut addr = &[][..];
    for field in Fields::new(body) {
        let field = field?;
        if field.number == 1 {
            addr = field.value.bytes()?;
        }
    }
    Ok(addr)
}
