//! What a peer says on an authenticated connection, to the whole server behind
//! it: muxer, negotiation, ping, identify, hop. Nothing it says may panic, and
//! nothing is left when its connection has gone.
//!
//! The peer never reads, so everything that the server answers stays bounded
//! by the socket and the egress.
#![no_main]

use std::{cell::RefCell, net::SocketAddr, sync::Arc};

use libfuzzer_sys::fuzz_target;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use waystation::{
    clock,
    config::{AccessLists, Config, Transport},
    connection::{Connection, Context, Handover, Remote},
    engine::{
        demux::Side,
        muxer::Muxer,
        record::{OpenKey, SealKey},
    },
    identity::Identity,
    metrics::{self, ConnectionLabels, Metrics},
    service::{Menu, hop::Relay, identify::Answer},
    state::{
        access::Access,
        addresses::Addresses,
        circuits::Circuits,
        connections::{Connections, Marks},
        limits::{Limits, StreamLimits},
        peerstore::Peerstore,
        reservations::Reservations,
    },
};

struct Server {
    runtime: Runtime,
    listener: TcpListener,
    context: Arc<Context>,
    limits: Arc<Limits>,
}

impl Server {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let config = Config::default();
        let identity = Identity::generate();
        let metrics = Metrics::new();
        let connections = Connections::new(Marks::new(&config.connections), clock::now());
        let menu = Menu::new(true);
        let addresses = Addresses::new(&[], &[], identity.peer_id());
        let answer = Answer::new(&identity, &menu, &addresses.told(), clock::unix_nanos());
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
            ),
            reserve_metrics: Arc::clone(&metrics.relay),
            connect_metrics: Arc::clone(&metrics.circuits),
            identity,
            addresses,
        };
        let peerstore = Peerstore::new(
            &config.peerstore,
            Arc::clone(&metrics.peerstore),
            clock::now(),
        );
        Self {
            runtime,
            listener: listener.expect("loopback"),
            context: Arc::new(Context::new(
                menu,
                answer,
                relay,
                connections,
                peerstore,
                metrics,
                StreamLimits::new(&config),
            )),
            limits: Limits::new(&config.connections),
        }
    }

    /// A connection whose peer has said `plaintext` behind its handshake.
    fn hear(&self, muxer: Muxer, plaintext: Vec<u8>) {
        self.runtime.block_on(async {
            let address = self.listener.local_addr().expect("bound");
            let (near, far) = tokio::join!(self.listener.accept(), TcpStream::connect(address));
            let (Ok((near, _)), Ok(_far)) = (near, far) else {
                return;
            };
            let address = SocketAddr::from(([198, 51, 100, 7], 4001));
            let now = clock::now();
            let Ok(permit) = self
                .limits
                .admit(SocketAddr::from(([127, 0, 0, 1], 1)), false, now)
            else {
                return;
            };
            let guard = self.context.metrics.connections.opened(labels(muxer), now);
            let peer = libp2p_identity::PeerId::random();
            let (mut connection, leftover) = Connection::new(
                Arc::clone(&self.context),
                Remote {
                    peer,
                    address,
                    transport: Transport::Tcp,
                },
                Handover {
                    socket: near.into(),
                    layers: Default::default(),
                    muxer,
                    side: Side::Listener,
                    seal: SealKey::new([1; 32]),
                    open: OpenKey::new([2; 32]),
                    plaintext,
                    ciphertext: Vec::new(),
                },
                permit.authenticated(&peer, false).expect("a new peer"),
                guard,
            );
            // What makes no sense ends it here; what does waits for more.
            let _ = connection.begin(leftover);
            drop(connection);
        });
        assert_eq!(self.context.connections.peers(), 0);
        let peerstore = &self.context.peerstore;
        let later = clock::now() + std::time::Duration::from_secs(7 * 24 * 60 * 60);
        for stripe in 0..peerstore.stripes() {
            peerstore.sweep(stripe, later);
        }
        assert!(peerstore.is_empty());
        assert!(self.context.relay.reservations.is_clear());
        assert!(self.context.relay.circuits.is_clear());
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

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    let Some((how, plaintext)) = input.split_first() else {
        return;
    };
    SERVER.with_borrow_mut(|server| {
        let server = server.get_or_insert_with(Server::new);
        server.hear(Muxer::ALL[usize::from(how & 1)], plaintext.to_vec());
    });
});
