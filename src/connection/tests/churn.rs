//! Either side dies at every step, and in any order of steps: nothing is left
//! over, nobody panics, and who is left goes on.

use proptest::prelude::*;

use super::peer::{Death, PAIRS, Peer, Server};
use crate::engine::{demux::StreamId, muxer::Muxer};
use crate::wire::relay::Status;

/// The life of a circuit, step by step; index 0 is the source.
const STEPS: usize = 12;

struct Play {
    peers: [Peer; 2],
    streams: [Option<StreamId>; 2],
}

impl Play {
    /// Takes one step. What a step waits for has happened when it returns.
    async fn step(&mut self, step: usize) {
        let [source, target] = &mut self.peers;
        match (step, self.streams) {
            (0, _) => {
                let stream = target.reserve();
                assert_eq!(target.until_status(stream).await, Status::Ok);
            }
            (1, _) => {
                // Said, and not yet heard by the target.
                self.streams[0] = Some(source.connect(target.id));
                source.send().await;
            }
            (2, [Some(early), _]) => {
                source.write(early, b"early");
                source.send().await;
            }
            (3, _) => self.streams[1] = Some(target.until_offered().await),
            (4, [_, Some(offered)]) => {
                // Said, and not yet heard by the source.
                target.accept(offered);
                target.send().await;
            }
            (5, [Some(stream), Some(offered)]) => {
                assert_eq!(source.until_status(stream).await, Status::Ok);
                assert_eq!(target.until_bytes(offered, 5).await, b"early");
            }
            (6, [Some(stream), _]) => {
                source.write(stream, &[1; 50_000]);
                source.send().await;
            }
            (7, [_, Some(offered)]) => {
                target.until_bytes(offered, 50_000).await;
                target.write(offered, &[2; 50_000]);
                target.send().await;
            }
            (8, [Some(stream), _]) => {
                source.until_bytes(stream, 50_000).await;
                source.finish(stream);
                source.send().await;
            }
            (9, [_, Some(offered)]) => {
                target.until_finished(offered).await;
                target.write(offered, &[3; 1000]);
                target.send().await;
            }
            (10, [_, Some(offered)]) => {
                target.finish(offered);
                target.send().await;
            }
            (11, [Some(stream), _]) => {
                source.until_bytes(stream, 1000).await;
                source.until_finished(stream).await;
            }
            (step, streams) => unreachable!("step {step} with {streams:?}"),
        }
    }
}

#[tokio::test]
async fn either_side_may_die_at_every_step() {
    for muxers in PAIRS {
        for last in 0..=STEPS {
            for victim in 0..2 {
                for death in Death::ALL {
                    let server = Server::new();
                    let mut play = Play {
                        peers: [
                            server.connect(muxers[0]).await,
                            server.connect(muxers[1]).await,
                        ],
                        streams: [None; 2],
                    };
                    for step in 0..last {
                        play.step(step).await;
                    }
                    let Play { peers, streams } = play;
                    let [mut dying, mut other] = peers;
                    let mut stream = streams[1];
                    if victim == 1 {
                        (dying, other, stream) = (other, dying, streams[0]);
                    }
                    dying.die(death).await;
                    // A circuit that was asked for does not stay as it was.
                    if let Some(stream) = stream {
                        other
                            .until("an end", |peer| {
                                let heard = peer.heard(stream);
                                heard.is_some_and(|heard| heard.reset || heard.finished)
                            })
                            .await;
                    }
                    other.assert_alive().await;
                    assert!(server.context.relay.circuits.is_clear());
                    other.leave().await;
                    server.assert_clear();
                }
            }
        }
    }
}

/// Something that one of a few peers does next.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Reserve,
    /// CONNECT to the peer this many places further.
    Connect(usize),
    /// Whatever is offered is accepted, or told no.
    Accept,
    Refuse,
    Write(usize),
    Finish,
    Reset,
    Grant(u32),
    OpenAndLeaveOpen,
    Ping,
    /// From now on grants no credit, or grants it again.
    Sulk(bool),
    Read,
    Die(Death),
}

