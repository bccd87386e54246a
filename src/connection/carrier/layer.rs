//! Layers between a socket and the record layer: each changes the bytes of one
//! direction in place, on their way in or out.
//!
//! The outermost layer stands first: it is the first to decode and the last to
//! encode. What a layer keeps of bytes that are not complete is bounded by the
//! layer and counted in the pool. What the receiving side of a layer wants its
//! sending side to say goes as [`Asides`], which hold one of a kind.

use smallvec::SmallVec;

use crate::engine::private_network::{Cipher, Spent};
use crate::engine::record::{Alert, RecordError};
use crate::engine::websocket::WebSocketError;

use super::tls::{RecordDecoder, RecordEncoder};
use super::websocket::{FrameDecoder, FrameEncoder};

/// Most layers: TLS, WebSocket, private network.
const LAYERS_MAX: usize = 3;

/// Most bytes that the outermost layer keeps of what it cannot decode yet, and
/// wants in front of what is read next.
pub const KEPT_MAX: usize = 20 * 1024;

/// A layer's receiving side.
pub enum Decoder {
    /// The cipher of a private network.
    Private(Cipher),
    /// The frames of WebSocket.
    WebSocket(FrameDecoder),
    /// The TLS around WebSocket.
    Tls(RecordDecoder),
}

/// A layer's sending side.
pub enum Encoder {
    /// The cipher of a private network.
    Private(Cipher),
    /// The frames of WebSocket.
    WebSocket(FrameEncoder),
    /// The TLS around WebSocket.
    Tls(RecordEncoder),
}

/// How the peer broke the rules of a layer, or a layer came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The cipher of a private network.
    #[error(transparent)]
    Private(#[from] Spent),
    /// The frames of WebSocket.
    #[error("websocket: {0}")]
    WebSocket(#[from] WebSocketError),
    /// The TLS around WebSocket.
    #[error("outer tls: {0}")]
    Tls(#[from] RecordError),
}

impl LayerError {
    /// The layer in one word, for a metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Private(_) => "private_network",
            Self::WebSocket(_) => "websocket",
            Self::Tls(_) => "outer_tls",
        }
    }
}

/// What a layer made of the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// So many bytes are at the front, decoded.
    pub length: usize,
    /// The peer has said, in the layer's own words, that nothing more comes.
    pub ended: bool,
}

/// What the sending side of a layer is to say beside the bytes that go through
/// it. One of each kind at most, the latest: no number of questions makes it
/// grow.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asides {
    /// A WebSocket pong with this payload.
    pub pong: Option<Vec<u8>>,
    /// A WebSocket close frame with this code.
    pub close: Option<u16>,
    /// The peer of the outer TLS has a new key and asks for one of ours.
    pub renew: bool,
    /// The outer TLS is over, because of this.
    pub alert: Option<Alert>,
}

impl Asides {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over what `later` has to say. The first reason to close stays.
    pub fn merge(&mut self, later: Self) {
        self.pong = later.pong.or(self.pong.take());
        self.close = self.close.or(later.close);
        self.renew |= later.renew;
        self.alert = self.alert.or(later.alert);
    }
}

/// The receiving sides of a connection's layers.
#[derive(Default)]
pub struct Inbound(Option<Box<SmallVec<[Decoder; 1]>>>);

/// The sending sides of a connection's layers.
#[derive(Default)]
pub struct Outbound(Option<Box<SmallVec<[Encoder; 1]>>>);

impl Decoder {
    /// How many bytes it keeps of what it could not decode.
    #[must_use]
    pub fn kept(&self) -> usize {
        match self {
            Self::Private(_) | Self::WebSocket(_) => 0,
            Self::Tls(records) => records.kept(),
        }
    }

    /// Decodes in place. `bytes` begins with room for the [`Self::kept`] ones.
    ///
    /// # Errors
    /// [`LayerError`]: there is nothing more to come.
    pub fn decode(&mut self, bytes: &mut [u8], asides: &mut Asides) -> Result<Decoded, LayerError> {
        match self {
            Self::Private(cipher) => {
                cipher.apply(bytes)?;
                Ok(Decoded {
                    length: bytes.len(),
                    ended: false,
                })
            }
            Self::WebSocket(frames) => Ok(frames.decode(bytes, asides)?),
            Self::Tls(records) => Ok(records.decode(bytes, asides)?),
        }
    }
}

