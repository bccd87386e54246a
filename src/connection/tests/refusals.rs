//! What limits refuse: requests, streams, memory, connections.

use libp2p_identity::PeerId;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::{
    ear::{Ear, Session},
    peer::{Circuit, MUXERS, PAIRS, Server, Stopped},
};
use crate::{
    connection::{Closed, Handover, turn_away},
    engine::{
        demux::Side,
        muxer::Muxer,
        record::{OpenKey, SealKey},
    },
    metrics::Metrics,
    service::ping,
    wire::{
        relay::{HOP_PROTOCOL, Status, encode_connect},
        yamux::{GoAwayCode, INITIAL_WINDOW},
    },
};

/// More than any account of buffers holds.
const EVERYTHING: i64 = 1 << 50;

#[tokio::test]
async fn a_peer_that_reserves_too_often_is_refused_and_keeps_what_it_has() {
    for muxer in MUXERS {
        let server = Server::with(|config| {
            config.relay.reserve_burst_per_peer = 2;
            config.relay.reserve_rate_per_peer = 0.001;
        });
        let mut peer = server.connect(muxer).await;
        for expected in [Status::Ok, Status::Ok, Status::ReservationRefused] {
            let stream = peer.reserve();
            assert_eq!(peer.until_status(stream).await, expected);
        }
        assert_eq!(server.context.relay.reservations.count(), 1);
        let refusals = server.context.metrics.relay.refusals();
        assert_eq!(refusals.get("rate_per_peer"), 1);
        // Somebody else has a rate of their own.
        let mut other = server.connect(muxer).await;
        let stream = other.reserve();
        assert_eq!(other.until_status(stream).await, Status::Ok);
        server.leave([peer, other]).await;
    }
}

#[tokio::test]
async fn a_peer_that_connects_too_often_is_refused_whatever_it_asks_for() {
    for muxers in PAIRS {
        let server = Server::with(|config| {
            config.relay.connect_burst_per_peer = 2;
            config.relay.connect_rate_per_peer = 0.001;
        });
        let Circuit { peers, .. } = server.circuit(muxers).await;
        let [mut source, target] = peers;
        let stream = source.connect(PeerId::random());
        let status = source.until_status(stream).await;
        assert_eq!(status, Status::NoReservation);
        let stream = source.connect(target.id);
        let status = source.until_status(stream).await;
        assert_eq!(status, Status::ResourceLimitExceeded);
        let refusals = server.context.metrics.circuits.refusals();
        assert_eq!(refusals.get("rate_per_peer"), 1);
        server.leave([source, target]).await;
    }
}

