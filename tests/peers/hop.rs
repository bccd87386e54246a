//! Circuit relay v2 by hand, over a peer's streams: what a relay client would
//! keep to itself.
//!
//! The messages are written and read here field by field, from the
//! specification and not with the program's own codec.

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use libp2p_stream::IncomingStreams;

use crate::PROMPT;
use crate::peer::{Kind, Peer, Way};
use crate::server::Server;

pub(crate) const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
pub(crate) const STOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop");

/// Status codes of the specification.
pub(crate) const OK: u64 = 100;
pub(crate) const RESERVATION_REFUSED: u64 = 200;
pub(crate) const RESOURCE_LIMIT_EXCEEDED: u64 = 201;
pub(crate) const PERMISSION_DENIED: u64 = 202;
pub(crate) const CONNECTION_FAILED: u64 = 203;
pub(crate) const NO_RESERVATION: u64 = 204;
pub(crate) const MALFORMED_MESSAGE: u64 = 400;
pub(crate) const UNEXPECTED_MESSAGE: u64 = 401;

/// `HopMessage.type` and `StopMessage.type`.
const HOP_RESERVE: u64 = 0;
const HOP_CONNECT: u64 = 1;
const HOP_STATUS: u64 = 2;
const STOP_CONNECT: u64 = 0;
const STOP_STATUS: u64 = 1;

/// What the relay says to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u64,
    pub(crate) reservation: Option<Reservation>,
    pub(crate) limit: Option<Limit>,
}

#[derive(Debug)]
pub(crate) struct Reservation {
    /// In seconds since 1970.
    pub(crate) expire: u64,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) voucher: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// In seconds.
    pub(crate) duration: u64,
    /// In bytes, each direction.
    pub(crate) data: u64,
}

/// Asks for a reservation.
pub(crate) async fn reserve(peer: &Peer, server: &Server) -> Answer {
    ask(peer, server, &message(&[(1, Value::Number(HOP_RESERVE))]))
        .await
        .0
}

/// Reserves where nothing stands in the way.
pub(crate) async fn reserved(peer: &Peer, server: &Server) {
    assert_eq!(reserve(peer, server).await.status, OK);
}

/// Asks for a circuit to `target`; with the answer comes what would be the
/// circuit.
pub(crate) async fn connect(peer: &Peer, server: &Server, target: PeerId) -> (Answer, Stream) {
    ask(peer, server, &connect_message(target)).await
}

/// Asks for a circuit, and sends `early` on it without waiting for the answer.
pub(crate) async fn connect_and_send(
    peer: &Peer,
    server: &Server,
    target: PeerId,
    early: &[u8],
) -> (Answer, Stream) {
    let mut bytes = connect_message(target);
    bytes.extend_from_slice(early);
    ask(peer, server, &bytes).await
}

/// Sends bytes where a request is due.
pub(crate) async fn ask(peer: &Peer, server: &Server, bytes: &[u8]) -> (Answer, Stream) {
    crate::within(PROMPT, "hop answers", async {
        let opened = peer.streams().open_stream(server.peer_id(), HOP).await;
        let mut stream = opened.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let answer = read_message(&mut stream).await;
        assert_eq!(number(&answer, 1), Some(HOP_STATUS), "{answer:?}");
        let limit = bytes_of(&answer, 4).map(|limit| {
            let limit = fields(limit);
            Limit {
                duration: number(&limit, 1).unwrap_or(0),
                data: number(&limit, 2).unwrap_or(0),
            }
        });
        let answer = Answer {
            status: number(&answer, 5).expect("a status"),
            reservation: bytes_of(&answer, 3).map(reservation),
            limit,
        };
        (answer, stream)
    })
    .await
}

/// A well-formed message that is not a request.
pub(crate) fn status_message() -> Vec<u8> {
    message(&[(1, Value::Number(HOP_STATUS)), (5, Value::Number(OK))])
}

/// Takes the circuits that are offered to a peer.
pub(crate) struct Target {
    offers: IncomingStreams,
}

impl Target {
    pub(crate) fn new(peer: &Peer) -> Self {
        let offers = peer.streams().accept(STOP).unwrap();
        Self { offers }
    }

    /// Takes the next circuit: who asks, the limit told, and the circuit.
    pub(crate) async fn accept(&mut self) -> (PeerId, Option<Limit>, Stream) {
        let (source, limit, mut stream) = self.offered().await;
        answer_offer(&mut stream, OK).await;
        (source, limit, stream)
    }

    /// Turns down the next circuit with this status.
    pub(crate) async fn refuse(&mut self, status: u64) {
        let (_, _, mut stream) = self.offered().await;
        answer_offer(&mut stream, status).await;
        stream.close().await.unwrap();
    }

    /// Says nothing to the next circuit.
    pub(crate) async fn hold(&mut self) -> Stream {
        self.offered().await.2
    }

    async fn offered(&mut self) -> (PeerId, Option<Limit>, Stream) {
        crate::within(PROMPT, "a circuit is offered", async {
            let (_, mut stream) = self.offers.next().await.unwrap();
            let offer = read_message(&mut stream).await;
            assert_eq!(number(&offer, 1), Some(STOP_CONNECT), "{offer:?}");
            let source = fields(bytes_of(&offer, 2).expect("a source"));
            let source = PeerId::from_bytes(bytes_of(&source, 1).unwrap()).unwrap();
            let limit = bytes_of(&offer, 3).map(|limit| {
                let limit = fields(limit);
                Limit {
                    duration: number(&limit, 1).unwrap_or(0),
                    data: number(&limit, 2).unwrap_or(0),
                }
            });
            (source, limit, stream)
        })
        .await
    }
}

