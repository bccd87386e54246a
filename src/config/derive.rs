//! Defaults that follow from others: one capacity, and what it means for the
//! rest.
//!
//! Owns the rules by which `connections.max` follows from the host, and the
//! limits around it from `connections.max`, each with the words in which the
//! operator reads it. A value that somebody set is never touched; whether the
//! values fit each other is looked at afterwards, in `nested.rs`.

use std::collections::BTreeSet;

use super::bears::{self, CONNECTIONS_WANTED, connections, memory, scarcer, sockets};
use super::{Config, Host, Loaded, Origin, schema::Key};

/// What stands for "follow the rule" in place of a value.
pub(super) const AUTO: &str = "auto";

/// Least memory for the process: without any peer it takes about half.
const MEMORY_LEAST: u64 = 32 << 20;
/// Least room for buffers: that of a few dozen circuits at full speed.
const BUFFERS_LEAST: u64 = 32 << 20;
/// Least room for buffers of each worker: a few connections' batches, and the
/// lumps in which it tells how many bytes it holds.
const BUFFERS_PER_WORKER: u64 = 1 << 20;

/// Known peers that are worth a peerstore, however few are connected.
const PEERS_LEAST: usize = 10_000;
/// Known peers that nobody gets without asking for them.
const PEERS_MOST: usize = 1 << 25;
/// Least room for known peers: some 40,000 of usual size.
const PEERSTORE_LEAST: u64 = 16 << 20;

/// How the default of one key follows from another key, or from the host.
pub(super) struct Rule {
    pub(super) key: &'static str,
    /// The key it follows from; empty for the host.
    of: &'static str,
    /// For the reference file, behind "auto".
    pub(super) text: &'static str,
    set: fn(&mut Config, &Host),
}

