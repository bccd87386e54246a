//! A peer: an unmodified rust-libp2p Swarm that has one [`Way`] to the relay, in a
//! task of its own, with what it reports kept until a test asks for it.

use std::io;
use std::time::Duration;

use futures::future::Either;
use futures::{AsyncRead, AsyncWrite, StreamExt as _};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OptionalTransport, Transport};
use libp2p::core::upgrade::{SelectUpgrade, Version};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::pnet::{PnetConfig, PnetOutput, PreSharedKey};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, Swarm, dcutr, identify, noise, ping, quic, relay, tcp, tls, yamux,
};
use tokio::sync::mpsc;

use crate::PROMPT;
use crate::authority;
use crate::server::Server;

/// Streams one peer may have open, of either muxer.
const STREAMS_MAX: usize = 512;

/// Between two pings.
const PING_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Muxer {
    Yamux,
    Mplex,
    /// QUIC's own streams, instead of TCP and Noise.
    Quic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    Noise,
    Tls,
}

/// How a peer comes to the relay; to that, it speaks nothing else. A muxer alone stands
/// for the usual way, with Noise and in no private network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) security: Security,
    pub(crate) muxer: Muxer,
    /// Over TCP and WebSocket.
    pub(crate) network: Option<PreSharedKey>,
}

impl Way {
    pub(crate) fn tls(muxer: Muxer) -> Self {
        Self {
            security: Security::Tls,
            ..Self::from(muxer)
        }
    }
}

impl From<Muxer> for Way {
    fn from(muxer: Muxer) -> Self {
        Self {
            security: Security::Noise,
            muxer,
            network: None,
        }
    }
}

/// What a peer is able to do beyond identify, ping and streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reserves and connects as rust-libp2p's relay client does.
    Client,
    /// A client that turns relayed connections into direct ones.
    Puncher,
    /// Leaves the relay protocol to the test.
    Bare,
}

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    relay: Toggle<relay::client::Behaviour>,
    dcutr: Toggle<dcutr::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

pub(crate) type Event = SwarmEvent<BehaviourEvent>;
type Command = Box<dyn FnOnce(&mut Swarm<Behaviour>) + Send>;

pub(crate) struct Peer {
    id: PeerId,
    streams: libp2p_stream::Control,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    /// What was reported before anybody asked for it.
    seen: Vec<Event>,
}

impl Peer {
    pub(crate) fn new(kind: Kind, way: impl Into<Way>) -> Self {
        Self::with_key(&Keypair::generate_ed25519(), kind, way)
    }

    pub(crate) fn with_key(key: &Keypair, kind: Kind, way: impl Into<Way>) -> Self {
        let id = key.public().to_peer_id();
        let swarm = swarm(key, kind, way.into());
        let streams = swarm.behaviour().streams.new_control();
        let (commands, inbox) = mpsc::channel(16);
        let (outbox, events) = mpsc::channel(4096);
        tokio::spawn(drive(swarm, inbox, outbox));
        Self {
            id,
            streams,
            commands,
            events,
            seen: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id
    }

    /// Opens and accepts streams.
    pub(crate) fn streams(&self) -> libp2p_stream::Control {
        self.streams.clone()
    }

    /// Has something done by the Swarm.
    pub(crate) fn tell(&self, command: impl FnOnce(&mut Swarm<Behaviour>) + Send + 'static) {
        self.commands
            .try_send(Box::new(command))
            .unwrap_or_else(|_| panic!("the peer is gone, or has too much to do"));
    }

    pub(crate) fn dial(&self, address: Multiaddr) {
        self.tell(move |swarm| swarm.dial(address).unwrap());
    }

    pub(crate) fn listen(&self, address: Multiaddr) {
        self.tell(move |swarm| {
            swarm.listen_on(address).unwrap();
        });
    }

    /// Waits for an event that `pick` takes; each event is taken once.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> T {
        let mut index = 0;
        let found = tokio::time::timeout(PROMPT, async {
            loop {
                while let Some(event) = self.seen.get(index) {
                    if let Some(found) = pick(event) {
                        self.seen.remove(index);
                        return found;
                    }
                    index += 1;
                }
                let event = self.events.recv().await;
                self.seen.push(event.expect("the peer's task runs"));
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("{what}: not within {PROMPT:?}, but {:#?}", self.seen),
        }
    }

    /// Connects to the server, directly.
    pub(crate) async fn connect(&mut self, server: &Server) {
        self.dial(server.address());
        self.until_connected(server.peer_id()).await;
    }

    /// Waits for a connection with `peer`; whether it is relayed.
    pub(crate) async fn until_connected(&mut self, peer: PeerId) -> bool {
        self.until("connected", |event| match event {
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } if *peer_id == peer => Some(endpoint.is_relayed()),
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("not connected: {error}"),
            _ => None,
        })
        .await
    }

    /// Waits for the end of a connection with `peer`.
    pub(crate) async fn until_disconnected(&mut self, peer: PeerId) {
        self.until("disconnected", |event| match event {
            SwarmEvent::ConnectionClosed { peer_id, .. } if *peer_id == peer => Some(()),
            _ => None,
        })
        .await;
    }

    /// Waits until `peer` has answered this many pings, and not missed one.
    pub(crate) async fn until_pinged(&mut self, peer: PeerId, rounds: usize) {
        for _ in 0..rounds {
            self.until("pinged", |event| match event {
                SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) if ping.peer == peer => {
                    assert!(ping.result.is_ok(), "{ping:?}");
                    Some(())
                }
                _ => None,
            })
            .await;
        }
    }

