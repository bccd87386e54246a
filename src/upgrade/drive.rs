//! Carries bytes between a socket and the handshake engine: one read and at
//! most one write for each flight.
//!
//! The buffers belong to the thread. A pass never awaits while it borrows
//! them, so that thousands of pending upgrades share one pair; what a socket
//! does not take at once is the only thing copied out, and what was read with
//! the last exchange in front of the handshake.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::UpgradeError;
use crate::connection::carrier::{Carrier, layer};
use crate::engine::handshake::{Established, Handshake, MESSAGE_MAX, Progress};

/// Bytes read at once: the largest handshake message, and room for what lazy
/// clients put behind it. Also the most that is handed on unopened, besides
/// one incomplete record; with layers, [`layer::KEPT_MAX`] more.
const READ_MAX: usize = 2 * MESSAGE_MAX;

struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; READ_MAX + layer::KEPT_MAX].into_boxed_slice(),
        output: Vec::new(),
    });
}

/// A socket on its way to a connection: its layers so far, and what was read
/// behind the exchange that added the last one.
pub(super) struct Line<S> {
    pub(super) carrier: Carrier<S>,
    pub(super) input: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            carrier: Carrier::new(socket),
            input: Vec::new(),
        }
    }

    /// Adds what has come to `input`: at least a byte and, on a bare socket, at
    /// most so many that there are `most`. Layers may have to read ahead, whatever
    /// comes of it. Cancel-safe: what was read is in `input`.
    pub(super) async fn more(&mut self, most: usize) -> Result<(), UpgradeError> {
        poll_fn(|cx| {
            // A peer may wait for what we have said before it goes on.
            if let Poll::Ready(Err(error)) = self.carrier.poll_flush(cx) {
                return Poll::Ready(Err(error.into()));
            }
            SCRATCH.with_borrow_mut(|Scratch { input, .. }| {
                let room = if self.carrier.is_bare() {
                    most.saturating_sub(self.input.len()).min(READ_MAX)
                } else {
                    input.len()
                };
                let count = ready!(self.carrier.poll_receive(cx, &mut input[..room]))?;
                if count == 0 {
                    return Poll::Ready(Err(UpgradeError::Eof));
                }
                self.input.extend_from_slice(&input[..count]);
                Poll::Ready(Ok(()))
            })
        })
        .await
    }

    /// Drives the handshake to its end.
    pub(super) async fn handshake(
        &mut self,
        handshake: Handshake<'_>,
    ) -> Result<Box<Established>, UpgradeError> {
        let mut drive = Drive {
            line: self,
            handshake,
            established: None,
        };
        poll_fn(|cx| drive.poll(cx)).await
    }
}

/// One handshake and its socket. Reads on while an answer waits to be sent, so
/// that two sides with full buffers cannot wait for each other; what waits is
/// bounded by how often the engine answers at all.
///
/// Not to be cancelled but with its socket, which it leaves in the middle of an
/// upgrade.
struct Drive<'a, S> {
    line: &'a mut Line<S>,
    handshake: Handshake<'a>,
    established: Option<Box<Established>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drive<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<Established>, UpgradeError>> {
        loop {
            let flushed = self.line.carrier.poll_flush(cx)?;
            if self.established.is_none() {
                ready!(self.poll_pass(cx))?;
            } else if flushed.is_pending() {
                return Poll::Pending;
            } else if self.line.carrier.has_ended() {
                // A connection would wait for what will never come.
                return Poll::Ready(Err(UpgradeError::Eof));
            } else if let Some(established) = self.established.take() {
                return Poll::Ready(Ok(established));
            }
        }
    }

    /// Reads once; if there was anything, feeds the engine and writes its
    /// answer.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpgradeError>> {
        SCRATCH.with_borrow_mut(|Scratch { input, output }| {
            let mut behind = std::mem::take(&mut self.line.input);
            let carrier = &mut self.line.carrier;
            let bytes = if behind.is_empty() {
                // Layers may have to hold more than they return.
                let room = if carrier.is_bare() {
                    READ_MAX
                } else {
                    input.len()
                };
                let count = ready!(carrier.poll_receive(cx, &mut input[..room]))?;
                &mut input[..count]
            } else {
                &mut behind
            };
            if bytes.is_empty() {
                return Poll::Ready(Err(UpgradeError::Eof));
            }
            output.clear();
            match self.handshake.handle_input(bytes, output) {
                Ok(Progress::Established(established)) => self.established = Some(established),
                Ok(Progress::NeedMore) => {}
                Err(error) => {
                    if error.leaves_alert() {
                        // Owed to nobody: what the socket does not take is lost.
                        let _ = carrier.send(cx, output);
                    }
                    return Poll::Ready(Err(error.into()));
                }
            }
            carrier.send(cx, output)?;
            Poll::Ready(Ok(()))
        })
    }
}
