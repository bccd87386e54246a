//! The egress over a loopback socket, with the other end read by hand.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::net::{TcpListener, TcpSocket, TcpStream, tcp::OwnedReadHalf};

use super::*;
use crate::connection::pool;
use crate::connection::session::Sending;
use crate::connection::tests::ear::{Ear, Session};
use crate::engine::{demux::StreamId, record::OpenKey};
use crate::metrics::Metrics;
use crate::state::leg::{Gone, Leg, Untaken};
use crate::state::limits::Buffers;
use crate::wire::yamux::INITIAL_WINDOW;

const KEY: [u8; 32] = [5; 32];
const WINDOW: usize = INITIAL_WINDOW as usize;
/// Where credit is owed: half a window.
const HALF: u32 = INITIAL_WINDOW / 2;

/// An egress, and the peer that it writes to.
struct Pair {
    egress: Arc<Egress>,
    effects: Effects,
    far: TcpStream,
    ear: Ear,
    /// Payload in the order of its frames.
    heard: Vec<(StreamId, u32)>,
    metrics: Arc<Metrics>,
    reader: OwnedReadHalf,
}

impl Pair {
    async fn new(muxer: Muxer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let socket = TcpSocket::new_v4().expect("a socket");
        // The kernel holds little, so that a test fills it soon.
        socket.set_recv_buffer_size(16 * 1024).expect("a size");
        let (far, near) = tokio::join!(socket.connect(address), listener.accept());
        let (near, _) = near.expect("loopback");
        socket2::SockRef::from(&near)
            .set_send_buffer_size(16 * 1024)
            .expect("a size");
        let (reader, writer) = near.into_split();
        let metrics = Metrics::new();
        let seal = SealKey::new(KEY);
        let counters = Arc::clone(&metrics.egress);
        Self {
            egress: Egress::new(
                muxer,
                Side::Listener,
                seal,
                Outbound::default(),
                writer.into(),
                counters,
            ),
            effects: Effects::default(),
            far: far.expect("loopback"),
            ear: Ear::new(muxer, OpenKey::new(KEY)),
            heard: Vec::new(),
            metrics,
            reader,
        }
    }

    fn accept(&self, index: u64) -> StreamKey {
        self.egress.accept_stream(match self.egress.muxer {
            Muxer::Yamux => StreamId::yamux(u32::try_from(index * 2 + 1).expect("few")),
            Muxer::Mplex => StreamId::mplex(index, false),
        })
    }

    /// A stream that is one end of a circuit.
    fn join(&self, index: u64) -> StreamKey {
        let stream = self.accept(index);
        let upstream = Arc::new(Upstream::default());
        assert!(self.egress.attach(stream, upstream.leg()));
        stream
    }

    /// The stream as the peer knows it.
    fn far_id(&self, stream: StreamKey) -> StreamId {
        match self.egress.muxer {
            Muxer::Yamux => stream.id,
            Muxer::Mplex => {
                let (id, local) = stream.id.mplex_wire();
                StreamId::mplex(id, !local)
            }
        }
    }

    fn carry(&mut self, stream: StreamKey, bytes: &[u8]) -> Result<(), Untaken> {
        self.egress.carry(stream, bytes, &mut self.effects)
    }

    fn settle(&mut self) {
        self.effects.settle();
    }

