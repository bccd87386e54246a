//! The loop of one worker over all its UDP sockets: receive, look at who has
//! something to do, send, sleep.
//!
//! Bounds what one turn does, so that the worker's other tasks have theirs. Who
//! may enter is decided in `admit.rs`.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::UdpSocket,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use quinn_proto::{ConnectionHandle, DatagramEvent, Endpoint, EndpointEvent};
use tokio::time::{Sleep, sleep_until};

use crate::clock;
use crate::connection::quic::Lent;
use crate::engine::token_bucket::TokenBucket;

use super::{
    Server,
    handover::Datagram,
    ids,
    sockets::{SEND_MAX, Sent, Sockets},
    table::Table,
};

/// Datagrams of one turn: with some 3 µs each, the worker's other tasks wait
/// for a millisecond at most.
const DATAGRAMS_PER_TURN: usize = 256;

/// Connections whose deadlines one turn looks at.
const DEADLINES_PER_TURN: usize = 256;

/// Connections that one turn looks at, twice. All that a turn's datagrams and
/// deadlines are for; of everybody, as at the end of the server, some.
const LOOKS_PER_TURN: usize = DATAGRAMS_PER_TURN + DEADLINES_PER_TURN;

/// Sending calls that one connection may make in a turn.
const SENDS_PER_TURN: usize = 4;

/// Bytes that a path is expected to carry in a datagram, for how many of them
/// one call can take.
const SEGMENT: usize = 1_500;

pub(super) struct Loop {
    pub(super) server: Arc<Server>,
    pub(super) worker: usize,
    pub(super) sockets: Sockets,
    pub(super) endpoint: Endpoint,
    pub(super) table: Table,
    /// Who is to be looked at; the first of them first.
    noted: VecDeque<usize>,
    /// Lent to the bell.
    rung: Vec<usize>,
    /// Who may have something to send.
    sending: Vec<usize>,
    lent: Lent,
    pub(super) buffer: Vec<u8>,
    /// Handshakes that may begin for addresses that have not been shown.
    pub(super) unshown: TokenBucket,
}

impl Loop {
    pub(super) fn new(
        server: Arc<Server>,
        worker: usize,
        sockets: Vec<UdpSocket>,
    ) -> std::io::Result<Self> {
        let sockets = Sockets::new(sockets, Arc::clone(&server.context.metrics.quic))?;
        let endpoint = Endpoint::new(
            server.endpoint_config(worker),
            Some(Arc::clone(&server.config)),
            !sockets.may_fragment(),
            None,
        );
        Ok(Self {
            server,
            worker,
            sockets,
            endpoint,
            table: Table::default(),
            noted: VecDeque::new(),
            rung: Vec::new(),
            sending: Vec::new(),
            lent: Lent::default(),
            buffer: Vec::with_capacity(SEND_MAX),
            unshown: TokenBucket::new(clock::now()),
        })
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut sleep = pin!(sleep_until(clock::now().into()));
        poll_fn(|task| self.poll(task, sleep.as_mut())).await;
    }

