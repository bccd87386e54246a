//! Services over a whole connection: what they promise, and what they refuse.

use libp2p_identity::PeerId;

use super::peer::{MUXERS, Peer, Server, agreement};
use crate::clock;
use crate::connection::Closed;
use crate::engine::{demux::StreamId, negotiate::ROUNDS_MAX};
use crate::identity::Identity;
use crate::service::{identify, ping};
use crate::state::peerstore::{ADDRESSES_MAX, Class, Source};
use crate::wire::{
    envelope::{self, Envelope, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, PeerRecord},
    hex,
    identify::Identify,
    length_delimited,
    multistream::{self, HEADER, MAX_MESSAGE, Message},
    relay::{HOP_PROTOCOL, Status, encode_connect, encode_hop_status},
};

#[tokio::test]
async fn pings_come_back_on_one_stream() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.propose(ping::PROTOCOL);
        peer.until_agreed(stream, ping::PROTOCOL).await;
        for round in 0..3 {
            peer.write(stream, &[round; 32]);
            assert_eq!(peer.until_bytes(stream, 32).await, [round; 32]);
        }
        for byte in 0..32 {
            peer.write(stream, &[byte]);
            peer.send().await;
        }
        let block: Vec<u8> = (0..32).collect();
        assert_eq!(peer.until_bytes(stream, 32).await, block);
        peer.write(stream, &[9; 64]);
        assert_eq!(peer.until_bytes(stream, 64).await, [9; 64]);
        // Half a block is not answered; the stream ends with its peer.
        peer.write(stream, &[9; 31]);
        peer.finish(stream);
        peer.until_finished(stream).await;
        assert!(peer.ear.streams[&stream].bytes.is_empty());
        assert_eq!(peer.leave().await, Closed::Peer);
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_third_ping_stream_is_reset_and_the_two_go_on() {
    for muxer in MUXERS {
        let server = Server::with(|config| config.streams.ping_per_peer_max = 2);
        let mut peer = server.connect(muxer).await;
        let streams = [0; 3].map(|_| peer.propose(ping::PROTOCOL));
        peer.until_reset(streams[2]).await;
        for stream in &streams[..2] {
            peer.until_agreed(*stream, ping::PROTOCOL).await;
            peer.write(*stream, &[4; 32]);
            assert_eq!(peer.until_bytes(*stream, 32).await, [4; 32]);
        }
        peer.finish(streams[0]);
        peer.until_finished(streams[0]).await;
        peer.assert_alive().await;
        peer.leave().await;
        server.assert_clear();
    }
}

/// A negotiation that fails resets its stream; the connection goes on.
#[tokio::test]
async fn what_is_no_negotiation_resets_its_stream() {
    let token = |name: &str| {
        let mut bytes = Vec::new();
        multistream::encode(Message::Protocol(name), &mut bytes);
        bytes
    };
    let header = agreement("/x")[..20].to_vec();
    let behind_header = |bytes: &[u8]| [&header[..], bytes].concat();
    let long = format!("/{}", "x".repeat(MAX_MESSAGE - 1));
    let mut too_long = Vec::new();
    length_delimited::encode(format!("{long}\n").as_bytes(), &mut too_long);
    for bytes in [
        vec![0], // no message
        behind_header(&[0]),
        behind_header(&[0x80, 0]), // not minimal
        behind_header(&too_long),
        behind_header(b"\x05/ping"), // no newline
        behind_header(&[0xff; 9]),
        token(ping::PROTOCOL), // no header
        token("/multistream/2.0.0"),
        b"GET / HTTP/1.1\r\n".repeat(9),
        behind_header(&token("/unknown").repeat(ROUNDS_MAX + 1)),
        behind_header(&token(HEADER).repeat(ROUNDS_MAX + 1)),
        // What a lazy client sends for a protocol that we do not have.
        [&behind_header(&token("/unknown"))[..], &[0xff; 64]].concat(),
    ] {
        for muxer in MUXERS {
            let server = Server::new();
            let mut peer = server.connect(muxer).await;
            let stream = peer.open();
            peer.write(stream, &bytes);
            peer.until_reset(stream).await;
            peer.assert_alive().await;
            peer.leave().await;
            server.assert_clear();
        }
    }
}

