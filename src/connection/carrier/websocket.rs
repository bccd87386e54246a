//! WebSocket as a layer: what the engine makes of frames, and what the two
//! directions have to tell each other.
//!
//! Keeps what the engine keeps, a piece of a header and of a control frame.
//! Once it has closed it sends nothing more, whatever is handed to it.

use crate::connection::pool;
use crate::engine::websocket::{Inbound, OVERHEAD_MAX, Role, WebSocketError, wrap};
use crate::wire::websocket::{CloseCode, Mask};

use super::layer::{Asides, Decoded};

/// The receiving side. Boxed: the bare transports pay for the size of a layer.
pub struct FrameDecoder(Box<Inbound>);

/// The sending side.
pub struct FrameEncoder {
    role: Role,
    closed: bool,
}

impl FrameDecoder {
    /// For the peer of a server or a client.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self(Box::new(Inbound::new(role)))
    }

    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        asides: &mut Asides,
    ) -> Result<Decoded, WebSocketError> {
        let decoded = self.0.decode(bytes, 0..bytes.len(), 0);
        let length = decoded.inspect_err(|error| asides.close = Some(error.code() as u16))?;
        if let Some(payload) = self.0.pong() {
            asides.pong = Some(payload);
        }
        let closed = self.0.closed();
        if let Some(code) = closed {
            // Confirmed with what the peer has said.
            asides.close = Some(code.unwrap_or(CloseCode::Normal as u16));
        }
        Ok(Decoded {
            length,
            ended: closed.is_some(),
        })
    }
}

impl FrameEncoder {
    /// For a server or a client.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        let closed = false;
        Self { role, closed }
    }

    pub(super) fn encode(&mut self, bytes: &mut Vec<u8>, asides: &Asides) {
        if self.closed {
            bytes.clear();
            return;
        }
        if bytes.is_empty() && asides.pong.is_none() && asides.close.is_none() {
            return;
        }
        self.closed = asides.close.is_some();
        let needed = bytes.len() + OVERHEAD_MAX;
        if bytes.capacity() < needed {
            let mut larger = pool::take(needed);
            larger.extend_from_slice(bytes);
            pool::give(std::mem::replace(bytes, larger));
        }
        wrap(bytes, asides.pong.as_deref(), asides.close, self.mask());
    }

    /// Against proxies that take what a web page has a browser send for
    /// something else (RFC 6455 §10.3). What we send is encrypted, which no page
    /// can choose, so that without randomness any mask will do.
    fn mask(&self) -> Option<Mask> {
        let mut mask = [0; 4];
        (self.role == Role::Client).then(|| {
            let _ = aws_lc_rs::rand::fill(&mut mask);
            mask
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_answered_and_a_close_confirmed_once() {
        let mut client = FrameEncoder::new(Role::Client);
        let mut server = FrameEncoder::new(Role::Server);
        let mut decoder = FrameDecoder::new(Role::Server);
        let mut bytes = b"bytes".to_vec();
        let mut asides = Asides {
            pong: Some(b"unasked".to_vec()),
            close: Some(1001),
            ..Asides::default()
        };
        client.encode(&mut bytes, &asides);

        asides = Asides::default();
        let decoded = decoder.decode(&mut bytes, &mut asides).unwrap();
        let taken = &bytes[..decoded.length];
        assert_eq!((taken, decoded.ended), (&b"bytes"[..], true));
        assert_eq!(asides.close, Some(1001));

        let mut answer = b"goodbye".to_vec();
        server.encode(&mut answer, &asides);
        assert!(answer.ends_with(&[0x88, 2, 3, 0xe9]), "{answer:?}");
        let mut more = b"more".to_vec();
        server.encode(&mut more, &asides);
        assert_eq!(more, b"");
    }

    #[test]
    fn a_breach_is_told_to_the_peer() {
        let mut asides = Asides::default();
        let mut unmasked = [0x82, 1, 0];
        let result = FrameDecoder::new(Role::Server).decode(&mut unmasked, &mut asides);
        assert_eq!(result, Err(WebSocketError::Masking));
        assert_eq!(asides.close, Some(1002));
    }
}
