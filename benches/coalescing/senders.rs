//! The three senders, each on its own connection over loopback.

use std::{
    io,
    net::Ipv4Addr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, future::poll_fn};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerExt},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
};
use libp2p::{identity::Keypair, noise};
use tokio::{
    io::ReadBuf,
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
};
use waystation::{
    connection::bench_support::LoneEgress,
    engine::{demux::StreamId, muxer::Muxer, record::SealKey},
    metrics::Metrics,
    state::leg::StreamKey,
    wire::{mplex, yamux as yamux_wire},
};

use crate::{Flush, Work, receiver::Receiver};

/// Credit that the peer grants each stream: more than a bench sends.
const CREDIT: u32 = 1 << 31;

/// Most payload in one frame, as for the server, so that a message is one
/// frame for everybody (the crates' defaults are 16 and 8 KiB).
const SPLIT: usize = waystation::engine::frames::MAX_PAYLOAD;

type Secured = noise::Output<Counted>;
type MplexStream = <libp2p_mplex::Multiplex<Secured> as StreamMuxer>::Substream;

/// Who sends.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and it is not moved"
)]
pub(crate) enum Sender {
    Waystation(Waystation),
    Yamux(YamuxCrate),
    Mplex(MplexCrate),
}

impl Sender {
    /// Sends `payload` on each of `streams` in turn and has it all written.
    pub(crate) async fn pass(&mut self, streams: &[usize], payload: &[u8], flush: Flush) {
        match self {
            Self::Waystation(sender) => sender.pass(streams, payload, flush).await,
            Self::Yamux(sender) => sender.pass(streams, payload, flush).await,
            Self::Mplex(sender) => sender.pass(streams, payload, flush).await,
        }
    }

    /// Write system calls that the socket has taken something of.
    pub(crate) fn writes(&self) -> u64 {
        match self {
            Self::Waystation(sender) => sender.writes(),
            Self::Yamux(sender) => sender.calls.writes.load(Ordering::Relaxed),
            Self::Mplex(sender) => sender.calls.writes.load(Ordering::Relaxed),
        }
    }
}

/// The server's egress.
pub(crate) struct Waystation {
    egress: LoneEgress,
    streams: Vec<StreamKey>,
    readable: OwnedReadHalf,
    metrics: Arc<Metrics>,
}

impl Waystation {
    pub(crate) async fn connect(work: Work) -> (Self, Receiver) {
        let (ours, theirs) = loopback().await;
        let receiver = Receiver::start(blocking(theirs));
        let (readable, writable) = ours.into_split();
        let metrics = Metrics::new();
        let shared = Arc::clone(&metrics.egress);
        let mut egress = LoneEgress::new(work.muxer, SealKey::new([7; 32]), writable, shared);
        let streams = (0..work.circuits)
            .map(|circuit| match work.muxer {
                Muxer::Yamux => StreamId::yamux(yamux_id(circuit)),
                Muxer::Mplex => StreamId::mplex(circuit as u64, false),
            })
            .map(|id| egress.accept(id, CREDIT).expect("less than u32::MAX"))
            .collect();
        let sender = Self {
            egress,
            streams,
            readable,
            metrics,
        };
        (sender, receiver)
    }

    async fn pass(&mut self, streams: &[usize], payload: &[u8], flush: Flush) {
        for stream in streams {
            let stream = self.streams[*stream];
            self.egress.carry(stream, payload).expect("an open stream");
            if flush == Flush::Frame {
                self.settle().await;
            }
        }
        self.settle().await;
    }

    async fn settle(&mut self) {
        let mut settled = self.egress.settle();
        while !settled {
            let writable = self.readable.as_ref().writable().await;
            writable.expect("an open socket");
            settled = self.egress.writable();
        }
    }

    /// One for each flush, and one more for each time that the socket took
    /// only a part.
    fn writes(&self) -> u64 {
        let text = self.metrics.render();
        [
            "waystation_egress_flush_frames_count ",
            "waystation_egress_socket_full_total ",
        ]
        .iter()
        .map(|series| {
            let value = text.lines().find_map(|line| line.strip_prefix(series));
            let value = value.expect("a series of the egress");
            value.parse::<u64>().expect("a count")
        })
        .sum()
    }
}

