//! A peer: an unmodified rust-libp2p Swarm whose wire is a pipe in memory.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::Either;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, noise, ping, relay, yamux};

use crate::FOREVER;
use crate::driven::Driven;
use crate::server::Server;
use crate::wire::Memory;

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

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
    driven: Driven<Behaviour>,
    vanished: Arc<AtomicBool>,
}

impl Deref for Peer {
    type Target = Driven<Behaviour>;

    fn deref(&self) -> &Self::Target {
        &self.driven
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.driven
    }
}

impl Peer {
    /// Each from a network of its own.
    pub(crate) fn new(server: &Server, host: u8) -> Self {
        Self::by(server, Way::from([81, 0, host, 1]))
    }

    pub(crate) fn by(server: &Server, way: Way) -> Self {
        let key = Keypair::generate_ed25519();
        let vanished = Arc::default();
        let swarm = swarm(server, way, &key, Arc::clone(&vanished));
        let driven = Driven::start(swarm, FOREVER);
        Self { driven, vanished }
    }

    pub(crate) async fn connected(server: &Server, host: u8) -> Self {
        let mut peer = Self::new(server, host);
        peer.dial(server.address());
        peer.until_connected(server.peer_id()).await;
        peer
    }

    /// Reserves at the server as a relay client does.
    pub(crate) async fn reserve(&mut self, server: &Server) {
        self.listen(server.address().with(Protocol::P2pCircuit));
        self.until("reserved", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { .. },
            )) => Some(()),
            SwarmEvent::ListenerClosed { reason, .. } => panic!("not reserved: {reason:?}"),
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

    /// Whether a connection with `peer` has ended so far.
    pub(crate) fn has_lost(&mut self, peer: PeerId) -> bool {
        self.so_far().iter().any(|event| {
            matches!(event, SwarmEvent::ConnectionClosed { peer_id, .. } if *peer_id == peer)
        })
    }

    /// Where the server sees it. A Swarm asks by a timer of its own, so time
    /// stands still for everybody else meanwhile.
    pub(crate) async fn observed(&mut self, server: PeerId) -> Multiaddr {
        let begun = std::time::Instant::now();
        loop {
            for event in self.so_far().drain(..) {
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
