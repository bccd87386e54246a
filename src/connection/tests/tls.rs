//! Connections over TLS, by hand and with rustls at the other end: new keys, and
//! what the peer is told at the end.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use libp2p_identity::PeerId;
use rustls::{AlertDescription, ClientConnection, Error};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{
    ear::{Ear, Session},
    peer::{Circuit, Keys, MUXERS, PATIENCE, Peer, Server, joined},
};
use crate::{
    connection::Closed,
    connection::carrier::{
        Layers,
        layer::{Decoder, Encoder, LayerError},
        tls::{RecordDecoder, RecordEncoder},
    },
    engine::{
        batch::Batch,
        frames,
        muxer::Muxer,
        record::{Alert, Framing, OpenKey, RecordError, SealKey},
        tls::TlsHandshake,
    },
    identity::Identity,
    wire::relay::Status,
};

/// A key update as it lies on the wire, and a pong of yamux.
const UPDATE_LEN: usize = 5 + 5 + 17;
const PONG_LEN: usize = 5 + 12 + 17;

/// What rustls and we agree on, without a socket.
fn shaken() -> (ClientConnection, SealKey, OpenKey) {
    let identities = [(); 2].map(|()| Identity::generate());
    let [ours, theirs] = identities
        .each_ref()
        .map(|identity| identity.certificate().expect("a key"));
    let mut server = TlsHandshake::server(ours.server(&["libp2p"])).expect("a configuration");
    let name = "peer.invalid".try_into().expect("a name");
    let config = Arc::new(theirs.client(&["libp2p"]));
    let mut client = ClientConnection::new(config, name).expect("a configuration");
    loop {
        let (mut flight, mut answer) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut flight).expect("memory");
        }
        let taken = server.handle_input(&mut flight, &mut answer);
        let (used, finished) = taken.expect("a handshake");
        assert_eq!(used, flight.len());
        let mut answer = &answer[..];
        while !answer.is_empty() {
            client.read_tls(&mut answer).expect("memory");
            client.process_new_packets().expect("a handshake");
        }
        if let Some(finished) = finished {
            return (client, finished.seal, finished.open);
        }
    }
}

/// A connection whose peer's TLS is rustls.
struct Foreign {
    tls: ClientConnection,
    /// What secures the connection within, if TLS is but a layer below it.
    within: Option<(SealKey, Ear)>,
    socket: TcpStream,
    task: JoinSet<Closed>,
    /// Bytes that rustls has opened.
    heard: Vec<u8>,
    /// Lengths of the records that came.
    lengths: Vec<usize>,
    partial: Vec<u8>,
}

impl Foreign {
    async fn connect(server: &Server) -> Self {
        let (tls, seal, open) = shaken();
        Self::over(server, tls, (seal, open), Layers::default(), None).await
    }

    /// With TLS around a connection that Noise secures.
    async fn connect_within(server: &Server) -> Self {
        let (tls, seal, open) = shaken();
        let mut layers = Layers::default();
        let decoder = Decoder::Tls(RecordDecoder::new(open));
        layers.inbound.push(decoder);
        let encoder = Encoder::Tls(RecordEncoder::new(seal));
        layers.outbound.push(encoder);
        let keys = Keys::noise();
        let (seal, open) = keys.peer;
        let within = Some((seal, Ear::new(Muxer::Yamux, open)));
        Self::over(server, tls, keys.server, layers, within).await
    }

    async fn over(
        server: &Server,
        tls: ClientConnection,
        keys: (SealKey, OpenKey),
        layers: Layers,
        within: Option<(SealKey, Ear)>,
    ) -> Self {
        let accepted = server.accept(PeerId::random(), Muxer::Yamux, keys, layers, Vec::new());
        let (socket, task) = accepted.await;
        Self {
            tls,
            within,
            socket,
            task,
            heard: Vec::new(),
            lengths: Vec::new(),
            partial: Vec::new(),
        }
    }

    /// Asks for a sign of life, behind whatever rustls wants to say.
    async fn ping(&mut self, value: u32) {
        let mut batch = Batch::default();
        frames::ping(value, &mut batch);
        let said = match &mut self.within {
            Some((seal, _)) => batch.seal(seal).expect("a fresh key").0,
            None => batch.into_buffer().split_off(Framing::NOISE.header()),
        };
        self.tls.writer().write_all(&said).expect("memory");
        self.flush().await;
    }