/// A rule for each key whose default is derived, in an order in which each
/// follows only from keys before it.
pub(super) const RULES: &[Rule] = &[
    Rule {
        key: "connections.max",
        of: "",
        text: "50000, or fewer where memory (16 KiB each) or, without QUIC, descriptors (one each) \
               allow no more",
        set: |config, host| config.connections.max = connections(config, host),
    },
    Rule {
        key: "connections.sockets_max",
        of: "connections.max",
        text: "connections.max, or fewer where descriptors (one each) allow no more",
        set: |config, host| {
            config.connections.sockets_max = sockets(config.connections.max, host);
        },
    },
    Rule {
        key: "connections.high_water",
        of: "connections.max",
        text: "nine tenths of connections.max",
        set: |config, _| config.connections.high_water = part(config.connections.max, 9, 10),
    },
    Rule {
        key: "connections.low_water",
        of: "connections.high_water",
        text: "eight ninths of connections.high_water",
        set: |config, _| config.connections.low_water = part(config.connections.high_water, 8, 9),
    },
    Rule {
        key: "memory.max",
        of: "",
        text: "three quarters of the memory: the rest is the kernel's, for sockets",
        set: |config, host| config.memory.max = Some(resident(host)),
    },
    Rule {
        key: "connections.transient_max",
        of: "connections.max",
        text: "a sixteenth of connections.max, at least 64",
        set: |config, _| config.connections.transient_max = share(config.connections.max, 16, 64),
    },
    Rule {
        key: "connections.per_ip_max",
        of: "connections.max",
        text: "one in 400 of connections.max, at least 16",
        set: |config, _| config.connections.per_ip_max = share(config.connections.max, 400, 16),
    },
    Rule {
        key: "connections.per_site_max",
        of: "connections.max",
        text: "one in 100 of connections.max, at least 32",
        set: |config, _| config.connections.per_site_max = share(config.connections.max, 100, 32),
    },
    Rule {
        key: "connections.per_prefix_max",
        of: "connections.max",
        text: "one in 25 of connections.max, at least 64",
        set: |config, _| config.connections.per_prefix_max = share(config.connections.max, 25, 64),
    },
    Rule {
        key: "connections.per_asn_max",
        of: "connections.max",
        text: "a quarter of connections.max, at least 64",
        set: |config, _| config.connections.per_asn_max = share(config.connections.max, 4, 64),
    },
    Rule {
        key: "connections.rate_per_ip",
        of: "connections.per_ip_max",
        text: "connections.per_ip_max within 25 s",
        set: |config, _| {
            config.connections.rate_per_ip = rate(config.connections.per_ip_max, 25.0);
        },
    },
    Rule {
        key: "connections.burst_per_ip",
        of: "connections.per_ip_max",
        text: "half of connections.per_ip_max",
        set: |config, _| {
            config.connections.burst_per_ip = share(config.connections.per_ip_max, 2, 8);
        },
    },
    Rule {
        key: "connections.rate_per_site",
        of: "connections.per_site_max",
        text: "connections.per_site_max within 50 s",
        set: |config, _| {
            config.connections.rate_per_site = rate(config.connections.per_site_max, 50.0);
        },
    },
    Rule {
        key: "connections.burst_per_site",
        of: "connections.per_site_max",
        text: "half of connections.per_site_max",
        set: |config, _| {
            config.connections.burst_per_site = share(config.connections.per_site_max, 2, 16);
        },
    },
    Rule {
        key: "connections.rate_per_prefix",
        of: "connections.per_prefix_max",
        text: "connections.per_prefix_max within 50 s",
        set: |config, _| {
            config.connections.rate_per_prefix = rate(config.connections.per_prefix_max, 50.0);
        },
    },
    Rule {
        key: "connections.burst_per_prefix",
        of: "connections.per_prefix_max",
        text: "a quarter of connections.per_prefix_max, at least 32",
        set: |config, _| {
            config.connections.burst_per_prefix = share(config.connections.per_prefix_max, 4, 32);
        },
    },
    Rule {
        key: "connections.rate_per_asn",
        of: "connections.per_asn_max",
        text: "connections.per_asn_max within 50 s",
        set: |config, _| {
            config.connections.rate_per_asn = rate(config.connections.per_asn_max, 50.0);
        },
    },
    Rule {
        key: "connections.burst_per_asn",
        of: "connections.per_asn_max",
        text: "a quarter of connections.per_asn_max, at least 32",
        set: |config, _| {
            config.connections.burst_per_asn = share(config.connections.per_asn_max, 4, 32);
        },
    },
    Rule {
        key: "connections.buffers_max",
        of: "",
        text: "a quarter of the memory, at least 32 MiB and 1 MiB for each worker",
        set: |config, host| {
            let workers = match config.runtime.workers {
                0 => host.cores,
                count => count,
            };
            config.connections.buffers_max = Some(buffers(host).max(buffers_least(workers)));
        },
    },
    Rule {
        key: "peerstore.peers_max",
        of: "connections.max",
        text: "twice connections.max, at least 10000",
        set: |config, _| {
            let twice = config.connections.max.saturating_mul(2);
            config.peerstore.peers_max = twice.clamp(PEERS_LEAST, PEERS_MOST);
        },
    },
    Rule {
        key: "peerstore.addresses_max",
        of: "peerstore.peers_max",
        text: "ten for each of peerstore.peers_max",
        set: |config, _| {
            config.peerstore.addresses_max = config.peerstore.peers_max.saturating_mul(10);
        },
    },
    Rule {
        key: "peerstore.memory_max",
        of: "",
        text: "an eighth of the memory, at least 16 MiB",
        set: |config, host| {
            let eighth = (host.memory_bytes / 8) >> 20 << 20;
            config.peerstore.memory_max = Some(eighth.max(PEERSTORE_LEAST));
        },
    },
    Rule {
        key: "relay.reservations_max",
        of: "connections.max",
        text: "connections.max",
        set: |config, _| config.relay.reservations_max = config.connections.max.max(1),
    },
    Rule {
        key: "relay.reservations_per_ip_max",
        of: "connections.per_ip_max",
        text: "a quarter of connections.per_ip_max, at least 8",
        set: |config, _| {
            config.relay.reservations_per_ip_max = share(config.connections.per_ip_max, 4, 8);
        },
    },
    Rule {
        key: "relay.reservations_per_prefix_max",
        of: "connections.per_prefix_max",
        text: "a quarter of connections.per_prefix_max, at least 32",
        set: |config, _| {
            config.relay.reservations_per_prefix_max =
                share(config.connections.per_prefix_max, 4, 32);
        },
    },
    Rule {
        key: "relay.circuits_max",
        of: "connections.max",
        text: "a third of connections.max, at least 16",
        set: |config, _| config.relay.circuits_max = share(config.connections.max, 3, 16),
    },
    Rule {
        key: "relay.connect_burst_per_peer",
        of: "relay.circuits_per_peer_max",
        text: "two for each of relay.circuits_per_peer_max, at least 32",
        set: |config, _| {
            let relay = &mut config.relay;
            relay.connect_burst_per_peer = relay.circuits_per_peer_max.saturating_mul(2).max(32);
        },
    },
    Rule {
        key: "streams.max",
        of: "connections.max",
        text: "four for each of connections.max, two for each of relay.circuits_max, at least 1024",
        set: |config, _| {
            let of_circuits = config.relay.circuits_max.saturating_mul(2);
            let of_connections = config.connections.max.saturating_mul(4);
            config.streams.max = of_connections.max(of_circuits).max(1024);
        },
    },
    Rule {
        key: "streams.ping_max",
        of: "connections.max",
        text: "connections.max",
        set: |config, _| config.streams.ping_max = config.connections.max.max(1),
    },
    Rule {
        key: "streams.identify_max",
        of: "connections.max",
        text: "connections.max",
        set: |config, _| config.streams.identify_max = config.connections.max.max(1),
    },
    Rule {
        key: "streams.push_max",
        of: "connections.max",
        text: "half of connections.max, at least 16",
        set: |config, _| config.streams.push_max = share(config.connections.max, 2, 16),
    },
    Rule {
        key: "streams.hop_max",
        of: "connections.max",
        text: "half of connections.max, at least 16",
        set: |config, _| config.streams.hop_max = share(config.connections.max, 2, 16),
    },
];