/// The `yamux` crate.
pub(crate) struct YamuxCrate {
    connection: yamux::Connection<Secured>,
    streams: Vec<yamux::Stream>,
    calls: Arc<Calls>,
}

pub(crate) async fn yamux_crate(work: Work) -> (Sender, Receiver) {
    let (secured, receiver, calls) = secured(work).await;
    let mut config = yamux::Config::default();
    config.set_split_send_size(SPLIT);
    let mut connection = yamux::Connection::new(secured, config, yamux::Mode::Server);
    let mut streams = Vec::with_capacity(work.circuits);
    while streams.len() < work.circuits {
        let stream = poll_fn(|task| connection.poll_next_inbound(task)).await;
        streams.push(stream.expect("a connection").expect("a stream"));
    }
    let sender = YamuxCrate {
        connection,
        streams,
        calls,
    };
    (Sender::Yamux(sender), receiver)
}

impl YamuxCrate {
    async fn pass(&mut self, streams: &[usize], payload: &[u8], flush: Flush) {
        for stream in streams {
            let written = poll_fn(|task| self.poll_write(task, *stream, payload)).await;
            assert_eq!(written, payload.len());
            if flush == Flush::Frame {
                poll_fn(|task| self.poll_drive(task)).await;
            }
        }
        poll_fn(|task| self.poll_drive(task)).await;
    }

    /// A stream takes a few frames; then the connection has to run.
    fn poll_write(&mut self, task: &mut Context<'_>, stream: usize, payload: &[u8]) -> Poll<usize> {
        for _ in 0..2 {
            let stream = Pin::new(&mut self.streams[stream]);
            if let Poll::Ready(written) = stream.poll_write(task, payload) {
                return Poll::Ready(written.expect("an open stream"));
            }
            let _ = self.poll_drive(task);
        }
        Poll::Pending
    }

    /// Runs the connection until the socket has taken all there is.
    fn poll_drive(&mut self, task: &mut Context<'_>) -> Poll<()> {
        match self.connection.poll_next_inbound(task) {
            Poll::Ready(_) => panic!("a peer that only listens"),
            Poll::Pending if self.calls.blocked.load(Ordering::Relaxed) => Poll::Pending,
            Poll::Pending => Poll::Ready(()),
        }
    }
}

/// The `libp2p-mplex` crate.
pub(crate) struct MplexCrate {
    streams: Vec<MplexStream>,
    calls: Arc<Calls>,
}

pub(crate) async fn mplex_crate(work: Work) -> (Sender, Receiver) {
    let (secured, receiver, calls) = secured(work).await;
    let mut config = libp2p_mplex::Config::new();
    config.set_split_send_size(SPLIT);
    config.set_max_num_streams(work.circuits + 1);
    let upgraded = config.upgrade_inbound(secured, "/mplex/6.7.0").await;
    let mut connection = upgraded.expect("nothing to negotiate");
    let mut streams = Vec::with_capacity(work.circuits);
    while streams.len() < work.circuits {
        let stream = poll_fn(|task| connection.poll_inbound_unpin(task)).await;
        streams.push(stream.expect("a stream"));
    }
    (Sender::Mplex(MplexCrate { streams, calls }), receiver)
}

impl MplexCrate {
    async fn pass(&mut self, streams: &[usize], payload: &[u8], flush: Flush) {
        for index in streams {
            let stream = &mut self.streams[*index];
            stream.write_all(payload).await.expect("an open stream");
            if flush == Flush::Frame {
                stream.flush().await.expect("an open stream");
            }
        }
        let any = &mut self.streams[streams[0]];
        any.flush().await.expect("an open stream");
    }
}

/// Bytes of plaintext that one message on each of `streams` makes.
pub(crate) fn plaintext(work: Work, streams: &[usize]) -> u64 {
    let header = |stream: &usize| match work.muxer {
        Muxer::Yamux => yamux_wire::HEADER_LEN,
        Muxer::Mplex => {
            let length = u32::try_from(work.payload).expect("a bench's payload");
            mplex_header(*stream, mplex::Flag::MessageReceiver, length).len()
        }
    };
    let bytes: usize = streams
        .iter()
        .map(|stream| header(stream) + work.payload)
        .sum();
    bytes as u64
}