    /// Sends what rustls has to say.
    async fn flush(&mut self) {
        let mut flight = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut flight).expect("memory");
        }
        self.socket.write_all(&flight).await.expect("open");
    }

    /// Reads once; whether there was anything.
    async fn listen(&mut self) -> Result<bool, Error> {
        let mut buffer = vec![0; 64 * 1024];
        let read = timeout(PATIENCE, self.socket.read(&mut buffer)).await;
        // A reset behind an alert is an end like any other.
        let count = read.expect("the server speaks").unwrap_or(0);
        self.partial.extend_from_slice(&buffer[..count]);
        while let Ok(Some(length)) = Framing::TLS.announced(&self.partial) {
            if self.partial.len() < length {
                break;
            }
            self.lengths.push(length);
            let mut record = &self.partial[..length];
            while !record.is_empty() {
                self.tls.read_tls(&mut record).expect("memory");
                self.tls.process_new_packets()?;
            }
            self.partial.drain(..length);
            // It says so when there is nothing to read.
            let _ = self.tls.reader().read_to_end(&mut self.heard);
        }
        if let Some((_, ear)) = &mut self.within {
            ear.hear(&std::mem::take(&mut self.heard));
        }
        Ok(count > 0)
    }

    async fn until_pong(&mut self, value: u32) {
        let mut pong = vec![0, 2, 0, 2, 0, 0, 0, 0];
        pong.extend(value.to_be_bytes());
        let is_there = |peer: &Self| match &peer.within {
            Some((_, ear)) => ear.session.contains(&Session::Pong(value)),
            None => peer.heard.ends_with(&pong),
        };
        while !is_there(self) {
            assert!(self.listen().await.expect("records"), "closed");
        }
        self.heard.clear();
    }

    /// Listens to the end: what the server says of it, and why it closed.
    async fn until_closed(mut self) -> (Result<(), Error>, Closed) {
        let told = loop {
            match self.listen().await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (told, joined(&mut self.task).await)
    }
}

#[tokio::test]
async fn a_peer_that_asks_for_a_new_key_gets_it_in_front_of_its_answer() {
    let server = Server::new();
    let mut peer = Foreign::connect(&server).await;
    peer.ping(1).await;
    peer.until_pong(1).await;
    for round in 2..6 {
        peer.lengths.clear();
        peer.tls.refresh_traffic_keys().expect("a connection");
        peer.ping(round).await;
        peer.until_pong(round).await;
        assert_eq!(peer.lengths, [UPDATE_LEN, PONG_LEN]);
        assert!(!peer.tls.wants_write(), "it has not been asked in return");
    }
    drop(peer.socket);
    assert_eq!(joined(&mut peer.task).await, Closed::Peer);
    server.assert_clear();
}

/// In secure WebSocket it is the layer below that has the key.
#[tokio::test]
async fn the_tls_around_a_connection_renews_its_key_and_tells_what_was_wrong() {
    let server = Server::new();
    let mut peer = Foreign::connect_within(&server).await;
    peer.ping(1).await;
    peer.until_pong(1).await;
    for round in 2..6 {
        peer.lengths.clear();
        peer.tls.refresh_traffic_keys().expect("a connection");
        // With an answer, and with nothing else to be said.
        if round % 2 == 0 {
            peer.ping(round).await;
            peer.until_pong(round).await;
            assert_eq!(peer.lengths.len(), 2);
        } else {
            peer.flush().await;
            while peer.lengths.is_empty() {
                assert!(peer.listen().await.expect("records"), "closed");
            }
            assert_eq!(peer.lengths.len(), 1);
        }
        assert_eq!(peer.lengths[0], UPDATE_LEN);
    }
    let no_tag = [&[23, 3, 3, 0, 20][..], &[0; 20]].concat();
    peer.socket.write_all(&no_tag).await.expect("open");
    let (told, closed) = peer.until_closed().await;
    let alert = AlertDescription::BadRecordMac;
    assert_eq!(told, Err(Error::AlertReceived(alert)));
    let reason = LayerError::Tls(RecordError::Authentication);
    assert_eq!(closed, Closed::Layer(reason));
    server.assert_clear();
}

