//! A server without listener and handshake, and peers that say exactly what a
//! test wants said.
//!
//! Keys are known beforehand, so a test starts where the handshake ended. A
//! peer keeps everything that it hears; what does not arrive within
//! [`PATIENCE`] fails the test.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use libp2p_identity::PeerId;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::ear::{Ear, Heard};
use crate::{
    clock,
    config::{AccessLists, Config, Transport},
    connection::carrier::Layers,
    connection::{Closed, Connection, Context, Handover, Remote, pool},
    engine::{
        batch::Batch,
        demux::{Side, StreamId},
        frames::{self, Greeting},
        muxer::Muxer,
        record::{HEADER_LEN, OpenKey, SealKey, Secret, Suite, TAG_LEN},
    },
    identity::Identity,
    metrics::{self, ConnectionLabels, Metrics},
    service::{Menu, hop::Relay, identify::Answer, ping},
    state::{
        access::Access,
        addresses::Addresses,
        circuits::Circuits,
        connections::{Connections, Marks},
        limits::{Buffers, Limits, StreamLimits},
        peerstore::Peerstore,
        reservations::Reservations,
    },
    wire::{
        multistream::{self, Message},
        relay::{
            HOP_PROTOCOL, HopMessage, STOP_PROTOCOL, Status, StopMessage, encode_connect,
            encode_reserve, encode_stop_status,
        },
    },
};

/// How long a test waits for what must come. Long for a busy machine; no test
/// that passes waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const MUXERS: [Muxer; 2] = [Muxer::Yamux, Muxer::Mplex];

/// Every choice of muxers for the source and the target of a circuit.
pub(super) const PAIRS: [[Muxer; 2]; 4] = [
    [Muxer::Yamux, Muxer::Yamux],
    [Muxer::Yamux, Muxer::Mplex],
    [Muxer::Mplex, Muxer::Yamux],
    [Muxer::Mplex, Muxer::Mplex],
];

const TO_SERVER: [u8; 32] = [1; 32];
const FROM_SERVER: [u8; 32] = [2; 32];

/// What secures a connection: one key to seal and one to open, for each end.
pub(super) struct Keys {
    pub(super) server: (SealKey, OpenKey),
    pub(super) peer: (SealKey, OpenKey),
}

impl Keys {
    /// As a Noise handshake leaves them.
    pub(super) fn noise() -> Self {
        Self {
            server: (SealKey::new(FROM_SERVER), OpenKey::new(TO_SERVER)),
            peer: (SealKey::new(TO_SERVER), OpenKey::new(FROM_SERVER)),
        }
    }

    /// As a TLS handshake leaves them.
    pub(super) fn tls() -> Self {
        const SUITE: Suite = Suite::Aes128;
        let [to, from] = [TO_SERVER, FROM_SERVER]
            .map(|bytes| Secret::new(&bytes).expect("as long as the suite has them"));
        Self {
            server: (SealKey::tls(SUITE, &from), OpenKey::tls(SUITE, &to)),
            peer: (SealKey::tls(SUITE, &to), OpenKey::tls(SUITE, &from)),
        }
    }
}

/// Stands still unless told: a paused clock of tokio's own goes forward
/// whenever it sees nothing to do, also while bytes are on their way.
pub(super) struct Stopped {
    running: SyncSender<()>,
}

impl Stopped {
    /// Stops the clock of this test, for at most [`PATIENCE`] of real time.
    pub(super) fn clock() -> Self {
        tokio::time::pause();
        let (running, ended) = sync_channel(0);
        // Time does not go forward by itself while something blocks.
        tokio::task::spawn_blocking(move || ended.recv_timeout(PATIENCE));
        Self { running }
    }

    /// Goes forward, second by second, so that everybody keeps up.
    pub(super) async fn advance(&self, seconds: u32) {
        for _ in 0..seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            breathe().await;
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let stood = !matches!(
            self.running.try_send(()),
            Err(TrySendError::Disconnected(()))
        );
        assert!(
            stood || std::thread::panicking(),
            "real time was waited for"
        );
    }
}

/// Has the server do what it can do now.
async fn breathe() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// What connections share, without a listener.
pub(super) struct Server {
    pub(super) context: Arc<Context>,
    pub(super) buffers: Arc<Buffers>,
    limits: Arc<Limits>,
    /// What the kernel holds of a connection in each direction. Little, so that
    /// a peer that does not read is felt soon; but less than a segment of
    /// loopback makes the kernel wait, in real time, before it sends on.
    pub(super) kernel_bytes: usize,
}

