//! The peerstore against a model that keeps everything in plain maps, looks at
//! all of it at each step, and has all the time in the world.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PEERS: u8 = 4;

/// What may happen.
#[derive(Debug, Clone)]
enum Step {
    Connect(u8),
    Say(u8, Vec<u8>),
    Leave(u8),
    HeardOf(u8, u8),
    Permanent(u8, u8),
    Pass(u32),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let (peer, address) = (0..PEERS, 1..20u8);
    let addresses = prop::collection::vec(1..20u8, 0..6);
    prop_oneof![
        4 => peer.clone().prop_map(Step::Connect),
        4 => (peer.clone(), addresses).prop_map(|(peer, said)| Step::Say(peer, said)),
        4 => peer.clone().prop_map(Step::Leave),
        2 => (peer.clone(), address.clone()).prop_map(|(peer, at)| Step::HeardOf(peer, at)),
        1 => (peer, address).prop_map(|(peer, at)| Step::Permanent(peer, at)),
        4 => (1..20_000u32).prop_map(Step::Pass),
        3 => Just(Step::Sweep),
    ]
}

#[derive(Debug, Default, Clone)]
struct Model {
    now: u64,
    peers: BTreeMap<u8, ModelPeer>,
}

#[derive(Debug, Default, Clone)]
struct ModelPeer {
    /// Since when it is connected.
    since: Option<u64>,
    addresses: BTreeMap<u8, ModelAddress>,
}

#[derive(Debug, Clone, Copy)]
struct ModelAddress {
    class: Class,
    own: bool,
    expires: u64,
}

impl ModelAddress {
    fn is_live(&self, now: u64) -> bool {
        matches!(self.class, Class::Connected | Class::Permanent) || self.expires > now
    }
}

impl Model {
    fn connect(&mut self, peer: u8) {
        let now = self.now;
        let peer = self.peers.entry(peer).or_default();
        if peer.since.is_some() {
            return;
        }
        peer.since = Some(now);
        for address in peer.addresses.values_mut() {
            if address.class == Class::RecentlyConnected {
                address.class = Class::Connected;
            }
        }
    }

    fn say(&mut self, peer: u8, said: &[u8]) {
        let peer = self.peers.get_mut(&peer).expect("connected");
        let before = peer.addresses.clone();
        peer.addresses
            .retain(|_, address| address.class == Class::Permanent || !address.own);
        for at in said {
            let known = before.get(at);
            if known.is_some_and(|known| known.class == Class::Permanent) {
                continue;
            }
            let own_before = known.filter(|known| known.class != Class::Discovered);
            let address = ModelAddress {
                class: Class::Connected,
                own: true,
                expires: own_before.map_or(0, |known| known.expires),
            };
            peer.addresses.insert(*at, address);
        }
    }

    fn leave(&mut self, peer: u8) {
        let now = self.now;
        let peer = self.peers.get_mut(&peer).expect("connected");
        let stayed = now - peer.since.take().expect("connected");
        let until = now + (stayed * 8).clamp(15 * 60, 24 * 60 * 60);
        for address in peer.addresses.values_mut() {
            if address.class == Class::Connected {
                address.class = Class::RecentlyConnected;
                address.expires = address.expires.max(until);
            }
        }
    }

    fn heard_of(&mut self, peer: u8, at: u8, class: Class) {
        let expires = self.now + 60 * 60;
        let peer = self.peers.entry(peer).or_default();
        let address = peer.addresses.entry(at).or_insert(ModelAddress {
            class,
            own: false,
            expires,
        });
        if class == Class::Permanent || address.class == class {
            address.class = class;
            address.expires = address.expires.max(expires);
        }
    }

    /// Forgets what has expired, at once.
    fn tidy(&mut self) {
        let now = self.now;
        for peer in self.peers.values_mut() {
            peer.addresses.retain(|_, address| address.is_live(now));
        }
        self.peers
            .retain(|_, peer| peer.since.is_some() || !peer.addresses.is_empty());
    }
}

/// What both tell of a peer: its addresses with class and remaining time.
fn told(known: &Known) -> Vec<(String, Class, Option<Duration>)> {
    let mut told: Vec<_> = known
        .addresses
        .iter()
        .map(|known| (known.address.to_string(), known.class, known.expires_in))
        .collect();
    told.sort();
    told
}

fn compare(bench: &Bench, model: &Model, ids: &[PeerId]) {
    for (number, id) in (0..PEERS).zip(ids) {
        let known = bench.peers.get(id, bench.now);
        let Some(modelled) = model.peers.get(&number) else {
            assert_eq!(known, None, "peer {number}");
            continue;
        };
        let known = known.expect("as the model has it");
        assert_eq!(known.connected, modelled.since.is_some());
        let mut expected: Vec<_> = modelled
            .addresses
            .iter()
            .map(|(at, address)| {
                let expires = matches!(address.class, Class::RecentlyConnected | Class::Discovered);
                let left = expires.then(|| Duration::from_secs(address.expires - model.now));
                (public(*at), address.class, left)
            })
            .collect();
        expected.sort();
        assert_eq!(told(&known), expected, "peer {number}");
    }
}

proptest! {
    #[test]
    fn does_what_the_model_does(steps in prop::collection::vec(step(), 1..80)) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        let ids: Vec<PeerId> = (0..PEERS).map(|_| PeerId::random()).collect();
        for step in steps {
            match step {
                Step::Connect(peer) => {
                    bench.connect(&ids[usize::from(peer)]);
                    model.connect(peer);
                }
                Step::Say(peer, said) => {
                    if model.peers.get(&peer).is_some_and(|peer| peer.since.is_some()) {
                        let texts: Vec<String> = said.iter().map(|at| public(*at)).collect();
                        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                        bench.say(&ids[usize::from(peer)], connection(bench.connections), &texts);
                        model.say(peer, &said);
                    }
                }
                Step::Leave(peer) => {
                    if model.peers.get(&peer).is_some_and(|peer| peer.since.is_some()) {
                        bench.leave(&ids[usize::from(peer)], connection(u64::MAX));
                        model.leave(peer);
                    }
                }
                Step::HeardOf(peer, at) | Step::Permanent(peer, at) => {
                    let (class, source) = match step {
                        Step::Permanent(..) => (Class::Permanent, Source::Operator),
                        _ => (Class::Discovered, Source::Other),
                    };
                    let (id, address) = (&ids[usize::from(peer)], bytes(&public(at)));
                    bench.peers.heard_of(id, class, source, [&address[..]], bench.now);
                    model.heard_of(peer, at, class);
                }
                Step::Pass(seconds) => {
                    bench.now += Duration::from_secs(seconds.into());
                    model.now += u64::from(seconds);
                }
                Step::Sweep => {
                    bench.sweep();
                }
            }
            model.tidy();
            compare(&bench, &model, &ids);
            bench.assert_ordered();
        }
        // In the end nothing is left but who is connected or permanent.
        bench.now += 2 * DAY;
        model.now += 2 * 24 * 60 * 60;
        model.tidy();
        bench.sweep();
        prop_assert_eq!(bench.peers.len(), model.peers.len());
        compare(&bench, &model, &ids);
    }
}