fn deed() -> impl Strategy<Value = Deed> {
    let death = prop::sample::select(&Death::ALL[..]);
    prop_oneof![
        3 => Just(Deed::Reserve),
        4 => (1usize..4).prop_map(Deed::Connect),
        5 => Just(Deed::Accept),
        1 => Just(Deed::Refuse),
        6 => prop_oneof![1usize..100, 1usize..100_000].prop_map(Deed::Write),
        3 => Just(Deed::Finish),
        2 => Just(Deed::Reset),
        1 => (0u32..100_000).prop_map(Deed::Grant),
        1 => Just(Deed::OpenAndLeaveOpen),
        1 => Just(Deed::Ping),
        1 => any::<bool>().prop_map(Deed::Sulk),
        6 => Just(Deed::Read),
        1 => death.prop_map(Deed::Die),
    ]
}

/// A peer that does not care whether what it does makes sense.
struct Actor {
    peer: Peer,
    streams: Vec<StreamId>,
}

impl Actor {
    fn any_stream(&self, choice: usize) -> Option<StreamId> {
        let streams = self.streams.iter().rev();
        streams
            .copied()
            .nth(choice % self.streams.len().clamp(1, 4))
    }

    async fn act(&mut self, deed: Deed, choice: usize, others: &[libp2p_identity::PeerId]) {
        let stream = self.any_stream(choice);
        let peer = &mut self.peer;
        match (deed, stream) {
            (Deed::Reserve, _) => drop(peer.reserve()),
            (Deed::Connect(further), _) => {
                let target = others[(choice + further) % others.len()];
                self.streams.push(peer.connect(target));
            }
            (Deed::Accept | Deed::Refuse, _) => {
                peer.glance().await;
                if let Some(offered) = peer.take_offer() {
                    if matches!(deed, Deed::Accept) {
                        peer.accept(offered);
                    } else {
                        peer.write(offered, b"\x00");
                    }
                    self.streams.push(offered);
                }
            }
            (Deed::Write(bytes), Some(stream)) => peer.write(stream, &vec![7; bytes]),
            (Deed::Finish, Some(stream)) => peer.finish(stream),
            (Deed::Reset, Some(stream)) => peer.reset(stream),
            (Deed::Grant(credit), Some(stream)) => peer.grant(stream, credit),
            (Deed::OpenAndLeaveOpen, _) => self.streams.push(peer.open()),
            (Deed::Ping, _) => {
                let stream = peer.propose(crate::service::ping::PROTOCOL);
                peer.write(stream, &[1; 40]);
                self.streams.push(stream);
            }
            (Deed::Sulk(sulks), _) => peer.generous = !sulks,
            (Deed::Read, _) => peer.glance().await,
            _ => {}
        }
        peer.send_what_fits();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_deeds_leaves_anything_behind(
        muxers in prop::collection::vec(prop::sample::select(&Muxer::ALL[..]), 4),
        bytes_max in prop::sample::select(vec![None, Some(1000), Some(300_000)]),
        deeds in prop::collection::vec((0usize..4, deed(), any::<usize>(), 0usize..4), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let server = Server::with(|config| {
                config.relay.circuit_bytes_max = bytes_max;
                config.relay.circuits_per_peer_max = 3;
                config.connections.streams_max = 8;
            });
            let mut actors = Vec::new();
            for muxer in &muxers {
                actors.push(Actor { peer: server.connect(*muxer).await, streams: Vec::new() });
            }
            for (index, deed, choice, turns) in deeds {
                let others: Vec<_> = actors.iter().map(|actor| actor.peer.id).collect();
                if let Deed::Die(death) = deed {
                    // Somebody else comes in its place.
                    let next = Actor {
                        peer: server.connect(muxers[index]).await,
                        streams: Vec::new(),
                    };
                    let dead = std::mem::replace(&mut actors[index], next);
                    dead.peer.die(death).await;
                } else {
                    actors[index].act(deed, choice, &others).await;
                }
                // The server gets on with it, or not yet.
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            for actor in actors {
                actor.peer.die(Death::Close).await;
            }
            server.assert_clear();
        });
    }
}