impl Server {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let identity = Identity::generate();
        let metrics = Metrics::new();
        let bound = "/ip4/203.0.113.1/tcp/4001".parse().expect("an address");
        let addresses = Addresses::new(&[bound], &[], identity.peer_id());
        let connections = Connections::new(Marks::new(&config.connections), clock::now());
        let menu = Menu::new(true);
        let answer = Answer::new(&identity, &menu, &addresses.told(), clock::unix_nanos());
        let buffers = Buffers::new(config.connections.buffers_max);
        pool::observe_pool(Arc::clone(&metrics.pools), Arc::clone(&buffers));
        let relay = Relay {
            access: Arc::new(Access::new(
                &config,
                &AccessLists::default(),
                &metrics.access,
            )),
            reservations: Reservations::new(
                &config,
                Arc::clone(&connections),
                Arc::clone(&metrics.relay),
            ),
            circuits: Circuits::new(
                &config,
                Arc::clone(&connections),
                Arc::clone(&metrics.circuits),
            )
            .with_buffers(Arc::clone(&buffers)),
            reserve_metrics: Arc::clone(&metrics.relay),
            connect_metrics: Arc::clone(&metrics.circuits),
            identity,
            addresses,
        };
        let streams = StreamLimits::new(&config);
        let peerstore = Peerstore::new(
            &config.peerstore,
            Arc::clone(&metrics.peerstore),
            clock::now(),
        );
        Self {
            context: Arc::new(Context::new(
                menu,
                answer,
                relay,
                connections,
                peerstore,
                metrics,
                streams,
            )),
            buffers,
            limits: Limits::new(&config.connections),
            kernel_bytes: 32 * 1024,
        }
    }

    /// A connection of a peer that nobody has seen before.
    pub(super) async fn connect(&self, muxer: Muxer) -> Peer {
        self.connect_as(PeerId::random(), muxer).await
    }

    /// A connection of this peer.
    pub(super) async fn connect_as(&self, id: PeerId, muxer: Muxer) -> Peer {
        self.connect_with(id, muxer, Vec::new()).await
    }

    /// A connection that these keys secure.
    pub(super) async fn connect_by(&self, muxer: Muxer, keys: Keys) -> Peer {
        self.connect_over(PeerId::random(), muxer, keys, Vec::new())
            .await
    }

    /// A connection of this peer, with plaintext that came glued to its
    /// handshake.
    pub(super) async fn connect_with(&self, id: PeerId, muxer: Muxer, plaintext: Vec<u8>) -> Peer {
        self.connect_over(id, muxer, Keys::noise(), plaintext).await
    }

    async fn connect_over(&self, id: PeerId, muxer: Muxer, keys: Keys, plaintext: Vec<u8>) -> Peer {
        let layers = Layers::default();
        let accepted = self.accept(id, muxer, keys.server, layers, plaintext);
        let (socket, task) = accepted.await;
        let (seal, open) = keys.peer;
        Peer {
            id,
            muxer,
            socket,
            batch: Batch::framed(seal.framing()),
            seal,
            unsent: Vec::new(),
            opened: 0,
            generous: true,
            ear: Ear::new(muxer, open),
            ended: false,
            task,
        }
    }

    /// A socket whose other end is a connection with these keys, and the task
    /// that runs it.
    pub(super) async fn accept(
        &self,
        id: PeerId,
        muxer: Muxer,
        (seal, open): (SealKey, OpenKey),
        layers: Layers,
        plaintext: Vec<u8>,
    ) -> (TcpStream, JoinSet<Closed>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .set_recv_buffer_size(u32::try_from(self.kernel_bytes).expect("a size"))
            .expect("a size");
        let (socket, accepted) = tokio::join!(socket.connect(address), listener.accept());
        let (socket, (accepted, remote)) = (socket.expect("loopback"), accepted.expect("loopback"));
        SockRef::from(&accepted)
            .set_send_buffer_size(self.kernel_bytes)
            .expect("a size");
        for socket in [&socket, &accepted] {
            socket.set_nodelay(true).expect("an option");
        }
        // From where limits by address apply.
        let address = SocketAddr::from(([198, 51, 100, 7], remote.port()));
        let now = clock::now();
        let permit = self
            .limits
            .admit(address, false, now)
            .expect("within the limits");
        let guard = self.context.metrics.connections.opened(labels(muxer), now);
        let (mut connection, leftover) = Connection::new(
            Arc::clone(&self.context),
            Remote {
                peer: id,
                address,
                transport: Transport::Tcp,
            },
            Handover {
                socket: accepted.into(),
                layers,
                muxer,
                side: Side::Listener,
                seal,
                open,
                plaintext,
                ciphertext: Vec::new(),
            },
            permit.authenticated(&id, false).expect("within the limits"),
            guard,
        );
        let mut task = JoinSet::new();
        task.spawn(async move {
            let closed = match connection.begin(leftover) {
                Ok(()) => connection.run().await,
                Err(closed) => closed,
            };
            connection.end(closed);
            closed
        });
        (socket, task)
    }

    /// A circuit that its target has been offered and has not answered.
    pub(super) async fn offer(&self, muxers: [Muxer; 2]) -> Circuit {
        let mut source = self.connect(muxers[0]).await;
        let mut target = self.connect(muxers[1]).await;
        let reserved = target.reserve();
        assert_eq!(target.until_status(reserved).await, Status::Ok);
        let stream = source.connect(target.id);
        source.send().await;
        let offered = target.until_offered().await;
        Circuit {
            peers: [source, target],
            streams: [stream, offered],
        }
    }

    /// A running circuit.
    pub(super) async fn circuit(&self, muxers: [Muxer; 2]) -> Circuit {
        let mut circuit = self.offer(muxers).await;
        let Circuit {
            peers: [source, target],
            streams,
        } = &mut circuit;
        target.accept(streams[1]);
        target.send().await;
        assert_eq!(source.until_status(streams[0]).await, Status::Ok);
        circuit
    }

    /// Has these, the last of the server's peers, leave.
    pub(super) async fn leave(&self, peers: [Peer; 2]) {
        for peer in peers {
            peer.leave().await;
        }
        self.assert_clear();
    }

    /// Bytes read from all connections, as the metrics tell it.
    pub(super) fn received_bytes(&self) -> String {
        let text = self.context.metrics.render();
        let line = text
            .lines()
            .find(|line| line.starts_with("waystation_ingress_received_bytes_total "));
        line.expect("a series of ours").to_owned()
    }

    /// That no connection has left anything behind.
    pub(super) fn assert_clear(&self) {
        let context = &self.context;
        assert_eq!(context.connections.peers(), 0, "peers");
        assert!(context.connections.is_clear(), "connections");
        assert!(context.relay.circuits.is_clear(), "circuits");
        assert!(context.relay.reservations.is_clear(), "reservations");
        let peerstore = &context.peerstore;
        // What is not connected any more expires.
        let later = clock::now() + Duration::from_secs(7 * 24 * 60 * 60);
        for stripe in 0..peerstore.stripes() {
            peerstore.sweep(stripe, later);
        }
        assert!(peerstore.is_empty(), "peers that count as connected");
        assert_eq!(peerstore.usage().bytes.0, 0, "what is left of them");
        assert_eq!(self.limits.usage().total.taken, 0, "connection permits");
        assert_eq!(self.limits.usage().peers, 0, "peers with connections");
        assert!(context.streams.is_clear(), "stream permits");
        let buffers = self.buffers.taken() + pool::untold();
        assert_eq!(buffers, 0, "bytes in buffers");
        for gauge in [
            "waystation_streams",
            "waystation_connections",
            "waystation_connections_by_protocol",
            "waystation_relay_circuits",
            "waystation_relay_reservations",
        ] {
            assert_eq!(self.sum(gauge), 0.0, "{gauge}");
        }
    }

    /// The sum of a series over its labels.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let text = self.context.metrics.render();
        let samples: Vec<f64> = text
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let labels = rest.starts_with('{') || rest.starts_with(' ');
                labels.then(|| rest.rsplit(' ').next())?
            })
            .map(|value| value.parse().expect("a sample"))
            .collect();
        assert!(!samples.is_empty(), "no series {name}");
        samples.iter().sum()
    }
}