/// What opens every circuit's stream, as the peer sends it.
fn openings(work: Work) -> Vec<u8> {
    let opening = |circuit| match work.muxer {
        Muxer::Yamux => yamux_wire::Header {
            kind: yamux_wire::FrameKind::WindowUpdate,
            flags: yamux_wire::Flags::SYN,
            stream: yamux_id(circuit),
            length: CREDIT,
        }
        .encode()
        .to_vec(),
        Muxer::Mplex => mplex_header(circuit, mplex::Flag::NewStream, 0),
    };
    (0..work.circuits).flat_map(opening).collect()
}

/// The dialer's streams have odd ids.
fn yamux_id(circuit: usize) -> u32 {
    u32::try_from(2 * circuit + 1).expect("a bench's circuit")
}

fn mplex_header(circuit: usize, flag: mplex::Flag, length: u32) -> Vec<u8> {
    let mut header = [0; mplex::MAX_HEADER_LEN];
    let id = circuit as u64;
    let used = mplex::Header { id, flag, length }.encode(&mut header);
    header[..used].to_vec()
}

/// A connection over libp2p-noise on which the peer has opened its streams
/// and is read without being opened from then on.
async fn secured(work: Work) -> (Secured, Receiver, Arc<Calls>) {
    let (ours, theirs) = loopback().await;
    let theirs = theirs.into_std().expect("a socket");
    let raw = theirs.try_clone().expect("a second handle");
    let theirs = TcpStream::from_std(theirs).expect("a socket");
    let config = || noise::Config::new(&Keypair::generate_ed25519()).expect("an identity");
    let (ours, calls) = Counted::new(ours);
    let (theirs, _) = Counted::new(theirs);
    let (ours, theirs) = futures::join!(
        config().upgrade_inbound(ours, "/noise"),
        config().upgrade_outbound(theirs, "/noise"),
    );
    let ((_, ours), (_, mut theirs)) = (ours.expect("a handshake"), theirs.expect("a handshake"));
    theirs
        .write_all(&openings(work))
        .await
        .expect("an open socket");
    theirs.flush().await.expect("an open socket");
    drop(theirs);
    raw.set_nonblocking(false).expect("a socket");
    (ours, Receiver::start(raw), calls)
}

async fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let (dialed, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (dialed, accepted) = (dialed.expect("loopback"), accepted.expect("loopback").0);
    for socket in [&dialed, &accepted] {
        socket.set_nodelay(true).expect("a socket");
        // Room for a pass, so that writing hardly ever waits for reading.
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(2 << 20).expect("a socket");
        socket.set_recv_buffer_size(2 << 20).expect("a socket");
    }
    (accepted, dialed)
}

fn blocking(socket: TcpStream) -> std::net::TcpStream {
    let socket = socket.into_std().expect("a socket");
    socket.set_nonblocking(false).expect("a socket");
    socket
}

/// What a socket has been asked.
#[derive(Default)]
pub(crate) struct Calls {
    writes: AtomicU64,
    /// Whether the last write found the socket full.
    blocked: AtomicBool,
}

/// A socket for the crates, written to by the same call as the server's.
pub(crate) struct Counted {
    socket: TcpStream,
    calls: Arc<Calls>,
}

impl Counted {
    fn new(socket: TcpStream) -> (Self, Arc<Calls>) {
        let calls = Arc::new(Calls::default());
        let shared = Arc::clone(&calls);
        (Self { socket, calls }, shared)
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let socket = Pin::new(&mut self.socket);
        ready!(tokio::io::AsyncRead::poll_read(socket, task, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.calls.blocked.store(true, Ordering::Relaxed);
                    ready!(self.socket.poll_write_ready(task))?;
                }
                result => {
                    self.calls.writes.fetch_add(1, Ordering::Relaxed);
                    self.calls.blocked.store(false, Ordering::Relaxed);
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
