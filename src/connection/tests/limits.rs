//! The limits of circuits and reservations, and what a slow end costs.

use libp2p_identity::PeerId;

use super::peer::{Circuit, MUXERS, PAIRS, Peer, Server, Stopped};
use crate::engine::muxer::Muxer;
use crate::wire::{relay::Status, yamux::INITIAL_WINDOW};

const WINDOW: usize = INITIAL_WINDOW as usize;

#[tokio::test]
async fn exactly_the_byte_limit_is_delivered_and_then_both_ends_are_reset() {
    for muxers in PAIRS {
        for first in 0..2 {
            for pieces in [1, 7] {
                let server = Server::with(|config| config.relay.circuit_bytes_max = Some(100_000));
                let Circuit { mut peers, streams } = server.circuit(muxers).await;
                let second = 1 - first;
                // The other direction has a limit of its own.
                peers[second].write(streams[second], &[2; 100_000]);
                peers[second].send().await;
                peers[first].until_bytes(streams[first], 100_000).await;
                for piece in vec![1; 100_001].chunks(100_001 / pieces) {
                    peers[first].write(streams[first], piece);
                }
                peers[first].until_reset(streams[first]).await;
                peers[second].until_reset(streams[second]).await;
                let heard = &peers[second].ear.streams[&streams[second]].bytes;
                assert_eq!(heard.len(), 100_000);
                for peer in &mut peers {
                    peer.assert_alive().await;
                }
                assert!(server.context.relay.circuits.is_clear());
                assert_eq!(
                    server.context.metrics.circuits.endings().get("byte_limit"),
                    1
                );
                server.leave(peers).await;
            }
        }
    }
}

#[tokio::test]
async fn the_last_bytes_before_the_limit_wait_for_a_slow_target() {
    let limit = WINDOW + 100_000;
    for muxer in MUXERS {
        let server = Server::with(|config| config.relay.circuit_bytes_max = Some(limit as u64));
        let Circuit { peers, streams } = server.circuit([muxer, Muxer::Yamux]).await;
        let [mut source, mut target] = peers;
        target.generous = false;
        source.write(streams[0], &vec![1; WINDOW - 1000]);
        source.send().await;
        target.until_bytes(streams[1], WINDOW - 1000).await;
        source.write(streams[0], &vec![1; 101_001]);
        source.until_reset(streams[0]).await;
        source.assert_alive().await;
        target.generous = true;
        target.assert_alive().await;
        assert!(!target.was_reset(streams[1]));
        target.grant(streams[1], u32::try_from(WINDOW).expect("a window"));
        target.until_reset(streams[1]).await;
        assert_eq!(target.ear.streams[&streams[1]].bytes.len(), 101_000);
        assert!(server.context.relay.circuits.is_clear());
        server.leave([source, target]).await;
    }
}

#[tokio::test]
async fn a_target_that_will_not_take_the_last_bytes_is_reset_without_them() {
    let clock = Stopped::clock();
    let limit = WINDOW + 100_000;
    for muxer in MUXERS {
        let server = Server::with(|config| config.relay.circuit_bytes_max = Some(limit as u64));
        let Circuit { peers, streams } = server.circuit([muxer, Muxer::Yamux]).await;
        let [mut source, mut target] = peers;
        target.generous = false;
        source.write(streams[0], &vec![1; WINDOW - 1000]);
        source.send().await;
        target.until_bytes(streams[1], WINDOW - 1000).await;
        source.write(streams[0], &vec![1; 101_001]);
        source.until_reset(streams[0]).await;
        clock.advance(9).await;
        target.glance().await;
        assert!(!target.was_reset(streams[1]), "too soon");
        clock.advance(2).await;
        target.until_reset(streams[1]).await;
        assert!(server.context.relay.circuits.is_clear());
        // Nothing more is to come, whatever it grants.
        target.grant(streams[1], u32::try_from(WINDOW).expect("a window"));
        target.generous = true;
        target.assert_alive().await;
        assert_eq!(target.ear.streams[&streams[1]].bytes.len(), 1000);
        server.leave([source, target]).await;
    }
}

#[tokio::test]
async fn the_duration_limit_resets_both_ends_of_an_idle_circuit() {
    let clock = Stopped::clock();
    for muxers in PAIRS {
        let server = Server::new();
        let Circuit { mut peers, streams } = server.circuit(muxers).await;
        clock.advance(119).await;
        for (peer, stream) in peers.iter_mut().zip(streams) {
            peer.glance().await;
            assert!(!peer.was_reset(stream), "too soon");
        }
        clock.advance(2).await;
        for (peer, stream) in peers.iter_mut().zip(streams) {
            peer.until_reset(stream).await;
            peer.assert_alive().await;
        }
        assert!(server.context.relay.circuits.is_clear());
        let endings = server.context.metrics.circuits.endings();
        assert_eq!(endings.get("duration_limit"), 1);
        server.leave(peers).await;
    }
}