fn labels(muxer: Muxer) -> ConnectionLabels {
    ConnectionLabels {
        direction: metrics::Direction::Inbound,
        transport: metrics::Transport::Tcp,
        security: metrics::Security::Noise,
        muxer: match muxer {
            Muxer::Yamux => metrics::Muxer::Yamux,
            Muxer::Mplex => metrics::Muxer::Mplex,
        },
        early_muxer: false,
        ip_version: metrics::IpVersion::V4,
    }
}

/// A circuit, or what is to become one: source and target.
pub(super) struct Circuit {
    pub(super) peers: [Peer; 2],
    pub(super) streams: [StreamId; 2],
}

/// How a peer's connection can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The peer hangs up.
    Close,
    /// The peer's kernel resets the connection.
    Abort,
    /// The peer sends what is not authentic.
    Garbage,
    /// The server's own task is dropped.
    Dropped,
}

impl Death {
    pub(super) const ALL: [Self; 4] = [Self::Close, Self::Abort, Self::Garbage, Self::Dropped];
}

/// One peer's connection, by hand. Frames are gathered until [`Self::send`].
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) muxer: Muxer,
    pub(super) batch: Batch,
    /// Whether it grants credit for what it hears.
    pub(super) generous: bool,
    pub(super) ear: Ear,
    /// The server has closed the connection.
    pub(super) ended: bool,
    pub(super) socket: TcpStream,
    pub(super) seal: SealKey,
    unsent: Vec<u8>,
    opened: u64,
    task: JoinSet<Closed>,
}

