//! The sending half of a QUIC connection as anybody reaches it: a short lock
//! around quinn's state machine and what each stream holds beside it.
//!
//! Another connection's circuit writes straight into its stream here; what the
//! transport does not take waits in that stream's queue (at most `QUEUE_MAX`
//! bytes). Packets are made by the worker's loop, which is rung for it: so many
//! small writes share packets and system calls. Streams are read only as far as
//! their credit goes, which is the back-pressure of circuits.

use std::{
    mem,
    net::SocketAddr,
    ops::{Deref, DerefMut, Range},
    sync::{Arc, Weak},
    time::Instant,
};

use parking_lot::{Mutex, MutexGuard};
use quinn_proto::{
    Connection as Transport, ConnectionError, ConnectionEvent, EndpointEvent, Event, Transmit,
    VarInt,
};

use crate::engine::demux::StreamId;
use crate::state::leg::{Command, Effects, StreamKey};

use super::{Handshake, bell::Bell, held::Unread, streams::Half, windows};

/// Bytes of answers waiting for one stream at which a peer asks and does not
/// read. The longest answer, to identify or RESERVE, is 4 KiB.
pub(super) const ANSWERS_MAX: usize = 16 * 1024;

/// Most offers of circuits that may wait in an inbox.
pub(super) const OFFERS_MAX: usize = 64;

/// A QUIC connection's state, as anybody reaches it.
pub(in crate::connection) struct QuicEgress {
    pub(super) me: Weak<Self>,
    bell: Arc<Bell>,
    /// The connection's place in its worker's table.
    handle: usize,
    state: Mutex<State>,
}

/// The state, locked. Whoever has rung for the connection meanwhile wakes the
/// loop when the lock is gone.
pub(super) struct Locked<'a> {
    /// There until the drop.
    state: Option<MutexGuard<'a, State>>,
    bell: &'a Bell,
    wakes: bool,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_ref().expect("taken in the drop only")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect("taken in the drop only")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        drop(self.state.take());
        if self.wakes {
            self.bell.wake();
        }
    }
}

pub(super) struct State {
    pub(super) transport: Transport,
    /// Nothing more is taken.
    pub(super) closed: bool,
    /// Sorted by id.
    pub(super) streams: Vec<Half>,
    /// Streams that may have bytes to read, and credit to read them with.
    pub(super) readable: Vec<StreamId>,
    /// Some stream waits until the transport has let go of pieces.
    pub(super) crowded: bool,
    /// Streams that run through another connection.
    pub(super) circuits: u32,
    /// Largest receive window that the peer has been given.
    pub(super) granted: u32,
    /// Bytes that the transport has of them, and nobody has read.
    pub(super) unread: Unread,
    /// Streams that are reset when what they were given has had time to leave.
    pub(super) draining: Vec<(StreamId, Instant, u32)>,
    /// Somebody has this connection on the list of what to flush.
    pub(super) touched: bool,
    /// The loop knows that there is something to do.
    rung: bool,
    pub(super) offers: u16,
    pub(super) inbox: Vec<Command>,
}

/// What came in on a stream.
pub(in crate::connection) enum Item {
    Opened(StreamId),
    /// Bytes of the turn's.
    Data(StreamId, Range<usize>),
    Finished(StreamId),
    Reset(StreamId),
}

/// What one look at a connection has found. Lent to each connection in turn.
#[derive(Default)]
pub(in crate::connection) struct Turn {
    pub(in crate::connection) items: Vec<Item>,
    pub(in crate::connection) commands: Vec<Command>,
    /// The connection has ended by itself.
    pub(in crate::connection) lost: Option<ConnectionError>,
    /// What has been read, each stream's in one piece: datagrams are small, and
    /// whoever carries the bytes on takes them at once.
    pub(in crate::connection) bytes: Vec<u8>,
    /// The peer keeps memory that is needed.
    pub(in crate::connection) hoarded: bool,
}

impl Turn {
    /// Makes it ready for the next look.
    pub(in crate::connection) fn clear(&mut self) {
        self.items.clear();
        self.commands.clear();
        self.lost = None;
        self.bytes.clear();
        self.hoarded = false;
    }

    /// Whether nothing was found.
    pub(in crate::connection) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.commands.is_empty() && self.lost.is_none()
    }
}

