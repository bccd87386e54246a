//! What breaks a connection, what breaks a stream, and what breaks nothing;
//! in each case other connections go on.

use super::ear::Session;
use super::peer::{MUXERS, Peer, Server, agreement};
use crate::connection::Closed;
use crate::engine::{
    demux::{DemuxError, StreamId},
    muxer::Muxer,
    record::RecordError,
};
use crate::service::{identify, ping};
use crate::wire::{hex, yamux::INITIAL_WINDOW};

/// A peer does `offend`; its connection is closed for it, and only its.
async fn closes(muxer: Muxer, offend: impl AsyncFnOnce(&mut Peer)) -> Closed {
    let server = Server::new();
    let mut bystander = server.connect(muxer).await;
    let mut peer = server.connect(muxer).await;
    peer.assert_alive().await;
    offend(&mut peer).await;
    let closed = peer.until_closed().await;
    let goodbye = match muxer {
        Muxer::Yamux => vec![Session::GoAway(1)],
        Muxer::Mplex => vec![],
    };
    assert_eq!(peer.ear.session, goodbye);
    assert_eq!(closed.label(), "protocol_violation");
    bystander.assert_alive().await;
    bystander.leave().await;
    server.assert_clear();
    closed
}

async fn closes_on(muxer: Muxer, frames: &str) -> Closed {
    closes(muxer, async |peer| peer.say(&hex(frames))).await
}

#[tokio::test]
async fn malformed_yamux_frames_close_the_connection() {
    for frames in [
        "010000000000000100000000", // version
        "000400000000000100000000", // type
        "000000100000000100000000", // flag
        "000100010000000200000000", // even id from a dialer
        "000100030000010100000000", // SYN and ACK
        "000000000000000000000001", // data on the session
        "000200000000000000000007", // ping without a flag
        "000200010000000100000007", // ping of a stream
        "000300000000000100000000", // go-away of a stream
    ] {
        let closed = closes_on(Muxer::Yamux, frames).await;
        assert!(matches!(closed, Closed::Demux(_)), "{frames}: {closed}");
    }
}

#[tokio::test]
async fn malformed_mplex_frames_close_the_connection() {
    for frames in [
        "ff0100", // flag 7
        "800000", // varints longer than they need to be
        "008000",
        "ffffffffffffffffff0100", // a varint of ten bytes
        "00818040",               // a byte over one MiB
        "02818040",
    ] {
        let closed = closes_on(Muxer::Mplex, frames).await;
        assert!(
            matches!(closed, Closed::Demux(DemuxError::Header(_))),
            "{frames}: {closed}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_open_cannot_be_opened() {
    for (muxer, open) in [
        (Muxer::Yamux, "000100010000010100000000"),
        (Muxer::Mplex, "800800"),
    ] {
        assert_eq!(
            closes_on(muxer, &open.repeat(2)).await,
            Closed::DuplicateStream
        );
    }
}

#[tokio::test]
async fn credit_beyond_what_there_can_be_closes_the_connection() {
    let closed = closes(Muxer::Yamux, async |peer| {
        let stream = peer.propose(ping::PROTOCOL);
        peer.grant(stream, u32::MAX - INITIAL_WINDOW);
        peer.write(stream, &[1; 32]);
        peer.until_agreed(stream, ping::PROTOCOL).await;
        peer.generous = false;
        peer.grant(stream, INITIAL_WINDOW);
    })
    .await;
    assert!(matches!(closed, Closed::Credit(_)), "{closed}");
}

#[tokio::test]
async fn records_that_are_not_authentic_close_the_connection() {
    for muxer in MUXERS {
        for record in [
            vec![0, 0],
            [&[0, 15][..], &[7; 15]].concat(),
            [&[0, 16][..], &[7; 16]].concat(),
            [&[0xff, 0xff][..], &[7; 0xffff]].concat(),
        ] {
            let closed = closes(muxer, async |peer| peer.send_raw(&record).await).await;
            assert_eq!(closed, Closed::Record(RecordError::Authentication));
        }
    }
}

#[tokio::test]
async fn an_empty_record_is_neither_data_nor_an_end() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        peer.send_empty_record().await;
        peer.assert_alive().await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_peer_that_stops_inside_a_frame_or_a_record_is_let_go() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.propose(ping::PROTOCOL);
        peer.until_agreed(stream, ping::PROTOCOL).await;
        peer.write(stream, &[1; 32]);
        let mut sealed = peer.sealed();
        sealed.truncate(20);
        peer.send_raw(&sealed).await;
        assert_eq!(peer.leave().await, Closed::Peer);

        let mut peer = server.connect(muxer).await;
        peer.say(match muxer {
            Muxer::Yamux => &[0, 0, 0],
            Muxer::Mplex => &[0x80],
        });
        peer.send().await;
        assert_eq!(peer.leave().await, Closed::Peer);
        server.assert_clear();
    }
}

