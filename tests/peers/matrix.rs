//! Any to any: circuits between each way in and each other, and what a circuit
//! carries besides bytes, the end of a direction and the slowness of a reader.
//!
//! All pairs share one server and, at each end, one peer of each way.

use futures::future::join_all;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, stream};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, Stream};

use crate::authority::Files;
use crate::hop::{self, Target};
use crate::peer::{Kind, Muxer, Peer, Way};
use crate::server::Server;
use crate::stalling::{HELD_MAX, Pushing, read_on};
use crate::{PROMPT, pattern, within};

const LISTEN: &str = r#"listen.addresses=["/ip4/127.0.0.1/tcp/0","/ip4/127.0.0.1/udp/0/quic-v1","/ip4/127.0.0.1/tcp/0/ws","/ip4/127.0.0.1/tcp/0/tls/sni/relay.example/ws"]"#;

const TCP: &[&str] = &["ip4", "tcp", "p2p"];
const QUIC: &[&str] = &["ip4", "udp", "quic-v1", "p2p"];
const WS: &[&str] = &["ip4", "tcp", "ws", "p2p"];
const WSS: &[&str] = &["ip4", "tcp", "tls", "sni", "ws", "p2p"];

const CIRCUITS: &str = "waystation_relay_circuits";
const FINISHED: &str = r#"waystation_relay_circuits_ended_total{cause="finished"}"#;

/// Carried each way by each pair.
const BULK: usize = 1 << 20;
/// Pairs that carry at the same time.
const AT_ONCE: usize = 6;

/// A way in: the protocols of the address, and what a peer speaks there.
#[derive(Debug, Clone, Copy)]
struct Entry {
    name: &'static str,
    address: &'static [&'static str],
    way: Way,
}

/// All of them.
fn entries() -> [Entry; 6] {
    let entry = |name, address, way| Entry { name, address, way };
    [
        entry("tcp+noise+yamux", TCP, Muxer::Yamux.into()),
        entry("tcp+noise+mplex", TCP, Muxer::Mplex.into()),
        entry("tcp+tls+yamux", TCP, Way::tls(Muxer::Yamux)),
        entry("quic", QUIC, Muxer::Quic.into()),
        entry("ws", WS, Muxer::Yamux.into()),
        entry("wss", WSS, Muxer::Yamux.into()),
    ]
}

impl Entry {
    fn relay(self, server: &Server) -> Multiaddr {
        server.address_over(self.address)
    }

    /// A peer that has come this way.
    async fn connected(self, server: &Server, kind: Kind) -> Peer {
        let mut peer = Peer::new(kind, self.way);
        peer.dial(self.relay(server));
        peer.until_connected(server.peer_id()).await;
        peer
    }

    /// A peer that has come this way, and can be reached.
    async fn reserved(self, server: &Server) -> (Peer, Target) {
        let peer = self.connected(server, Kind::Bare).await;
        hop::reserved(&peer, server).await;
        let offers = Target::new(&peer);
        (peer, offers)
    }

    /// What can be sent to a peer that does not read: its own transport may
    /// take something as well.
    fn held_max(self) -> usize {
        match self.way.muxer {
            Muxer::Yamux => HELD_MAX,
            // What rust-libp2p allows a stream, ten million bytes.
            Muxer::Quic => HELD_MAX + 10_000_000,
            // No credit: what two sockets take, by Linux's defaults.
            Muxer::Mplex => HELD_MAX + (10 << 20),
        }
    }
}

fn start() -> (Server, Files) {
    let files = Files::issue(&["relay.example"], 2040);
    let [chain, key] = files.settings();
    let server = Server::start(&[
        LISTEN,
        &chain,
        &key,
        "relay.circuits_per_peer_max=32",
        "relay.circuit_bytes_max=0",
        "relay.circuit_duration_max=0",
    ]);
    (server, files)
}

/// With relay clients as they are, which dial, secure what runs inside the
/// circuit, and ping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_clients_meet_whatever_way_each_came() {
    let (server, _files) = start();
    let mut targets = join_all(entries().map(async |entry| {
        let mut target = Peer::new(Kind::Client, entry.way);
        target.reserve_at(entry.relay(&server)).await;
        target
    }))
    .await;
    let mut sources = Vec::new();
    for entry in entries() {
        let source = entry.connected(&server, Kind::Client).await;
        for target in &targets {
            let circuit = entry.relay(&server).with(Protocol::P2pCircuit);
            source.dial(circuit.with(Protocol::P2p(target.id())));
        }
        sources.push(source);
    }
    for source in &mut sources {
        for target in &mut targets {
            assert!(source.until_connected(target.id()).await, "directly");
            assert!(target.until_connected(source.id()).await, "directly");
            source.until_pinged(target.id(), 1).await;
            target.until_pinged(source.id(), 1).await;
        }
    }
    server.until(CIRCUITS, 36.0).await;
    drop((sources, targets));
    server.until_nothing_is_held().await;
}