#[tokio::test]
async fn negotiation_is_patient_with_those_who_ask_and_ends_with_those_who_end() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.open();
        let mut asked = Vec::new();
        for message in [
            Message::Header,
            Message::Protocol("foo"),
            Message::Protocol("/libp2p/circuit/relay/0.2.0/stop"),
            Message::Protocol(ping::PROTOCOL),
        ] {
            multistream::encode(message, &mut asked);
        }
        peer.write(stream, &asked);
        peer.write(stream, &[2; 32]);
        peer.finish(stream);
        peer.until_finished(stream).await;
        let expected = [
            &agreement("/x")[..20],
            b"\x03na\n\x03na\n",
            &agreement(ping::PROTOCOL)[20..],
            &[2; 32],
        ];
        assert_eq!(peer.ear.streams[&stream].bytes, expected.concat());

        // One that ends before anything was agreed on.
        let stream = peer.open();
        peer.write(stream, &agreement("/x")[..20]);
        peer.finish(stream);
        peer.until_reset(stream).await;
        peer.assert_alive().await;
        peer.leave().await;
        server.assert_clear();
    }
}

#[tokio::test]
async fn identify_is_answered_even_to_one_that_has_ended_its_side() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.propose(identify::PROTOCOL);
        peer.finish(stream);
        peer.until_finished(stream).await;
        peer.until_agreed(stream, identify::PROTOCOL).await;
        let heard = &peer.ear.streams[&stream].bytes;
        let (answer, used) = Identify::decode(heard).expect("an identify message");
        assert!(used < heard.len(), "the record comes behind it");
        assert!(answer.protocols.contains(&HOP_PROTOCOL));
        assert_eq!(answer.agent_version, Some(identify::AGENT));
        peer.leave().await;
        server.assert_clear();
    }
}

fn message(agent: &str, public_key: Option<&[u8]>, addresses: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Identify {
        public_key,
        agent_version: Some(agent),
        listen_addrs: addresses.to_vec(),
        protocols: vec!["/a"],
        ..Identify::default()
    }
    .encode(&mut bytes);
    bytes
}

/// The two ways in which a peer can say who it is.
#[derive(Debug, Clone, Copy)]
enum Saying {
    Asked,
    Pushed,
}

impl Saying {
    async fn stream(self, peer: &mut Peer) -> StreamId {
        match self {
            Self::Pushed => peer.propose(identify::PUSH_PROTOCOL),
            Self::Asked => {
                let asked = |peer: &Peer| {
                    let mut streams = peer.ear.streams.iter();
                    streams
                        .find(|(_, heard)| heard.opened)
                        .map(|(stream, _)| *stream)
                };
                peer.until("question", |peer| asked(peer).is_some()).await;
                let stream = asked(peer).expect("see above");
                peer.write(stream, &agreement(identify::PROTOCOL));
                stream
            }
        }
    }
}

#[tokio::test]
async fn what_a_peer_says_of_itself_is_kept() {
    let identity = Identity::generate();
    let key = identity.public_key_protobuf().to_vec();
    let address = hex("04c0000201060fa1");
    let whole = message("agent/1", Some(&key), &[&[0xff; 5], &address]);
    let nine = [&whole[..], &message("agent/1", None, &[]).repeat(8)].concat();
    for muxer in MUXERS {
        for saying in [Saying::Asked, Saying::Pushed] {
            for said in [&whole, &nine] {
                let server = Server::new();
                let mut peer = server.connect_as(identity.peer_id(), muxer).await;
                let stream = saying.stream(&mut peer).await;
                for piece in said.chunks(100) {
                    peer.write(stream, piece);
                    peer.send().await;
                }
                peer.finish(stream);
                peer.until_finished(stream).await;
                let peerstore = &server.context.peerstore;
                let known = peerstore.get(&peer.id, clock::now()).expect("known");
                assert_eq!(known.agent.as_deref(), Some("agent/1"));
                assert_eq!(known.addresses.len(), 1, "the one that can be read");
                assert_eq!(known.addresses[0].class, Class::Connected);
                peer.assert_alive().await;
                peer.leave().await;
                server.assert_clear();
            }
        }
    }
}

/// go sends its signed record in a message of its own behind the first.
#[tokio::test]
async fn a_signed_record_comes_in_a_second_message_and_is_preferred() {
    let identity = Identity::generate();
    let record = record_of(&identity, 9, &hex("04c0000202060fa1"));
    let mut said = message("agent/1", None, &[&hex("04c0000201060fa1")]);
    Identify {
        signed_peer_record: Some(&record),
        ..Identify::default()
    }
    .encode(&mut said);
    for saying in [Saying::Asked, Saying::Pushed] {
        let server = Server::new();
        let mut peer = server.connect_as(identity.peer_id(), MUXERS[0]).await;
        let stream = saying.stream(&mut peer).await;
        peer.write(stream, &said);
        peer.finish(stream);
        peer.until_finished(stream).await;
        let peerstore = &server.context.peerstore;
        let known = peerstore.get(&peer.id, clock::now()).expect("known");
        assert_eq!(known.record, Some((9, record.clone())));
        let addresses: Vec<_> = known.addresses.iter().collect();
        assert_eq!(addresses.len(), 1);
        assert_eq!(addresses[0].address.to_vec(), hex("04c0000202060fa1"));
        assert_eq!(addresses[0].source, Source::Record);
        peer.leave().await;
        server.assert_clear();
    }
}

