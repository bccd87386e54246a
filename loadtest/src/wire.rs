//! The few messages a relay client speaks: RESERVE, CONNECT, the answers to both,
//! STOP, and an identify reply.
//!
//! Written by hand because the load generator needs them on bare streams, where
//! rust-libp2p offers them only behind a Swarm. Bounds every message it reads at
//! [`MAX_MESSAGE`]. Streams, negotiation and muxers are rust-libp2p's own.

use std::io;

use futures::{AsyncRead, AsyncReadExt};
use libp2p::PeerId;

/// Circuit relay v2, towards the relay.
pub(crate) const HOP_PROTOCOL: &str = "/libp2p/circuit/relay/0.2.0/hop";
/// Circuit relay v2, from the relay to the target.
pub(crate) const STOP_PROTOCOL: &str = "/libp2p/circuit/relay/0.2.0/stop";
pub(crate) const IDENTIFY_PROTOCOL: &str = "/ipfs/id/1.0.0";
pub(crate) const PING_PROTOCOL: &str = "/ipfs/ping/1.0.0";

/// Identify allows 8 KiB, relay messages 4 KiB; nothing longer is ever awaited here.
const MAX_MESSAGE: usize = 8 * 1024;

const STATUS_OK: u64 = 100;
const STOP_STATUS_OK: [u8; 5] = [0x04, 0x08, 0x01, 0x20, 0x64];
const RESERVE: [u8; 3] = [0x02, 0x08, 0x00];

/// A RESERVE request, length prefix included.
pub(crate) fn reserve() -> &'static [u8] {
    &RESERVE
}

/// A STOP answer that accepts the circuit, length prefix included.
pub(crate) fn stop_accepted() -> &'static [u8] {
    &STOP_STATUS_OK
}

/// A CONNECT request for a circuit to `target`, length prefix included.
pub(crate) fn connect(target: PeerId) -> Vec<u8> {
    let mut peer = Vec::new();
    put_bytes(1, &target.to_bytes(), &mut peer);
    let mut body = vec![0x08, 0x01];
    put_bytes(2, &peer, &mut body);
    prefixed(&body)
}

/// An identify message as a small relay client would send it, length prefix included.
pub(crate) fn identify(public_key: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    put_bytes(1, public_key, &mut body);
    for protocol in [IDENTIFY_PROTOCOL, PING_PROTOCOL, STOP_PROTOCOL] {
        put_bytes(3, protocol.as_bytes(), &mut body);
    }
    put_bytes(5, b"ipfs/0.1.0", &mut body);
    put_bytes(6, b"loadtest/0.1.0", &mut body);
    prefixed(&body)
}

/// Reads one length-prefixed message and not a byte more: what follows a relay's
/// answer belongs to the circuit.
///
/// # Errors
/// When the stream fails or ends, or the message is longer than anything expected here.
pub(crate) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = 0usize;
    for shift in [0, 7] {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
        if shift == 7 {
            return Err(malformed("message is too long"));
        }
    }
    if length > MAX_MESSAGE {
        return Err(malformed("message is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Fails unless the relay's hop message is STATUS 100.
///
/// # Errors
/// When the message does not parse or carries another status, which is then named.
pub(crate) fn expect_hop_ok(body: &[u8]) -> io::Result<()> {
    match varint_field(body, 5) {
        Some(STATUS_OK) => Ok(()),
        Some(status) => Err(io::Error::other(format!(
            "relay answered with status {status}"
        ))),
        None => Err(malformed("relay answered without a status")),
    }
}

/// Fails unless the relay's stop message is CONNECT.
///
/// # Errors
/// When the message does not parse or is of another type.
pub(crate) fn expect_stop_connect(body: &[u8]) -> io::Result<()> {
    match varint_field(body, 1) {
        Some(0) => Ok(()),
        _ => Err(malformed("stop message is not a connect")),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn prefixed(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(body.len() + 2);
    put_varint(body.len() as u64, &mut message);
    message.extend_from_slice(body);
    message
}

fn put_bytes(field: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The last varint with this field number at the top level of a message.
fn varint_field(mut input: &[u8], wanted: u64) -> Option<u64> {
    let mut found = None;
    while !input.is_empty() {
        let key = take_varint(&mut input)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut input)?;
                if key >> 3 == wanted {
                    found = Some(value);
                }
            }
            2 => {
                let length = usize::try_from(take_varint(&mut input)?).ok()?;
                input = input.get(length..)?;
            }
            _ => return None,
        }
    }
    found
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use futures::{executor::block_on, io::Cursor};

    use super::*;

    #[test]
    fn a_status_is_found_behind_fields_the_client_does_not_know() {
        // STATUS, limit{duration 120 s, data 131072}, status 100
        let ok = [
            0x08, 2, 0x22, 6, 0x08, 0x78, 0x10, 0x80, 0x80, 0x08, 0x28, 0x64,
        ];
        expect_hop_ok(&ok).unwrap();
        let refused = expect_hop_ok(&[0x08, 2, 0x28, 0xcc, 0x01]).unwrap_err();
        assert_eq!(refused.to_string(), "relay answered with status 204");
        assert!(expect_hop_ok(&[0x08, 2]).is_err());
        assert!(expect_hop_ok(&[0x22, 0x7f]).is_err());
    }

    #[test]
    fn only_a_stop_connect_opens_a_circuit() {
        expect_stop_connect(&[0x08, 0, 0x12, 2, 0x0a, 0]).unwrap();
        assert!(expect_stop_connect(&[0x08, 1, 0x20, 0x64]).is_err());
        assert!(expect_stop_connect(&[]).is_err());
    }

    #[test]
    fn reading_leaves_what_follows_the_message() {
        let mut input = Cursor::new([2, 0x08, 0, 0xaa]);
        let body = block_on(read_message(&mut input)).unwrap();
        assert_eq!(body, [0x08, 0]);
        assert_eq!(input.position(), 3);
    }

    #[test]
    fn an_oversize_announcement_is_refused_before_the_body() {
        let error = block_on(read_message(&mut Cursor::new([0xff, 0xff, 0x01]))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn connect_names_the_target() {
        let target = PeerId::random();
        let message = connect(target);
        assert_eq!(usize::from(message[0]), message.len() - 1);
        assert_eq!(message[1..3], [0x08, 1]);
        assert!(message.ends_with(&target.to_bytes()));
    }
}