    /// Writes and reads until nothing is left to write and everything written
    /// was read.
    async fn drain(&mut self) {
        self.settle();
        loop {
            let written = counter(&self.metrics, "waystation_egress_written_bytes_total");
            let read = counter(&self.metrics, "waystation_ingress_received_bytes_total");
            if read < written {
                self.far.readable().await.expect("open");
                let mut buffer = [0; 64 * 1024];
                match self.far.try_read(&mut buffer) {
                    Ok(count) => {
                        // Nothing else uses this counter here.
                        self.metrics.egress.received(count);
                        let heard = self.ear.hear(&buffer[..count]);
                        self.heard.extend(heard);
                    }
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            } else if self.egress.state.lock().blocked {
                self.writable().await;
            } else {
                return;
            }
        }
    }

    /// Does as the connection's task when the socket is full.
    async fn writable(&mut self) {
        let reader: &TcpStream = self.reader.as_ref();
        reader.writable().await.expect("open");
        self.egress.writable(&mut self.effects);
        self.settle();
    }

    fn bytes(&self, stream: StreamKey) -> &[u8] {
        let heard = self.ear.streams.get(&self.far_id(stream));
        heard.map_or(&[], |heard| &heard.bytes)
    }

    fn finished(&self, stream: StreamKey) -> bool {
        let heard = self.ear.streams.get(&self.far_id(stream));
        heard.is_some_and(|heard| heard.finished)
    }

    fn was_reset(&self, stream: StreamKey) -> bool {
        let heard = self.ear.streams.get(&self.far_id(stream));
        heard.is_some_and(|heard| heard.reset)
    }

    fn credit(&mut self, stream: StreamKey, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("credit");
        let credit = self.egress.credit(stream, bytes, &mut self.effects);
        credit.expect("no overflow");
    }

    /// Bytes that wait in the batch.
    fn batched(&self) -> usize {
        self.egress.state.lock().batch.len()
    }

    /// Fills the kernel's buffers and some of the batch; the peer does not
    /// read.
    fn clog(&mut self, stream: StreamKey) {
        while self.batched() < HIGH_WATER / 2 {
            self.carry(stream, &[0; 32 * 1024]).expect("room");
            self.settle();
        }
        assert!(self.egress.state.lock().blocked);
    }
}

fn counter(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.render();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let value = lines.find_map(|rest| rest.strip_prefix(' '));
    value.expect("a series").parse().expect("a number")
}

/// Bytes that tell where in a stream they belong.
fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length)
        .map(|at| u8::try_from(at % 251).expect("below 251"))
        .collect()
}

/// The other end of a circuit: notes the credit that it is given.
#[derive(Default)]
struct Upstream {
    granted: Mutex<Vec<u32>>,
}

impl Upstream {
    fn leg(self: &Arc<Self>) -> Leg {
        Leg {
            link: Arc::clone(self) as Arc<dyn Link>,
            stream: StreamKey {
                id: StreamId::yamux(1),
                generation: 0,
            },
        }
    }

    fn total(&self) -> u32 {
        self.granted.lock().iter().sum()
    }
}

impl Link for Upstream {
    fn carry(&self, _: StreamKey, _: &[u8], _: &mut Effects) -> Result<(), Untaken> {
        Ok(())
    }

    fn grant(&self, _: StreamKey, bytes: u32, _: &mut Effects) {
        self.granted.lock().push(bytes);
    }

    fn join(&self, _: StreamKey, _: &[u8], _: Leg, _: &mut Effects) -> Result<(), Gone> {
        Ok(())
    }

    fn finish(&self, _: StreamKey, _: &mut Effects) {}

    fn reset(&self, _: StreamKey, _: u32, _: bool, _: &mut Effects) {}

    fn flush(&self, _: &mut Effects) {}

    fn deliver(&self, _: Command) -> Result<(), Command> {
        Ok(())
    }
}

#[tokio::test]
async fn many_appends_and_one_flush_are_one_record_in_one_write() {
    for muxer in Muxer::ALL {
        let mut pair = Pair::new(muxer).await;
        let streams: Vec<_> = (0..10).map(|index| pair.accept(index)).collect();
        for round in 0..5 {
            for stream in &streams {
                pair.carry(*stream, &[round; 10]).expect("open");
            }
        }
        pair.drain().await;
        let flushes = counter(&pair.metrics, "waystation_egress_flush_frames_count");
        let frames = counter(&pair.metrics, "waystation_egress_flush_frames_sum");
        assert_eq!((flushes, frames, pair.ear.records), (1, 50, 1));
        for stream in streams {
            assert_eq!(pair.bytes(stream).len(), 50);
        }

        // A lone small write does not wait for company.
        let stream = pair.accept(20);
        pair.carry(stream, b"alone").expect("open");
        pair.drain().await;
        assert_eq!(pair.bytes(stream), b"alone");
    }
}