impl Peer {
    /// Opens the next stream.
    pub(super) fn open(&mut self) -> StreamId {
        let stream = self.stream(self.opened);
        self.opened += 1;
        frames::open(self.muxer, stream, &mut self.batch);
        stream
    }

    /// Opens a stream that was open before.
    pub(super) fn again(&mut self, stream: StreamId) {
        self.ear.streams.remove(&stream);
        frames::open(self.muxer, stream, &mut self.batch);
    }

    /// The stream that this peer opens as its `index`th.
    pub(super) fn stream(&self, index: u64) -> StreamId {
        match self.muxer {
            Muxer::Yamux => StreamId::yamux(u32::try_from(index * 2 + 1).expect("few streams")),
            Muxer::Mplex => StreamId::mplex(index, true),
        }
    }

    /// Opens a stream for a protocol.
    pub(super) fn propose(&mut self, protocol: &str) -> StreamId {
        let stream = self.open();
        self.write(stream, &agreement(protocol));
        stream
    }

    /// Opens a stream, agrees on hop and asks for a reservation.
    pub(super) fn reserve(&mut self) -> StreamId {
        let stream = self.propose(HOP_PROTOCOL);
        let mut request = Vec::new();
        encode_reserve(&mut request);
        self.write(stream, &request);
        stream
    }

    /// Opens a stream, agrees on hop and asks for a circuit.
    pub(super) fn connect(&mut self, target: PeerId) -> StreamId {
        let stream = self.propose(HOP_PROTOCOL);
        let mut request = Vec::new();
        encode_connect(&target.to_bytes(), &mut request);
        self.write(stream, &request);
        stream
    }

    /// Accepts the circuit that is offered on a stream.
    pub(super) fn accept(&mut self, stream: StreamId) {
        let mut answer = agreement(STOP_PROTOCOL);
        encode_stop_status(Status::Ok, &mut answer);
        self.write(stream, &answer);
    }

    pub(super) fn write(&mut self, stream: StreamId, bytes: &[u8]) {
        frames::data(self.muxer, stream, Greeting::None, bytes, &mut self.batch);
    }

    pub(super) fn finish(&mut self, stream: StreamId) {
        frames::finish(self.muxer, stream, Greeting::None, &mut self.batch);
    }

    pub(super) fn reset(&mut self, stream: StreamId) {
        frames::reset(self.muxer, stream, 0, &mut self.batch);
    }

    pub(super) fn grant(&mut self, stream: StreamId, credit: u32) {
        frames::credit(self.muxer, stream, Greeting::None, credit, &mut self.batch);
    }

    /// Says this below the muxer, as it is.
    pub(super) fn say(&mut self, plaintext: &[u8]) {
        self.batch.append_frame(plaintext, &[]);
    }

    /// Sends what was gathered. A server that has closed the connection does
    /// not take it: the test sees that when it listens.
    pub(super) async fn send(&mut self) {
        let sealed = self.sealed();
        let sent = timeout(PATIENCE, self.socket.write_all(&sealed)).await;
        let _ = sent.expect("the server reads");
    }

