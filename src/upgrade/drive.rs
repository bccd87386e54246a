//! Carries bytes between a socket and the handshake engine: one read and at
//! most one write for each flight.
//!
//! The buffers belong to the thread. A pass never awaits while it borrows
//! them, so that thousands of pending upgrades share one pair; what a socket
//! does not take at once is the only thing copied out.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

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

/// What one pass leaves to do.
struct Pass {
    progress: Progress,
    unsent: Vec<u8>,
}

/// Runs `handshake` over `socket` to its end. Not cancel-safe: a dropped
/// upgrade drops its connection.
pub(super) async fn run<S>(
    socket: &mut S,
    mut handshake: Handshake<'_>,
    opening: Vec<u8>,
) -> Result<Box<Established>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.write_all(&opening).await?;
    drop(opening);
    loop {
        let pass = std::future::poll_fn(|cx| poll_pass(socket, &mut handshake, cx)).await?;
        if !pass.unsent.is_empty() {
            socket.write_all(&pass.unsent).await?;
        }
        match pass.progress {
            Progress::NeedMore => {}
            Progress::Established(established) => return Ok(established),
        }
    }
}

/// Reads once; if there was anything, feeds the engine and writes its answer.
fn poll_pass<S>(
    socket: &mut S,
    handshake: &mut Handshake<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<Pass, UpgradeError>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    SCRATCH.with_borrow_mut(|Scratch { input, output }| {
        let mut read = ReadBuf::new(input);
        ready!(Pin::new(&mut *socket).poll_read(cx, &mut read))?;
        let bytes = read.filled_mut();
        if bytes.is_empty() {
            return Poll::Ready(Err(UpgradeError::Eof));
        }
        output.clear();
        let progress = handshake.handle_input(bytes, output)?;
        let unsent = match write_now(socket, output, cx)? {
            sent if sent < output.len() => output[sent..].to_vec(),
            _ => Vec::new(),
        };
        Poll::Ready(Ok(Pass { progress, unsent }))
    })
}

/// Writes what the socket takes without waiting, which for an answer of a few
/// hundred bytes is all of it.
fn write_now<S>(socket: &mut S, bytes: &[u8], cx: &mut Context<'_>) -> std::io::Result<usize>
where
    S: AsyncWrite + Unpin,
{
    if bytes.is_empty() {
        return Ok(0);
    }
    match Pin::new(socket).poll_write(cx, bytes) {
        Poll::Ready(written) => written,
        // The wake-up this registered is spent by `write_all`, which asks again.
        Poll::Pending => Ok(0),
    }
}
