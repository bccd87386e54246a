//! A connection's egress against a client's state machine, without sockets: what
//! windows, resets and the account of buffers do between the two.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, ServerConfig,
    StreamId, WriteError, crypto::rustls::QuicClientConfig,
};

use crate::clock;
use crate::connection::{pool, session::Sending};
use crate::identity::{Identity, certificate::ALPN};
use crate::metrics::Metrics;
use crate::state::leg::{Effects, Link as _, StreamKey};
use crate::state::limits::Buffers;

use super::*;

/// A server's egress and a client, joined by nothing but memory.
struct Pair {
    now: Instant,
    client: Transport,
    clients: (Endpoint, ConnectionHandle),
    egress: Arc<QuicEgress>,
    servers: (Endpoint, ConnectionHandle),
    turn: Turn,
}

fn client_address() -> SocketAddr {
    ([192, 0, 2, 1], 1).into()
}

fn server_address() -> SocketAddr {
    ([192, 0, 2, 2], 2).into()
}

impl Pair {
    /// Both behind the handshake.
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same; the client goes on as soon as it may, in what it ends the
    /// handshake with.
    fn with(early: impl FnOnce(&mut Transport)) -> Self {
        let now = clock::now();
        let tls = Identity::generate();
        let crypto = QuicClientConfig::try_from(tls.certificate().unwrap().client(&[ALPN]));
        let config = ClientConfig::new(Arc::new(crypto.unwrap()));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (handle, mut client) = endpoint
            .connect(now, config, server_address(), "l")
            .unwrap();

        let tls = Identity::generate();
        let crypto = Tls::new(tls.certificate().unwrap().server(&[ALPN]));
        let mut config = ServerConfig::with_crypto(Arc::new(crypto.unwrap()));
        config.transport_config(Arc::new(transport_config()));
        let mut server = Endpoint::new(
            Arc::new(EndpointConfig::default()),
            Some(Arc::new(config)),
            true,
            None,
        );
        let mut first = Vec::new();
        let sent = client.poll_transmit(now, 1, &mut first).unwrap();
        let bytes = BytesMut::from(&first[..sent.size]);
        let mut answer = Vec::new();
        let event = server.handle(now, client_address(), None, None, bytes, &mut answer);
        let Some(DatagramEvent::NewConnection(incoming)) = event else {
            panic!("no handshake begins");
        };
        let Ok((at, transport)) = server.accept(incoming, now, &mut answer, None) else {
            panic!("it is not accepted");
        };
        let mut pair = Self {
            now,
            client,
            clients: (endpoint, handle),
            egress: QuicEgress::new(transport, at.0, Bell::new()),
            servers: (server, at),
            turn: Turn::default(),
        };
        let mut early = Some(early);
        while !matches!(pair.egress.handshake(now), Handshake::Complete) {
            pair.carry_to_client();
            if !pair.client.is_handshaking()
                && let Some(early) = early.take()
            {
                early(&mut pair.client);
            }
            pair.carry_to_server();
        }
        pair.exchange();
        while pair.client.poll().is_some() {}
        pair
    }

    /// Carries datagrams until nobody has one.
    fn exchange(&mut self) {
        while self.carry_to_server() | self.carry_to_client() {}
    }