#[tokio::test]
async fn a_target_that_never_answers_is_given_up() {
    let clock = Stopped::clock();
    for muxers in PAIRS {
        let server = Server::new();
        let Circuit { peers, streams } = server.offer(muxers).await;
        let [mut source, mut target] = peers;
        clock.advance(32).await;
        let status = source.until_status(streams[0]).await;
        assert_eq!(status, Status::ConnectionFailed);
        target.until_reset(streams[1]).await;
        source.finish(streams[0]);
        source.assert_alive().await;
        assert!(server.context.relay.circuits.is_clear());
        server.leave([source, target]).await;
    }
}

#[tokio::test]
async fn a_source_gets_credit_for_what_its_target_has_taken() {
    let server = Server::with(|config| config.relay.circuit_bytes_max = None);
    let Circuit { peers, streams } = server.circuit([Muxer::Yamux; 2]).await;
    let [mut source, mut target] = peers;
    target.generous = false;
    let credit = |source: &Peer| source.ear.streams[&streams[0]].credit;

    // The target's own window is taken at once; a little of the source's went
    // to its request.
    source.write(streams[0], &vec![1; WINDOW - 1000]);
    source.send().await;
    target.until_bytes(streams[1], WINDOW - 1000).await;
    source
        .until("credit", |source| credit(source) >= WINDOW as u64 / 2)
        .await;
    let first = credit(&source);

    // The next half fills what a circuit holds, and no credit returns.
    source.write(streams[0], &vec![2; WINDOW / 2]);
    source.assert_alive().await;
    target.generous = true;
    target.assert_alive().await;
    target.generous = false;
    assert_eq!(credit(&source), first);

    target.grant(streams[1], u32::try_from(WINDOW).expect("a window"));
    target.until_bytes(streams[1], WINDOW / 2).await;
    source
        .until("credit", |source| credit(source) > first)
        .await;
    server.leave([source, target]).await;
}

#[tokio::test]
async fn bulk_passes_at_the_pace_of_its_target() {
    const BYTES: usize = 3 << 20;
    for muxers in PAIRS {
        let server = Server::with(|config| config.relay.circuit_bytes_max = None);
        let Circuit { peers, streams } = server.circuit(muxers).await;
        let [mut source, mut target] = peers;
        let sent: Vec<u8> = (0..BYTES)
            .map(|at| (at % 251).try_into().expect("small"))
            .collect();
        let sending = async {
            for (index, piece) in sent.chunks(WINDOW / 4).enumerate() {
                let due = (index as u64 * WINDOW as u64 / 4).saturating_sub(WINDOW as u64 / 2);
                if source.muxer == Muxer::Yamux {
                    let credited = |source: &Peer| {
                        let heard = source.heard(streams[0]);
                        heard.map_or(0, |heard| heard.credit) >= due
                    };
                    source.until("credit", credited).await;
                }
                source.write(streams[0], piece);
                source.send().await;
            }
            source.finish(streams[0]);
            source.send().await;
        };
        let ((), heard) = tokio::join!(sending, target.until_bytes(streams[1], BYTES));
        assert!(
            heard == sent,
            "{muxers:?}: other bytes, or in another order"
        );
        target.until_finished(streams[1]).await;
        server.leave([source, target]).await;
    }
}

/// mplex has no credit: a stalled target stops its source for a while, then
/// loses its circuit; the source's other circuits and streams go on.
#[tokio::test]
async fn a_stalled_target_of_an_mplex_source_loses_its_circuit_only() {
    let clock = Stopped::clock();
    for muxer in MUXERS {
        let server = Server::with(|config| config.relay.circuit_bytes_max = None);
        let stalled = server.circuit([Muxer::Mplex, muxer]).await;
        let [mut source, mut slow] = stalled.peers;
        slow.generous = false;
        let mut other = server.connect(Muxer::Yamux).await;
        let reserved = other.reserve();
        other.until_status(reserved).await;
        let stream = source.connect(other.id);
        source.send().await;
        let offered = other.until_offered().await;
        other.accept(offered);
        other.send().await;
        source.until_status(stream).await;

        source.write(stalled.streams[0], &vec![1; 3 * WINDOW]);
        source.glance().await;
        clock.advance(4).await;
        source.glance().await;
        assert!(!source.was_reset(stalled.streams[0]), "too soon");
        clock.advance(2).await;
        source.until_reset(stalled.streams[0]).await;
        source.write(stream, b"still here");
        source.send().await;
        assert_eq!(other.until_bytes(offered, 10).await, b"still here");
        source.assert_alive().await;
        other.assert_alive().await;
        slow.until_reset(stalled.streams[1]).await;
        slow.generous = true;
        slow.assert_alive().await;
        let endings = server.context.metrics.circuits.endings();
        assert_eq!(endings.get("stalled"), 1);
        other.leave().await;
        server.leave([source, slow]).await;
    }
}

