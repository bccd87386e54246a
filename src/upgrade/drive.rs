//! Carries bytes between a socket and the handshake engine: one read and at
//! most one write for each flight.
//!
//! The buffers belong to the thread. A pass never awaits while it borrows
//! them, so that thousands of pending upgrades share one pair; what a socket
//! does not take at once is the only thing copied out.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::UpgradeError;
use crate::engine::handshake::{Established, Handshake, MESSAGE_MAX, Progress};

/// Bytes read at once: the largest handshake message, and room for what lazy
/// clients put behind it. Also the most that is handed on unopened, besides
/// one incomplete record.
const READ_MAX: usize = 2 * MESSAGE_MAX;

struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; READ_MAX].into_boxed_slice(),
        output: Vec::new(),
    });
}

/// One upgrade and its socket. Reads on while an answer waits to be sent, so
/// that two sides with full buffers cannot wait for each other; what waits is
/// bounded by how often the engine answers at all.
pub(super) struct Drive<'a, S> {
    socket: &'a mut S,
    handshake: Handshake<'a>,
    unsent: Vec<u8>,
    established: Option<Box<Established>>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Drive<'a, S> {
    /// `opening` is sent before anything is read.
    pub(super) fn new(socket: &'a mut S, handshake: Handshake<'a>, opening: Vec<u8>) -> Self {
        Self {
            socket,
            handshake,
            unsent: opening,
            established: None,
        }
    }

    /// Runs to the end of the upgrade. Not cancel-safe: a dropped upgrade
    /// leaves its socket in the middle of one.
    pub(super) async fn run(mut self) -> Result<Box<Established>, UpgradeError> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<Established>, UpgradeError>> {
        loop {
            if !self.unsent.is_empty() {
                let sent = write_now(self.socket, &self.unsent, cx)?;
                self.unsent.drain(..sent);
            }
            if self.established.is_none() {
                ready!(self.poll_pass(cx))?;
            } else if !self.unsent.is_empty() {
                return Poll::Pending;
            } else if let Some(established) = self.established.take() {
                return Poll::Ready(Ok(established));
            }
        }
    }

    /// Reads once; if there was anything, feeds the engine and writes its
    /// answer.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpgradeError>> {
        SCRATCH.with_borrow_mut(|Scratch { input, output }| {
            let mut read = ReadBuf::new(input);
            ready!(Pin::new(&mut *self.socket).poll_read(cx, &mut read))?;
            let bytes = read.filled_mut();
            if bytes.is_empty() {
                return Poll::Ready(Err(UpgradeError::Eof));
            }
            output.clear();
            match self.handshake.handle_input(bytes, output) {
                Ok(Progress::Established(established)) => self.established = Some(established),
                Ok(Progress::NeedMore) => {}
                Err(error) => {
                    if error.leaves_alert() && self.unsent.is_empty() {
                        // Owed to nobody: what the socket does not take is lost.
                        let _ = write_now(self.socket, output, cx);
                    }
                    return Poll::Ready(Err(error.into()));
                }
            }
            let sent = if self.unsent.is_empty() {
                write_now(self.socket, output, cx)?
            } else {
                0
            };
            self.unsent.extend_from_slice(&output[sent..]);
            Poll::Ready(Ok(()))
        })
    }
}

/// Writes until the socket takes no more, which it has asked to be woken for
/// then. An answer of a few hundred bytes goes out in one call.
fn write_now<S>(socket: &mut S, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<usize>
where
    S: AsyncWrite + Unpin,
{
    let mut sent = 0;
    while sent < bytes.len() {
        match Pin::new(&mut *socket).poll_write(cx, &bytes[sent..])? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => sent += written,
            Poll::Pending => break,
        }
    }
    Ok(sent)
}
