//! The socket under a connection: TCP, or an end of a pipe in memory.
//!
//! Which one it is, is decided by a branch where bytes are handed to the
//! system, and costs a TCP connection a word for each half. Buffers nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::memory;

/// A socket, accepted or dialled.
#[derive(Debug)]
pub enum Socket {
    /// From the system.
    Tcp(TcpStream),
    /// From a listener in memory.
    Memory(memory::End),
}

/// The half that a connection's task reads from.
#[derive(Debug)]
pub enum ReadHalf {
    /// From the system.
    Tcp(OwnedReadHalf),
    /// From a listener in memory.
    Memory(memory::ReadHalf),
}

/// The half that a connection's writer writes to.
#[derive(Debug)]
pub enum WriteHalf {
    /// From the system.
    Tcp(OwnedWriteHalf),
    /// From a listener in memory.
    Memory(memory::WriteHalf),
}

impl Socket {
    /// The two halves. Dropping the writing one tells the peer that nothing
    /// more comes; dropping both closes the socket.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(socket) => {
                let (reader, writer) = socket.into_split();
                (ReadHalf::Tcp(reader), WriteHalf::Tcp(writer))
            }
            Self::Memory(end) => {
                let (reader, writer) = end.into_split();
                (ReadHalf::Memory(reader), WriteHalf::Memory(writer))
            }
        }
    }

    /// Makes the coming close of a refused socket a reset.
    ///
    /// A reset leaves nothing behind: no FIN to be acknowledged, no TIME_WAIT on
    /// our side, which under a flood would be one kernel entry for 60 s each. The
    /// peer loses nothing that it was sent, for it was sent nothing.
    pub fn reset_on_close(&self) {
        match self {
            // If this fails, the close is an ordinary one.
            Self::Tcp(socket) => {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
            Self::Memory(_) => {}
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl ReadHalf {
    /// Reads what is there.
    ///
    /// # Errors
    /// The system's.
    #[inline]
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Memory(half) => half.poll_read(cx, buffer),
        }
    }

    /// Whether a read may find something, the end included.
    ///
    /// # Errors
    /// The system's.
    #[inline]
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_read_ready(cx),
            Self::Memory(half) => half.poll_read_ready(cx),
        }
    }

    /// Whether the other half may be able to write.
    ///
    /// # Errors
    /// The system's.
    #[inline]
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(cx),
            Self::Memory(half) => half.poll_write_ready(cx),
        }
    }
}

impl WriteHalf {
    /// Writes what fits.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if that is nothing; the system's.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Memory(half) => half.try_write(bytes),
        }
    }
}

impl From<OwnedWriteHalf> for WriteHalf {
    fn from(half: OwnedWriteHalf) -> Self {
        Self::Tcp(half)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Memory(end) => Pin::new(end).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Memory(end) => Pin::new(end).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Memory(end) => Pin::new(end).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Memory(end) => Pin::new(end).poll_shutdown(cx),
        }
    }
}
