//! A pipe in memory that behaves like a TCP connection: two directions, each
//! with a bound on what waits in it ([`CAPACITY`]), ends that close apart.
//!
//! It lets a whole server and its peers run on one thread, without the system's
//! sockets and under virtual time. Each direction has one lock, held for a
//! copy; whom to wake is woken after it.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait in one direction before a writer has to.
pub const CAPACITY: usize = 64 * 1024;

/// Both directions and where one side reads and writes.
///
/// Dropped, it closes both.
#[derive(Debug)]
pub struct End {
    reader: ReadHalf,
    writer: WriteHalf,
}

/// What one side reads.
#[derive(Debug)]
pub struct ReadHalf(Side);

/// What one side writes.
#[derive(Debug)]
pub struct WriteHalf(Side);

/// One side of a pair: reads from the direction of its number, writes to the
/// other.
#[derive(Debug, Clone)]
struct Side {
    pair: Arc<[Mutex<Direction>; 2]>,
    first: bool,
}

#[derive(Debug, Default)]
struct Direction {
    bytes: VecDeque<u8>,
    /// Nothing more is written.
    finished: bool,
    /// Nothing more is read.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The two ends of a new pipe.
#[must_use]
pub fn pair() -> (End, End) {
    let pair = Arc::new(<[Mutex<Direction>; 2]>::default());
    let end = |first| {
        let side = Side {
            pair: Arc::clone(&pair),
            first,
        };
        End {
            reader: ReadHalf(side.clone()),
            writer: WriteHalf(side),
        }
    };
    (end(true), end(false))
}

impl Side {
    fn incoming(&self) -> &Mutex<Direction> {
        &self.pair[usize::from(self.first)]
    }

    fn outgoing(&self) -> &Mutex<Direction> {
        &self.pair[usize::from(!self.first)]
    }
}

impl End {
    /// Its halves, which close apart.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.reader, self.writer)
    }
}

impl ReadHalf {
    /// As a socket's.
    ///
    /// # Errors
    /// None: a pipe in memory ends, and does not fail.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let woken = {
            let mut incoming = self.0.incoming().lock();
            if incoming.bytes.is_empty() {
                if incoming.finished {
                    return Poll::Ready(Ok(()));
                }
                incoming.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            while buffer.remaining() > 0 {
                let (front, _) = incoming.bytes.as_slices();
                if front.is_empty() {
                    break;
                }
                let count = front.len().min(buffer.remaining());
                buffer.put_slice(&front[..count]);
                incoming.bytes.drain(..count);
            }
            incoming.writer.take()
        };
        wake(woken);
        Poll::Ready(Ok(()))
    }

    /// As a socket's.
    ///
    /// # Errors
    /// None.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut incoming = self.0.incoming().lock();
        if incoming.bytes.is_empty() && !incoming.finished {
            incoming.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// As a socket's: whether the other half may be able to write.
    ///
    /// # Errors
    /// None.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_writable(&self.0, cx)
    }
}

impl WriteHalf {
    /// As a socket's.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the pipe is full,
    /// [`io::ErrorKind::BrokenPipe`] if nobody reads it any more.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let (count, woken) = {
            let mut outgoing = self.0.outgoing().lock();
            if outgoing.abandoned || outgoing.finished {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let count = bytes.len().min(CAPACITY - outgoing.bytes.len());
            if count == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            outgoing.bytes.extend(&bytes[..count]);
            (count, outgoing.reader.take())
        };
        wake(woken);
        Ok(count)
    }

    fn finish(&self) {
        let woken = {
            let mut outgoing = self.0.outgoing().lock();
            outgoing.finished = true;
            outgoing.reader.take()
        };
        wake(woken);
    }
}

fn poll_writable(side: &Side, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut outgoing = side.outgoing().lock();
    if outgoing.bytes.len() >= CAPACITY && !outgoing.abandoned {
        outgoing.writer = Some(cx.waker().clone());
        return Poll::Pending;
    }
    Poll::Ready(Ok(()))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        let woken = {
            let mut incoming = self.0.incoming().lock();
            incoming.abandoned = true;
            incoming.bytes = VecDeque::new();
            incoming.writer.take()
        };
        wake(woken);
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.finish();
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().reader.poll_read(cx, buffer)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.writer.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if poll_writable(&self.writer.0, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.finish();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_cross_in_order_however_much_more_than_its_capacity() {
        let (mut near, mut far) = pair();
        let sent: Vec<u8> = (0..3 * CAPACITY).map(|at| at.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let (written, heard) = tokio::join!(
            async {
                near.write_all(&sent).await.unwrap();
                near.shutdown().await.unwrap();
                let mut answer = Vec::new();
                near.read_to_end(&mut answer).await.unwrap();
                answer
            },
            async {
                let mut heard = Vec::new();
                far.read_to_end(&mut heard).await.unwrap();
                // Its own direction is still open.
                far.write_all(b"answer").await.unwrap();
                drop(far);
                heard
            }
        );
        assert_eq!((written.as_slice(), heard), (&b"answer"[..], expected));
    }

    #[tokio::test]
    async fn nobody_can_write_to_a_pipe_that_nobody_reads() {
        let (near, far) = pair();
        let (_reader, writer) = near.into_split();
        while writer.try_write(&[0; 1000]).is_ok() {}
        let full = writer.try_write(b"x").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(far);
        let broken = writer.try_write(b"x").unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    }
}
