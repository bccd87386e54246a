//! The yardstick: rust-libp2p's relay, identify, ping and kad behaviours in one Swarm,
//! over TCP, Noise, and yamux or mplex, with every limit lifted.
//!
//! Prints its peer id and listening addresses in the form Waystation does, so that
//! whatever starts the one can start the other. For measuring on loopback only: nothing
//! here bounds what a peer may use.

#![expect(
    clippy::print_stdout,
    reason = "the printed addresses are this program's interface"
)]

use std::{error::Error, io::Write as _, time::Duration};

use clap::{Parser, ValueEnum};
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder,
    core::upgrade::SelectUpgrade,
    identify, identity, kad, noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "rust-libp2p's relay server with every limit lifted, to compare with")]
struct Arguments {
    /// Address to listen on; port 0 takes any free one
    #[arg(long, default_value = "/ip4/127.0.0.1/tcp/0")]
    listen: Multiaddr,
    /// Muxers offered to dialling peers
    #[arg(long, value_enum, default_value_t = Muxers::Both)]
    muxer: Muxers,
}

#[derive(Clone, Copy, ValueEnum)]
enum Muxers {
    Yamux,
    Mplex,
    Both,
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
    let mut swarm = build(arguments.muxer)?;
    swarm.listen_on(arguments.listen)?;
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

fn build(muxers: Muxers) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_MAX);
    let mut mplex = libp2p_mplex::Config::new();
    mplex.set_max_num_streams(STREAMS_MAX);

    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let config = tcp::Config::default();
    macro_rules! finish {
        ($muxer:expr) => {
            builder
                .with_tcp(config, noise::Config::new, $muxer)?
                .with_behaviour(behaviour)?
                .with_swarm_config(|config| {
                    config
                        .with_idle_connection_timeout(CIRCUIT_DURATION)
                        .with_max_negotiating_inbound_streams(STREAMS_MAX)
                })
                .build()
        };
    }
    Ok(match muxers {
        Muxers::Yamux => finish!(|| yamux),
        Muxers::Mplex => finish!(|| mplex),
        Muxers::Both => finish!(|| SelectUpgrade::new(yamux, mplex)),
    })
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
