//! A connection over QUIC: quinn's state machine below, a session above.
//!
//! Driven by the loop of its worker (`listener/quic`), which brings what has
//! arrived and takes away what is to be sent; there is no task and no channel
//! for each connection. What others may hold of it is its egress.
//!
//! ```text
//! datagram ─ loop ─ transport ─ turn ─ session ─┬─ service ── own egress
//!                                               └─ circuit ── other's egress
//! ```

use std::{mem, net::SocketAddr, sync::Arc, time::Instant};

use libp2p_identity::PeerId;
use quinn_proto::{
    Connection as Transport, ConnectionError, ConnectionEvent, EndpointEvent, Transmit,
    TransportConfig, VarInt,
};

use crate::config;
use crate::metrics::ConnectionGuard;
use crate::state::connections::Leaving;
use crate::state::limits::ConnectionPermit;

use super::{
    closed::Closed,
    context::{Context, Remote},
    read_pass::{Pass, READ_MAX, with_pass},
    session::Session,
};

use egress::{Item, QuicEgress, Turn};

pub use bell::Bell;
pub use tls::{Tls, TlsUnfit, VERSION};

mod bell;
mod egress;
mod held;
mod intake;
mod link;
mod own;
mod protection;
mod streams;
mod tls;
mod windows;

/// Looks at one connection before the next one has its turn: what a look has
/// found may make more to read, as a stream that is taken up does.
const LOOKS: usize = 3;

/// A QUIC connection, as its worker's loop owns it.
pub struct QuicConnection {
    egress: Arc<QuicEgress>,
    stage: Stage,
    /// While its peer is owed a goodbye that has not been sent.
    leaving: Option<Leaving>,
}

enum Stage {
    /// Whose it is has not been shown.
    Handshaking,
    Up(Box<Session<QuicEgress>>),
    /// Only the transport is left, until its peer has had time to hear of it.
    Ending,
}

/// What became of a handshake.
pub enum Handshake {
    /// It goes on.
    Pending,
    /// The peer has shown who it is: see [`QuicConnection::peer`].
    Complete,
    /// It came to nothing.
    Failed(ConnectionError),
}

/// What a loop lends to one connection after the other.
#[derive(Default)]
pub struct Lent(Turn);

/// How every connection begins.
#[must_use]
pub fn transport_config() -> TransportConfig {
    windows::transport()
}

impl QuicConnection {
    /// A connection whose handshake begins; `handle` is its place in the table
    /// of the loop that `bell` wakes.
    #[must_use]
    pub fn new(transport: Transport, handle: usize, bell: Arc<Bell>) -> Self {
        Self {
            egress: QuicEgress::new(transport, handle, bell),
            stage: Stage::Handshaking,
            leaving: None,
        }
    }

    /// Takes in what came for this connection, in a datagram of so many bytes;
    /// tells the address to which its peer has moved, or where it still is.
    /// Limits and rules stay with the address that the handshake has shown: of a
    /// later one nobody knows yet whether it is the peer's.
    pub fn receive(&mut self, event: ConnectionEvent, bytes: usize) -> SocketAddr {
        self.egress.receive(event, bytes)
    }

    /// Makes packets for one system call, at most `datagrams` of them.
    pub fn transmit(
        &self,
        now: Instant,
        datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.egress.transmit(now, datagrams, buffer)
    }

    /// The kernel has everything that was to be sent.
    pub fn sent_all(&mut self) {
        if self.is_ending() {
            self.leaving = None;
        }
    }

    /// Tells the endpoint what it has to know; whether that was the last of it,
    /// so that the connection can be forgotten.
    pub fn tell_endpoint(
        &self,
        tell: impl FnMut(EndpointEvent) -> Option<ConnectionEvent>,
    ) -> bool {
        self.egress.tell_endpoint(tell)
    }

