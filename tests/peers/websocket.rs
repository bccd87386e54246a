//! Peers that come over WebSocket: unmodified Swarms, and a client of another
//! making for what a Swarm never says.

use futures::{AsyncReadExt as _, AsyncWriteExt as _, SinkExt as _, StreamExt as _};
use libp2p::StreamProtocol;
use libp2p::multiaddr::Protocol;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::peer::{Kind, Muxer, Peer, meet};
use crate::server::Server;
use crate::{PROMPT, within};

const LISTEN: &str = r#"listen.addresses=["/ip4/127.0.0.1/tcp/0/ws"]"#;
const UNLIMITED: &str = "relay.circuit_bytes_max=0";
const BULK: StreamProtocol = StreamProtocol::new("/waystation-test/web-bulk");

over_both_muxers! {
    bytes_pass_in_frames_of_any_size
}

async fn bytes_pass_in_frames_of_any_size(muxer: Muxer) {
    let server = Server::start(&[LISTEN, UNLIMITED]);
    let (source, target) = meet(&server, muxer).await;
    let mut offered = target.streams().accept(BULK).unwrap();
    let opened = source.streams().open_stream(target.id(), BULK).await;
    let mut near = opened.unwrap();
    let (_, far) = offered.next().await.unwrap();
    let sizes = [1, 100, 126, 60_000, 70_000, 3 << 20];
    let work = async {
        let (mut reader, mut writer) = far.split();
        let echo = async {
            futures::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.close().await.unwrap();
        };
        let talk = async {
            for (index, size) in sizes.into_iter().enumerate() {
                let said = vec![u8::try_from(index).unwrap(); size];
                let mut heard = vec![0; size];
                let (mut from, mut to) = (&mut near).split();
                let (sent, read) = futures::join!(to.write_all(&said), from.read_exact(&mut heard));
                sent.unwrap();
                read.unwrap();
                assert!(said == heard, "{size} bytes");
            }
            near.close().await.unwrap();
        };
        futures::join!(echo, talk);
    };
    within(2 * PROMPT, "an echo of a few MiB", work).await;
}

/// A client of another making, connected to the server.
async fn client(server: &Server) -> WebSocketStream<TcpStream> {
    let port = server.address().iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let socket = TcpStream::connect(("127.0.0.1", port.unwrap()))
        .await
        .unwrap();
    let request = "ws://relay.example/some/path?and=query";
    let (client, answer) = tokio_tungstenite::client_async(request, socket)
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    client
}

async fn next(client: &mut WebSocketStream<TcpStream>) -> Option<Result<Message, Error>> {
    within(PROMPT, "an answer", client.next()).await
}

#[tokio::test]
async fn text_fragments_and_pings_are_taken_and_a_close_is_confirmed() {
    let server = Server::start(&[LISTEN]);
    let mut client = client(&server).await;
    let part = |payload: &'static [u8], last| {
        let opcode = OpCode::Data(if payload.starts_with(b"\x13") {
            Data::Binary
        } else {
            Data::Continue
        });
        Message::Frame(Frame::message(payload, opcode, last))
    };
    client.send(part(b"\x13/multi", false)).await.unwrap();
    client.send(Message::Ping("there?".into())).await.unwrap();
    client.send(part(b"stream", true)).await.unwrap();
    client.send(Message::Text("/1.0.0\n".into())).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.push(next(&mut client).await.unwrap().unwrap());
    }
    assert!(heard.contains(&Message::Pong("there?".into())), "{heard:?}");
    let token = Message::Binary(b"\x13/multistream/1.0.0\n"[..].into());
    assert!(heard.contains(&token), "{heard:?}");

    let close = CloseFrame {
        code: CloseCode::Away,
        reason: "".into(),
    };
    client.close(Some(close.clone())).await.unwrap();
    let confirmed = next(&mut client).await.unwrap().unwrap();
    assert_eq!(confirmed, Message::Close(Some(close)));
    server
        .until(r#"waystation_upgrades_failed_total{cause="eof"}"#, 1.0)
        .await;
}

#[tokio::test]
async fn an_oversize_frame_closes_its_connection_and_no_other() {
    let server = Server::start(&[LISTEN]);
    let mut peer = Peer::new(Kind::Client, Muxer::Yamux);
    peer.connect(&server).await;
    let mut client = client(&server).await;
    // It may be cut off while it still writes.
    let _ = client
        .send(Message::Binary(vec![0; (1 << 20) + 1].into()))
        .await;
    server
        .until(
            r#"waystation_upgrades_failed_total{cause="websocket"}"#,
            1.0,
        )
        .await;
    peer.until_pinged(server.peer_id(), 2).await;
}
