//! Circuits between two peers: what is carried, how they end, and what is
//! left when they have.

use libp2p_identity::PeerId;

use super::ear::Session;
use super::peer::{Circuit, Death, MUXERS, PAIRS, Server, agreement};
use crate::clock;
use crate::connection::Closed;
use crate::engine::muxer::Muxer;
use crate::service::ping;
use crate::state::{access::Standing, circuits::CircuitRefusal, leg::Ending};
use crate::wire::{
    hex,
    relay::{STOP_PROTOCOL, Status, encode_stop_connect, encode_stop_status},
    yamux::INITIAL_WINDOW,
};

#[tokio::test]
async fn bytes_glued_to_the_handshake_belong_to_the_circuit() {
    for muxers in PAIRS {
        let server = Server::new();
        let mut target = server.connect(muxers[1]).await;
        let mut source = server.connect(muxers[0]).await;
        let reserved = target.reserve();
        assert_eq!(target.until_status(reserved).await, Status::Ok);

        let stream = source.connect(target.id);
        source.write(stream, b"early");
        source.finish(stream);
        source.send().await;
        let offered = target.until_offered().await;
        target.accept(offered);
        target.write(offered, b"at once");
        target.finish(offered);
        target.send().await;
        assert_eq!(source.until_status(stream).await, Status::Ok);
        source.until_finished(stream).await;
        assert_eq!(source.ear.streams[&stream].bytes, b"at once");
        target.until_finished(offered).await;
        assert_eq!(target.until_bytes(offered, 5).await, b"early");

        source.assert_alive().await;
        target.assert_alive().await;
        assert!(server.context.relay.circuits.is_clear());
        let endings = server.context.metrics.circuits.endings();
        assert_eq!(endings.get("finished"), 1);
        source.leave().await;
        target.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    for muxers in PAIRS {
        for first in 0..2 {
            let server = Server::new();
            let Circuit { mut peers, streams } = server.circuit(muxers).await;
            let second = 1 - first;
            peers[first].write(streams[first], b"last");
            peers[first].finish(streams[first]);
            peers[first].send().await;
            peers[second].until_finished(streams[second]).await;
            assert_eq!(peers[second].until_bytes(streams[second], 4).await, b"last");
            for round in 0..3 {
                peers[second].write(streams[second], &[round; 100]);
                peers[second].send().await;
                let heard = peers[first].until_bytes(streams[first], 100).await;
                assert_eq!(heard, [round; 100]);
            }
            peers[second].finish(streams[second]);
            peers[second].send().await;
            peers[first].until_finished(streams[first]).await;
            for peer in &mut peers {
                peer.assert_alive().await;
            }
            assert!(server.context.relay.circuits.is_clear());
            assert_eq!(server.context.metrics.circuits.endings().get("finished"), 1);
            server.leave(peers).await;
        }
    }
}

#[tokio::test]
async fn a_reset_of_either_end_resets_the_other() {
    for muxers in PAIRS {
        for (first, cause) in ["source_reset", "destination_reset"]
            .into_iter()
            .enumerate()
        {
            let server = Server::new();
            let Circuit { mut peers, streams } = server.circuit(muxers).await;
            peers[first].reset(streams[first]);
            peers[first].send().await;
            peers[1 - first].until_reset(streams[1 - first]).await;
            for peer in &mut peers {
                peer.assert_alive().await;
            }
            assert!(server.context.relay.circuits.is_clear());
            assert_eq!(server.context.metrics.circuits.endings().get(cause), 1);
            server.leave(peers).await;
        }
    }
}

#[tokio::test]
async fn data_behind_an_end_resets_both_ends_and_nothing_else() {
    for muxers in PAIRS {
        for first in 0..2 {
            let server = Server::new();
            let Circuit { mut peers, streams } = server.circuit(muxers).await;
            peers[first].finish(streams[first]);
            peers[first].write(streams[first], b"more");
            peers[first].until_reset(streams[first]).await;
            peers[1 - first].until_reset(streams[1 - first]).await;
            for peer in &mut peers {
                peer.assert_alive().await;
            }
            assert!(server.context.relay.circuits.is_clear());
            server.leave(peers).await;
        }
    }
}

#[tokio::test]
async fn the_end_of_either_connection_resets_the_other_stream_only() {
    for muxers in PAIRS {
        for (first, cause) in ["source_closed", "destination_closed"]
            .into_iter()
            .enumerate()
        {
            for death in Death::ALL {
                let server = Server::new();
                let Circuit { peers, streams } = server.circuit(muxers).await;
                let [mut dying, mut other] = peers;
                let mut stream = streams[1];
                if first == 1 {
                    (dying, other, stream) = (other, dying, streams[0]);
                }
                dying.die(death).await;
                other.until_reset(stream).await;
                other.assert_alive().await;
                assert!(server.context.relay.circuits.is_clear());
                if death != Death::Dropped {
                    let endings = server.context.metrics.circuits.endings();
                    assert_eq!(endings.get(cause), 1, "{death:?}");
                }
                other.leave().await;
                server.assert_clear();
            }
        }
    }
}

#[tokio::test]
async fn a_target_that_does_not_accept_is_told_of_as_a_failed_connection() {
    let mut refusal = agreement(STOP_PROTOCOL);
    encode_stop_status(Status::PermissionDenied, &mut refusal);
    let mut request = agreement(STOP_PROTOCOL);
    encode_stop_connect(&[1, 2, 3], None, &mut request);
    let with = |rest: &[u8]| [&agreement(STOP_PROTOCOL)[..], rest].concat();
    for muxers in PAIRS {
        for answer in [
            Some(refusal.clone()),
            Some(request.clone()),
            Some([&agreement("/x")[..20], b"\x03na\n"].concat()),
            Some(with(&[0])),                // an empty message
            Some(with(&[2, 0x0a, 0xff])),    // a broken one
            Some(with(&[0x88, 0x27])),       // 5000 bytes announced
            Some(with(&[4, 8, 1, 0x20, 0])), // status 0
            Some(vec![0]),
            None, // a reset
        ] {
            let server = Server::new();
            let Circuit { peers, streams } = server.offer(muxers).await;
            let ([mut source, mut target], [stream, offered]) = (peers, streams);
            match answer {
                Some(answer) => target.write(offered, &answer),
                None => target.reset(offered),
            }
            target.assert_alive().await;
            assert_eq!(source.until_status(stream).await, Status::ConnectionFailed);
            source.until_finished(stream).await;
            source.finish(stream);
            source.assert_alive().await;
            assert!(server.context.relay.circuits.is_clear());
            server.leave([source, target]).await;
        }
    }
}

/// More than a window, for a target that has not answered yet.
#[tokio::test]
async fn a_byte_beyond_the_window_closes_its_connection_only() {
    for muxer in MUXERS {
        let server = Server::new();
        let Circuit { peers, streams } = server.offer([Muxer::Yamux, muxer]).await;
        let [mut source, mut target] = peers;
        // The request and the agreement on hop are part of the window.
        source.write(streams[0], &vec![0; INITIAL_WINDOW as usize]);
        assert_eq!(source.until_closed().await, Closed::WindowOverrun);
        assert_eq!(source.ear.session, [Session::GoAway(1)]);
        target.until_reset(streams[1]).await;
        target.assert_alive().await;
        assert!(server.context.relay.circuits.is_clear());
        target.leave().await;
        server.assert_clear();
    }
}

/// The same inside a circuit, when the target takes nothing.
#[tokio::test]
async fn more_than_a_circuit_holds_closes_the_sender_only() {
    for muxer in MUXERS {
        let server = Server::with(|config| config.relay.circuit_bytes_max = None);
        let Circuit { peers, streams } = server.circuit([Muxer::Yamux, muxer]).await;
        let [mut source, mut target] = peers;
        target.generous = false;
        for _ in 0..64 {
            source.write(streams[0], &vec![1; INITIAL_WINDOW as usize / 2]);
        }
        assert_eq!(source.until_closed().await, Closed::WindowOverrun);
        target.until_reset(streams[1]).await;
        target.generous = true;
        target.assert_alive().await;
        target.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_source_that_gives_up_withdraws_the_offer() {
    for muxers in PAIRS {
        for leaves in [false, true] {
            let server = Server::new();
            let Circuit { peers, streams } = server.offer(muxers).await;
            let [mut source, mut target] = peers;
            if leaves {
                source.leave().await;
                target.until_reset(streams[1]).await;
            } else {
                source.reset(streams[0]);
                source.assert_alive().await;
                target.until_reset(streams[1]).await;
                source.leave().await;
            }
            // Too late to say yes.
            target.accept(streams[1]);
            target.assert_alive().await;
            assert!(server.context.relay.circuits.is_clear());
            target.leave().await;
            server.assert_clear();
        }
    }
}

#[tokio::test]
async fn a_target_that_leaves_while_asked_is_a_failed_connection() {
    for muxers in PAIRS {
        for death in Death::ALL {
            let server = Server::new();
            let Circuit { peers, streams } = server.offer(muxers).await;
            let [mut source, target] = peers;
            target.die(death).await;
            let status = source.until_status(streams[0]).await;
            assert_eq!(status, Status::ConnectionFailed);
            source.finish(streams[0]);
            source.assert_alive().await;
            assert!(server.context.relay.circuits.is_clear());
            // It cannot be asked for again.
            let target = PeerId::random();
            let again = source.connect(target);
            assert_eq!(source.until_status(again).await, Status::NoReservation);
            source.leave().await;
            server.assert_clear();
        }
    }
}

#[tokio::test]
async fn a_server_that_stops_says_goodbye_to_everybody() {
    for muxers in PAIRS {
        let server = Server::new();
        let Circuit { peers, .. } = server.circuit(muxers).await;
        server.context.connections.close_all(Ending::Shutdown);
        for mut peer in peers {
            assert_eq!(peer.until_closed().await, Closed::Ending(Ending::Shutdown));
            if peer.muxer == Muxer::Yamux {
                assert_eq!(peer.ear.session, [Session::GoAway(0)]);
            }
        }
        assert_eq!(server.context.metrics.circuits.endings().get("shutdown"), 1);
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_peer_that_goes_away_is_offered_nothing_new() {
    for source in MUXERS {
        let server = Server::new();
        let mut target = server.connect(Muxer::Yamux).await;
        let reserved = target.reserve();
        assert_eq!(target.until_status(reserved).await, Status::Ok);
        let stream = target.propose(ping::PROTOCOL);
        target.say(&hex("000300000000000000000000"));
        target.write(stream, &[1; 32]);
        target.until_agreed(stream, ping::PROTOCOL).await;
        let mut source = server.connect(source).await;
        let stream = source.connect(target.id);
        assert_eq!(source.until_status(stream).await, Status::ConnectionFailed);
        server.leave([source, target]).await;
    }
}

/// Its count of circuits is lifted, but its connection bears only so many of
/// our streams.
#[tokio::test]
async fn a_trusted_target_is_offered_what_its_connection_bears() {
    let server = Server::with(|config| config.connections.streams_max = 256);
    let circuits = &server.context.relay.circuits;
    let trusted = Standing {
        uncapped: true,
        ..Standing::default()
    };
    let (target, now) = (PeerId::random(), clock::now());
    let stranger = Standing::default();
    let offer = || circuits.open(PeerId::random(), target, [stranger, trusted], now);
    let mut held = Vec::new();
    while let Ok(circuit) = offer() {
        held.push(circuit);
    }
    assert_eq!(held.len(), 255);
    assert_eq!(offer().err(), Some(CircuitRefusal::Destination));
    // As a source it opens the streams itself.
    for _ in 0..300 {
        let asked = circuits.open(target, PeerId::random(), [trusted, stranger], now);
        held.push(asked.expect("trusted"));
    }
    drop(held);
    assert!(circuits.is_clear());
}