    /// When there is something to do although nothing comes.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let session = match &self.stage {
            Stage::Up(session) => session.next_deadline(),
            Stage::Handshaking | Stage::Ending => None,
        };
        [self.egress.next_timeout(), session]
            .into_iter()
            .flatten()
            .min()
    }

    /// Where the peer is now.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        canonical(self.egress.look(Transport::remote_address))
    }

    /// Whether the peer has not shown who it is.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Handshaking)
    }

    /// Whether only the transport is left.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending)
    }

    /// Drives the handshake.
    pub fn handshake(&mut self, now: Instant) -> Handshake {
        self.egress.handshake(now)
    }

    /// Who the peer has shown to be.
    #[must_use]
    pub fn peer(&self) -> Option<PeerId> {
        self.egress.look(|transport| {
            let identity = transport.crypto_session().peer_identity()?;
            identity.downcast::<PeerId>().ok().map(|peer| *peer)
        })
    }

    /// Takes up the connection of a peer that has shown who it is, and makes it
    /// reachable for others.
    pub fn up(
        &mut self,
        context: Arc<Context>,
        peer: PeerId,
        permit: ConnectionPermit,
        guard: ConnectionGuard,
        now: Instant,
    ) {
        let address = self.remote();
        let remote = Remote {
            peer,
            address,
            transport: config::Transport::Quic,
        };
        let egress = Arc::clone(&self.egress);
        let mut session = Session::new(context, remote, egress, permit, guard);
        match session.admit() {
            Ok(()) => {
                with_pass(now, |pass, _| session.ask_identity(pass));
                self.stage = Stage::Up(Box::new(session));
            }
            Err(closed) => self.leave(&mut session, closed),
        }
    }

    /// Ends a connection that is nobody's yet, or whose peer may not stay.
    pub fn turn_away(&mut self, now: Instant, code: u32) {
        self.egress.give_up(now, VarInt::from_u32(code));
        self.stage = Stage::Ending;
    }

    /// Does what there is to do on a connection that is up or ending.
    pub fn work(&mut self, now: Instant, lent: &mut Lent) {
        let turn = &mut lent.0;
        let Stage::Up(session) = &mut self.stage else {
            let mut effects = crate::state::leg::Effects::default();
            self.egress.take_turn(now, 0, turn, &mut effects);
            turn.clear();
            return;
        };
        let worked = with_pass(now, |pass, _| work(session, turn, pass));
        if let Err(closed) = worked {
            for command in turn.commands.drain(..) {
                // What was asked behind the end is owed a no.
                with_pass(now, |pass, _| session.decline(command, pass));
            }
            turn.clear();
            if let Stage::Up(mut session) = mem::replace(&mut self.stage, Stage::Ending) {
                self.leave(&mut session, closed);
            }
        }
    }

    fn leave(&mut self, session: &mut Session<QuicEgress>, closed: Closed) {
        // Before it counts as gone: a server that stops waits for one or the
        // other.
        self.leaving = Some(session.context.connections.leaving());
        session.leave(closed);
        self.stage = Stage::Ending;
    }
}

/// An IPv4 peer on a dual-stack socket is that IPv4 peer.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn work(
    session: &mut Session<QuicEgress>,
    turn: &mut Turn,
    pass: &mut Pass<'_>,
) -> Result<(), Closed> {
    for _ in 0..LOOKS {
        turn.clear();
        session
            .egress
            .take_turn(pass.now, READ_MAX, turn, pass.effects);
        if turn.hoarded {
            return Err(Closed::Memory);
        }
        if turn.is_empty() {
            break;
        }
        let mut commands = mem::take(&mut turn.commands).into_iter();
        while let Some(command) = commands.next() {
            if let Err(closed) = session.on_command(command, pass) {
                turn.commands = commands.collect();
                return Err(closed);
            }
        }
        for item in turn.items.drain(..) {
            match item {
                Item::Opened(stream) => session.on_opened(stream, pass)?,
                Item::Data(stream, range) => {
                    session.on_data(stream, &turn.bytes[range], pass)?;
                }
                Item::Finished(stream) => session.on_finished(stream, pass),
                Item::Reset(stream) => session.on_reset(stream, pass),
            }
        }
        if let Some(lost) = turn.lost.take() {
            return Err(closed_by(&lost));
        }
    }
    session.on_deadlines(pass);
    Ok(())
}

/// Why a transport that ended by itself did.
fn closed_by(lost: &ConnectionError) -> Closed {
    match lost {
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed => Closed::Peer,
        ConnectionError::TimedOut => Closed::KeepAlive,
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::CidsExhausted => Closed::Transport,
    }
}

#[cfg(test)]
mod tests;