#[tokio::test]
async fn where_records_and_segments_are_cut_does_not_matter() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.propose(ping::PROTOCOL);
        peer.write(stream, &[3; 32]);
        for byte in peer.said() {
            peer.say(&[byte]);
            for byte in peer.sealed() {
                peer.send_raw(&[byte]).await;
            }
        }
        peer.until_agreed(stream, ping::PROTOCOL).await;
        assert_eq!(peer.until_bytes(stream, 32).await, [3; 32]);
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn what_came_glued_to_the_handshake_is_heard() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut shadow = server.connect(muxer).await;
        let stream = shadow.propose(ping::PROTOCOL);
        shadow.write(stream, &[3; 32]);
        let said = shadow.said();
        let mut peer = server.connect_with(shadow.id, muxer, said).await;
        peer.until_agreed(stream, ping::PROTOCOL).await;
        assert_eq!(peer.until_bytes(stream, 32).await, [3; 32]);
    }
}

#[tokio::test]
async fn frames_for_streams_that_are_not_there_mean_nothing() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let unknown = peer.stream(50);
        peer.write(unknown, &vec![1; 300_000]);
        peer.grant(unknown, u32::MAX);
        peer.grant(unknown, u32::MAX);
        peer.finish(unknown);
        peer.reset(unknown);
        peer.assert_alive().await;
        assert!(!peer.was_reset(unknown), "no answer to it");
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn the_peers_reset_ends_a_stream_and_what_comes_late_is_ignored() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.propose(ping::PROTOCOL);
        peer.until_agreed(stream, ping::PROTOCOL).await;
        match muxer {
            // With an error code, as go-yamux sends it.
            Muxer::Yamux => peer.say(&hex("000100080000000100001001")),
            Muxer::Mplex => peer.reset(stream),
        }
        peer.write(stream, &[1; 32]);
        peer.finish(stream);
        peer.assert_alive().await;
        assert!(peer.ear.streams[&stream].bytes.is_empty());

        // The id is free again.
        peer.again(stream);
        peer.write(stream, &agreement(ping::PROTOCOL));
        peer.until_agreed(stream, ping::PROTOCOL).await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn what_comes_late_for_a_stream_that_we_reset_is_ignored() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.open();
        peer.write(stream, b"\x00");
        peer.until_reset(stream).await;
        peer.write(stream, &[1; 32]);
        peer.finish(stream);
        peer.assert_alive().await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn an_id_may_be_used_again_when_both_sides_have_ended() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.propose(identify::PROTOCOL);
        peer.finish(stream);
        for _ in 0..3 {
            peer.until_finished(stream).await;
            peer.until_agreed(stream, identify::PROTOCOL).await;
            peer.ear.streams.clear();
            peer.again(stream);
            peer.write(stream, &agreement(identify::PROTOCOL));
            peer.finish(stream);
        }
        peer.until_finished(stream).await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn streams_over_the_limit_are_reset_and_their_places_come_back() {
    for muxer in MUXERS {
        let server = Server::with(|config| config.connections.streams_max = 20);
        let mut peer = server.connect(muxer).await;
        let streams: Vec<_> = (0..20).map(|_| peer.open()).collect();
        let over = peer.open();
        peer.until_reset(over).await;
        assert!(streams.iter().all(|stream| !peer.was_reset(*stream)));
        peer.reset(streams[10]);
        peer.assert_alive().await;
        // A stream of ours has no place among them.
        let ours = peer.ear.streams.values().filter(|heard| heard.opened);
        assert_eq!(ours.count(), 1, "the question who the peer is");
        peer.leave().await;
        server.assert_clear();
    }
}

