//! A peer: an unmodified rust-libp2p Swarm in a task of its own, with what it
//! reports kept until a test asks for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::Either;
use futures::{AsyncRead, AsyncWrite, StreamExt as _};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, noise, ping, relay, yamux};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::FOREVER;
use crate::server::Server;
use crate::wire::Memory;

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

pub(crate) type Event = SwarmEvent<BehaviourEvent>;
type Command = Box<dyn FnOnce(&mut Swarm<Behaviour>) + Send>;

/// How a peer comes to the server.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) from: SocketAddr,
    pub(crate) preface: Vec<u8>,
    pub(crate) network: Option<PreSharedKey>,
}

impl Way {
    pub(crate) fn from(host: [u8; 4]) -> Self {
        Self {
            from: SocketAddr::from((host, 0)),
            preface: Vec::new(),
            network: None,
        }
    }
}

pub(crate) struct Peer {
    id: PeerId,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    vanished: Arc<AtomicBool>,
    /// What was reported before anybody asked for it.
    seen: Vec<Event>,
}

impl Peer {
    /// Each from a network of its own.
    pub(crate) fn new(server: &Server, host: u8) -> Self {
        Self::by(server, Way::from([81, 0, host, 1]))
    }

    pub(crate) fn by(server: &Server, way: Way) -> Self {
        let key = Keypair::generate_ed25519();
        let id = key.public().to_peer_id();
        let (commands, inbox) = mpsc::channel(16);
        let (outbox, events) = mpsc::channel(4096);
        let vanished = Arc::default();
        let swarm = swarm(server, way, &key, Arc::clone(&vanished));
        tokio::spawn(drive(swarm, inbox, outbox));
        Self {
            id,
            commands,
            events,
            vanished,
            seen: Vec::new(),
        }
    }

    pub(crate) async fn connected(server: &Server, host: u8) -> Self {
        let mut peer = Self::new(server, host);
        peer.dial(server.address());
        peer.until_connected(server.peer_id()).await;
        peer
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id
    }

    pub(crate) fn dial(&self, address: Multiaddr) {
        self.tell(move |swarm| swarm.dial(address).unwrap());
    }

    fn tell(&self, command: impl FnOnce(&mut Swarm<Behaviour>) + Send + 'static) {
        self.commands
            .try_send(Box::new(command))
            .unwrap_or_else(|_| panic!("the peer is gone, or has too much to do"));
    }

    /// Reserves at the server as a relay client does.
    pub(crate) async fn reserve(&mut self, server: &Server) {
        let address = server.address().with(Protocol::P2pCircuit);
        self.tell(move |swarm| {
            swarm.listen_on(address).unwrap();
        });
        self.until("reserved", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { .. },
            )) => Some(()),
            SwarmEvent::ListenerClosed { reason, .. } => panic!("not reserved: {reason:?}"),
            _ => None,
        })
        .await;
    }

    /// Waits for an event that `pick` takes; each event is taken once.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> T {
        let mut index = 0;
        let found = timeout(FOREVER, async {
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
            Err(_) => panic!("never {what}, but {:#?}", self.seen),
        }
    }

    /// Waits for a connection with `peer`.
    pub(crate) async fn until_connected(&mut self, peer: PeerId) {
        self.until("connected", |event| match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if *peer_id == peer => Some(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("not connected: {error}"),
            _ => None,
        })
        .await;
    }

    /// Waits for the failure of a dial to `peer`, which fails if it succeeds.
    pub(crate) async fn until_failed(&mut self, peer: PeerId) -> String {
        self.until("refused", |event| match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                assert!(*peer_id != peer, "connected");
                None
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => Some(format!("{error:?}")),
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

    /// Whether a connection with `peer` has ended so far.
    pub(crate) fn has_lost(&mut self, peer: PeerId) -> bool {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        self.seen.iter().any(|event| {
            matches!(event, SwarmEvent::ConnectionClosed { peer_id, .. } if *peer_id == peer)
        })
    }

    /// Where the server sees it. A Swarm asks by a timer of its own, so time
    /// stands still for everybody else meanwhile.
    pub(crate) async fn observed(&mut self, server: PeerId) -> Multiaddr {
        let begun = std::time::Instant::now();
        loop {
            while let Ok(event) = self.events.try_recv() {
                if let SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id,
                    info,
                    ..
                })) = event
                    && peer_id == server
                {
                    return info.observed_addr;
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "not identified");
            tokio::task::yield_now().await;
        }
    }

    /// Cuts it off, as a host does that loses power: it says nothing more, and
    /// what it is told gets lost.
    pub(crate) fn vanish(&self) {
        self.vanished.store(true, Ordering::Relaxed);
    }
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

fn swarm(server: &Server, way: Way, key: &Keypair, vanished: Arc<AtomicBool>) -> Swarm<Behaviour> {
    let id = key.public().to_peer_id();
    let Way {
        from,
        preface,
        network,
    } = way;
    let memory = Memory {
        dialer: server.dialer(),
        from,
        preface,
        vanished,
    };
    let memory = memory.and_then(move |wire, _| async move {
        match network {
            Some(key) => {
                let handshake = PnetConfig::new(key).handshake(wire).await;
                handshake.map(Either::Left).map_err(std::io::Error::other)
            }
            None => Ok(Either::Right(wire)),
        }
    });
    let (circuits, relay) = relay::client::new(id);
    let about = identify::Config::new("/waystation-test/1.0.0".to_owned(), key.public());
    let behaviour = Behaviour {
        relay,
        identify: identify::Behaviour::new(about),
        ping: ping::Behaviour::default(),
    };
    // Longer than any test takes by the real clock.
    let config =
        Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(600));
    Swarm::new(
        secured(circuits.or_transport(memory), key),
        behaviour,
        id,
        config,
    )
}

fn secured<T>(transport: T, key: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::ListenerUpgrade: Send + 'static,
    T::Dial: Send + 'static,
{
    transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed()
}
