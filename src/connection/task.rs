//! The task of a connection: what wakes it, in which order it works, and how
//! it ends.
//!
//! One task per connection, asleep unless its socket is readable, a command
//! has come, its full socket is writable again, or a deadline has passed. In
//! that order: commands, flush, deadlines, then one read pass.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

use crate::clock;
use crate::engine::{
    demux::{Demux, Side},
    muxer::Muxer,
    record::{OpenKey, SealKey},
};
use crate::metrics::ConnectionGuard;
use crate::state::limits::ConnectionPermit;

use super::{
    carrier::{Layers, ReadHalf, Socket, layer::Inbound},
    closed::Closed,
    context::{Context, Remote},
    egress::{Egress, signal},
    pool,
    read_pass::{Pass, with_pass},
    session::Session,
    stall::Stall,
};

/// How often a quiet connection is asked for a sign of life. It is asked after
/// the first whole interval of silence and ended after the second. Long, because TCP keep-alive finds dead hosts and each
/// round costs every idle peer a wake-up.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// What an upgrade hands over.
pub struct Handover {
    /// The socket, non-blocking.
    pub socket: Socket,
    /// What lies between it and the records.
    pub layers: Layers,
    /// What was agreed on.
    pub muxer: Muxer,
    /// Which end we are.
    pub side: Side,
    /// Seals what we send.
    pub seal: SealKey,
    /// Opens what the peer sends.
    pub open: OpenKey,
    /// Opened bytes that came behind the handshake.
    pub plaintext: Vec<u8>,
    /// Sealed bytes that came behind the handshake.
    pub ciphertext: Vec<u8>,
}

/// One connection over a byte stream, as its task owns it.
pub struct Connection {
    pub(super) session: Session<Egress>,
    pub(super) reader: ReadHalf,
    pub(super) inbound: Inbound,
    pub(super) open: OpenKey,
    pub(super) demux: Demux,
    /// The beginning of a record whose end has not arrived.
    pub(super) partial: Vec<u8>,
    pub(super) blocked: bool,
    pub(super) stall: Stall,
    /// Whether something came since the last look at the keep-alive.
    pub(super) heard: bool,
    pub(super) asked: bool,
    pub(super) keep_alive_at: Instant,
}

impl Connection {
    /// Takes over an upgraded socket and makes it reachable for others.
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        remote: Remote,
        upgraded: Handover,
        permit: ConnectionPermit,
        guard: ConnectionGuard,
    ) -> (Self, Leftover) {
        let (reader, writer) = upgraded.socket.into_split();
        let egress = Egress::new(
            upgraded.muxer,
            upgraded.side,
            upgraded.seal,
            upgraded.layers.outbound,
            writer,
            Arc::clone(&context.metrics.egress),
        );
        let connection = Self {
            session: Session::new(context, remote, egress, permit, guard),
            reader,
            inbound: upgraded.layers.inbound,
            open: upgraded.open,
            demux: Demux::new(upgraded.muxer, upgraded.side),
            partial: Vec::new(),
            blocked: false,
            stall: Stall::default(),
            heard: true,
            asked: false,
            keep_alive_at: clock::now() + KEEP_ALIVE,
        };
        let leftover = Leftover {
            plaintext: upgraded.plaintext,
            ciphertext: upgraded.ciphertext,
        };
        (connection, leftover)
    }

    /// Works through what came behind the handshake and asks the peer who it
    /// is. To be called once, before [`Self::run`].
    ///
    /// # Errors
    /// [`Closed`] as [`Self::run`] tells it; the connection is to be ended by
    /// [`Self::end`].
    pub fn begin(&mut self, mut leftover: Leftover) -> Result<(), Closed> {
        self.session.admit()?;
        with_pass(clock::now(), |pass, _| {
            self.session.ask_identity(pass);
            self.frames(&leftover.plaintext, pass)?;
            self.records(&mut leftover.ciphertext, pass)
        })
    }

    /// Runs until the connection ends, and tells why.
    pub async fn run(&mut self) -> Closed {
        let mut armed = self.next_deadline();
        let mut sleep = pin!(sleep_until(armed.into()));
        let mut waiting = false;
        poll_fn(|task| {
            loop {
                let now = clock::now();
                if let Poll::Ready(closed) = self.poll(task, now) {
                    return Poll::Ready(closed);
                }
                let next = self.next_wake();
                // A timer that fires early finds nothing to do; one that is
                // moved at every change costs more than it saves.
                if next < armed || armed <= now {
                    armed = next.max(now);
                    sleep.as_mut().reset(armed.into());
                    waiting = false;
                }
                // Registered once, it stays so: a task has one waker.
                if waiting {
                    return Poll::Pending;
                }
                waiting = true;
                if sleep.as_mut().poll(task).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Ends the connection: says goodbye, resets the other ends of its
    /// circuits, gives up its reservation if it was the peer's last one.
    pub fn end(mut self, closed: Closed) {
        self.session.leave(closed);
    }

    fn poll(&mut self, task: &mut TaskContext<'_>, now: Instant) -> Poll<Closed> {
        let result = with_pass(now, |pass, buffer| {
            self.session.egress.set_waker(task.waker());
            self.on_signals(task, pass)?;
            self.on_deadlines(pass)?;
            self.on_stalls(now)?;
            self.session.held(pass);
            let read = if self.session.hold.is_some() {
                // Woken by credit, or by the deadline of the hold.
                Poll::Pending
            } else {
                self.read_pass(task, pass, buffer)?
            };
            if self.session.going_away && self.session.table.is_empty() {
                return Err(Closed::GoAway);
            }
            // A stream that began to hold up reading asks here to be told of
            // its credit: what this pass carried may be paid for at its end.
            self.session.held(pass);
            Ok(read)
        });
        match result {
            Err(closed) => Poll::Ready(closed),
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                // There is more to read: yield, so that others get their turn.
                task.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn on_signals(
        &mut self,
        task: &mut TaskContext<'_>,
        pass: &mut Pass<'_>,
    ) -> Result<(), Closed> {
        let signals = self.session.egress.take_signals();
        if signals & signal::FAILED != 0 {
            return Err(Closed::Write);
        }
        if signals & signal::INBOX != 0 {
            let mut commands = self.session.egress.take_inbox().into_iter();
            while let Some(command) = commands.next() {
                if let Err(closed) = self.session.on_command(command, pass) {
                    // What was asked behind it is owed a no.
                    commands.for_each(|command| self.session.decline(command, pass));
                    return Err(closed);
                }
            }
        }
        self.on_writable(signals, task, pass)
    }
}

/// A connection may end with half a record in hand.
impl Drop for Connection {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.partial));
    }
}

/// What came behind the handshake.
pub struct Leftover {
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
}