impl Encoder {
    /// Encodes what is to leave next, in place or into another buffer of the
    /// pool, and says what is its own of `asides`.
    ///
    /// # Errors
    /// [`LayerError`]: nothing more can be sent.
    pub fn encode(&mut self, bytes: &mut Vec<u8>, asides: &mut Asides) -> Result<(), LayerError> {
        match self {
            Self::Private(cipher) => cipher.apply(bytes)?,
            Self::WebSocket(frames) => frames.encode(bytes, asides),
            Self::Tls(records) => records.encode(bytes, asides)?,
        }
        Ok(())
    }
}

impl Inbound {
    /// Adds a layer inside those that are there.
    pub fn push(&mut self, decoder: Decoder) {
        let layers = self.0.get_or_insert_default();
        debug_assert!(layers.len() < LAYERS_MAX, "a layer twice");
        layers.push(decoder);
    }

    /// Room that [`Self::decode`] wants in front of what is read next.
    #[must_use]
    #[inline]
    pub fn kept(&self) -> usize {
        let Some(layers) = &self.0 else { return 0 };
        debug_assert!(layers.iter().skip(1).all(|layer| layer.kept() == 0));
        layers.first().map_or(0, Decoder::kept)
    }

    /// Decodes in place what came behind [`Self::kept`] bytes.
    ///
    /// # Errors
    /// [`LayerError`]: there is nothing more to come.
    #[inline]
    pub fn decode(&mut self, bytes: &mut [u8], asides: &mut Asides) -> Result<Decoded, LayerError> {
        let mut all = Decoded {
            length: bytes.len(),
            ended: false,
        };
        for layer in self.0.iter_mut().flat_map(|layers| layers.iter_mut()) {
            let decoded = layer.decode(&mut bytes[..all.length], asides)?;
            all.length = decoded.length;
            all.ended |= decoded.ended;
        }
        Ok(all)
    }

    /// Whether bytes go through untouched.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Outbound {
    /// Adds a layer inside those that are there.
    pub fn push(&mut self, encoder: Encoder) {
        self.0.get_or_insert_default().push(encoder);
    }

    /// Encodes what is to leave next, which may be nothing but `asides`. The
    /// buffer is the pool's, before and after.
    ///
    /// # Errors
    /// [`LayerError`]: nothing more can be sent.
    #[inline]
    pub fn encode(&mut self, bytes: &mut Vec<u8>, asides: &mut Asides) -> Result<(), LayerError> {
        for layer in self.0.iter_mut().flat_map(|layers| layers.iter_mut().rev()) {
            layer.encode(bytes, asides)?;
        }
        // What no layer knows is nothing to be said on this connection.
        *asides = Asides::default();
        Ok(())
    }

    /// Whether bytes go through untouched.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::engine::private_network::{NONCE_LEN, PrivateKey};

    #[test]
    fn what_is_encoded_by_several_layers_is_decoded_by_them() {
        let keys = [1, 2].map(|byte| PrivateKey::new([byte; 32]));
        let (mut inbound, mut outbound) = (Inbound::default(), Outbound::default());
        assert!(inbound.is_empty() && outbound.is_empty());
        for key in &keys {
            inbound.push(Decoder::Private(key.cipher(&[7; NONCE_LEN])));
            outbound.push(Encoder::Private(key.cipher(&[7; NONCE_LEN])));
        }
        let mut asides = Asides::default();
        for text in [&b"first"[..], b"", b"second"] {
            let mut bytes = text.to_vec();
            outbound.encode(&mut bytes, &mut asides).unwrap();
            assert!(text.is_empty() || bytes != text);
            let decoded = inbound.decode(&mut bytes, &mut asides).unwrap();
            assert_eq!((&bytes[..decoded.length], decoded.ended), (text, false));
        }
    }

    #[test]
    fn asides_hold_the_latest_pong_and_the_first_reason_to_close() {
        let mut asides = Asides::default();
        for (pong, close) in [(Some(1), None), (None, Some(1000)), (Some(2), Some(1009))] {
            asides.merge(Asides {
                pong: pong.map(|byte| vec![byte]),
                close,
                ..Asides::default()
            });
        }
        assert_eq!((asides.pong, asides.close), (Some(vec![2]), Some(1000)));
    }
}