#[tokio::test]
async fn circuits_have_limits_for_each_peer_and_their_places_come_back() {
    for muxers in PAIRS {
        let server = Server::with(|config| {
            config.relay.circuits_per_peer_max = 2;
            config.relay.circuits_max = 3;
        });
        let Circuit { peers, streams } = server.offer(muxers).await;
        let [mut source, mut target] = peers;
        let second = source.connect(target.id);
        let third = source.connect(target.id);
        let full = source.until_status(third).await;
        assert_eq!(full, Status::ResourceLimitExceeded);
        // The target has all of its circuits, too.
        let mut another = server.connect(muxers[0]).await;
        let stream = another.connect(target.id);
        let full = another.until_status(stream).await;
        assert_eq!(full, Status::ResourceLimitExceeded);
        source.reset(second);
        source.assert_alive().await;
        target.assert_alive().await;
        let stream = another.connect(target.id);
        another.assert_alive().await;
        assert_eq!(server.context.relay.circuits.open_count(), 2);
        another.reset(stream);
        source.reset(streams[0]);
        another.assert_alive().await;
        source.assert_alive().await;
        target.assert_alive().await;
        assert!(server.context.relay.circuits.is_clear());
        another.leave().await;
        server.leave([source, target]).await;
    }
}

/// A reservation is the peer's, not a connection's: whichever connection made
/// it, it lives until the last one goes.
#[tokio::test]
async fn a_reservation_lives_as_long_as_its_peer_is_connected() {
    for muxer in MUXERS {
        for reserving in 0..2 {
            for leaving in 0..2 {
                let server = Server::new();
                let id = PeerId::random();
                let mut connections = Vec::new();
                for _ in 0..2 {
                    connections.push(server.connect_as(id, muxer).await);
                }
                let stream = connections[reserving].reserve();
                let status = connections[reserving].until_status(stream).await;
                assert_eq!(status, Status::Ok);
                connections.remove(leaving).leave().await;

                let mut source = server.connect(muxer).await;
                let stream = source.connect(id);
                source.send().await;
                let mut target = connections.remove(0);
                let offered = target.until_offered().await;
                target.accept(offered);
                target.send().await;
                assert_eq!(source.until_status(stream).await, Status::Ok);
                target.leave().await;
                assert!(server.context.relay.reservations.is_clear());
                source.leave().await;
                server.assert_clear();
            }
        }
    }
}

#[tokio::test]
async fn a_refresh_counts_nothing_twice_and_a_new_peer_is_refused_at_the_cap() {
    for muxer in MUXERS {
        let server = Server::with(|config| config.relay.reservations_per_ip_max = 1);
        let mut peer = server.connect(muxer).await;
        for _ in 0..3 {
            let stream = peer.reserve();
            assert_eq!(peer.until_status(stream).await, Status::Ok);
        }
        assert_eq!(server.context.relay.reservations.count(), 1);
        let mut second = server.connect(muxer).await;
        let stream = second.reserve();
        let refused = second.until_status(stream).await;
        assert_eq!(refused, Status::ReservationRefused);
        peer.leave().await;
        let stream = second.reserve();
        assert_eq!(second.until_status(stream).await, Status::Ok);
        second.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_server_that_drains_grants_nothing_new_and_keeps_what_runs() {
    for muxers in PAIRS {
        let server = Server::new();
        let Circuit { peers, streams } = server.circuit(muxers).await;
        let [mut source, mut target] = peers;
        server.context.drain();
        let reserve = source.reserve();
        let refused = source.until_status(reserve).await;
        assert_eq!(refused, Status::ReservationRefused);
        let connect = source.connect(target.id);
        let refused = source.until_status(connect).await;
        assert_eq!(refused, Status::ResourceLimitExceeded);
        source.write(streams[0], b"goes on");
        source.send().await;
        assert_eq!(target.until_bytes(streams[1], 7).await, b"goes on");
        server.leave([source, target]).await;
    }
}
