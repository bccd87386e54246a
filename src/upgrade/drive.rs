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
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

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
    /// Whose handshake computes next. A step is some 150 µs of X25519 and
    /// Ed25519; when hundreds of peers come at once, what the worker's circuits
    /// have to do would wait for all of them.
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
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
    ///
    /// Of all upgrades of a thread one has the turn. It keeps it for one flight
    /// and until the thread has looked for what else there is to do, and not
    /// while it waits for its peer.
    pub(super) async fn run(mut self) -> Result<Box<Established>, UpgradeError> {
        loop {
            let turn = TURN.with(Arc::clone).acquire_owned().await;
            let step = poll_fn(|cx| Poll::Ready(self.poll(cx))).await;
            match step {
                Poll::Ready(Ok(())) => tokio::task::yield_now().await,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    drop(turn);
                    woken().await;
                    continue;
                }
            }
            if self.unsent.is_empty()
                && let Some(established) = self.established.take()
            {
                return Ok(established);
            }
        }
    }

    /// One flight, in or out. Pending when the socket has to say first that it
    /// can go on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpgradeError>> {
        if !self.unsent.is_empty() {
            let sent = write_now(self.socket, &self.unsent, cx)?;
            self.unsent.drain(..sent);
        }
        match (&self.established, self.unsent.is_empty()) {
            (None, _) => self.poll_pass(cx),
            (Some(_), true) => Poll::Ready(Ok(())),
            (Some(_), false) => Poll::Pending,
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
            if let Progress::Established(established) =
                self.handshake.handle_input(bytes, output)?
            {
                self.established = Some(established);
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

/// Ends when the task is woken, by whatever it has asked to be woken by.
async fn woken() {
    let mut asked = false;
    poll_fn(|_| {
        if std::mem::replace(&mut asked, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
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