/// Each pair twice: the source ends its direction first, or the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_half_closes_cross_between_any_two_ways() {
    let (server, _files) = start();
    let sources = join_all(entries().map(|entry| entry.connected(&server, Kind::Bare))).await;
    let mut targets = join_all(entries().map(|entry| entry.reserved(&server))).await;
    let mut circuits = Vec::new();
    for (from, source) in entries().iter().zip(&sources) {
        for (to, (target, offers)) in entries().iter().zip(&mut targets) {
            let (near, far) = hop::circuit(source, &server, target, offers).await;
            let begun = format!("{}, which ends first, to {}", from.name, to.name);
            circuits.push((begun, near, far));
            let (near, far) = hop::circuit(source, &server, target, offers).await;
            let begun = format!("{}, which ends first, called by {}", to.name, from.name);
            circuits.push((begun, far, near));
        }
    }
    server.until(CIRCUITS, 72.0).await;
    stream::iter(circuits)
        .for_each_concurrent(AT_ONCE, async |(pair, first, second)| {
            within(3 * PROMPT, &pair, ends_in_turn(first, second)).await;
        })
        .await;
    server.until(CIRCUITS, 0.0).await;
    server.until(FINISHED, 72.0).await;
    drop((sources, targets));
    server.until_nothing_is_held().await;
}

/// Half of what each has to say crosses, one end falls silent, and then the
/// other says the rest.
async fn ends_in_turn(mut first: Stream, mut second: Stream) {
    let half = pattern(1, 0, BULK / 2);
    futures::join!(
        async {
            let (mut reader, mut writer) = (&mut first).split();
            let mut heard = vec![0; half.len()];
            let speaking = async {
                writer.write_all(&half).await?;
                writer.write_all(&half).await?;
                writer.close().await
            };
            futures::try_join!(speaking, reader.read_exact(&mut heard)).unwrap();
            assert!(heard == half, "not what was sent");
        },
        async {
            let (mut reader, mut writer) = (&mut second).split();
            let mut heard = Vec::new();
            let speaking = async {
                writer.write_all(&half).await?;
                writer.flush().await
            };
            futures::try_join!(speaking, reader.read_to_end(&mut heard)).unwrap();
            assert!(heard == half.repeat(2), "not what was sent");
        }
    );
    // Only now, with the other direction ended.
    let speaking = async {
        second.write_all(&half).await?;
        second.close().await
    };
    let mut heard = Vec::new();
    futures::try_join!(speaking, first.read_to_end(&mut heard)).unwrap();
    assert!(heard == half, "not what was sent");
}

/// A reader that stops, however it came, holds up its own circuit: not the
/// memory of the relay, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_down_its_sender_and_nobody_else() {
    let (server, _files) = start();
    // mplex has no means to slow a sender down: `stalling` shows what becomes
    // of one.
    for way in [Way::tls(Muxer::Yamux), Muxer::Quic.into()] {
        let from = entries().into_iter().find(|entry| entry.way == way);
        let source = from.unwrap().connected(&server, Kind::Bare).await;
        join_all(entries().map(|to| one_does_not_read(&server, &source, to))).await;
    }
    server.until_nothing_is_held().await;
}

/// One of two targets that came this way does not read for a while.
async fn one_does_not_read(server: &Server, source: &Peer, to: Entry) {
    let (reading, mut offers) = to.reserved(server).await;
    let (mut near, mut far) = hop::circuit(source, server, &reading, &mut offers).await;
    let (stalling, mut offers) = to.reserved(server).await;
    let (stalled, mut unread) = hop::circuit(source, server, &stalling, &mut offers).await;

    let total = to.held_max() + (1 << 20);
    let pushed = Pushing::start(stalled, total);
    pushed.until(256 * 1024).await;
    let bytes = pattern(3, 0, BULK);
    hop::carries(&mut near, &mut far, &bytes).await;
    hop::carries(&mut far, &mut near, &bytes).await;
    let held = pushed.so_far();
    assert!(held <= to.held_max(), "{} took {held}", to.name);

    read_on(&mut unread, total).await;
    let mut more = Vec::new();
    within(PROMPT, "the end", unread.read_to_end(&mut more))
        .await
        .unwrap();
    assert_eq!(more, [], "{}", to.name);
}
