//! identify/push: ours when our addresses have changed, and how many of a
//! peer's are listened to.

use libp2p_identity::PeerId;

use crate::{
    clock,
    engine::{demux::StreamId, muxer::Muxer},
    service::identify,
    state::{addresses::Addresses, leg::Command},
    wire::{
        envelope::{Envelope, PeerRecord},
        identify::Identify,
        multistream::{self, Message},
        relay::Status,
    },
};

use super::peer::{MUXERS, Peer, Server, Stopped, agreement};

/// Has the server push its addresses to the peer; the stream it opens for that.
async fn pushed(server: &Server, peer: &mut Peer) -> StreamId {
    let link = server.context.connections.find(&peer.id);
    let asked = link.expect("connected").deliver(Command::Push);
    assert!(asked.is_ok(), "the connection is open");
    let proposal = agreement(identify::PUSH_PROTOCOL);
    let find = |peer: &Peer| {
        let mut streams = peer.ear.streams.iter();
        let found = streams.find(|(_, heard)| heard.bytes == proposal);
        found.map(|(stream, _)| *stream)
    };
    peer.until("push", |peer| find(peer).is_some()).await;
    let stream = find(peer).expect("see above");
    peer.until_bytes(stream, proposal.len()).await;
    stream
}

#[tokio::test]
async fn a_peer_is_pushed_the_whole_of_the_new_answer() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        peer.assert_alive().await;
        let new = "/ip4/203.0.113.9/udp/4001/quic-v1"
            .parse()
            .expect("an address");
        let told = Addresses::new(&[], &[new], PeerId::random()).told();
        // A clock that stands still gives no smaller number.
        server.context.answer.renew(&told, 0);
        let stream = pushed(&server, &mut peer).await;
        peer.write(stream, &agreement(identify::PUSH_PROTOCOL));
        peer.until_finished(stream).await;
        let bytes = &peer.ear.streams[&stream].bytes;
        let (first, used) = Identify::decode(bytes).expect("a first message");
        let expected = told.list_for([127, 0, 0, 1].into()).bare[0].to_vec();
        assert_eq!(first.listen_addrs, [&expected[..]]);
        assert_eq!(first.protocols, server.context.menu.protocols());
        let (second, _) = Identify::decode(&bytes[used..]).expect("a second message");
        let record = second.signed_peer_record.expect("a record");
        let (envelope, _) = Envelope::decode(record).expect("an envelope");
        let (record, _) = PeerRecord::open(&envelope).expect("ours");
        assert!(record.seq > clock::unix_nanos() / 2, "above the last one");
        assert_eq!(record.addresses, first.listen_addrs);
        peer.finish(stream);
        peer.assert_alive().await;
        assert_eq!(server.sum("libp2p_identify_identify_push_total"), 1.0);
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_peer_that_takes_no_push_or_says_nothing_stays_connected() {
    let time = Stopped::clock();
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        peer.assert_alive().await;
        let refused = pushed(&server, &mut peer).await;
        let mut answer = Vec::new();
        multistream::encode(Message::Header, &mut answer);
        multistream::encode(Message::Na, &mut answer);
        peer.write(refused, &answer);
        peer.until_reset(refused).await;
        let ended = pushed(&server, &mut peer).await;
        peer.finish(ended);
        peer.until_reset(ended).await;
        let silent = pushed(&server, &mut peer).await;
        time.advance(12).await;
        peer.until_reset(silent).await;
        peer.assert_alive().await;
        assert_eq!(server.sum("libp2p_identify_identify_push_total"), 0.0);
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn more_pushes_than_a_peer_has_news_are_refused_by_name() {
    let time = Stopped::clock();
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        for _ in 0..10 {
            let taken = push(&mut peer);
            peer.until_finished(taken).await;
        }
        let refused = push(&mut peer);
        peer.until_reset(refused).await;
        let refusals = r#"waystation_streams_refused_total{reason="push_rate"} 1"#;
        let text = server.context.metrics.render();
        assert!(text.contains(refusals), "{text}");
        time.advance(6).await;
        let taken = push(&mut peer);
        peer.until_finished(taken).await;
        peer.assert_alive().await;
        peer.leave().await;
        server.assert_clear();
    }
}

/// js-libp2p's mplex bears few openings in a second, and gives up a connection for
/// one more: circuits lose none of them to a push.
#[tokio::test]
async fn a_push_leaves_circuits_their_openings() {
    let _time = Stopped::clock();
    let server = Server::new();
    let mut target = server.connect(Muxer::Mplex).await;
    let identified = push_as(&mut target, "js-libp2p/3.0.0");
    target.until_finished(identified).await;
    let reserved = target.reserve();
    assert_eq!(target.until_status(reserved).await, Status::Ok);
    pushed(&server, &mut target).await;
    for expected in [Status::Ok, Status::Ok, Status::ConnectionFailed] {
        let mut source = server.connect(Muxer::Yamux).await;
        let stream = source.connect(target.id);
        source.send().await;
        if expected == Status::Ok {
            let offered = target.until_offered().await;
            target.accept(offered);
            target.send().await;
        }
        assert_eq!(source.until_status(stream).await, expected);
        source.leave().await;
    }
    target.assert_alive().await;
    target.leave().await;
    server.assert_clear();
}

fn push(peer: &mut Peer) -> StreamId {
    push_as(peer, "a peer")
}

fn push_as(peer: &mut Peer, agent: &str) -> StreamId {
    let stream = peer.propose(identify::PUSH_PROTOCOL);
    let mut message = Vec::new();
    let said = Identify {
        agent_version: Some(agent),
        ..Identify::default()
    };
    said.encode(&mut message);
    peer.write(stream, &message);
    peer.finish(stream);
    stream
}