/// What goes beyond the bounds is left out and counted; the peer stays.
#[tokio::test]
async fn a_flood_of_addresses_and_protocols_is_cut_and_counted() {
    let addresses: Vec<Vec<u8>> = (0..5_000u32)
        .map(|index| {
            let [.., high, low] = index.to_be_bytes();
            vec![4, 8, 8, high, low, 6, 0x0f, 0xa1]
        })
        .collect();
    let names: Vec<String> = (0..10_000).map(|index| format!("/{index}")).collect();
    let mut said = Vec::new();
    for (addresses, names) in addresses.chunks(625).zip(names.chunks(1_250)) {
        Identify {
            agent_version: Some("agent/1"),
            listen_addrs: addresses[..400].iter().map(Vec::as_slice).collect(),
            protocols: names[..400].iter().map(String::as_str).collect(),
            ..Identify::default()
        }
        .encode(&mut said);
    }
    let server = Server::new();
    let mut peer = server.connect(MUXERS[0]).await;
    let stream = Saying::Pushed.stream(&mut peer).await;
    for piece in said.chunks(16 * 1024) {
        peer.write(stream, piece);
        peer.send().await;
    }
    peer.finish(stream);
    peer.until_finished(stream).await;
    let known = server.context.peerstore.get(&peer.id, clock::now());
    assert_eq!(known.expect("known").addresses.len(), ADDRESSES_MAX);
    let refusals = |reason| server.context.metrics.peerstore.refusals(reason);
    assert_eq!(refusals("addresses"), 8 * 400 - ADDRESSES_MAX as u64);
    assert!(refusals("protocols") > 0);
    peer.assert_alive().await;
    peer.leave().await;
    server.assert_clear();
}

/// The answer to identify carries our own record, which every reader accepts.
#[tokio::test]
async fn our_answer_brings_a_record_that_we_have_signed() {
    let server = Server::new();
    let mut peer = server.connect(MUXERS[0]).await;
    let stream = peer.propose(identify::PROTOCOL);
    peer.until_agreed(stream, identify::PROTOCOL).await;
    peer.until_finished(stream).await;
    let bytes = &peer.ear.streams[&stream].bytes;
    let (first, used) = Identify::decode(bytes).expect("a first message");
    assert_eq!(
        first.signed_peer_record, None,
        "the first is for all readers"
    );
    let (second, _) = Identify::decode(&bytes[used..]).expect("a second message");
    let record = second.signed_peer_record.expect("a record");
    let (envelope, _) = Envelope::decode(record).expect("an envelope");
    let (record, signer) = PeerRecord::open(&envelope).expect("ours");
    assert_eq!(signer.encode_protobuf(), first.public_key.expect("a key"));
    assert_eq!(record.addresses, first.listen_addrs);
    peer.leave().await;
    server.assert_clear();
}

fn record_of(identity: &Identity, seq: u64, address: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    PeerRecord {
        peer_id: &identity.peer_id().to_bytes(),
        seq,
        addresses: vec![address],
    }
    .encode(&mut payload);
    let key = identity.public_key_protobuf();
    envelope::seal(
        PEER_RECORD_DOMAIN,
        PEER_RECORD_TYPE,
        &payload,
        key,
        |bytes| identity.sign(bytes).expect("a signature"),
    )
}