#[tokio::test]
async fn a_queue_ends_where_its_bound_is_and_takes_nothing_beyond() {
    let mut pair = Pair::new(Muxer::Yamux).await;
    let stream = pair.join(0);
    let taken = WINDOW + QUEUE_MAX;
    for at in (0..taken).step_by(32 * 1024) {
        pair.carry(stream, &pattern(at, 32 * 1024)).expect("room");
    }
    assert_eq!(pair.carry(stream, b"one more"), Err(Gone.into()));
    pair.drain().await;
    assert_eq!(pair.bytes(stream).len(), WINDOW);
    pair.credit(stream, QUEUE_MAX);
    pair.drain().await;
    assert_eq!(pair.bytes(stream), pattern(0, taken));

    // What a service answers is short.
    let stream = pair.accept(1);
    for _ in 0..WINDOW / 1024 {
        pair.carry(stream, &[0; 1024]).expect("credit");
        pair.drain().await;
    }
    let Pair {
        egress, effects, ..
    } = &mut pair;
    for _ in 0..ANSWERS_MAX / 1024 {
        egress.answer(stream, &[0; 1024], effects).expect("room");
    }
    assert_eq!(egress.answer(stream, b"one more", effects), Err(Gone));
}

#[tokio::test]
async fn an_end_waits_for_what_was_carried_before_it() {
    let mut pair = Pair::new(Muxer::Yamux).await;
    let finishing = pair.join(0);
    let draining = pair.join(1);
    let dropped = pair.join(2);
    for stream in [finishing, draining, dropped] {
        pair.carry(stream, &[1; 2 * WINDOW]).expect("room");
    }
    pair.egress.finish(finishing, &mut pair.effects);
    pair.egress.reset(draining, 7, true, &mut pair.effects);
    pair.egress.reset(dropped, 7, false, &mut pair.effects);
    for stream in [finishing, draining, dropped] {
        assert_eq!(pair.carry(stream, b"late"), Err(Gone.into()));
    }
    pair.drain().await;
    assert!(!pair.finished(finishing) && !pair.was_reset(draining));
    assert!(pair.was_reset(dropped));
    assert!(pair.bytes(dropped).len() < WINDOW);

    for stream in [finishing, draining] {
        pair.credit(stream, WINDOW);
        pair.drain().await;
        assert_eq!(pair.bytes(stream).len(), 2 * WINDOW);
    }
    assert!(pair.finished(finishing) && pair.was_reset(draining));
    // Those that were reset are over; the other one waits for the peer's end.
    let forgotten = pair.egress.take_inbox();
    let forgotten: Vec<_> = forgotten
        .iter()
        .map(|command| match command {
            Command::Forget(stream) => *stream,
            _ => panic!("only ends were to come"),
        })
        .collect();
    assert_eq!(forgotten, [dropped, draining]);
    assert_eq!(pair.egress.receive_closed(finishing), SendHalf::Ended);
}

#[tokio::test]
async fn one_that_will_not_take_what_is_left_can_still_be_reset() {
    let mut pair = Pair::new(Muxer::Yamux).await;
    let stream = pair.join(0);
    pair.carry(stream, &[1; 2 * WINDOW]).expect("room");
    pair.egress.reset(stream, 1, true, &mut pair.effects);
    let half = pair
        .egress
        .reset_unless_draining(stream, 2, &mut pair.effects);
    assert_eq!(half, SendHalf::Open);
    pair.drain().await;
    assert!(!pair.was_reset(stream));

    pair.egress.reset_own(stream, 3, &mut pair.effects);
    pair.drain().await;
    assert!(pair.was_reset(stream));
    let state = pair.egress.state.lock();
    assert!(state.streams.is_empty() && state.queued == 0);
}