#[tokio::test]
async fn streams_are_limited_over_all_connections_and_their_places_come_back() {
    for muxer in MUXERS {
        // Each peer is asked who it is on a stream of ours.
        let server = Server::with(|config| config.streams.max = 4);
        let mut one = server.connect(muxer).await;
        let mut two = server.connect(muxer).await;
        let held = one.propose(ping::PROTOCOL);
        one.until_agreed(held, ping::PROTOCOL).await;
        let last = two.propose(ping::PROTOCOL);
        two.until_agreed(last, ping::PROTOCOL).await;
        let refused = two.open();
        two.write(refused, b"\x00");
        two.until_reset(refused).await;
        one.finish(held);
        one.until_finished(held).await;
        two.assert_alive().await;
        assert!(!two.was_reset(last));
        server.leave([one, two]).await;
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_asked_for_want_of_streams_is_told_of_as_a_limit() {
    for muxers in PAIRS {
        // The question to each peer, and one more.
        let server = Server::with(|config| config.streams.max = 3);
        let mut target = server.connect(muxers[1]).await;
        let reserved = target.reserve();
        assert_eq!(target.until_status(reserved).await, Status::Ok);
        target.finish(reserved);
        target.send().await;
        while server.context.streams.usage()[0].taken > 1 {
            tokio::task::yield_now().await;
        }
        let mut source = server.connect(muxers[0]).await;
        let stream = source.connect(target.id);
        let status = source.until_status(stream).await;
        assert_eq!(status, Status::ResourceLimitExceeded);
        let refusals = server.context.metrics.circuits.refusals();
        assert_eq!(refusals.get("streams"), 1);
        assert!(server.context.relay.circuits.is_clear());
        server.leave([source, target]).await;
    }
}

#[tokio::test]
async fn a_stream_of_a_circuit_is_no_hop_stream() {
    let server = Server::with(|config| {
        config.streams.hop_per_peer_max = 1;
        config.streams.hop_max = 1;
    });
    let Circuit { peers, .. } = server.circuit([Muxer::Yamux; 2]).await;
    let [mut source, mut target] = peers;
    for _ in 0..2 {
        source.connect(target.id);
        source.send().await;
        let offered = target.until_offered().await;
        target.accept(offered);
        target.send().await;
        source.assert_alive().await;
    }
    let asking = source.propose(HOP_PROTOCOL);
    source.until_agreed(asking, HOP_PROTOCOL).await;
    let refused = source.propose(HOP_PROTOCOL);
    source.until_reset(refused).await;
    server.leave([source, target]).await;
}

/// Who makes bytes wait loses its circuit; who reads what it gets goes on, and
/// nothing new is let in.
#[tokio::test]
async fn without_memory_only_what_would_have_to_wait_ends() {
    let window = usize::try_from(INITIAL_WINDOW).expect("a window");
    for muxer in MUXERS {
        let server = Server::with(|config| config.relay.circuit_bytes_max = None);
        let quick = server.circuit([muxer, Muxer::Yamux]).await;
        let slow = server.circuit([muxer, Muxer::Yamux]).await;
        let [mut source, mut target] = quick.peers;
        let [mut pushing, mut full] = slow.peers;
        let asking = source.propose(HOP_PROTOCOL);
        source.until_agreed(asking, HOP_PROTOCOL).await;
        full.generous = false;
        pushing.write(slow.streams[0], &vec![1; window - 1_000]);
        pushing.send().await;
        full.until_bytes(slow.streams[1], window - 1_000).await;

        server.buffers.add(EVERYTHING);
        pushing.write(slow.streams[0], &[1; 2_000]);
        pushing.until_reset(slow.streams[0]).await;
        full.until_reset(slow.streams[1]).await;
        let endings = server.context.metrics.circuits.endings();
        assert_eq!(endings.get("memory"), 1);

        source.write(quick.streams[0], &[2; 10_000]);
        source.send().await;
        target.until_bytes(quick.streams[1], 10_000).await;
        let refused = pushing.propose(ping::PROTOCOL);
        pushing.until_reset(refused).await;
        let mut request = Vec::new();
        encode_connect(&target.id.to_bytes(), &mut request);
        source.write(asking, &request);
        source.send().await;
        source
            .until("a refusal", |peer| {
                peer.heard(asking).is_some_and(|heard| heard.finished)
            })
            .await;
        let refusals = server.context.metrics.circuits.refusals();
        assert_eq!(refusals.get("memory"), 1);

        server.buffers.add(-EVERYTHING);
        pushing.assert_alive().await;
        for peer in [pushing, full] {
            peer.leave().await;
        }
        server.leave([source, target]).await;
    }
}

/// A record that comes in two pieces is no fault of its sender's.
#[tokio::test]
async fn without_memory_a_record_in_two_pieces_is_read_all_the_same() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let ping = peer.propose(ping::PROTOCOL);
        peer.until_agreed(ping, ping::PROTOCOL).await;
        server.buffers.add(EVERYTHING);
        peer.write(ping, &[1; 32 * 300]);
        let record = peer.sealed();
        let (first, second) = record.split_at(5_000);
        let read = server.received_bytes();
        peer.send_raw(first).await;
        while server.received_bytes() == read {
            tokio::task::yield_now().await;
        }
        peer.send_raw(second).await;
        peer.until_bytes(ping, 32 * 300).await;
        server.buffers.add(-EVERYTHING);
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn without_memory_no_long_record_waits_for_its_end_for_ever() {
    let clock = Stopped::clock();
    let server = Server::new();
    let mut short = server.connect(Muxer::Yamux).await;
    let mut long = server.connect(Muxer::Yamux).await;
    for (peer, length) in [(&mut short, 2_000), (&mut long, 4_000)] {
        let read = server.received_bytes();
        peer.send_raw(&vec![0xff; length]).await;
        while server.received_bytes() == read {
            tokio::task::yield_now().await;
        }
    }
    // With memory, both may wait until they are taken for dead.
    clock.advance(20).await;
    server.buffers.add(EVERYTHING);
    clock.advance(9).await;
    assert_eq!(server.sum("waystation_connections"), 2.0, "too soon");
    clock.advance(2).await;
    assert_eq!(server.sum("waystation_connections"), 1.0);
    assert_eq!(long.until_closed().await, Closed::Memory);
    short.die(super::peer::Death::Abort).await;
    server.buffers.add(-EVERYTHING);
    server.assert_clear();
}

#[tokio::test]
async fn a_peer_that_is_turned_away_is_told_that_it_was_a_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (socket, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let handover = Handover {
        socket: accepted.expect("loopback").0.into(),
        layers: crate::connection::carrier::Layers::default(),
        muxer: Muxer::Yamux,
        side: Side::Listener,
        seal: SealKey::new([2; 32]),
        open: OpenKey::new([1; 32]),
        plaintext: Vec::new(),
        ciphertext: Vec::new(),
    };
    let metrics = Metrics::new();
    turn_away(handover, std::sync::Arc::clone(&metrics.egress));
    let mut heard = Vec::new();
    let mut socket = socket.expect("loopback");
    socket
        .read_to_end(&mut heard)
        .await
        .expect("an orderly end");
    let mut ear = Ear::new(Muxer::Yamux, OpenKey::new([2; 32]));
    ear.hear(&heard);
    let code = GoAwayCode::ResourceLimit.code();
    assert_eq!(ear.session, [Session::GoAway(code)]);
}