/// Only so many may be without a protocol, or without an end behind the answer.
#[tokio::test]
async fn streams_that_run_nothing_are_few() {
    for muxer in MUXERS {
        let server = Server::with(|config| config.streams.identify_per_peer_max = 100);
        let mut peer = server.connect(muxer).await;
        let silent: Vec<_> = (0..31).map(|_| peer.open()).collect();
        let asking = peer.propose(identify::PROTOCOL);
        peer.until_finished(asking).await;
        // Answered, and not ended by the peer.
        let over = peer.open();
        peer.until_reset(over).await;
        peer.finish(asking);
        let pinging = peer.propose(ping::PROTOCOL);
        peer.until_agreed(pinging, ping::PROTOCOL).await;
        let last = peer.open();
        let over = peer.open();
        peer.until_reset(over).await;
        for stream in silent.iter().chain([&pinging, &last]) {
            assert!(!peer.was_reset(*stream));
        }
        peer.reset(silent[0]);
        let another = peer.propose(ping::PROTOCOL);
        peer.until_agreed(another, ping::PROTOCOL).await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn both_sides_first_mplex_streams_are_two() {
    let server = Server::new();
    let mut peer = server.connect(Muxer::Mplex).await;
    let (ours, theirs) = (StreamId::mplex(0, true), StreamId::mplex(0, false));
    let stream = peer.propose(ping::PROTOCOL);
    assert_eq!(stream, ours);
    peer.until_agreed(ours, ping::PROTOCOL).await;
    assert_eq!(
        peer.until_bytes(theirs, 20).await,
        agreement(identify::PROTOCOL)[..20]
    );
    peer.reset(theirs);
    peer.write(ours, &[8; 32]);
    assert_eq!(peer.until_bytes(ours, 32).await, [8; 32]);
    peer.leave().await;
    server.assert_clear();
}

#[tokio::test]
async fn an_mplex_frame_may_be_one_mebibyte_and_its_ends_may_have_bodies() {
    let server = Server::new();
    let mut peer = server.connect(Muxer::Mplex).await;
    let stream = peer.propose(identify::PUSH_PROTOCOL);
    peer.until_agreed(stream, identify::PUSH_PROTOCOL).await;
    // For a stream that is not there, so that nothing else refuses it.
    let mut longest = hex("8a08 808040");
    longest.resize(longest.len() + (1 << 20), 0);
    peer.say(&longest);
    peer.say(&hex("8c08 0a 00000000000000000000"));
    peer.assert_alive().await;
    peer.leave().await;
    server.assert_clear();
}

#[tokio::test]
async fn a_keep_alive_is_answered_while_a_stream_is_stalled() {
    let server = Server::new();
    let mut peer = server.connect(Muxer::Yamux).await;
    peer.generous = false;
    let stream = peer.propose(ping::PROTOCOL);
    for _ in 0..10 {
        peer.write(stream, &[1; 32 * 1024]);
        peer.until("a send", |_| true).await;
    }
    peer.say(&hex("00020001000000000000002a"));
    peer.until("answer", |peer| peer.ear.session == [Session::Pong(42)])
        .await;
    // One that answers nothing is no offence.
    peer.say(&hex("000200020000000000000007"));
    peer.generous = true;
    peer.grant(stream, 1 << 20);
    peer.assert_alive().await;
    peer.leave().await;
    server.assert_clear();
}

#[tokio::test]
async fn a_peer_that_goes_away_keeps_what_is_open_until_it_ends() {
    let server = Server::new();
    let mut peer = server.connect(Muxer::Yamux).await;
    let stream = peer.propose(ping::PROTOCOL);
    peer.say(&hex("000300000000000000000000"));
    peer.write(stream, &[6; 32]);
    peer.until_agreed(stream, ping::PROTOCOL).await;
    assert_eq!(peer.until_bytes(stream, 32).await, [6; 32]);
    peer.reset(stream);
    let question = *peer
        .ear
        .streams
        .keys()
        .find(|other| **other != stream)
        .expect("identify");
    peer.reset(question);
    assert_eq!(peer.until_closed().await, Closed::GoAway);
    server.assert_clear();
}

/// Each peer makes us say something and never reads it; the kernel's buffers
/// and the batch fill, and then the connection is given up.
#[tokio::test]
async fn a_peer_that_asks_and_does_not_read_is_given_up() {
    let server = Server::with(|config| config.connections.streams_max = 4);
    let mut bystander = server.connect(Muxer::Yamux).await;

    let mut pinging = server.connect(Muxer::Yamux).await;
    let ping = hex("00020001000000000000002a");
    assert_eq!(pinging.flood(|peer| peer.say(&ping)).await, Closed::Write);

    for muxer in MUXERS {
        let mut refused = server.connect(muxer).await;
        let closed = refused.flood(|peer| _ = peer.open()).await;
        assert_eq!(closed, Closed::Write, "streams over the limit");

        let mut failing = server.connect(muxer).await;
        let closed = failing.flood(|peer| {
            let stream = peer.open();
            peer.write(stream, b"\x00");
        });
        assert_eq!(closed.await, Closed::Write, "negotiations that fail");
    }
    bystander.assert_alive().await;
    bystander.leave().await;
    server.assert_clear();
}