    fn carry_to_server(&mut self) -> bool {
        let mut any = false;
        let mut datagram = Vec::new();
        while let Some(sent) = self.client.poll_transmit(self.now, 1, &mut datagram) {
            any = true;
            let bytes = BytesMut::from(&datagram[..sent.size]);
            datagram.clear();
            let (endpoint, at) = &mut self.servers;
            let mut none = Vec::new();
            let event = endpoint.handle(self.now, client_address(), None, None, bytes, &mut none);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.egress.receive(event, sent.size);
            }
            let at = *at;
            self.egress
                .tell_endpoint(|event| endpoint.handle_event(at, event));
        }
        any
    }

    fn carry_to_client(&mut self) -> bool {
        let mut any = false;
        let mut datagram = Vec::new();
        while let Some(sent) = self.egress.transmit(self.now, 1, &mut datagram) {
            any = true;
            let bytes = BytesMut::from(&datagram[..sent.size]);
            datagram.clear();
            let (endpoint, at) = &mut self.clients;
            let mut none = Vec::new();
            let event = endpoint.handle(self.now, server_address(), None, None, bytes, &mut none);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.client.handle_event(event);
            }
            while let Some(event) = self.client.poll_endpoint_events() {
                if let Some(event) = endpoint.handle_event(*at, event) {
                    self.client.handle_event(event);
                }
            }
        }
        any
    }

    /// The client sends as much as it may on a stream, up to `most`; how much.
    fn send(&mut self, stream: StreamId, most: usize) -> usize {
        let mut sent = 0;
        while sent < most {
            let chunk = vec![7; (most - sent).min(1 << 20)];
            match self.client.send_stream(stream).write(&chunk) {
                Ok(more) => sent += more,
                Err(WriteError::Blocked) => {
                    self.exchange();
                    if self.client.send_stream(stream).write(&[7]) != Ok(1) {
                        break;
                    }
                    sent += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.exchange();
        sent
    }

    fn open(&mut self) -> StreamId {
        self.client.streams().open(Dir::Bi).unwrap()
    }

    /// One look at the server's side.
    fn look(&mut self) -> Vec<Item> {
        self.turn.clear();
        let mut effects = Effects::default();
        self.egress
            .take_turn(self.now, READ_MAX, &mut self.turn, &mut effects);
        self.exchange();
        mem::take(&mut self.turn.items)
    }

    /// Takes up the stream that the client has opened.
    fn accepted(&mut self) -> StreamKey {
        let items = self.look();
        let opened = items.iter().find_map(|item| match item {
            Item::Opened(stream) => Some(*stream),
            _ => None,
        });
        self.egress.accept_stream(opened.unwrap())
    }

    fn fit(&self, circuits: u32) {
        let mut state = self.egress.lock();
        let state = &mut *state;
        windows::fit(&mut state.transport, circuits, &mut state.granted);
    }
}

const BASE: usize = windows::BASE as usize;
const STREAM: usize = windows::STREAM as usize;

#[test]
fn a_peer_may_have_more_on_its_way_with_each_circuit_and_once_only() {
    let mut pair = Pair::new();
    let streams = [(); 3].map(|()| pair.open());
    assert_eq!(pair.send(streams[0], 10 * STREAM), BASE);
    pair.fit(1);
    pair.exchange();
    let more = pair.send(streams[1], STREAM);
    assert_eq!(more, STREAM);
    // The circuit ends, and another one begins: what was allowed is allowed.
    pair.fit(0);
    pair.fit(1);
    pair.exchange();
    assert_eq!(pair.send(streams[2], STREAM), 0);
    pair.fit(2);
    pair.exchange();
    assert_eq!(pair.send(streams[2], 10 * STREAM), STREAM);
}

#[test]
fn while_the_memory_for_buffers_is_taken_no_window_grows() {
    let mut pair = Pair::new();
    let buffers = Buffers::new(Some(1));
    let metrics = Metrics::new();
    pool::observe_pool(Arc::clone(&metrics.pools), Arc::clone(&buffers));
    buffers.add(1);
    let stream = pair.open();
    pair.fit(1);
    pair.exchange();
    assert_eq!(pair.send(stream, STREAM), BASE);
    buffers.add(-1);
    pair.fit(1);
    pair.exchange();
    assert!(pair.send(stream, STREAM) > 0);
}

/// Of a stream that waits for credit nothing is read, so that its reset would
/// not be seen, and what it took of the connection's window would be lost.
#[test]
fn a_stalled_stream_that_is_reset_gives_its_credit_back() {
    let mut pair = Pair::new();
    let (stalled, other) = (pair.open(), pair.open());
    pair.client.send_stream(stalled).write(&[7]).unwrap();
    pair.exchange();
    let key = pair.accepted();
    let at = |pair: &Pair| pair.egress.lock().find(key).unwrap();
    let index = at(&pair);
    pair.egress.lock().streams[index].allowance = 0;
    assert_eq!(pair.send(stalled, STREAM), BASE - 1);
    assert_eq!(pair.look().len(), 0, "it has no credit to read with");
    assert_eq!(pair.send(other, 1), 0, "the connection's window is taken");
    let code = VarInt::from_u32(0);
    pair.client.send_stream(stalled).reset(code).unwrap();
    pair.exchange();
    let items = pair.look();
    assert!(matches!(items[..], [Item::Reset(stream)] if stream == key.id));
    assert_eq!(pair.send(other, 1), 1);
}

/// Bytes that the transport keeps because nobody may read them, count.
#[test]
fn what_a_stalled_stream_keeps_is_in_the_account() {
    let mut pair = Pair::new();
    let before = pool::untold();
    let stream = pair.open();
    pair.client.send_stream(stream).write(&[7]).unwrap();
    pair.exchange();
    let key = pair.accepted();
    let index = pair.egress.lock().find(key).unwrap();
    pair.egress.lock().streams[index].allowance = 0;
    pair.send(stream, STREAM);
    pair.look();
    let held = usize::try_from(pool::untold() - before).unwrap();
    assert!(held > BASE * 9 / 10 && held <= BASE, "{held}");
    pair.egress.lock().streams[index].allowance = STREAM;
    pair.egress.lock().readable(key.id);
    pair.look();
    assert!(pool::untold() - before < 4 * 1024, "it has been read");
    drop(pair);
    assert_eq!(pool::untold(), before);
}

/// The end of a handshake and the first bytes behind it are taken in together.
#[test]
fn what_comes_with_the_end_of_the_handshake_is_in_the_account() {
    const BYTES: usize = 8_000;
    let before = pool::untold();
    let mut pair = Pair::with(|client| {
        let stream = client.streams().open(Dir::Bi).unwrap();
        let sent = client.send_stream(stream).write(&[7; BYTES]);
        assert_eq!(sent, Ok(BYTES));
    });
    pair.look();
    let held = usize::try_from(pool::untold() - before).unwrap();
    assert!(held > BYTES * 9 / 10, "{held}");
}

/// The transport throws unread bytes away with their stream, and does not tell.
#[test]
fn what_was_thrown_away_does_not_count_against_the_streams_that_stay() {
    let mut pair = Pair::new();
    let before = pool::untold();
    pair.fit(2);
    let [thrown, stays] = [(); 2].map(|()| {
        let stream = pair.open();
        pair.client.send_stream(stream).write(&[7]).unwrap();
        pair.exchange();
        let key = pair.accepted();
        let index = pair.egress.lock().find(key).unwrap();
        pair.egress.lock().streams[index].allowance = 0;
        (stream, key)
    });
    for (stream, _) in [thrown, stays] {
        assert!(pair.send(stream, STREAM) > STREAM * 9 / 10);
        pair.look();
    }
    let held = |_: &Pair| usize::try_from(pool::untold() - before).unwrap();
    assert!(held(&pair) > STREAM * 3 / 2, "{}", held(&pair));
    let code = VarInt::from_u32(0);
    pair.client.send_stream(thrown.0).reset(code).unwrap();
    pair.exchange();
    let items = pair.look();
    assert!(matches!(items[..], [Item::Reset(stream)] if stream == thrown.1.id));
    pair.egress.drop_stream(thrown.1);
    pair.look();
    assert!(held(&pair) <= STREAM, "{}", held(&pair));
}

/// Bytes count until their peer has acknowledged them, or nobody wants them any
/// more.
#[test]
fn what_is_sent_is_in_the_account_until_it_has_arrived() {
    const BYTES: usize = 40_000;
    let mut pair = Pair::new();
    let before = pool::untold();
    let stream = pair.open();
    pair.client.send_stream(stream).write(&[7]).unwrap();
    pair.exchange();
    let key = pair.accepted();
    let push = |pair: &Pair| {
        let mut state = pair.egress.lock();
        let index = state.find(key).unwrap();
        let pushed = state.push(index, &[7; BYTES], &mut Effects::default());
        assert!(pushed.is_ok());
    };
    push(&pair);
    let held = usize::try_from(pool::untold() - before).unwrap();
    assert!(held >= BYTES, "{held}");
    pair.exchange();
    // The client acknowledges the last of it with a delay.
    let left = usize::try_from(pool::untold() - before).unwrap();
    assert!(left < BYTES, "{left} of {held}");
    push(&pair);
    drop(pair);
    assert_eq!(pool::untold(), before);
}

/// The transport walks over all pieces for each packet: what a peer does not
/// acknowledge waits with us, and goes on in one piece.
#[test]
fn of_many_small_pieces_most_wait_and_all_arrive_in_order() {
    const BYTES: usize = 3_000;
    let mut pair = Pair::new();
    let stream = pair.open();
    pair.client.send_stream(stream).write(&[7]).unwrap();
    pair.exchange();
    let key = pair.accepted();
    let byte = |at: usize| u8::try_from(at % 251).unwrap();
    for at in 0..BYTES {
        let carried = pair.egress.carry(key, &[byte(at)], &mut Effects::default());
        assert!(carried.is_ok());
    }
    let index = pair.egress.lock().find(key).unwrap();
    let waiting = pair.egress.lock().streams[index].queue.len();
    assert!(waiting > BYTES / 2, "{waiting}");
    let mut received = Vec::new();
    while received.len() < BYTES {
        pair.exchange();
        let mut from = pair.client.recv_stream(stream);
        let mut chunks = from.read(true).unwrap();
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            received.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
        // The client acknowledges with a delay.
        pair.now += std::time::Duration::from_millis(30);
        pair.client.handle_timeout(pair.now);
        pair.exchange();
        pair.look();
    }
    assert!((0..BYTES).all(|at| received[at] == byte(at)));
    assert!(pair.egress.lock().streams[index].queue.is_empty());
}
