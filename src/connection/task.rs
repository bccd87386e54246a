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
    deadlines::Deadlines,
    demux::{Demux, Side, StreamId},
    muxer::Muxer,
    record::{OpenKey, SealKey},
};
use crate::metrics::ConnectionGuard;
use crate::service::hop::Refusal;
use crate::state::{
    access::Gate,
    circuits::{CircuitRefusal, EndCause},
    connections::{ConnectionId, Presence},
    leg::{Command, Ending, Link, StreamKey, reset_code},
    limits::ConnectionPermit,
};

use super::{
    carrier::{Layers, ReadHalf, Socket, layer::Inbound},
    closed::Closed,
    context::{Context, Remote},
    egress::{Egress, signal},
    outbound::Pace,
    pool,
    read_pass::{Pass, with_pass},
    stall::Stall,
    stream::{Handler, Table},
};

/// How long a stream may take to agree on a protocol (go-libp2p: 10 s).
pub(super) const NEGOTIATION_MAX: Duration = Duration::from_secs(10);

/// How often a quiet connection is asked for a sign of life. It is asked after
/// the first whole interval of silence and ended after the second. Long, because TCP keep-alive finds dead hosts and each
/// round costs every idle peer a wake-up.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long a stream without flow control may hold up its own connection.
///
/// mplex has no credit: when a stream's buffer is full, not reading is the
/// only way to slow its sender down, and it slows down all of that sender's
/// streams. A target that takes its 128 KiB within this time keeps its
/// circuit; a slower one loses it, so that it cannot hold up others for ever.
/// As long as go-mplex waits: rust-libp2p's own mplex, on a busy host, leaves
/// its socket unread for more than two seconds and then goes on.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(5);

/// A stream that holds up reading.
#[derive(Clone, Copy)]
pub(super) struct Hold {
    pub(super) stream: StreamKey,
    pub(super) until: Instant,
}

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