    /// Sends of what was gathered what the kernel takes at once; the rest
    /// goes before what is sent next.
    pub(super) fn send_what_fits(&mut self) {
        let sealed = self.sealed();
        self.unsent.extend_from_slice(&sealed);
        if let Ok(count) = self.socket.try_write(&self.unsent) {
            self.unsent.drain(..count);
        }
    }

    /// Sends bytes as they are, below the records.
    pub(super) async fn send_raw(&mut self, bytes: &[u8]) {
        let sent = timeout(PATIENCE, self.socket.write_all(bytes)).await;
        let _ = sent.expect("the server reads");
    }

    /// A record that carries nothing but its tag.
    pub(super) async fn send_empty_record(&mut self) {
        let mut record = [0; HEADER_LEN + TAG_LEN];
        self.seal.seal(&mut record).expect("a fresh key");
        self.send_raw(&record).await;
    }

    /// What was gathered, as plaintext, for a test to send in its own way.
    pub(super) fn said(&mut self) -> Vec<u8> {
        let batch = self.batch.take();
        let (mut sealed, records) = batch.seal(&mut SealKey::new([0; 32])).expect("a fresh key");
        assert_eq!(records, 1, "short");
        let opened = OpenKey::new([0; 32])
            .open(&mut sealed[HEADER_LEN..])
            .map(|bytes| bytes.to_vec());
        opened.expect("sealed just now")
    }

    /// The records of what was gathered, for a test to send.
    pub(super) fn sealed(&mut self) -> Vec<u8> {
        let batch = self.batch.take();
        let (sealed, _) = batch.seal(&mut self.seal).expect("a fresh key");
        [std::mem::take(&mut self.unsent), sealed].concat()
    }