#[tokio::test]
async fn what_is_no_identify_message_resets_its_stream_and_nothing_is_kept() {
    let stranger = Identity::generate().public_key_protobuf().to_vec();
    let (small, foreign) = (message("a", None, &[]), message("a", Some(&stranger), &[]));
    let mut large = Vec::new();
    length_delimited::encode(&[0; 9 * 1024], &mut large);
    let half = &small[..small.len() - 1];
    for (what, said, ends) in [
        ("9 KiB", &large[..], false),
        ("9 KiB announced", &large[..2], false),
        ("ten messages", &small.repeat(10), false),
        ("another peer's key", &foreign, false),
        ("no key at all", &[2, 0x0a, 0xff], false),
        ("a group", &[1, 0x0b], false),
        ("half a message", half, true),
        ("a message and a half", &[&small[..], half].concat(), true),
        ("nothing", &[], true),
    ] {
        for muxer in MUXERS {
            for saying in [Saying::Asked, Saying::Pushed] {
                let server = Server::new();
                let mut peer = server.connect(muxer).await;
                let stream = saying.stream(&mut peer).await;
                peer.write(stream, said);
                if ends {
                    peer.finish(stream);
                }
                peer.until_reset(stream).await;
                let peerstore = &server.context.peerstore;
                let known = peerstore.get(&peer.id, clock::now()).expect("connected");
                assert_eq!((known.agent, known.addresses.len()), (None, 0), "{what}");
                peer.assert_alive().await;
                peer.leave().await;
                server.assert_clear();
            }
        }
    }
}

#[tokio::test]
async fn one_that_does_not_say_who_it_is_stays_connected() {
    for muxer in MUXERS {
        for answer in [&b"\x03na\n"[..], b"\x03ls\n", b"\x00", b""] {
            let server = Server::new();
            let mut peer = server.connect(muxer).await;
            peer.until("question", |peer| !peer.ear.streams.is_empty())
                .await;
            let stream = *peer.ear.streams.keys().next().expect("see above");
            peer.write(stream, &agreement("/x")[..20]);
            peer.write(stream, answer);
            if answer.is_empty() {
                peer.finish(stream);
            }
            peer.until_reset(stream).await;
            peer.assert_alive().await;
            peer.leave().await;
            server.assert_clear();
        }
    }
}

fn connect_to(target: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    encode_connect(target, &mut request);
    request
}

#[tokio::test]
async fn what_is_no_request_is_told_so_and_costs_its_stream_only() {
    let mut answer = Vec::new();
    encode_hop_status(Status::Ok, None, None, &mut answer);
    let mut large = Vec::new();
    length_delimited::encode(&[0; 5_000], &mut large);
    for (what, request, status) in [
        ("5000 bytes", large.clone(), Status::MalformedMessage),
        (
            "5000 bytes announced",
            large[..2].to_vec(),
            Status::MalformedMessage,
        ),
        ("an empty message", vec![0], Status::MalformedMessage),
        ("no type", hex("0328cc01"), Status::MalformedMessage),
        ("broken fields", hex("020aff"), Status::MalformedMessage),
        ("a type of bytes", hex("030a0100"), Status::MalformedMessage),
        (
            "a length that is not minimal",
            hex("8200 0800"),
            Status::MalformedMessage,
        ),
        (
            "a CONNECT to nobody",
            hex("020801"),
            Status::MalformedMessage,
        ),
        (
            "a CONNECT to no peer id",
            connect_to(&[1, 2, 3]),
            Status::MalformedMessage,
        ),
        (
            "a CONNECT to an empty id",
            connect_to(&[]),
            Status::MalformedMessage,
        ),
        ("an answer", answer, Status::UnexpectedMessage),
        (
            "a type that there is not",
            hex("020807"),
            Status::UnexpectedMessage,
        ),
        (
            "a type beyond all",
            hex("0a08ffffffffffffffff01"),
            Status::UnexpectedMessage,
        ),
        (
            "a CONNECT to a stranger",
            connect_to(&PeerId::random().to_bytes()),
            Status::NoReservation,
        ),
    ] {
        for muxer in MUXERS {
            let server = Server::new();
            let mut peer = server.connect(muxer).await;
            let stream = peer.propose(HOP_PROTOCOL);
            peer.write(stream, &request);
            assert_eq!(peer.until_status(stream).await, status, "{what}");
            peer.until_finished(stream).await;
            peer.write(stream, b"and more");
            peer.finish(stream);
            peer.assert_alive().await;
            assert!(!peer.was_reset(stream), "{what}");
            peer.leave().await;
            server.assert_clear();
        }
    }
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte_and_a_reset_may_come_before_it_is_whole() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.open();
        let request = [agreement(HOP_PROTOCOL), hex("020800")].concat();
        for byte in &request {
            peer.write(stream, &[*byte]);
            peer.send().await;
        }
        assert_eq!(peer.until_status(stream).await, Status::Ok);

        for most in 1..request.len() {
            let stream = peer.open();
            peer.write(stream, &request[..most]);
            peer.reset(stream);
        }
        peer.assert_alive().await;
        assert_eq!(server.context.relay.reservations.count(), 1);
        peer.leave().await;
        server.assert_clear();
    }
}
