//! How long a peer may take: virtual time, so that no test waits for it.

use super::ear::Session;
use super::peer::{Circuit, MUXERS, PAIRS, Peer, Server, Stopped, agreement};
use crate::connection::Closed;
use crate::engine::{demux::StreamId, muxer::Muxer};
use crate::service::{identify, ping};
use crate::wire::{hex, relay::HOP_PROTOCOL};

/// That the stream is not reset before this time, and is soon after.
async fn is_reset_after(clock: &Stopped, peer: &mut Peer, stream: StreamId, seconds: u32) {
    peer.glance().await;
    clock.advance(seconds - 1).await;
    peer.glance().await;
    assert!(!peer.was_reset(stream), "too soon");
    clock.advance(2).await;
    peer.until_reset(stream).await;
}

#[tokio::test]
async fn a_negotiation_that_dribbles_is_cut_off() {
    let clock = Stopped::clock();
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.open();
        let said = agreement(ping::PROTOCOL);
        for byte in &said[..9] {
            peer.write(stream, &[*byte]);
            peer.glance().await;
            clock.advance(1).await;
        }
        peer.glance().await;
        assert!(!peer.was_reset(stream), "too soon");
        clock.advance(2).await;
        peer.until_reset(stream).await;
        peer.assert_alive().await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn streams_left_half_open_are_reset_and_the_connection_goes_on() {
    let clock = Stopped::clock();
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;

        let silent = peer.open();
        is_reset_after(&clock, &mut peer, silent, 10).await;

        let hop = peer.propose(HOP_PROTOCOL);
        peer.write(hop, &hex("02"));
        is_reset_after(&clock, &mut peer, hop, 30).await;

        let push = peer.propose(identify::PUSH_PROTOCOL);
        peer.write(push, &hex("ff"));
        is_reset_after(&clock, &mut peer, push, 10).await;

        // Answered and finished by us, never finished by the peer.
        let asked = peer.propose(identify::PROTOCOL);
        is_reset_after(&clock, &mut peer, asked, 30).await;

        // Idle, for longer than rust-libp2p is between two pings.
        let pinging = peer.propose(ping::PROTOCOL);
        is_reset_after(&clock, &mut peer, pinging, 60).await;

        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_peer_that_never_says_who_it_is_stays_connected() {
    let clock = Stopped::clock();
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        peer.until("question", |peer| !peer.ear.streams.is_empty())
            .await;
        let question = *peer.ear.streams.keys().next().expect("see above");
        is_reset_after(&clock, &mut peer, question, 10).await;
        peer.assert_alive().await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_yamux_peer_that_gives_no_sign_of_life_is_let_go() {
    let clock = Stopped::clock();
    let server = Server::new();
    let mut dead = server.connect(Muxer::Yamux).await;
    let mut live = server.connect(Muxer::Yamux).await;
    // Each second minute without a word is asked about; a timer of seconds
    // may be late by one.
    for _ in 0..3 {
        clock.advance(125).await;
        live.until("question", |peer| !peer.ear.session.is_empty())
            .await;
        let Some(Session::Ping(value)) = live.ear.session.pop() else {
            panic!("not asked: {:?}", live.ear);
        };
        let pong = [hex("0002000200000000"), value.to_be_bytes().to_vec()];
        live.say(&pong.concat());
        // The clock moves on when the answer has been read.
        let read = server.received_bytes();
        live.send().await;
        while server.received_bytes() == read {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(dead.until_closed().await, Closed::KeepAlive);
    live.assert_alive().await;
    live.leave().await;
    server.assert_clear();
}

/// mplex has no keep-alive; its quiet peers are left to TCP.
#[tokio::test]
async fn a_quiet_mplex_peer_stays() {
    let clock = Stopped::clock();
    let server = Server::new();
    let mut peer = server.connect(Muxer::Mplex).await;
    clock.advance(600).await;
    peer.assert_alive().await;
    peer.leave().await;
    server.assert_clear();
}

/// Who reads nothing of what waits for it loses its connection; who reads now
/// and then keeps it.
#[tokio::test]
async fn a_peer_that_does_not_read_what_waits_for_it_is_let_go() {
    let clock = Stopped::clock();
    for muxers in PAIRS {
        for reads in [true, false] {
            let server = Server::with(|config| config.relay.circuit_bytes_max = None);
            let Circuit { peers, streams } = server.circuit(muxers).await;
            let [mut source, mut target] = peers;
            // More than the kernel holds, less than what would be given up.
            source.write(streams[0], &[1; 200_000]);
            source.send().await;
            let full = "waystation_egress_socket_full_total";
            while server.sum(full) == 0.0 {
                tokio::task::yield_now().await;
            }
            if reads {
                for _ in 0..3 {
                    clock.advance(25).await;
                    target.glance().await;
                }
                target.until_bytes(streams[1], 200_000).await;
                target.assert_alive().await;
                server.leave([source, target]).await;
            } else {
                clock.advance(28).await;
                source.glance().await;
                assert!(!source.was_reset(streams[0]), "too soon");
                clock.advance(3).await;
                source.until_reset(streams[0]).await;
                assert_eq!(target.until_closed().await, Closed::WriteStalled);
                source.leave().await;
                server.assert_clear();
            }
        }
    }
}
