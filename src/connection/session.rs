//! What a connection is above its transport: a peer, its streams and what runs
//! on them, until it ends.
//!
//! The same for every transport. Whoever drives the transport owns the session,
//! tells it what came in, and hands it the commands of others; what it has to
//! say goes out through [`Sending`]. Bounds nothing by itself: streams, offers
//! and waits are bounded where they are made.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::clock;
use crate::engine::{
    deadlines::Deadlines, demux::StreamId, muxer::Muxer, token_bucket::TokenBucket,
};
use crate::metrics::ConnectionGuard;
use crate::service::hop::Refusal;
use crate::state::{
    access::Gate,
    addresses::Vote,
    circuits::{CircuitRefusal, EndCause},
    connections::{ConnectionId, Presence},
    leg::{Command, Effects, Ending, Gone, Leg, Link, StreamKey, reset_code},
    limits::ConnectionPermit,
};

use super::{
    closed::Closed,
    context::{Context, Remote},
    egress::SendHalf,
    outbound::Pace,
    read_pass::{Pass, with_pass},
    stream::{Handler, Table},
};

/// How long a stream may take to agree on a protocol (go-libp2p: 10 s).
pub(super) const NEGOTIATION_MAX: Duration = Duration::from_secs(10);

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

/// What a session needs of the sending half that its transport has, beyond what
/// others see of it.
///
/// A stream's place is told apart from any later one of the same id; what is
/// asked of a stream that has ended does nothing.
pub(super) trait Sending: Link + Sized + 'static {
    /// The muxer whose frames carry the streams; `None` where the transport has
    /// streams, and flow control for them, of its own.
    fn muxer(&self) -> Option<Muxer>;

    /// Opens a stream of ours; `None` if there can be no more of them now.
    fn open_stream(&self) -> Option<StreamKey>;

    /// Takes up a stream of the peer's.
    fn accept_stream(&self, id: StreamId) -> StreamKey;

    /// Refuses a stream of the peer's that was not taken up.
    fn refuse_stream(&self, id: StreamId, code: u32, effects: &mut Effects);

    /// Takes a service's answer, to be sent in order.
    ///
    /// # Errors
    /// [`Gone`] if the stream has ended, or if so many answers wait already
    /// that the peer asks and does not read.
    fn answer(&self, stream: StreamKey, answer: &[u8], effects: &mut Effects) -> Result<(), Gone>;

    /// Credit that the other leg has granted since this was last asked. Asked
    /// only where there is a muxer.
    fn collect_granted(&self, stream: StreamKey) -> u32;

    /// Adds to `window` what [`Self::collect_granted`] tells. If the stream
    /// still may not send, the task will be woken by the next grant on this
    /// connection.
    fn hold(&self, stream: StreamKey, window: i64) -> i64;

    /// Whether bytes carried on the stream from now on are paid for by
    /// returning credit to `upstream`.
    fn attach(&self, stream: StreamKey, upstream: Leg) -> bool;

    /// Has the stream's credit go through the connection's task.
    fn pace(&self, stream: StreamKey);

    /// Credit that was withheld until the stream's bytes were paid for.
    fn release(&self, stream: StreamKey, bytes: u32, effects: &mut Effects);

    /// The peer has ended its direction. Tells what our own is doing; if that
    /// has ended too, the stream is gone.
    fn receive_closed(&self, stream: StreamKey) -> SendHalf;

    /// Ends our direction behind what is queued. Tells whether the stream is
    /// gone, in both directions.
    fn finish_own(&self, stream: StreamKey, effects: &mut Effects) -> SendHalf;

    /// Resets a stream at once; what is queued for it is dropped.
    fn reset_own(&self, stream: StreamKey, code: u32, effects: &mut Effects);

    /// As [`Self::reset_own`], unless a reset is already on its way behind
    /// bytes that are still to be delivered.
    fn reset_unless_draining(
        &self,
        stream: StreamKey,
        code: u32,
        effects: &mut Effects,
    ) -> SendHalf;

    /// The peer has reset the stream: what is queued for it is dropped.
    fn drop_stream(&self, stream: StreamKey);

    /// Takes nothing more, says goodbye with this reason, and writes what can
    /// be written at once. Commands that have not been acted upon come back.
    fn close(&self, closed: Closed, effects: &mut Effects) -> Vec<Command>;
}

/// One peer's connection and what runs on it.
pub(super) struct Session<E: Sending> {
    pub(super) context: Arc<Context>,
    pub(super) remote: Remote,
    pub(super) egress: Arc<E>,
    pub(super) table: Table,
    pub(super) deadlines: Deadlines<StreamId>,
    /// When withheld credit is due.
    pub(super) dues: Deadlines<StreamId>,
    pub(super) hold: Option<Hold>,
    pub(super) going_away: bool,
    /// Streams lately opened towards a peer that counts them.
    pub(super) pace: Pace,
    /// Pushes that the peer may send.
    pub(super) pushes: TokenBucket,
    /// Its word on the address that it sees us under.
    pub(super) vote: Option<Box<Vote>>,
    pub(super) id: ConnectionId,
    ended: bool,
    guard: ConnectionGuard,
    _permit: ConnectionPermit,
}

impl<E: Sending> Session<E> {
    /// Makes the connection reachable for others.
    pub(super) fn new(
        context: Arc<Context>,
        remote: Remote,
        egress: Arc<E>,
        permit: ConnectionPermit,
        guard: ConnectionGuard,
    ) -> Self {
        let link = Arc::clone(&egress) as Arc<dyn Link>;
        let ip = remote.address.ip();
        let id = context
            .connections
            .register(remote.peer, ip, link, clock::now());
        context.peerstore.connected(&remote.peer, id, clock::now());
        Self {
            context,
            remote,
            egress,
            table: Table::default(),
            deadlines: Deadlines::default(),
            dues: Deadlines::default(),
            hold: None,
            going_away: false,
            pace: Pace::default(),
            pushes: TokenBucket::new(clock::now()),
            vote: None,
            id,
            ended: false,
            guard,
            _permit: permit,
        }
    }

    /// Asks the operator's rules, once others can find the connection, so that a
    /// rule that is made later closes it.
    ///
    /// # Errors
    /// [`Closed`] if the peer is denied.
    pub(super) fn admit(&self) -> Result<(), Closed> {
        let access = &self.context.relay.access;
        if access
            .at_authentication(&self.remote.peer, self.remote.address.ip())
            .is_err()
        {
            tracing::debug!(peer = %self.remote.peer, address = %self.remote.address, gate = Gate::Authentication.label(), "denied by the operator's rules");
            return Err(Closed::Ending(Ending::Denied));
        }
        Ok(())
    }

    /// Says goodbye, resets the other ends of the connection's circuits, gives
    /// up its reservation if it was the peer's last one.
    pub(super) fn leave(&mut self, closed: Closed) {
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
            let commands = self.egress.close(closed, pass.effects);
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
    }

    /// Does what another connection or the server asks.
    ///
    /// # Errors
    /// [`Closed`] if it is to end.
    pub(super) fn on_command(
        &mut self,
        command: Command,
        pass: &mut Pass<'_>,
    ) -> Result<(), Closed> {
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
            Command::Push => self.push_identity(pass),
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
            | Command::Push
            | Command::Close(_) => {}
        }
    }
}

/// A session that is dropped before its end, because its task panicked or its
/// runtime went away, must not stay reachable or keep what it held.
impl<E: Sending> Drop for Session<E> {
    fn drop(&mut self) {
        if !self.ended {
            self.leave(Closed::Ending(Ending::Shutdown));
        }
    }
}
