//! The yardstick: rust-libp2p's relay, identify, ping and kad behaviours in one Swarm,
//! with every limit lifted: over TCP, WebSocket and secure WebSocket with Noise or TLS
//! and yamux or mplex, whichever a peer asks for, and over QUIC.
//!
//! Prints its peer id and listening addresses in the form Waystation does, so that
//! whatever starts the one can start the other. For measuring on loopback only: nothing
//! here bounds what a peer may use.

#![expect(
    clippy::print_stdout,
    reason = "the printed addresses are this program's interface"
)]

mod security;

use std::{
    error::Error,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, Transport as _,
    core::upgrade::{SelectUpgrade, Version},
    identify, identity, kad, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use libp2p_websocket as websocket;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use security::Securities;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "rust-libp2p's relay server with every limit lifted, to compare with")]
struct Arguments {
    /// Address to listen on, any number of them; port 0 takes any free one
    #[arg(long, default_value = "/ip4/127.0.0.1/tcp/0")]
    listen: Vec<Multiaddr>,
    /// Certificate for secure WebSocket, in PEM
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key, in PKCS 8 and PEM
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: kad::Behaviour<kad::store::MemoryStore>,
}

/// The most that yamux accepts beside its limit of 1 GiB of windows per connection.
const STREAMS_MAX: usize = 4096;

/// A day is without limit here, and far below what the relay's wire format can say.
const CIRCUIT_DURATION: Duration = Duration::from_secs(24 * 3600);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let certificate = match (&arguments.certificate, &arguments.key) {
        (Some(certificate), Some(key)) => Some(read_certificate(certificate, key)?),
        _ => None,
    };
    let mut swarm = build(certificate)?;
    for address in arguments.listen {
        swarm.listen_on(address)?;
    }
    println!("baseline rust-libp2p");
    println!("peer id    {}", swarm.local_peer_id());

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            // All three are cancel-safe: each keeps what it has not handed out.
            event = swarm.select_next_some() => on_event(&mut swarm, event)?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

fn read_certificate(
    certificate: &Path,
    key: &Path,
) -> Result<websocket::tls::Config, Box<dyn Error>> {
    let certificate = CertificateDer::from_pem_file(certificate)?;
    let key = PrivatePkcs8KeyDer::from_pem_file(key)?;
    let key = websocket::tls::PrivateKey::new(key.secret_pkcs8_der().to_vec());
    let certificate = websocket::tls::Certificate::new(certificate.to_vec());
    Ok(websocket::tls::Config::new(key, [certificate])?)
}

fn build(certificate: Option<websocket::tls::Config>) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let muxers = || {
        let mut yamux = yamux::Config::default();
        yamux.set_max_num_streams(STREAMS_MAX);
        let mut mplex = libp2p_mplex::Config::new();
        mplex.set_max_num_streams(STREAMS_MAX);
        SelectUpgrade::new(yamux, mplex)
    };
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), Securities::new, muxers)?
        .with_quic()
        .with_other_transport(|key| {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default());
            let mut websocket = websocket::Config::new(tcp);
            if let Some(certificate) = certificate {
                websocket.set_tls_config(certificate);
            }
            let secured = websocket
                .upgrade(Version::V1Lazy)
                .authenticate(Securities::new(key)?);
            Ok(secured.multiplex(muxers()))
        })?
        .with_behaviour(behaviour)?
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(CIRCUIT_DURATION)
                .with_max_negotiating_inbound_streams(STREAMS_MAX)
        })
        .build();
    Ok(swarm)
}

fn behaviour(key: &identity::Keypair) -> Behaviour {
    let peer_id = key.public().to_peer_id();
    let relay = relay::Config {
        max_reservations: usize::MAX,
        max_reservations_per_peer: usize::MAX - 1,
        reservation_duration: Duration::from_secs(3600),
        reservation_rate_limiters: Vec::new(),
        max_circuits: usize::MAX,
        max_circuits_per_peer: usize::MAX - 1,
        max_circuit_duration: CIRCUIT_DURATION,
        max_circuit_bytes: 0,
        circuit_src_rate_limiters: Vec::new(),
    };
    let mut behaviour = Behaviour {
        relay: relay::Behaviour::new(peer_id, relay),
        identify: identify::Behaviour::new(identify::Config::new(
            "/ipfs/0.1.0".to_owned(),
            key.public(),
        )),
        ping: ping::Behaviour::default(),
        kad: kad::Behaviour::new(peer_id, kad::store::MemoryStore::new(peer_id)),
    };
    behaviour.relay.set_status(Some(relay::Status::Enable));
    behaviour.kad.set_mode(Some(kad::Mode::Server));
    behaviour
}

fn on_event(
    swarm: &mut Swarm<Behaviour>,
    event: SwarmEvent<BehaviourEvent>,
) -> Result<(), Box<dyn Error>> {
    match event {
        SwarmEvent::NewListenAddr { address, .. } => {
            println!("listening  {address}/p2p/{}", swarm.local_peer_id());
            std::io::stdout().flush()?;
            // A reservation names the relay's confirmed addresses; here it has these.
            swarm.add_external_address(address);
        }
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            peer_id,
            info,
            ..
        })) if info.protocols.contains(&kad::PROTOCOL_NAME) => {
            for address in info.listen_addrs {
                swarm.behaviour_mut().kad.add_address(&peer_id, address);
            }
        }
        SwarmEvent::ListenerError { error, .. } => return Err(error.into()),
        _ => {}
    }
    Ok(())
}