/// Two peers connected to the relay, the second of which can be reached.
pub(crate) async fn pair(server: &Server, way: impl Into<Way>) -> (Peer, Peer, Target) {
    let way = way.into();
    let source = connected(server, way).await;
    let target = connected(server, way).await;
    reserved(&target, server).await;
    let offers = Target::new(&target);
    (source, target, offers)
}

/// A peer connected to the relay.
pub(crate) async fn connected(server: &Server, way: impl Into<Way>) -> Peer {
    let mut peer = Peer::new(Kind::Bare, way);
    peer.connect(server).await;
    peer
}

/// A circuit between two peers, the target of which has reserved.
pub(crate) async fn circuit(
    source: &Peer,
    server: &Server,
    target: &Peer,
    offers: &mut Target,
) -> (Stream, Stream) {
    let (asked, taken) = futures::join!(connect(source, server, target.id()), offers.accept());
    assert_eq!(asked.0.status, OK);
    assert_eq!(taken.0, source.id());
    assert_eq!(asked.0.limit, taken.1);
    (asked.1, taken.2)
}

/// Reads until the circuit ends, in whatever way; what came before that.
pub(crate) async fn drain(stream: &mut Stream) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    crate::within(PROMPT, "the circuit ends", async {
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            received.extend_from_slice(&buffer[..count]);
        }
    })
    .await;
    received
}

/// Waits until nothing can be sent on the circuit any more: it was reset and
/// not only ended from the other side.
pub(crate) async fn until_reset(stream: &mut Stream) {
    crate::within(PROMPT, "the circuit is reset", async {
        while stream.write_all(&[0]).await.is_ok() && stream.flush().await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Sends one way what then arrives on the other.
pub(crate) async fn carries(near: &mut Stream, far: &mut Stream, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    let both = async {
        futures::try_join!(
            async {
                near.write_all(bytes).await?;
                near.flush().await
            },
            far.read_exact(&mut received)
        )
    };
    crate::within(PROMPT, "the circuit carries", both)
        .await
        .unwrap();
    assert!(received == bytes, "not what was sent");
}

/// What the voucher says, if it is signed by `signer` for the purpose: who
/// relays, for whom, until when.
pub(crate) fn voucher(bytes: &[u8], signer: PeerId) -> (PeerId, PeerId, u64) {
    let envelope = libp2p::core::SignedEnvelope::from_protobuf_encoding(bytes).unwrap();
    let (payload, key) = envelope
        .payload_and_signing_key("libp2p-relay-rsvp".to_owned(), &[3, 2])
        .unwrap();
    assert_eq!(key.to_peer_id(), signer);
    let payload = fields(payload);
    (
        PeerId::from_bytes(bytes_of(&payload, 1).unwrap()).unwrap(),
        PeerId::from_bytes(bytes_of(&payload, 2).unwrap()).unwrap(),
        number(&payload, 3).unwrap(),
    )
}

fn connect_message(target: PeerId) -> Vec<u8> {
    let mut peer = Vec::new();
    put(&mut peer, 1, &Value::Bytes(target.to_bytes()));
    message(&[(1, Value::Number(HOP_CONNECT)), (2, Value::Bytes(peer))])
}

async fn answer_offer(stream: &mut Stream, status: u64) {
    let answer = message(&[(1, Value::Number(STOP_STATUS)), (4, Value::Number(status))]);
    stream.write_all(&answer).await.unwrap();
    stream.flush().await.unwrap();
}

fn reservation(bytes: &[u8]) -> Reservation {
    let all = fields(bytes);
    let addresses = all.iter().filter_map(|field| match field {
        (2, Value::Bytes(address)) => Some(Multiaddr::try_from(address.clone()).unwrap()),
        _ => None,
    });
    Reservation {
        expire: number(&all, 1).unwrap(),
        addresses: addresses.collect(),
        voucher: bytes_of(&all, 3).unwrap().to_vec(),
    }
}

#[derive(Debug, Clone)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

fn message(fields: &[(u64, Value)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (number, value) in fields {
        put(&mut body, *number, value);
    }
    let mut message = Vec::new();
    put_varint(&mut message, body.len() as u64);
    message.append(&mut body);
    message
}

fn put(out: &mut Vec<u8>, number: u64, value: &Value) {
    match value {
        Value::Number(value) => {
            put_varint(out, number << 3);
            put_varint(out, *value);
        }
        Value::Bytes(bytes) => {
            put_varint(out, number << 3 | 2);
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Reads one message and nothing behind it, which is the circuit's.
async fn read_message(stream: &mut Stream) -> Vec<(u64, Value)> {
    let mut prefix = Vec::new();
    while prefix.last().is_none_or(|byte| byte & 0x80 != 0) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        prefix.push(byte[0]);
    }
    let length = take_varint(&mut prefix.as_slice());
    let mut body = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    fields(&body)
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Value)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes);
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)).unwrap();
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Value::Bytes(value.to_vec())
            }
            other => panic!("wire type {other} is not in these messages"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a whole varint");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a varint of more than 64 bits");
}

fn number(fields: &[(u64, Value)], wanted: u64) -> Option<u64> {
    fields.iter().find_map(|field| match field {
        (number, Value::Number(value)) if *number == wanted => Some(*value),
        _ => None,
    })
}

fn bytes_of(fields: &[(u64, Value)], wanted: u64) -> Option<&[u8]> {
    fields.iter().find_map(|field| match field {
        (number, Value::Bytes(value)) if *number == wanted => Some(value.as_slice()),
        _ => None,
    })
}