/// The rule for a key, if its default is derived.
pub(super) fn rule(key: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.key == key)
}

/// Fills in every derived value that nobody has set.
pub(super) fn fill_in(loaded: &mut Loaded, host: &Host) {
    for rule in RULES {
        if loaded.origins.contains_key(rule.key) {
            continue;
        }
        (rule.set)(&mut loaded.config, host);
        let from = match Key::find(rule.of) {
            Some(of) => format!("{} = {}", rule.of, (of.show)(&loaded.config)),
            None if rule.key != "connections.max" => memory(host),
            None if loaded.config.connections.max < CONNECTIONS_WANTED => {
                scarcer(&loaded.config, host)
            }
            // Nothing forbids it.
            None => continue,
        };
        loaded.derived.insert(rule.key, Origin::Derived(from));
    }
    bears::note(loaded, host);
}

/// Fills in again what follows from values in `moved`, to which it adds what
/// moves thereby. What somebody set, and what is there already, stays.
pub(super) fn follow(loaded: &mut Loaded, moved: &mut BTreeSet<&'static str>) {
    let host = loaded.host;
    for rule in RULES {
        let stays = loaded.origins.contains_key(rule.key) || moved.contains(rule.key);
        if stays || !moved.contains(rule.of) {
            continue;
        }
        let (Some(key), Some(of)) = (Key::find(rule.key), Key::find(rule.of)) else {
            continue;
        };
        let before = (key.show)(&loaded.config);
        (rule.set)(&mut loaded.config, &host);
        if (key.show)(&loaded.config) != before {
            moved.insert(rule.key);
        }
        let from = format!("{} = {}", rule.of, (of.show)(&loaded.config));
        loaded.derived.insert(rule.key, Origin::Derived(from));
    }
}

/// Each worker tells of its bytes in lumps, for which there has to be room.
pub(super) fn buffers_least(workers: usize) -> u64 {
    BUFFERS_PER_WORKER.saturating_mul(workers as u64)
}

fn buffers(host: &Host) -> u64 {
    let quarter = (host.memory_bytes / 4) >> 20 << 20;
    quarter.max(BUFFERS_LEAST)
}

/// What the process may take of the host; the kernel's buffers of sockets
/// count in a control group and not in the process.
fn resident(host: &Host) -> u64 {
    let most = (host.memory_bytes / 4 * 3) >> 20 << 20;
    most.max(MEMORY_LEAST)
}

/// One in `one_in` of `whole`: at least `least`, and never more than there is.
fn share(whole: usize, one_in: usize, least: usize) -> usize {
    (whole / one_in).max(least).min(whole.max(1))
}

/// So many parts of `whole`, rounded down, at least one.
fn part(whole: usize, parts: usize, of: usize) -> usize {
    (whole / of * parts + whole % of * parts / of).max(1)
}