impl QuicEgress {
    /// The egress of a connection whose handshake begins.
    pub(super) fn new(transport: Transport, handle: usize, bell: Arc<Bell>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            bell,
            handle,
            state: Mutex::new(State {
                transport,
                closed: false,
                streams: Vec::new(),
                readable: Vec::new(),
                crowded: false,
                circuits: 0,
                granted: windows::BASE,
                unread: Unread::default(),
                draining: Vec::new(),
                touched: false,
                rung: false,
                offers: 0,
                inbox: Vec::new(),
            }),
        })
    }

    /// Locks the state.
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            state: Some(self.state.lock()),
            bell: &self.bell,
            wakes: false,
        }
    }

    /// Takes in what came for this connection; tells where its peer is now.
    pub(super) fn receive(&self, event: ConnectionEvent, bytes: usize) -> SocketAddr {
        let mut state = self.lock();
        state.unread.came(bytes);
        state.transport.handle_event(event);
        state.transport.remote_address()
    }

    /// Drives the handshake. Streams are left for the first turn of a session.
    pub(super) fn handshake(&self, now: Instant) -> Handshake {
        let mut state = self.lock();
        state.rung = false;
        if state.transport.poll_timeout().is_some_and(|due| due <= now) {
            state.transport.handle_timeout(now);
        }
        loop {
            match state.transport.poll() {
                Some(Event::Connected) => return Handshake::Complete,
                Some(Event::ConnectionLost { reason }) => return Handshake::Failed(reason),
                Some(_) => {}
                None => {
                    // Behind the end of it bytes of streams may have come.
                    state.unread.forget_arrived();
                    return Handshake::Pending;
                }
            }
        }
    }

    /// Finds out what there is to do, and reads at most until `turn` holds
    /// `read_max` bytes; a connection with more is rung again.
    pub(super) fn take_turn(
        &self,
        now: Instant,
        read_max: usize,
        turn: &mut Turn,
        effects: &mut Effects,
    ) {
        let mut state = self.lock();
        state.rung = false;
        if state.transport.poll_timeout().is_some_and(|due| due <= now) {
            state.transport.handle_timeout(now);
        }
        state.reset_drained(now);
        state.fit_windows();
        while let Some(event) = state.transport.poll() {
            match event {
                Event::ConnectionLost { reason } => turn.lost = Some(reason),
                Event::Stream(event) => state.on_stream(&event, turn, effects),
                Event::HandshakeDataReady
                | Event::Connected
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        state.refill_crowded(effects);
        state.read(read_max, turn);
        state.count_unread(turn, now);
        state.offers = 0;
        if turn.commands.is_empty() {
            mem::swap(&mut turn.commands, &mut state.inbox);
        } else {
            turn.commands.append(&mut state.inbox);
        }
        if !state.readable.is_empty() {
            self.ring(&mut state);
        }
    }

    /// Makes packets, at most `datagrams` of them, for one system call.
    pub(super) fn transmit(
        &self,
        now: Instant,
        datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let mut state = self.lock();
        state.transport.poll_transmit(now, datagrams, buffer)
    }

    /// Tells the endpoint what it has to know of this connection; whether that
    /// was the last of it.
    pub(super) fn tell_endpoint(
        &self,
        mut tell: impl FnMut(EndpointEvent) -> Option<ConnectionEvent>,
    ) -> bool {
        let mut state = self.lock();
        while let Some(event) = state.transport.poll_endpoint_events() {
            let last = event.is_drained();
            if let Some(answer) = tell(event) {
                state.transport.handle_event(answer);
            }
            if last {
                return true;
            }
        }
        false
    }

    /// When the transport, or a stream that drains, has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let mut state = self.lock();
        let draining = state.draining.iter().map(|(_, due, _)| *due).min();
        [state.transport.poll_timeout(), draining]
            .into_iter()
            .flatten()
            .min()
    }

    /// Looks at the transport.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Transport) -> T) -> T {
        look(&self.lock().transport)
    }

    /// Ends a connection that is nobody's yet.
    pub(super) fn give_up(&self, now: Instant, code: VarInt) {
        let mut state = self.lock();
        state.closed = true;
        state.transport.close(now, code, bytes::Bytes::new());
    }

    /// Has the loop come by.
    pub(super) fn ring(&self, state: &mut Locked<'_>) {
        if !mem::replace(&mut state.rung, true) {
            state.wakes |= self.bell.ring(self.handle);
        }
    }

    /// To be called behind whatever is to be sent.
    pub(super) fn touch(&self, state: &mut State, effects: &mut Effects) {
        if !state.touched
            && let Some(me) = self.me.upgrade()
        {
            state.touched = true;
            effects.touch(me);
        }
    }

    /// The stream has ended in both directions: its session is to forget it.
    pub(super) fn forget(&self, state: &mut Locked<'_>, stream: StreamKey) {
        state.inbox.push(Command::Forget(stream));
        self.ring(state);
    }
}
