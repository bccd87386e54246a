//! The transport of the Swarms: pipes in memory to one server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::future::{BoxFuture, Pending};
use futures::{AsyncRead, AsyncWrite};
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use waystation::connection::carrier::memory::End;
use waystation::listener::memory::Dialer;

/// Dials the server, whatever the address, from one of its own.
pub(crate) struct Memory {
    pub(crate) dialer: Dialer,
    pub(crate) from: SocketAddr,
    /// What is said in front of everything, as a proxy does.
    pub(crate) preface: Vec<u8>,
    /// Set once its host has lost power.
    pub(crate) vanished: Arc<AtomicBool>,
}

/// A pipe as Swarms want it.
pub(crate) struct Wire {
    end: End,
    vanished: Arc<AtomicBool>,
}

impl Transport for Memory {
    type Output = Wire;
    type Error = io::Error;
    type ListenerUpgrade = Pending<io::Result<Wire>>;
    type Dial = BoxFuture<'static, io::Result<Wire>>;

    fn listen_on(
        &mut self,
        _: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        _: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if address.iter().any(|part| part == Protocol::P2pCircuit) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        let dialled = self.dialer.dial(self.from);
        let (preface, vanished) = (self.preface.clone(), Arc::clone(&self.vanished));
        Ok(Box::pin(async move {
            let mut end = dialled?;
            end.write_all(&preface).await?;
            Ok(Wire { end, vanished })
        }))
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.vanished.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.end).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.vanished.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.end).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_shutdown(cx)
    }
}