#[tokio::test]
async fn credit_is_owed_for_what_has_left_half_a_window_at_a_time() {
    for muxer in Muxer::ALL {
        let mut pair = Pair::new(muxer).await;
        let upstream = Arc::new(Upstream::default());
        let first = pair.accept(0);
        let stream = pair.accept(1);
        pair.clog(first);
        assert!(pair.egress.attach(stream, upstream.leg()));
        for at in (0..WINDOW).step_by(16 * 1024) {
            pair.carry(stream, &pattern(at, 16 * 1024)).expect("room");
            pair.settle();
        }
        assert_eq!(upstream.total(), 0, "nothing has left");

        pair.drain().await;
        assert_eq!(pair.bytes(stream), pattern(0, WINDOW));
        assert_eq!(upstream.total(), INITIAL_WINDOW);
        assert!(upstream.granted.lock().iter().all(|grant| *grant >= HALF));

        pair.credit(stream, WINDOW);
        pair.carry(stream, &[0; 1000]).expect("room");
        pair.drain().await;
        assert_eq!(upstream.total(), INITIAL_WINDOW, "less than half a window");
        pair.carry(stream, &[0; WINDOW / 2 - 1000]).expect("room");
        pair.drain().await;
        assert_eq!(upstream.total(), INITIAL_WINDOW + HALF);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_the_high_water_mark_and_queues() {
    let mut pair = Pair::new(Muxer::Mplex).await;
    let streams: Vec<_> = (0..40).map(|index| pair.join(index)).collect();
    for round in 0..8 {
        for stream in &streams {
            pair.carry(*stream, &pattern(round * 10_000, 10_000))
                .expect("room");
            pair.settle();
            assert!(pair.batched() <= HIGH_WATER + 64 * 1024 + 1024);
        }
    }
    // What was asked first is not all that is served first.
    pair.drain().await;
    for stream in &streams {
        assert_eq!(pair.bytes(*stream), pattern(0, 80_000));
    }
    let mut run = (pair.heard[0].0, 0);
    for (stream, bytes) in &pair.heard {
        run = if run.0 == *stream {
            (run.0, run.1 + bytes)
        } else {
            (*stream, *bytes)
        };
        assert!(run.1 <= 64 * 1024, "{run:?} in one go");
    }
}

#[tokio::test]
async fn what_was_kept_back_in_one_piece_costs_no_connection() {
    for muxer in Muxer::ALL {
        let mut pair = Pair::new(muxer).await;
        let first = pair.join(0);
        let stream = pair.join(1);
        pair.clog(first);
        // What a source sent while its target was asked comes at once.
        pair.carry(stream, &pattern(0, WINDOW)).expect("room");
        pair.settle();
        let another = pair.accept(2).id;
        pair.egress.refuse_stream(another, 0, &mut pair.effects);
        pair.settle();
        assert_eq!(pair.egress.take_signals() & signal::FAILED, 0);
        pair.drain().await;
        assert_eq!(pair.bytes(stream), pattern(0, WINDOW));
    }
}

#[tokio::test]
async fn a_peer_that_asks_and_does_not_read_is_given_up() {
    // Whatever it makes us say: answers to pings, ends, resets, credit.
    let says: [fn(&mut Pair, u64); 4] = [
        |pair, _| pair.egress.pong(0, &mut pair.effects),
        |pair, index| {
            let stream = pair.accept(index);
            pair.egress.reset_own(stream, 0, &mut pair.effects);
        },
        |pair, index| {
            let stream = pair.accept(index);
            let _ = pair.egress.receive_closed(stream);
            let _ = pair.egress.finish_own(stream, &mut pair.effects);
        },
        |pair, _| {
            let stream = pair.accept(1);
            pair.egress.grant(stream, 1, &mut pair.effects);
        },
    ];
    for say in says {
        let mut pair = Pair::new(Muxer::Yamux).await;
        let mut index = 10;
        while pair.egress.take_signals() & signal::FAILED == 0 {
            say(&mut pair, index);
            pair.settle();
            assert!(pair.batched() <= HARD_MAX + 64);
            index += 1;
            assert!(index < 1_000_000, "never given up");
        }
        let offered = pair
            .egress
            .deliver(Command::Close(crate::state::leg::Ending::Shutdown));
        assert!(offered.is_err(), "nothing new is taken");
    }
}

/// What circuits carry is not held against the peer: they end by themselves.
#[tokio::test]
async fn without_memory_a_peer_that_asks_and_does_not_read_is_given_up_soon() {
    let mut pair = Pair::new(Muxer::Yamux).await;
    let stream = pair.join(0);
    pair.clog(stream);
    let account = Buffers::new(Some(1));
    pool::observe_pool(Arc::clone(&pair.metrics.pools), Arc::clone(&account));
    account.add(1 << 50);
    let before = pair.batched();
    assert!(before > OWN_MAX);
    let mut pongs = 0;
    while pair.egress.take_signals() & signal::FAILED == 0 {
        pair.egress.pong(0, &mut pair.effects);
        pair.settle();
        pongs += 1;
        assert!(pair.batched() - before <= OWN_MAX + 64);
    }
    assert!(pongs > 1_000, "given up after {pongs}");
}

#[tokio::test]
async fn without_memory_one_that_has_left_is_not_taken_for_one_that_is_slow() {
    let mut pair = Pair::new(Muxer::Yamux).await;
    let [slow, left] = [pair.join(0), pair.join(1)];
    pair.clog(slow);
    let account = Buffers::new(Some(1));
    pool::observe_pool(Arc::clone(&pair.metrics.pools), Arc::clone(&account));
    account.add(1 << 50);
    pair.egress.drop_stream(left);
    assert_eq!(pair.carry(slow, b"waits"), Err(Untaken::Memory));
    assert_eq!(pair.carry(left, b"waits"), Err(Gone.into()));
}

#[tokio::test]
async fn a_held_stream_is_woken_by_every_grant_until_it_may_go_on() {
    let mut pair = Pair::new(Muxer::Mplex).await;
    let stream = pair.accept(0);
    assert_eq!(pair.egress.hold(stream, -150_000), -150_000);
    pair.egress.grant(stream, HALF, &mut pair.effects);
    assert_eq!(pair.egress.take_signals(), signal::RESUME);
    let window = pair.egress.hold(stream, -150_000);
    assert_eq!(window, i64::from(HALF) - 150_000);
    pair.egress.grant(stream, HALF, &mut pair.effects);
    assert_eq!(pair.egress.take_signals(), signal::RESUME);
    assert!(pair.egress.hold(stream, window) > 0);
    pair.egress.grant(stream, HALF, &mut pair.effects);
    assert_eq!(pair.egress.take_signals(), 0, "nobody waits");
}

#[tokio::test]
async fn a_stream_of_the_past_does_not_touch_the_one_that_has_its_id() {
    for muxer in Muxer::ALL {
        let mut pair = Pair::new(muxer).await;
        let old = pair.accept(0);
        pair.egress.drop_stream(old);
        let new = pair.accept(0);
        assert_ne!(old, new);
        assert_eq!(pair.carry(old, b"old"), Err(Gone.into()));
        assert!(!pair.egress.attach(old, Arc::new(Upstream::default()).leg()));
        pair.egress.grant(old, 5, &mut pair.effects);
        pair.egress.finish(old, &mut pair.effects);
        pair.egress.reset(old, 0, false, &mut pair.effects);
        pair.egress.drop_stream(old);
        assert_eq!(pair.egress.collect_granted(new), 0);
        pair.carry(new, b"new").expect("open");
        pair.drain().await;
        assert_eq!(pair.bytes(new), b"new");
        assert!(!pair.finished(new) && !pair.was_reset(new));
    }
}

#[tokio::test]
async fn a_closed_egress_says_goodbye_and_takes_nothing_more() {
    let mut pair = Pair::new(Muxer::Yamux).await;
    let stream = pair.accept(0);
    pair.carry(stream, b"last words").expect("open");
    let closing = |stream| Command::Refused {
        stream,
        full: false,
    };
    assert!(pair.egress.deliver(closing(stream)).is_ok());
    let left = pair
        .egress
        .say_goodbye(GoAwayCode::Protocol, None, &mut pair.effects);
    assert_eq!(left.len(), 1, "what was not acted upon comes back");

    assert_eq!(pair.carry(stream, b"more"), Err(Gone.into()));
    let leg = Arc::new(Upstream::default()).leg();
    let joined = pair.egress.join(stream, b"more", leg, &mut pair.effects);
    assert_eq!(joined, Err(Gone));
    pair.egress.grant(stream, 5, &mut pair.effects);
    pair.egress.pong(5, &mut pair.effects);
    assert!(pair.egress.deliver(closing(stream)).is_err());
    pair.drain().await;
    assert_eq!(pair.bytes(stream), b"last words");
    assert_eq!(pair.ear.session, [Session::GoAway(1)]);
    assert_eq!(pair.far.try_read(&mut [0; 1]).ok(), Some(0), "and hangs up");
}

#[tokio::test]
async fn more_credit_than_there_is_breaks_the_protocol() {
    let mut pair = Pair::new(Muxer::Yamux).await;
    let stream = pair.accept(0);
    let most = u32::MAX - INITIAL_WINDOW;
    assert_eq!(pair.egress.credit(stream, most, &mut pair.effects), Ok(()));
    assert_eq!(
        pair.egress.credit(stream, 1, &mut pair.effects),
        Err(CreditOverflow)
    );
    // For one that has ended it means nothing.
    pair.egress.drop_stream(stream);
    assert_eq!(pair.egress.credit(stream, 1, &mut pair.effects), Ok(()));
}

/// Records carry a counter: out of order they would not open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_flush_at_once_keep_records_and_bytes_in_order() {
    const ROUNDS: usize = 2_000;
    for muxer in Muxer::ALL {
        let mut pair = Pair::new(muxer).await;
        let streams: Vec<_> = (0..4).map(|index| pair.join(index)).collect();
        let threads: Vec<_> = streams
            .iter()
            .map(|stream| {
                let (egress, stream) = (Arc::clone(&pair.egress), *stream);
                std::thread::spawn(move || {
                    let mut effects = Effects::default();
                    for round in 0..ROUNDS {
                        let bytes = pattern(round * 100, 100);
                        egress.carry(stream, &bytes, &mut effects).expect("room");
                        effects.settle();
                    }
                })
            })
            .collect();
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            pair.drain().await;
            tokio::task::yield_now().await;
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
        pair.drain().await;
        for stream in streams {
            assert_eq!(pair.bytes(stream), pattern(0, ROUNDS * 100));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A yamux peer gets what it gave credit for and no byte more, in order.
    #[test]
    fn credit_is_respected(
        steps in prop::collection::vec((any::<bool>(), 0usize..2, 1usize..60_000), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut pair = Pair::new(Muxer::Yamux).await;
            let streams = [pair.accept(0), pair.accept(1)];
            let (mut carried, mut credit) = ([0; 2], [WINDOW; 2]);
            for (carry, index, bytes) in steps {
                if !carry {
                    pair.credit(streams[index], bytes);
                    credit[index] += bytes;
                } else if pair.carry(streams[index], &pattern(carried[index], bytes)).is_ok() {
                    carried[index] += bytes;
                }
                pair.drain().await;
                for (at, stream) in streams.into_iter().enumerate() {
                    let due = carried[at].min(credit[at]);
                    assert_eq!(pair.bytes(stream), pattern(0, due));
                }
            }
        });
    }
}
