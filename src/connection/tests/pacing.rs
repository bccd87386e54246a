//! Shaping: a circuit is as fast as its rate allows and loses nothing.
#![expect(clippy::disallowed_methods, reason = "patience is real time here")]

use super::peer::{Circuit, PAIRS, PATIENCE, Peer, Server, Stopped};
use crate::config::RelayConfig;
use crate::engine::{demux::StreamId, muxer::Muxer};
use crate::wire::yamux::INITIAL_WINDOW;

const WINDOW: usize = INITIAL_WINDOW as usize;
const RATE: usize = 64 * 1024;

/// Without a limit on the bytes of a circuit, and with room in the kernel for
/// more than a segment, as time only goes forward when a test says so.
fn shaped(change: impl FnOnce(&mut RelayConfig)) -> Server {
    let mut server = Server::with(|config| {
        config.relay.circuit_bytes_max = None;
        change(&mut config.relay);
    });
    server.kernel_bytes = 1 << 20;
    server
}

/// Waits, in real time, until the target has all that the server has read for
/// it: what the kernel takes its time for must not meet a clock that a test
/// moves by seconds.
async fn settle(server: &Server, source: &mut Peer, target: &mut Peer, stream: StreamId) {
    let began = std::time::Instant::now();
    let relayed = || server.sum("waystation_relay_bytes_total");
    loop {
        let before = relayed();
        source.glance().await;
        target.glance().await;
        if relayed() == before && arrived(target, stream) as f64 == before {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "bytes got lost");
    }
}

fn arrived(target: &Peer, stream: StreamId) -> usize {
    target.heard(stream).map_or(0, |heard| heard.bytes.len())
}

/// A source that has `left` bytes to send and sends what it is allowed to: all
/// at once over mplex, what its window takes over yamux.
struct Sender {
    stream: StreamId,
    left: usize,
    sent: usize,
}

impl Sender {
    fn send(&mut self, source: &mut Peer) {
        let allowed = match source.muxer {
            Muxer::Mplex => self.left,
            Muxer::Yamux => {
                let credit = source.heard(self.stream).map_or(0, |heard| heard.credit);
                // A little of the window went to the request.
                let window = WINDOW - 1000 + usize::try_from(credit).expect("a window");
                self.left.min(window - self.sent)
            }
        };
        for piece in vec![7; allowed].chunks(WINDOW / 8) {
            source.write(self.stream, piece);
        }
        self.left -= allowed;
        self.sent += allowed;
    }
}

#[tokio::test]
async fn bulk_keeps_to_the_rate_and_arrives_whole() {
    const BYTES: usize = 1 << 20;
    let clock = Stopped::clock();
    for muxers in PAIRS {
        let server = shaped(|config| {
            config.bandwidth_per_circuit_max = Some(RATE as u64);
        });
        let Circuit { peers, streams } = server.circuit(muxers).await;
        let [mut source, mut target] = peers;
        let mut sender = Sender {
            stream: streams[0],
            left: BYTES,
            sent: 0,
        };
        let mut seconds = 0;
        loop {
            sender.send(&mut source);
            settle(&server, &mut source, &mut target, streams[1]).await;
            let arrived = arrived(&target, streams[1]);
            // The burst, a window on credit, and what one pass and the kernel
            // hold of an mplex source that is not read from.
            let most = RATE * (seconds + 1) + 2 * WINDOW;
            assert!(arrived <= most, "{muxers:?}: {arrived} after {seconds} s");
            if arrived == BYTES {
                break;
            }
            assert!(seconds < 600, "{muxers:?}: {arrived} after {seconds} s");
            clock.advance(1).await;
            seconds += 1;
        }
        // All but the burst and the windows took its time.
        let least = (BYTES - 2 * WINDOW) / RATE - 1;
        assert!(seconds >= least, "{muxers:?}: after {seconds} s");
        assert!(server.context.metrics.circuits.waits().get("per_circuit") > 0);
        // Until all is paid for, the server does not read from an mplex source
        // and so would not see it leave.
        clock.advance(16).await;
        server.leave([source, target]).await;
    }
}

/// mplex is slowed down by not being read from; that its bytes are not paid
/// for must not be taken for a target that does not read.
#[tokio::test]
async fn a_source_that_waits_for_its_rate_keeps_its_circuit() {
    let clock = Stopped::clock();
    let server = shaped(|config| {
        config.bandwidth_per_peer_max = Some(16 * 1024);
    });
    let Circuit { peers, streams } = server.circuit([Muxer::Mplex; 2]).await;
    let [mut source, mut target] = peers;
    source.write(streams[0], &vec![1; 2 * WINDOW]);
    let mut seconds = 0;
    while arrived(&target, streams[1]) < 2 * WINDOW {
        settle(&server, &mut source, &mut target, streams[1]).await;
        assert!(!source.was_reset(streams[0]), "after {seconds} s");
        assert!(seconds < 600, "never arrived");
        clock.advance(1).await;
        seconds += 1;
    }
    assert!(seconds > 6, "not slow enough to be taken for stalled");
    clock.advance(64).await;
    server.leave([source, target]).await;
}

#[tokio::test]
async fn what_is_within_the_rate_is_not_held_up() {
    let clock = Stopped::clock();
    for muxers in PAIRS {
        let server = shaped(|config| {
            config.bandwidth_max = Some(1 << 20);
            config.bandwidth_per_peer_max = Some(1 << 20);
        });
        let Circuit { peers, streams } = server.circuit(muxers).await;
        let [mut source, mut target] = peers;
        for _ in 0..8 {
            let all = arrived(&target, streams[1]) + WINDOW / 2;
            source.write(streams[0], &vec![1; WINDOW / 2]);
            let began = std::time::Instant::now();
            while arrived(&target, streams[1]) < all {
                settle(&server, &mut source, &mut target, streams[1]).await;
                assert!(began.elapsed() < PATIENCE, "held up");
            }
            clock.advance(1).await;
        }
        let waits = server.context.metrics.circuits.waits();
        assert_eq!(waits.get("total") + waits.get("per_peer"), 0);
        server.leave([source, target]).await;
    }
}