    pub(super) fn poll(
        &mut self,
        task: &mut TaskContext<'_>,
        mut sleep: Pin<&mut Sleep>,
    ) -> Poll<()> {
        let server = Arc::clone(&self.server);
        let bell = &server.inboxes[self.worker].bell;
        bell.hear(task.waker());
        let now = clock::now();
        let mut busy = self.receive(task, now);
        busy |= self.expire(now);
        self.look(now);
        // What circuits have carried to connections of this loop leaves in the
        // same turn.
        busy |= self.look(now);
        busy |= self.send(task, now);
        if busy || !bell.may_sleep() {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(next) = self.table.next() {
            if sleep.deadline().into_std() != next {
                sleep.as_mut().reset(next.into());
            }
            if sleep.as_mut().poll(task).is_ready() {
                task.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Takes in what has arrived, here or on other workers; whether there may be
    /// more.
    fn receive(&mut self, task: &mut TaskContext<'_>, now: Instant) -> bool {
        let server = Arc::clone(&self.server);
        let mut count = 0;
        while count < DATAGRAMS_PER_TURN
            && let Some(datagram) = server.inboxes[self.worker].take()
        {
            self.on_datagram(datagram, now);
            count += 1;
        }
        let mut arrived = Vec::new();
        for index in 0..self.sockets.len() {
            loop {
                let received = self.sockets.receive(index, task, |one| arrived.push(one));
                for datagram in arrived.drain(..) {
                    if let Some(datagram) = self.for_us(datagram) {
                        self.on_datagram(datagram, now);
                    }
                }
                let Poll::Ready(received) = received else {
                    break;
                };
                count += received;
                if count >= DATAGRAMS_PER_TURN {
                    return true;
                }
            }
        }
        // Others wake this loop for the first datagram in its inbox only.
        count >= DATAGRAMS_PER_TURN
    }

    /// The datagram, unless it is another worker's.
    fn for_us(&self, datagram: Datagram) -> Option<Datagram> {
        let worker = ids::destination(&datagram.bytes)
            .and_then(|id| self.server.ids.worker_of(id))
            .filter(|worker| *worker != self.worker);
        let Some(worker) = worker else {
            return Some(datagram);
        };
        let metrics = &self.server.context.metrics.quic;
        metrics.handed_over();
        if !self.server.inboxes[worker].hand_over(datagram) {
            metrics.handover_dropped();
        }
        None
    }

    pub(super) fn on_datagram(&mut self, datagram: Datagram, now: Instant) {
        let Datagram {
            socket,
            remote,
            local,
            ecn,
            bytes,
        } = datagram;
        // Another worker may have more sockets: one that the service manager
        // has passed is the first worker's alone.
        let socket = socket.min(self.sockets.len() - 1);
        self.buffer.clear();
        let length = bytes.len();
        let event = self
            .endpoint
            .handle(now, remote, local, ecn, bytes, &mut self.buffer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let Some(slot) = self.table.get_mut(handle.0) else {
                    return;
                };
                if slot.connection.receive(event, length) == remote {
                    slot.socket = socket;
                }
                self.note(handle.0);
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.enter(incoming, socket, now),
            Some(DatagramEvent::Response(transmit)) => {
                let metrics = &self.server.context.metrics.quic;
                metrics.responded(&self.buffer[..transmit.size]);
                self.respond(socket, transmit);
            }
            None => {}
        }
    }

    /// Sends an answer that belongs to no connection. Nobody waits for it: if
    /// the socket is full it is lost.
    pub(super) fn respond(&mut self, socket: usize, transmit: quinn_proto::Transmit) {
        if !self.sockets.is_full(socket) {
            self.sockets.send(socket, transmit, &self.buffer);
        }
    }

    /// Notes that a connection is to be looked at.
    pub(super) fn note(&mut self, place: usize) {
        if let Some(slot) = self.table.get_mut(place)
            && !std::mem::replace(&mut slot.noted, true)
        {
            self.noted.push_back(place);
        }
    }

    /// Notes whose deadline has passed; whether there are more of them.
    fn expire(&mut self, now: Instant) -> bool {
        for _ in 0..DEADLINES_PER_TURN {
            let Some(place) = self.table.expired(now) else {
                return false;
            };
            self.note(place);
        }
        true
    }

    /// Looks at those who are noted or have rung; whether there are more.
    fn look(&mut self, now: Instant) -> bool {
        let server = Arc::clone(&self.server);
        server.inboxes[self.worker].bell.take(&mut self.rung);
        self.noted.extend(self.rung.drain(..));
        // Who is noted meanwhile has the next look.
        for _ in 0..self.noted.len().min(LOOKS_PER_TURN) {
            let Some(place) = self.noted.pop_front() else {
                break;
            };
            let Some(slot) = self.table.get_mut(place) else {
                continue;
            };
            slot.noted = false;
            if !std::mem::replace(&mut slot.sending, true) {
                self.sending.push(place);
            }
            if slot.connection.is_handshaking() {
                self.handshake(place, now);
            }
            let Some(slot) = self.table.get_mut(place) else {
                continue;
            };
            if !slot.connection.is_handshaking() {
                slot.connection.work(now, &mut self.lent);
            }
            if slot.connection.is_ending() && slot.lingers {
                let metrics = &self.server.context.metrics.quic;
                self.table.ends(place, || metrics.ending());
            }
        }
        !self.noted.is_empty()
    }

    /// Sends what there is; whether there may be more although no socket is
    /// full.
    fn send(&mut self, task: &mut TaskContext<'_>, now: Instant) -> bool {
        for index in 0..self.sockets.len() {
            self.sockets.send_kept(index, task);
        }
        let mut more = false;
        for place in std::mem::take(&mut self.sending) {
            match self.send_for(place, now) {
                Turn::Done => self.settle(place),
                Turn::More => {
                    more = true;
                    self.sending.push(place);
                }
                Turn::Blocked => self.sending.push(place),
            }
        }
        if !more {
            for index in 0..self.sockets.len() {
                // Registers for the room that is waited for.
                more |= self.sockets.is_full(index)
                    && self.sockets.send_kept(index, task) == Sent::Done;
            }
        }
        more
    }

    fn send_for(&mut self, place: usize, now: Instant) -> Turn {
        let segments = self.sockets.segments().clamp(1, SEND_MAX / SEGMENT);
        for _ in 0..SENDS_PER_TURN {
            let Some(slot) = self.table.get_mut(place) else {
                return Turn::Done;
            };
            if self.sockets.is_full(slot.socket) {
                return Turn::Blocked;
            }
            self.buffer.clear();
            let made = slot.connection.transmit(now, segments, &mut self.buffer);
            let Some(transmit) = made else {
                slot.sending = false;
                return Turn::Done;
            };
            let socket = self
                .sockets
                .for_destination(slot.socket, transmit.destination);
            if self.sockets.is_full(socket) {
                // Of a path that is being left; lost, as on the way.
                continue;
            }
            self.sockets.send(socket, transmit, &self.buffer);
        }
        Turn::More
    }

    /// Behind everything that was done with a connection: tells the endpoint,
    /// and sets its deadline.
    fn settle(&mut self, place: usize) {
        let Some(slot) = self.table.get_mut(place) else {
            return;
        };
        let handle = ConnectionHandle(place);
        let endpoint = &mut self.endpoint;
        slot.connection.sent_all();
        let gone = slot
            .connection
            .tell_endpoint(|event| endpoint.handle_event(handle, event));
        if gone {
            self.table.remove(place);
            return;
        }
        let metrics = &self.server.context.metrics.quic;
        let lingers = slot.lingers;
        if slot.connection.is_ending() && !(lingers && self.table.ends(place, || metrics.ending()))
        {
            self.forget(place);
            return;
        }
        self.table.arm(place);
    }

    /// Forgets a connection at once.
    pub(super) fn forget(&mut self, place: usize) {
        if self.table.remove(place).is_some() {
            self.endpoint
                .handle_event(ConnectionHandle(place), EndpointEvent::drained());
        }
    }
}

/// How a connection's turn to send ended.
enum Turn {
    Done,
    /// It may have more.
    More,
    /// Its socket is full.
    Blocked,
}