/// Also behind a record that ends the connection lie bytes that nobody reads.
#[tokio::test]
async fn rustls_is_told_what_was_wrong() {
    let server = Server::new();
    let no_tag = [&[23, 3, 3, 0, 20][..], &[0; 20]].concat();
    let flood = [&no_tag[..], &[0; 400 * 1024]].concat();
    for (said, alert, reason) in [
        (
            no_tag,
            AlertDescription::BadRecordMac,
            RecordError::Authentication,
        ),
        (
            flood,
            AlertDescription::BadRecordMac,
            RecordError::Authentication,
        ),
        (
            vec![23, 3, 3, 0x41, 1],
            AlertDescription::RecordOverflow,
            RecordError::TooLarge,
        ),
        (
            vec![22, 3, 3, 0, 1, 0],
            AlertDescription::UnexpectedMessage,
            RecordError::Unexpected,
        ),
    ] {
        let mut peer = Foreign::connect(&server).await;
        peer.ping(1).await;
        peer.until_pong(1).await;
        // Not all of it is taken.
        let _ = peer.socket.write_all(&said).await;
        let (told, closed) = peer.until_closed().await;
        assert_eq!(told, Err(Error::AlertReceived(alert)));
        assert_eq!(closed, Closed::Record(reason));
    }
    server.assert_clear();
}

#[tokio::test]
async fn every_other_end_says_that_nothing_was_cut_off() {
    let server = Server::new();
    let mut peer = server.connect_by(Muxer::Yamux, Keys::tls()).await;
    // A stream of the server's number.
    peer.say(&[0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]);
    let closed = peer.until_closed().await;
    assert!(matches!(closed, Closed::Demux(_)), "{closed}");
    assert_eq!(peer.ear.alert, Some(0));
    assert_eq!(peer.ear.session, [Session::GoAway(1)]);

    // To what the peer itself calls an error, TLS has no answer.
    let mut peer = server.connect_by(Muxer::Yamux, Keys::tls()).await;
    let mut alert = Vec::new();
    let failed = RecordError::Authentication.alert().expect("words for it");
    peer.seal.close(failed, &mut alert).expect("a fresh key");
    peer.send_raw(&alert).await;
    let closed = peer.until_closed().await;
    assert_eq!(closed, Closed::Record(RecordError::Alert(20)));
    assert_eq!(peer.ear.alert, None);
    server.assert_clear();
}

#[tokio::test]
async fn a_worn_key_is_replaced_and_the_peer_reads_on() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut keys = Keys::tls();
        keys.server.0.wear();
        keys.peer.1.wear();
        let mut peer = server.connect_by(muxer, keys).await;
        for _ in 0..3 {
            peer.assert_alive().await;
        }
        assert_eq!(peer.ear.renewals, 1);
        assert_eq!(peer.leave().await, Closed::Peer);
        server.assert_clear();
    }
}

/// What a peer has not ended itself, in the words of the muxer, was cut off:
/// with TLS's goodbye and without it.
#[tokio::test]
async fn a_connection_that_ends_is_no_end_of_its_streams() {
    for says_so in [true, false] {
        let server = Server::new();
        let mut source = server.connect_by(Muxer::Yamux, Keys::tls()).await;
        let mut target = server.connect_by(Muxer::Yamux, Keys::tls()).await;
        let reserved = target.reserve();
        assert_eq!(target.until_status(reserved).await, Status::Ok);
        let near = source.connect(target.id);
        source.send().await;
        let far = target.until_offered().await;
        target.accept(far);
        target.send().await;
        assert_eq!(source.until_status(near).await, Status::Ok);
        let mut circuit = Circuit {
            peers: [source, target],
            streams: [near, far],
        };
        let [source, target] = &mut circuit.peers;
        source.write(near, b"first half");
        source.send().await;
        assert_eq!(target.until_bytes(far, 10).await, b"first half");
        // The other direction has ended as it should.
        target.finish(far);
        target.send().await;
        source.until_finished(near).await;
        assert!(!target.was_reset(far));

        let [source, mut target] = circuit.peers;
        hang_up(source, says_so).await;
        target.until_reset(far).await;
        let heard = target.heard(far).expect("see above");
        assert!(!heard.finished && heard.bytes.is_empty());
        assert_eq!(target.leave().await, Closed::Peer);
        server.assert_clear();
    }
}

/// Ends a peer's connection, with what TLS has to say in front of it or not.
async fn hang_up(mut peer: Peer, says_so: bool) {
    if says_so {
        let mut bye = Vec::new();
        let closed = peer.seal.close(Alert::CLOSE_NOTIFY, &mut bye);
        closed.expect("a fresh key");
        peer.send_raw(&bye).await;
        assert_eq!(peer.until_closed().await, Closed::Peer);
    } else {
        peer.socket.shutdown().await.expect("open");
        assert_eq!(peer.until_closed().await, Closed::Peer);
    }
}