/// One connection, as its task owns it.
pub struct Connection {
    pub(super) context: Arc<Context>,
    pub(super) remote: Remote,
    pub(super) egress: Arc<Egress>,
    pub(super) reader: ReadHalf,
    pub(super) inbound: Inbound,
    pub(super) open: OpenKey,
    pub(super) demux: Demux,
    /// The beginning of a record whose end has not arrived.
    pub(super) partial: Vec<u8>,
    pub(super) table: Table,
    pub(super) deadlines: Deadlines<StreamId>,
    /// When withheld credit is due.
    pub(super) dues: Deadlines<StreamId>,
    pub(super) hold: Option<Hold>,
    pub(super) blocked: bool,
    pub(super) stall: Stall,
    pub(super) going_away: bool,
    /// Whether something came since the last look at the keep-alive.
    pub(super) heard: bool,
    pub(super) asked: bool,
    pub(super) keep_alive_at: Instant,
    /// Streams lately opened towards a peer that counts them.
    pub(super) pace: Pace,
    pub(super) id: ConnectionId,
    ended: bool,
    guard: ConnectionGuard,
    _permit: ConnectionPermit,
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
        let link = Arc::clone(&egress) as Arc<dyn Link>;
        let ip = remote.address.ip();
        let id = context
            .connections
            .register(remote.peer, ip, link, clock::now());
        context.peerstore.connected(&remote.peer, id, clock::now());
        let connection = Self {
            context,
            remote,
            egress,
            reader,
            inbound: upgraded.layers.inbound,
            open: upgraded.open,
            demux: Demux::new(upgraded.muxer, upgraded.side),
            partial: Vec::new(),
            table: Table::default(),
            deadlines: Deadlines::default(),
            dues: Deadlines::default(),
            hold: None,
            blocked: false,
            stall: Stall::default(),
            going_away: false,
            heard: true,
            asked: false,
            keep_alive_at: clock::now() + KEEP_ALIVE,
            pace: Pace::default(),
            id,
            ended: false,
            guard,
            _permit: permit,
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
        // Others can find it by now, so a rule that is made later closes it.
        let access = &self.context.relay.access;
        if access
            .at_authentication(&self.remote.peer, self.remote.address.ip())
            .is_err()
        {
            tracing::debug!(peer = %self.remote.peer, address = %self.remote.address, gate = Gate::Authentication.label(), "denied by the operator's rules");
            return Err(Closed::Ending(Ending::Denied));
        }
        with_pass(clock::now(), |pass, _| {
            self.ask_identity(pass);
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
        self.leave(closed);
    }

    fn leave(&mut self, closed: Closed) {
        self.ended = true;
        tracing::debug!(peer = %self.remote.peer, address = %self.remote.address, reason = %closed, "connection closed");
        self.guard.closing(closed.label());
        let peer = &self.remote.peer;
        if let Presence::Left(newest) = self.context.connections.unregister(peer, self.id) {
            self.context.relay.reservations.release(peer, newest);
            let (peerstore, address) = (&self.context.peerstore, self.remote.address);
            peerstore.disconnected(peer, newest, address, clock::now());
        }
        with_pass(clock::now(), |pass, _| {
            let commands = self.egress.close(closed.go_away(), pass.effects);
            for entry in self.table.drain() {
                let cause = match (&entry.handler, closed) {
                    (Handler::Circuit(_), Closed::Ending(Ending::Shutdown)) => {
                        Some(EndCause::Shutdown)
                    }
                    (Handler::Circuit(bound), _) => Some(bound.end.closed()),
                    (_, _) => None,
                };
                self.let_go(entry, cause, pass.effects);
            }
            for command in commands {
                self.decline(command, pass);
            }
        });
        pool::give(std::mem::take(&mut self.partial));
    }

    fn poll(&mut self, task: &mut TaskContext<'_>, now: Instant) -> Poll<Closed> {
        let result = with_pass(now, |pass, buffer| {
            self.egress.set_waker(task.waker());
            self.on_signals(task, pass)?;
            self.on_deadlines(pass)?;
            self.on_stalls(now)?;
            self.held(pass);
            let read = if self.hold.is_some() {
                // Woken by credit, or by the deadline of the hold.
                Poll::Pending
            } else {
                self.read_pass(task, pass, buffer)?
            };
            if self.going_away && self.table.is_empty() {
                return Err(Closed::GoAway);
            }
            // A stream that began to hold up reading asks here to be told of
            // its credit: what this pass carried may be paid for at its end.
            self.held(pass);
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
        let signals = self.egress.take_signals();
        if signals & signal::FAILED != 0 {
            return Err(Closed::Write);
        }
        if signals & signal::INBOX != 0 {
            let mut commands = self.egress.take_inbox().into_iter();
            while let Some(command) = commands.next() {
                if let Err(closed) = self.on_command(command, pass) {
                    // What was asked behind it is owed a no.
                    commands.for_each(|command| self.decline(command, pass));
                    return Err(closed);
                }
            }
        }
        self.on_writable(signals, task, pass)
    }

    fn on_command(&mut self, command: Command, pass: &mut Pass<'_>) -> Result<(), Closed> {
        match command {
            Command::Offer { circuit, source } => self.offer(circuit, source, pass),
            Command::Joined {
                stream,
                destination,
            } => self.joined(stream, destination, pass),
            Command::Refused { stream, full } => {
                if let Some(entry) = self.table.find_mut(stream)
                    && matches!(entry.handler, Handler::Waiting(_))
                {
                    let refusal = if full {
                        Refusal::Circuit(CircuitRefusal::Streams)
                    } else {
                        Refusal::ConnectionFailed
                    };
                    self.refuse_connect_for(stream, refusal, pass);
                }
            }
            Command::Withdraw(circuit) => self.withdraw(circuit, pass),
            Command::Draining(stream) => self.draining(stream, pass.now),
            Command::Credit { stream, bytes } => self.credit_returned(stream, bytes, pass),
            Command::Forget(stream) => {
                if let Some(Handler::Circuit(bound)) =
                    self.take_entry(stream).map(|entry| entry.handler)
                {
                    // Unless another cause was told before.
                    bound.circuit.ended(EndCause::Finished);
                }
            }
            Command::Close(ending) => return Err(Closed::Ending(ending)),
        }
        Ok(())
    }

    /// Turns down what a connection that ends cannot do any more.
    pub(super) fn decline(&mut self, command: Command, pass: &mut Pass<'_>) {
        match command {
            Command::Offer { circuit, source } => {
                // Given up before the source is told: it may ask again at once.
                drop(circuit);
                let (stream, full) = (source.stream, false);
                // A source that has left as well needs no answer.
                let _ = source.link.deliver(Command::Refused { stream, full });
            }
            Command::Joined { destination, .. } => {
                destination
                    .link
                    .reset(destination.stream, reset_code::NONE, false, pass.effects);
            }
            Command::Refused { .. }
            | Command::Withdraw(_)
            | Command::Draining(_)
            | Command::Credit { .. }
            | Command::Forget(_)
            | Command::Close(_) => {}
        }
    }
}

/// A task that is dropped before its end, because it panicked or because its
/// runtime went away, must not stay reachable or keep what it held.
impl Drop for Connection {
    fn drop(&mut self) {
        if !self.ended {
            self.leave(Closed::Ending(Ending::Shutdown));
        }
    }
}

/// What came behind the handshake.
pub struct Leftover {
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
}
