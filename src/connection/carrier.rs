//! What carries a connection's records: a socket, and the layers between it and
//! them.
//!
//! A [`Socket`] is TCP, or an end of a pipe in memory. While a connection is
//! being upgraded, its [`Carrier`] reads and writes through the layers that
//! have been agreed on so far; afterwards the socket and the layers are split,
//! one half for the connection's task and one for its writer, which may be on
//! another thread. Bounds what an upgrade leaves unsent ([`UNSENT_MAX`]); what
//! layers keep is theirs to bound.

pub mod layer;
pub mod memory;
mod socket;
pub mod tls;
pub mod websocket;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::layer::{Asides, Decoder, Encoder, Inbound, LayerError, Outbound};
pub use self::socket::{ReadHalf, Socket, WriteHalf};
use super::pool;

/// Bytes that may wait for a peer which does not read while it is upgraded:
/// more than all that a handshake has to say.
const UNSENT_MAX: usize = 64 * 1024;

/// What lies between a socket and the records, in both directions.
#[derive(Default)]
pub struct Layers {
    /// Of the receiving side.
    pub inbound: Inbound,
    /// Of the sending side.
    pub outbound: Outbound,
}

/// Why a carrier carries no more.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer broke the rules of a layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The peer has us answer and does not read.
    #[error("the peer does not read")]
    Unread,
}

/// A socket that is being upgraded, and the layers that it has so far.
pub struct Carrier<S> {
    socket: S,
    layers: Layers,
    unsent: Vec<u8>,
    asides: Asides,
    /// A layer has come to its end.
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Carrier<S> {
    /// A bare socket.
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            layers: Layers::default(),
            unsent: Vec::new(),
            asides: Asides::default(),
            ended: false,
        }
    }

    /// A socket with the layers that an upgrade has left.
    pub fn resumed(socket: S, layers: Layers) -> Self {
        Self {
            layers,
            ..Self::new(socket)
        }
    }

    /// Adds a layer on top of those that are there. `behind` was read behind
    /// the exchange that agreed on it, and is decoded by it.
    ///
    /// # Errors
    /// [`LayerError`] if the peer broke its rules in there.
    pub fn push(
        &mut self,
        decoder: Decoder,
        encoder: Encoder,
        behind: &mut Vec<u8>,
    ) -> Result<(), CarrierError> {
        let mut decoder = decoder;
        let decoded = decoder.decode(behind, &mut self.asides);
        self.layers.inbound.push(decoder);
        self.layers.outbound.push(encoder);
        // A fault is told as well, by the layer's own means.
        self.say_asides()?;
        let decoded = decoded?;
        behind.truncate(decoded.length);
        self.ended |= decoded.ended;
        Ok(())
    }

    /// Whether there is no layer yet.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.layers.inbound.is_empty()
    }

    /// Reads once, or until the layers have something for us: how many bytes
    /// are at the front of `buffer`, which with layers is longer than all that
    /// they may come to keep ([`layer::KEPT_MAX`]). 0 is the end.
    ///
    /// # Errors
    /// [`CarrierError`]; there is nothing more to come.
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, CarrierError>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            let kept = self.layers.inbound.kept();
            debug_assert!(kept < buffer.len(), "no room to read into");
            let mut read = ReadBuf::new(&mut buffer[kept..]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            let count = read.filled().len();
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            let bytes = &mut buffer[..kept + count];
            let decoded = self.layers.inbound.decode(bytes, &mut self.asides);
            self.say_asides()?;
            if !self.unsent.is_empty() {
                // The peer may wait for its answer. The last that it is told is
                // lost if it does not listen.
                let _ = self.poll_flush(cx);
            }
            let decoded = decoded?;
            self.ended |= decoded.ended;
            if decoded.length > 0 || decoded.ended {
                return Poll::Ready(Ok(decoded.length));
            }
        }
    }

    /// Has `bytes` sent, through the layers, as far as the socket takes them
    /// now. The rest is left to [`Self::poll_flush`].
    ///
    /// # Errors
    /// [`CarrierError`], also when too much waits already.
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), CarrierError> {
        self.enqueue(bytes)?;
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Appends `bytes` to what [`Self::poll_flush`] writes.
    ///
    /// # Errors
    /// [`CarrierError`], also when too much waits already.
    pub fn enqueue(&mut self, bytes: &[u8]) -> Result<(), CarrierError> {
        if self.layers.outbound.is_empty() {
            self.unsent.extend_from_slice(bytes);
        } else {
            let mut encoded = pool::take(bytes.len());
            encoded.extend_from_slice(bytes);
            let outcome = self.layers.outbound.encode(&mut encoded, &mut self.asides);
            self.unsent.extend_from_slice(&encoded);
            pool::give(encoded);
            outcome?;
        }
        if self.unsent.len() > UNSENT_MAX {
            return Err(CarrierError::Unread);
        }
        Ok(())
    }

    /// Writes what waits; ready when nothing does.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let outcome = loop {
            if sent == self.unsent.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.socket).poll_write(cx, &self.unsent[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.unsent.drain(..sent);
        outcome
    }

    /// Whether the peer has said, in the words of a layer, that nothing more
    /// comes. The layers do not say so again.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Gives up the socket and its layers. What was not flushed is lost.
    pub fn into_parts(self) -> (S, Layers) {
        (self.socket, self.layers)
    }

    fn say_asides(&mut self) -> Result<(), CarrierError> {
        if self.asides.is_empty() {
            return Ok(());
        }
        self.enqueue(&[])
    }
}