/// So many a second that `count` have come within `seconds`.
fn rate(count: usize, seconds: f64) -> f64 {
    // In tenths, so that it reads well.
    let tenths = (count as f64 * 10.0 / seconds).round().max(1.0);
    tenths / 10.0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::config::{KEYS, Sources};

    const GIB: u64 = 1 << 30;
    const TCP_ONLY: &str = "listen.addresses=/ip4/0.0.0.0/tcp/4001";

    fn sources(settings: &[&str]) -> Sources {
        Sources {
            file: Some("/dev/null".into()),
            environment: [("HOME", "/home/somebody")].into_iter().collect(),
            flags: settings.iter().map(|flag| (*flag).to_owned()).collect(),
        }
    }

    fn load(settings: &[&str], memory_bytes: u64, descriptors: u64) -> Loaded {
        let sources = sources(settings);
        let host = Host {
            memory_bytes,
            descriptors,
            cores: 4,
        };
        Loaded::load_on(&sources, &host).unwrap()
    }

    #[test]
    fn a_host_of_one_gib_gets_the_built_in_defaults() {
        let loaded = load(&[], GIB, 1 << 20);
        let built_in = Config::default();
        assert_eq!(loaded.config.connections, built_in.connections);
        assert_eq!(loaded.config.relay, built_in.relay);
        assert_eq!(loaded.config.streams, built_in.streams);
        assert_eq!(loaded.config.peerstore, built_in.peerstore);
        assert!(loaded.notes().is_empty());
        assert_eq!(
            loaded.origin("connections.transient_max").to_string(),
            "derived from connections.max = 50000"
        );
    }

    #[test]
    fn one_key_scales_the_rest() {
        let loaded = load(&["connections.max=10000"], 64 * GIB, 1 << 20);
        let (connections, relay) = (&loaded.config.connections, &loaded.config.relay);
        assert_eq!(relay.reservations_max, 10_000);
        assert_eq!(relay.circuits_max, 3_333);
        assert_eq!(connections.transient_max, 625);
        assert_eq!(connections.per_prefix_max, 400);
        assert_eq!(connections.rate_per_prefix, 8.0);
        assert_eq!(loaded.config.streams.max, 40_000);
        assert_eq!(
            loaded.origin("relay.circuits_max").to_string(),
            "derived from connections.max = 10000"
        );
    }

    #[test]
    fn a_small_host_gets_fewer_connections_and_is_told_why() {
        for (memory, descriptors, max, why) in [
            (64 * GIB, 4_096, 3_840, "descriptors = 4096"),
            (GIB / 4, 1 << 20, 16_384, "memory = 256MiB"),
            (GIB / 4, 4_096, 3_840, "descriptors = 4096"),
            (1 << 20, 64, 16, "descriptors = 64"),
        ] {
            let loaded = load(&[TCP_ONLY], memory, descriptors);
            assert_eq!(loaded.config.connections.max, max);
            assert_eq!(loaded.config.connections.sockets_max, max);
            assert_eq!(
                loaded.notes(),
                [format!(
                    "connections.max is {max} instead of 50000: no more fit into {why}"
                )]
            );
            assert_eq!(
                loaded.origin("connections.max").to_string(),
                format!("derived from {why}")
            );
        }
    }

    #[test]
    fn what_somebody_sets_stays_and_auto_is_the_rule() {
        let loaded = load(
            &[
                TCP_ONLY,
                "connections.max=60000",
                "relay.circuits_max=7",
                "streams.max=auto",
            ],
            GIB,
            1_024,
        );
        assert_eq!(loaded.config.connections.max, 60_000);
        assert_eq!(loaded.config.relay.circuits_max, 7);
        assert_eq!(loaded.config.streams.max, 240_000);
        assert_eq!(
            loaded.notes(),
            ["connections.max = 60000 needs 60256 descriptors; the hard limit is 1024"]
        );
    }

    #[test]
    fn what_the_host_cannot_hold_is_told() {
        let loaded = load(
            &[
                "connections.max=100000",
                "memory.max=2GiB",
                "connections.buffers_max=1GiB",
            ],
            GIB,
            1 << 20,
        );
        assert_eq!(
            loaded.notes(),
            [
                "connections.max = 100000 needs 1600000KiB of memory; the host has 1GiB",
                "memory.max = 2GiB is above memory = 1GiB",
            ]
        );
        assert!(loaded.render().contains(
            "# host: memory = 1GiB, descriptors = 1048576, cores = 4\n# note: connections.max"
        ));
    }

    #[test]
    fn absurd_counts_are_refused_and_overflow_nothing() {
        let most = usize::MAX.to_string();
        for key in [
            "connections.max",
            "connections.streams_max",
            "relay.circuits_per_peer_max",
            "relay.circuits_max",
            "streams.max",
        ] {
            let sources = sources(&[&format!("{key}={most}")]);
            let host = Host {
                memory_bytes: GIB,
                descriptors: 1 << 20,
                cores: 4,
            };
            let _ = Loaded::load_on(&sources, &host);
        }
    }

    #[test]
    fn each_worker_has_its_part_of_the_buffers() {
        let loaded = load(&["runtime.workers=100"], GIB / 8, 1 << 20);
        assert_eq!(loaded.config.connections.buffers_max, Some(100 << 20));
    }

    #[test]
    fn every_host_gets_limits_that_fit_each_other() {
        for memory in [0, 1 << 20, GIB / 8, GIB, 4096 * GIB, u64::MAX] {
            for descriptors in [0, 64, 300, 1024, 20_000, u64::MAX] {
                load(&[], memory, descriptors);
                for max in ["1", "2", "100", "1000000"] {
                    load(&[&format!("connections.max={max}")], memory, descriptors);
                }
            }
        }
    }

    #[test]
    fn rules_are_about_keys_and_follow_from_what_stands_before() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(KEYS.iter().any(|key| key.path == rule.key), "{}", rule.key);
            let derived = RULES.iter().position(|of| of.key == rule.of);
            let known = derived.is_none_or(|of| of < index);
            assert!(known, "{} follows from {}", rule.key, rule.of);
        }
    }
}