    /// Reserves at the server as a relay client does.
    pub(crate) async fn reserve(&mut self, server: &Server) {
        self.reserve_at(server.address()).await;
    }

    /// Reserves at the relay that has this address.
    pub(crate) async fn reserve_at(&mut self, relay: Multiaddr) {
        self.listen(relay.with(Protocol::P2pCircuit));
        self.until("reserved", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { .. },
            )) => Some(()),
            SwarmEvent::ListenerClosed { reason, .. } => panic!("not reserved: {reason:?}"),
            _ => None,
        })
        .await;
    }
}

/// Two relay clients that met through the relay: who dialled, and who had
/// reserved.
pub(crate) async fn meet(server: &Server, way: impl Into<Way>) -> (Peer, Peer) {
    let way = way.into();
    let mut target = Peer::new(Kind::Client, way);
    target.reserve(server).await;
    let mut source = Peer::new(Kind::Client, way);
    source.dial(server.address_of(target.id()));
    assert!(source.until_connected(target.id()).await, "directly");
    assert!(target.until_connected(source.id()).await, "directly");
    (source, target)
}

async fn drive(
    mut swarm: Swarm<Behaviour>,
    mut inbox: mpsc::Receiver<Command>,
    outbox: mpsc::Sender<Event>,
) {
    loop {
        tokio::select! {
            // Both are cancel-safe.
            command = inbox.recv() => match command {
                Some(command) => command(&mut swarm),
                None => break,
            },
            event = swarm.select_next_some() => {
                // A test that has ended, or does not look, misses nothing.
                let _ = outbox.try_send(event);
            }
        }
    }
}

fn swarm(key: &Keypair, kind: Kind, way: Way) -> Swarm<Behaviour> {
    let id = key.public().to_peer_id();
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    // Takes what it knows, which bare TCP would take for its own.
    let mut web = libp2p_websocket::Config::new(tcp());
    web.set_tls_config(authority::trusted());
    let wire = web.or_transport(tcp());
    let wire = wire.and_then(move |wire, _| enter(way.network, wire));
    let (circuits, client) = match kind {
        Kind::Bare => (OptionalTransport::none(), None),
        Kind::Client | Kind::Puncher => {
            let (transport, client) = relay::client::new(id);
            (OptionalTransport::some(transport), Some(client))
        }
    };
    let about = identify::Config::new("/waystation-test/1.0.0".to_owned(), key.public());
    let behaviour = Behaviour {
        relay: client.into(),
        dcutr: (kind == Kind::Puncher)
            .then(|| dcutr::Behaviour::new(id))
            .into(),
        identify: identify::Behaviour::new(about),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY)),
        streams: libp2p_stream::Behaviour::new(),
    };
    let config = Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(600))
        .with_max_negotiating_inbound_streams(STREAMS_MAX);
    let direct = match way.muxer {
        Muxer::Quic => quic::tokio::Transport::new(quic::Config::new(key))
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
            .boxed(),
        Muxer::Yamux | Muxer::Mplex => secured(wire, key, way),
    };
    let transport = inside(circuits, key, way.muxer)
        .or_transport(direct)
        .map(|output, _| output.into_inner())
        .boxed();
    Swarm::new(transport, behaviour, id, config)
}

/// Enters the private network, if there is one.
async fn enter<W>(network: Option<PreSharedKey>, wire: W) -> io::Result<Wire<W>>
where
    W: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(key) = network else {
        return Ok(Either::Right(wire));
    };
    let entered = PnetConfig::new(key).handshake(wire).await;
    entered.map(Either::Left).map_err(io::Error::other)
}

/// A wire with the cipher of a private network, or without.
type Wire<W> = Either<PnetOutput<W>, W>;

/// What runs inside a circuit. Whatever way each of two peers came, they agree:
/// on Noise, and on the muxer of the one who dials.
fn inside(
    circuits: OptionalTransport<relay::client::Transport>,
    key: &Keypair,
    muxer: Muxer,
) -> Boxed<(PeerId, StreamMuxerBox)> {
    let (yamux, mplex) = muxers();
    let secured = circuits
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key).unwrap());
    match muxer {
        Muxer::Yamux | Muxer::Quic => secured.multiplex(SelectUpgrade::new(yamux, mplex)).boxed(),
        Muxer::Mplex => secured.multiplex(SelectUpgrade::new(mplex, yamux)).boxed(),
    }
}

fn muxers() -> (yamux::Config, libp2p_mplex::Config) {
    let mut mplex = libp2p_mplex::Config::new();
    mplex.set_max_num_streams(STREAMS_MAX);
    (yamux::Config::default(), mplex)
}

fn secured<T>(transport: T, key: &Keypair, way: Way) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::ListenerUpgrade: Send + 'static,
    T::Dial: Send + 'static,
{
    let (yamux, mplex) = muxers();
    let transport = transport.upgrade(Version::V1Lazy);
    match way.security {
        Security::Noise => {
            let secured = transport.authenticate(noise::Config::new(key).unwrap());
            match way.muxer {
                Muxer::Yamux | Muxer::Quic => secured.multiplex(yamux).boxed(),
                Muxer::Mplex => secured.multiplex(mplex).boxed(),
            }
        }
        Security::Tls => {
            let secured = transport.authenticate(tls::Config::new(key).unwrap());
            match way.muxer {
                Muxer::Yamux | Muxer::Quic => secured.multiplex(yamux).boxed(),
                Muxer::Mplex => secured.multiplex(mplex).boxed(),
            }
        }
    }
}