    /// Sends what was gathered, then listens until `done`.
    pub(super) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        self.send().await;
        let listening = async {
            while !done(self) {
                assert!(
                    !self.ended,
                    "closed before {what}: {:?}",
                    self.task_result()
                );
                self.listen().await;
            }
        };
        let heard = timeout(PATIENCE, listening).await;
        assert!(heard.is_ok(), "no {what}: {:?}", self.ear);
    }

    fn task_result(&mut self) -> Option<Closed> {
        self.task.try_join_next().map(|end| end.expect("no panic"))
    }

    /// Waits until the server has reset a stream.
    pub(super) async fn until_reset(&mut self, stream: StreamId) {
        self.until("reset", |peer| peer.was_reset(stream)).await;
    }

    /// Waits until the server has ended its direction of a stream.
    pub(super) async fn until_finished(&mut self, stream: StreamId) {
        let finished = |peer: &Self| peer.heard(stream).is_some_and(|heard| heard.finished);
        self.until("end", finished).await;
        assert!(!self.was_reset(stream), "reset, not ended");
    }

    pub(super) fn was_reset(&self, stream: StreamId) -> bool {
        self.heard(stream).is_some_and(|heard| heard.reset)
    }

    /// Waits until this many bytes have come on a stream, and takes them.
    pub(super) async fn until_bytes(&mut self, stream: StreamId, count: usize) -> Vec<u8> {
        self.until("bytes", |peer| {
            peer.heard(stream)
                .is_some_and(|heard| heard.bytes.len() >= count)
        })
        .await;
        let heard = self.ear.streams.get_mut(&stream).expect("bytes were heard");
        heard.bytes.drain(..count).collect()
    }

    /// Waits for the server's part of an agreement.
    pub(super) async fn until_agreed(&mut self, stream: StreamId, protocol: &str) {
        let expected = agreement(protocol);
        let answer = self.until_bytes(stream, expected.len()).await;
        assert_eq!(answer, expected);
    }

    /// Waits for the answer to RESERVE or CONNECT.
    pub(super) async fn until_status(&mut self, stream: StreamId) -> Status {
        self.until_agreed(stream, HOP_PROTOCOL).await;
        self.until("status", |peer| {
            peer.heard(stream)
                .is_some_and(|heard| HopMessage::decode(&heard.bytes).is_ok())
        })
        .await;
        let heard = self
            .ear
            .streams
            .get_mut(&stream)
            .expect("a status was heard");
        let (message, used) = HopMessage::decode(&heard.bytes).expect("see above");
        let status = message.status.expect("a status");
        heard.bytes.drain(..used);
        status
    }

    /// Waits for the server to offer a circuit; the stream it offers it on.
    pub(super) async fn until_offered(&mut self) -> StreamId {
        self.until("offer", |peer| peer.offer().is_some()).await;
        self.take_offer().expect("see above")
    }

    /// A circuit that was offered and not taken yet.
    pub(super) fn take_offer(&mut self) -> Option<StreamId> {
        let stream = self.offer()?;
        self.ear.streams.get_mut(&stream)?.bytes.clear();
        Some(stream)
    }

    fn offer(&self) -> Option<StreamId> {
        let whole = agreement(STOP_PROTOCOL);
        let offer = self.ear.streams.iter().find(|(_, heard)| {
            let request = heard.bytes.strip_prefix(&whole[..]);
            let request = request.map(StopMessage::decode);
            heard.opened && !heard.reset && matches!(request, Some(Ok(_)))
        });
        offer.map(|(stream, _)| *stream)
    }

    /// That the connection works: a ping comes back.
    pub(super) async fn assert_alive(&mut self) {
        let stream = self.propose(ping::PROTOCOL);
        self.write(stream, &[7; 32]);
        self.until_agreed(stream, ping::PROTOCOL).await;
        assert_eq!(self.until_bytes(stream, 32).await, [7; 32]);
        self.finish(stream);
        self.until_finished(stream).await;
    }

    /// Sends what was gathered, listens until the server closes the
    /// connection, and tells why it did.
    pub(super) async fn until_closed(&mut self) -> Closed {
        self.send().await;
        let listening = async {
            while !self.ended {
                self.listen().await;
            }
        };
        let ended = timeout(PATIENCE, listening).await;
        assert!(ended.is_ok(), "not closed: {:?}", self.ear);
        joined(&mut self.task).await
    }

    /// Closes the connection and waits for the server to be done with it.
    pub(super) async fn leave(self) -> Closed {
        let Self {
            socket, mut task, ..
        } = self;
        drop(socket);
        joined(&mut task).await
    }

    /// Ends in this way, and waits for the server to be done with it.
    pub(super) async fn die(mut self, death: Death) {
        match death {
            Death::Close => {}
            Death::Abort => {
                let linger = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
                linger.expect("an option");
            }
            Death::Garbage => {
                let _ = self
                    .socket
                    .write_all(&[0, 20, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])
                    .await;
                let _ = self.socket.write_all(&[9; 10]).await;
                let _ = self.until_closed().await;
                return;
            }
            Death::Dropped => {
                self.task.abort_all();
                while let Some(end) = self.task.join_next().await {
                    assert!(end.is_ok() || end.is_err_and(|error| error.is_cancelled()));
                }
                return;
            }
        }
        let _ = self.leave().await;
    }

    /// Says this over and over without ever reading, until the server gives
    /// the connection up.
    pub(super) async fn flood(&mut self, mut say: impl FnMut(&mut Self)) -> Closed {
        let flooding = async {
            loop {
                for _ in 0..1_000 {
                    say(self);
                }
                let sealed = self.sealed();
                if self.socket.write_all(&sealed).await.is_err() {
                    return;
                }
            }
        };
        let given_up = timeout(PATIENCE, flooding).await;
        assert!(given_up.is_ok(), "never given up");
        joined(&mut self.task).await
    }

    /// Reads what is there, without waiting for more.
    pub(super) async fn glance(&mut self) {
        self.send_what_fits();
        breathe().await;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = self.socket.try_read(&mut buffer) {
            if count == 0 {
                self.ended = true;
                return;
            }
            self.listened(&buffer[..count]);
        }
    }

    pub(super) fn heard(&self, stream: StreamId) -> Option<&Heard> {
        self.ear.streams.get(&stream)
    }

    /// Reads once and keeps what it heard.
    async fn listen(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        let count = self.socket.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            self.ended = true;
            return;
        }
        self.listened(&buffer[..count]);
        if !self.batch.is_empty() {
            self.send().await;
        }
    }

    fn listened(&mut self, input: &[u8]) {
        for (stream, bytes) in self.ear.hear(input) {
            if self.generous {
                self.grant(stream, bytes);
            }
        }
    }
}

/// What either side says to agree on a protocol.
pub(super) fn agreement(protocol: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    multistream::encode(Message::Header, &mut bytes);
    multistream::encode(Message::Protocol(protocol), &mut bytes);
    bytes
}

pub(super) async fn joined(task: &mut JoinSet<Closed>) -> Closed {
    let end = timeout(PATIENCE, task.join_next()).await;
    end.expect("the connection ends")
        .expect("one task")
        .expect("no panic")
}
