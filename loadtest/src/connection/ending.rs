//! How the server ended a connection: which go-away it sent, or none.
//!
//! rust-yamux reports every go-away, and every end without one, as "closed". So a tap
//! below the muxer keeps the last bytes that came through, which are the go-away's frame
//! when there was one. Costs twelve bytes and a copy of at most as many per read.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};

/// A yamux frame's header, which is all there is of a go-away.
const HEADER: usize = 12;
const GO_AWAY: u8 = 3;

/// How a connection ended, as far as its reading side saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// The server said goodbye in yamux or QUIC, with this code.
    GoAway(u32),
    /// The server closed the socket without a word.
    Closed,
    /// The socket failed, as when the server resets it.
    Reset,
    /// Nothing came any more; only QUIC tells.
    Silent,
    /// This side left first.
    Ours,
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of codes from go-libp2p.
        match self {
            Self::GoAway(0) => formatter.write_str("go-away, normal"),
            Self::GoAway(0x1001) => formatter.write_str("go-away, resource limit"),
            Self::GoAway(0x1005) => formatter.write_str("go-away, garbage collected"),
            Self::GoAway(0x1006) => formatter.write_str("go-away, shutdown"),
            Self::GoAway(code) => write!(formatter, "go-away, code {code:#x}"),
            Self::Closed => formatter.write_str("closed without go-away"),
            Self::Reset => formatter.write_str("reset"),
            Self::Silent => formatter.write_str("silence"),
            Self::Ours => formatter.write_str("left by themselves"),
        }
    }
}

/// Where the ending will be found once the connection is gone.
pub(crate) type Witness = Arc<OnceLock<Ending>>;

/// Passes everything through and, when dropped, tells the witness how it ended.
pub(super) struct Tap<S> {
    inner: S,
    last: [u8; HEADER],
    end: Option<Ending>,
    witness: Witness,
}

impl<S> Tap<S> {
    pub(super) fn new(inner: S, witness: Witness) -> Self {
        Self {
            inner,
            last: [0; HEADER],
            end: None,
            witness,
        }
    }

    fn note(&mut self, read: &[u8]) {
        match read.len().checked_sub(HEADER) {
            Some(start) => self.last.copy_from_slice(&read[start..]),
            None => {
                self.last.copy_within(read.len().., 0);
                self.last[HEADER - read.len()..].copy_from_slice(read);
            }
        }
    }

    /// The go-away that came last, before the end of the socket if that was seen at all:
    /// yamux stops reading there.
    fn ending(&self) -> Ending {
        let [
            version,
            kind,
            flags_high,
            flags_low,
            s0,
            s1,
            s2,
            s3,
            code @ ..,
        ] = self.last;
        let header = [version, flags_high, flags_low, s0, s1, s2, s3];
        match kind {
            GO_AWAY if header == [0; 7] => Ending::GoAway(u32::from_be_bytes(code)),
            _ => self.end.unwrap_or(Ending::Ours),
        }
    }
}

impl<S> Drop for Tap<S> {
    fn drop(&mut self) {
        // Set once: there is one tap for each witness.
        let _ = self.witness.set(self.ending());
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buffer);
        match &outcome {
            Poll::Ready(Ok(0)) if !buffer.is_empty() => self.end = Some(Ending::Closed),
            Poll::Ready(Ok(count)) => self.note(&buffer[..*count]),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.end = Some(Ending::Closed);
            }
            Poll::Ready(Err(_)) => self.end = Some(Ending::Reset),
            Poll::Pending => {}
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use futures::{AsyncReadExt, executor::block_on, io::Cursor};

    use super::*;

    /// What the tap makes of `bytes` read `step` at a time, to the end or not.
    fn ending(bytes: &[u8], step: usize, to_the_end: bool) -> Ending {
        let witness = Witness::default();
        let mut tap = Tap::new(Cursor::new(bytes.to_vec()), Arc::clone(&witness));
        let mut left = bytes.len();
        let mut buffer = vec![0; step];
        while left > 0 || to_the_end {
            let count = block_on(tap.read(&mut buffer)).unwrap();
            if count == 0 {
                break;
            }
            left -= count;
        }
        drop(tap);
        *witness.get().unwrap()
    }

    const GOODBYE: [u8; 12] = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x05];

    #[test]
    fn a_go_away_is_known_however_it_was_read() {
        let stream = [[7; 5].as_slice(), &GOODBYE].concat();
        for step in [1, 5, 12, 100] {
            let expected = Ending::GoAway(0x1005);
            assert_eq!(ending(&stream, step, false), expected, "{step} at a time");
            assert_eq!(ending(&stream, step, true), expected, "{step} at a time");
        }
    }

    #[test]
    fn without_a_go_away_the_socket_tells() {
        assert_eq!(ending(&[7; 40], 12, true), Ending::Closed);
        assert_eq!(ending(&[7; 40], 40, false), Ending::Ours);
        let half = [[7; 5].as_slice(), &GOODBYE[..11]].concat();
        assert_eq!(ending(&half, 16, true), Ending::Closed);
    }
}
