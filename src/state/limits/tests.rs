//! Limits: each refusal, exact counts on every path, bounded tables.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::origins::TABLE_SLACK;
use super::*;
use crate::clock;

/// No limit that a test does not set.
fn open() -> ConnectionsConfig {
    ConnectionsConfig {
        max: 1 << 20,
        sockets_max: 1 << 20,
        transient_max: 1 << 20,
        per_ip_max: 1 << 20,
        per_site_max: 1 << 20,
        per_prefix_max: 1 << 20,
        per_asn_max: 1 << 20,
        rate_per_site: 1e6,
        burst_per_site: 1 << 20,
        rate_per_asn: 1e6,
        burst_per_asn: 1 << 20,
        rate_per_ip: 1e6,
        burst_per_ip: 1 << 20,
        rate_per_prefix: 1e6,
        burst_per_prefix: 1 << 20,
        ..ConnectionsConfig::default()
    }
}

fn v4(host: [u8; 4]) -> SocketAddr {
    (Ipv4Addr::from(host), 1).into()
}

/// The `index`th /48 from 2001:db8::/32 on.
fn v6_network(index: u32) -> SocketAddr {
    (
        Ipv6Addr::from((0x2001_0db8_u128 << 96) | (u128::from(index) << 80)),
        1,
    )
        .into()
}

fn assert_all_zero(limits: &Limits, later: Instant) {
    limits.sweep(later);
    let usage = limits.usage();
    assert_eq!(
        (
            usage.total.taken,
            usage.sockets.taken,
            usage.transient.taken
        ),
        (0, 0, 0)
    );
    assert_eq!(usage.peers, 0);
    for table in [usage.hosts, usage.sites, usage.prefixes, usage.systems] {
        assert_eq!((table.groups.taken, table.overflow), (0, 0), "{usage:?}");
    }
}

#[test]
fn each_cap_refuses_by_its_own_name_and_a_drop_makes_room() {
    let now = clock::now();
    let near = [[192, 0, 2, 1], [192, 0, 2, 1], [192, 0, 2, 1]];
    let same_network = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3]];
    for (config, hosts, refusal) in [
        (ConnectionsConfig { max: 2, ..open() }, near, Refusal::Total),
        (
            ConnectionsConfig {
                sockets_max: 2,
                ..open()
            },
            near,
            Refusal::Sockets,
        ),
        (
            ConnectionsConfig {
                transient_max: 2,
                ..open()
            },
            near,
            Refusal::Transient,
        ),
        (
            ConnectionsConfig {
                per_ip_max: 2,
                ..open()
            },
            near,
            Refusal::PerIp,
        ),
        (
            ConnectionsConfig {
                per_prefix_max: 2,
                ..open()
            },
            same_network,
            Refusal::PerPrefix,
        ),
    ] {
        let limits = Limits::new(&config);
        let [first, second, third] = hosts.map(v4);
        let one = limits.admit(first, false, now).expect("first of two");
        let two = limits.admit(second, false, now).expect("second of two");
        assert_eq!(limits.admit(third, false, now).err(), Some(refusal));
        drop(one);
        let three = limits
            .admit(third, false, now)
            .expect("the place that was left");
        drop((two, three));
        assert_all_zero(&limits, now + Duration::from_secs(1));
    }
}

#[test]
fn who_shares_a_socket_needs_no_descriptor_and_keeps_within_the_total() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        max: 3,
        sockets_max: 1,
        ..open()
    });
    let remote = v4([192, 0, 2, 1]);
    let socket = limits.admit(remote, false, now).expect("one descriptor");
    let refused = limits.admit(remote, false, now).err();
    assert_eq!(refused, Some(Refusal::Sockets));
    let shared = [(); 2].map(|()| limits.admit_shared(remote, false, now));
    assert!(shared.iter().all(Result::is_ok));
    let refused = limits.admit_shared(remote, false, now).err();
    assert_eq!(refused, Some(Refusal::Total));
    // It counts for as long as it is open, not only until it is known.
    let known = socket.authenticated(&PeerId::random(), false);
    drop(shared);
    let refused = limits.admit(remote, false, now).err();
    assert_eq!(refused, Some(Refusal::Sockets));
    drop(known);
    assert_all_zero(&limits, now + Duration::from_secs(1));
}

#[test]
fn each_rate_refuses_by_its_own_name_until_time_passes() {
    let now = clock::now();
    let by_host = ConnectionsConfig {
        rate_per_ip: 1.0,
        burst_per_ip: 2,
        ..open()
    };
    let by_network = ConnectionsConfig {
        rate_per_prefix: 1.0,
        burst_per_prefix: 2,
        ..open()
    };
    for (config, refusal) in [
        (by_host, Refusal::RatePerIp),
        (by_network, Refusal::RatePerPrefix),
    ] {
        let limits = Limits::new(&config);
        let remote = v4([192, 0, 2, 1]);
        // Closing a connection gives no token back.
        assert!(limits.admit(remote, false, now).is_ok());
        assert!(limits.admit(remote, false, now).is_ok());
        assert_eq!(limits.admit(remote, false, now).err(), Some(refusal));
        let second = now + Duration::from_secs(1);
        assert!(limits.admit(remote, false, second).is_ok());
        assert_eq!(limits.admit(remote, false, second).err(), Some(refusal));
        assert_all_zero(&limits, now + Duration::from_secs(60));
    }
}

#[test]
fn authentication_gives_back_the_transient_place_only() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        transient_max: 1,
        ..open()
    });
    let socket = limits.admit(v4([192, 0, 2, 1]), false, now).expect("empty");
    assert_eq!(limits.usage().transient.taken, 1);
    let connection = socket
        .authenticated(&PeerId::random(), false)
        .expect("a new peer");
    let usage = limits.usage();
    assert_eq!(
        (
            usage.transient.taken,
            usage.total.taken,
            usage.hosts.groups.taken
        ),
        (0, 1, 1)
    );
    assert!(limits.admit(v4([192, 0, 2, 1]), false, now).is_ok());
    drop(connection);
    assert_all_zero(&limits, now + Duration::from_secs(1));
}

#[test]
fn a_site_is_a_level_between_host_and_network() {
    let now = clock::now();
    let address = |text: &str| (text.parse::<Ipv6Addr>().expect("an address"), 1).into();
    let inside = [
        address("2001:db8:0:100::1"),
        address("2001:db8:0:101::1"),
        address("2001:db8:0:1ff::1"),
    ];
    let by_count = ConnectionsConfig {
        per_site_max: 2,
        ..open()
    };
    let by_rate = ConnectionsConfig {
        rate_per_site: 1.0,
        burst_per_site: 2,
        ..open()
    };
    for (config, refusal) in [
        (by_count, Refusal::PerSite),
        (by_rate, Refusal::RatePerSite),
    ] {
        let limits = Limits::new(&config);
        let one = limits.admit(inside[0], false, now).expect("first of two");
        let two = limits.admit(inside[1], false, now).expect("second of two");
        let before = limits.usage();
        assert_eq!(limits.admit(inside[2], false, now).err(), Some(refusal));
        assert_eq!(limits.usage().hosts, before.hosts);
        // Its neighbour in the network, and IPv4, which has no sites.
        let next = limits.admit(address("2001:db8:0:200::1"), false, now);
        let other = limits.admit(v4([192, 0, 2, 1]), false, now);
        drop((one, two, next.expect("a site"), other.expect("none")));
        assert_all_zero(&limits, now + Duration::from_secs(60));
    }
}

#[test]
fn autonomous_systems_count_where_a_file_tells_them() {
    let now = clock::now();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(
        b"192.0.2.0\t192.0.3.255\t64500\tXX\tONE\n2001:db8::\t2001:db8::ffff\t64500\tXX\tONE\n",
    )
    .expect("written");
    let database = || Some(AsnDatabase::open(file.path()).expect("a database"));
    let by_count = ConnectionsConfig {
        per_asn_max: 2,
        ..open()
    };
    let by_rate = ConnectionsConfig {
        rate_per_asn: 1.0,
        burst_per_asn: 2,
        ..open()
    };
    for (config, refusal) in [(by_count, Refusal::PerAsn), (by_rate, Refusal::RatePerAsn)] {
        let limits = Limits::with_systems(&config, database());
        let one = limits.admit(v4([192, 0, 2, 1]), false, now).expect("one");
        let two = limits.admit(v6_network(0), false, now).expect("two");
        let third = v4([192, 0, 3, 1]);
        assert_eq!(limits.admit(third, false, now).err(), Some(refusal));
        // Whoever is announced by nobody has no system to be counted for.
        let other = limits.admit(v4([192, 0, 4, 1]), false, now).expect("none");
        assert_eq!(limits.usage().systems.groups.taken, 1);
        drop((one, two, other));
        assert_all_zero(&limits, now + Duration::from_secs(60));
    }
}

#[test]
fn the_exempt_are_held_by_the_totals_only() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        max: 3,
        per_ip_max: 1,
        rate_per_ip: 0.1,
        burst_per_ip: 1,
        ..open()
    });
    let remote = v4([192, 0, 2, 1]);
    let held = [(); 3].map(|()| limits.admit(remote, true, now).expect("exempt"));
    assert_eq!(limits.usage().hosts.groups.taken, 0);
    assert_eq!(limits.admit(remote, true, now).err(), Some(Refusal::Total));
    drop(held);
    assert_all_zero(&limits, now);
}

#[test]
fn a_peer_has_its_connections_whatever_their_addresses() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        per_peer_max: 2,
        ..open()
    });
    let peer = PeerId::random();
    let socket = |host| limits.admit(v4([192, 0, 2, host]), false, now);
    let one = socket(1)
        .expect("open")
        .authenticated(&peer, false)
        .expect("one");
    let two = socket(2)
        .expect("open")
        .authenticated(&peer, false)
        .expect("two");
    let refused = socket(3).expect("open").authenticated(&peer, false);
    assert_eq!(refused.err(), Some(Refusal::PerPeer));
    // Who is refused holds nothing any more.
    assert_eq!(limits.usage().total.taken, 2);
    assert_eq!(limits.usage().transient.taken, 0);
    let trusted = socket(3).expect("open").authenticated(&peer, true);
    drop(trusted.expect("trusted peers are spared"));
    let other = socket(3)
        .expect("open")
        .authenticated(&PeerId::random(), false);
    drop(one);
    let three = socket(1)
        .expect("open")
        .authenticated(&peer, false)
        .expect("room");
    drop((two, three, other));
    assert_all_zero(&limits, now + Duration::from_secs(1));
}

#[test]
fn loopback_knows_no_limits_by_address() {
    let now = clock::now();
    let config = ConnectionsConfig {
        max: 4,
        per_ip_max: 1,
        burst_per_ip: 1,
        rate_per_ip: 0.1,
        ..open()
    };
    let limits = Limits::new(&config);
    let held: Vec<_> = ["127.0.0.1", "127.0.0.1", "::1", "::ffff:127.0.0.1"]
        .map(|address| (address.parse::<IpAddr>().expect("an address"), 1).into())
        .map(|remote| limits.admit(remote, false, now).expect("exempt"))
        .into();
    assert_eq!(limits.usage().hosts.groups.taken, 0);
    assert_eq!(
        limits.admit(v4([127, 0, 0, 1]), false, now).err(),
        Some(Refusal::Total)
    );
    drop(held);
    assert_all_zero(&limits, now);
}

#[test]
fn a_loud_host_does_not_use_up_its_networks_rate() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        rate_per_ip: 1.0,
        burst_per_ip: 1,
        rate_per_prefix: 1.0,
        burst_per_prefix: 3,
        ..open()
    });
    let loud = v4([192, 0, 2, 1]);
    assert!(limits.admit(loud, false, now).is_ok());
    for _ in 0..100 {
        assert_eq!(
            limits.admit(loud, false, now).err(),
            Some(Refusal::RatePerIp)
        );
    }
    assert!(limits.admit(v4([192, 0, 2, 2]), false, now).is_ok());
    assert!(limits.admit(v4([192, 0, 2, 3]), false, now).is_ok());
    assert_eq!(
        limits.admit(v4([192, 0, 2, 4]), false, now).err(),
        Some(Refusal::RatePerPrefix)
    );
}

#[test]
fn draining_refuses_newcomers_and_keeps_what_is_there() {
    let now = clock::now();
    let limits = Limits::new(&open());
    let held = limits.admit(v4([127, 0, 0, 1]), false, now).expect("open");
    limits.start_draining();
    assert_eq!(
        limits.admit(v4([127, 0, 0, 1]), false, now).err(),
        Some(Refusal::Draining)
    );
    assert_eq!(limits.usage().total.taken, 1);
    drop(held);
    assert_all_zero(&limits, now);
}

#[test]
fn labels_are_distinct() {
    let labels: std::collections::HashSet<_> = Refusal::ALL.map(Refusal::label).into();
    assert_eq!(labels.len(), Refusal::ALL.len());
    for refusal in Refusal::ALL {
        let key = refusal.to_string().contains("(connections.");
        assert!(key || refusal == Refusal::Draining, "{refusal}");
    }
}

/// Somebody who owns an IPv6 /32 opens one socket from each of very many
/// networks at once: the tables stay within their places, strangers share
/// one bucket, hosts that are known go on as before.
#[test]
fn a_flood_from_very_many_networks_is_bounded() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        max: 1_000,
        ..ConnectionsConfig::default()
    });
    let known = v4([192, 0, 2, 1]);
    let held = limits
        .admit(known, false, now)
        .expect("empty")
        .authenticated(&PeerId::random(), false)
        .expect("a new peer");
    let places = 1_000 + TABLE_SLACK;

    let admitted = (0..60_000)
        .filter(|index| limits.admit(v6_network(*index), false, now).is_ok())
        .count();

    let usage = limits.usage();
    assert_eq!(
        usage.prefixes.groups,
        Level {
            taken: places,
            max: places
        }
    );
    assert!(usage.hosts.groups.taken <= places);
    // One for each place but the known host's, then one burst of the shared bucket.
    assert!(admitted <= places - 1 + 512, "{admitted}");
    assert_eq!(usage.total.taken, 1);
    assert!(limits.admit(known, false, now).is_ok());

    // When the buckets are full again, newcomers get places of their own.
    let later = now + Duration::from_secs(1);
    for index in 0..100 {
        let at = later + SWEEP_STEP * index;
        assert!(limits.admit(v6_network(100_000 + index), false, at).is_ok());
    }
    assert!(limits.usage().prefixes.groups.taken < 200);
    drop(held);
    assert_all_zero(&limits, now + Duration::from_secs(3600));
}

/// Longer than the least time between two steps of sweeping.
const SWEEP_STEP: Duration = Duration::from_millis(25);

#[test]
fn strangers_beyond_the_table_are_counted_and_released_together() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        max: 40_000,
        transient_max: 40_000,
        per_prefix_max: 2,
        burst_per_prefix: 100,
        ..ConnectionsConfig::default()
    });
    // Short-lived sockets leave entries until their buckets are full again.
    for index in 0..u32::try_from(40_000 + TABLE_SLACK).expect("small") {
        assert!(limits.admit(v6_network(index), false, now).is_ok());
    }
    let one = limits
        .admit(v6_network(60_001), false, now)
        .expect("first stranger");
    let two = limits
        .admit(v6_network(60_002), false, now)
        .expect("second stranger");
    assert_eq!(limits.usage().prefixes.overflow, 2);
    assert_eq!(
        limits.admit(v6_network(60_003), false, now).err(),
        Some(Refusal::PerPrefix)
    );
    drop((one, two));
    assert_eq!(limits.usage().prefixes.overflow, 0);
    assert_all_zero(&limits, now + Duration::from_secs(3600));
}

#[test]
fn threads_never_exceed_a_cap_and_end_at_zero() {
    let now = clock::now();
    let config = ConnectionsConfig {
        max: 24,
        transient_max: 12,
        per_ip_max: 2,
        per_prefix_max: 5,
        ..open()
    };
    let limits = Limits::new(&config);
    let per_host: [AtomicUsize; 12] = Default::default();
    let per_prefix: [AtomicUsize; 3] = Default::default();
    thread::scope(|scope| {
        for thread in 0..8_usize {
            let (limits, per_host, per_prefix) = (&limits, &per_host, &per_prefix);
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..5_000_usize {
                    let index = (thread * 5 + round * 7) % per_host.len();
                    let prefix = index % per_prefix.len();
                    let host = [
                        10,
                        0,
                        u8::try_from(prefix).expect("small"),
                        u8::try_from(index).expect("small"),
                    ];
                    if let Ok(permit) = limits.admit(v4(host), false, now) {
                        assert!(per_host[index].fetch_add(1, Ordering::SeqCst) < 2);
                        assert!(per_prefix[prefix].fetch_add(1, Ordering::SeqCst) < 5);
                        held.push((
                            index,
                            permit
                                .authenticated(&PeerId::random(), false)
                                .expect("a new peer"),
                        ));
                    }
                    if held.len() > round % 4 {
                        let (index, permit) = held.remove(0);
                        per_prefix[index % per_prefix.len()].fetch_sub(1, Ordering::SeqCst);
                        per_host[index].fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                }
                for (index, permit) in held {
                    per_prefix[index % per_prefix.len()].fetch_sub(1, Ordering::SeqCst);
                    per_host[index].fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert_all_zero(&limits, now + Duration::from_secs(1));
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u8),
    Authenticate(u8),
    Drop(u8),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..8).prop_map(Step::Admit),
        1 => any::<u8>().prop_map(Step::Authenticate),
        2 => any::<u8>().prop_map(Step::Drop),
        1 => (0_u16..800).prop_map(Step::Pass),
    ]
}

/// Tokens in thousandths, refilled by hand each millisecond.
#[derive(Debug, Clone)]
struct ModelGroup {
    count: usize,
    tokens: u64,
}

/// The rules in the plainest form: counters, and buckets with tokens in them.
#[derive(Debug)]
struct Model {
    total: usize,
    transient: usize,
    hosts: HashMap<u8, ModelGroup>,
    prefixes: HashMap<u8, ModelGroup>,
}

const MODEL: (usize, usize, usize, usize) = (10, 6, 3, 5);
const HOST_BURST: u64 = 4_000;
const PREFIX_BURST: u64 = 6_000;

impl Model {
    fn new() -> Self {
        let group = |tokens| ModelGroup { count: 0, tokens };
        Self {
            total: 0,
            transient: 0,
            hosts: (0..8).map(|host| (host, group(HOST_BURST))).collect(),
            prefixes: (0..2).map(|prefix| (prefix, group(PREFIX_BURST))).collect(),
        }
    }

    fn admit(&mut self, host: u8) -> Result<(), Refusal> {
        let prefix = self.prefixes.get_mut(&(host % 2)).expect("two networks");
        let host = self.hosts.get_mut(&host).expect("eight hosts");
        let (total, transient, per_host, per_prefix) = MODEL;
        let refusals = [
            (self.total >= total, Refusal::Total),
            (self.transient >= transient, Refusal::Transient),
            (prefix.count >= per_prefix, Refusal::PerPrefix),
            (prefix.tokens < 1_000, Refusal::RatePerPrefix),
            (host.count >= per_host, Refusal::PerIp),
            (host.tokens < 1_000, Refusal::RatePerIp),
        ];
        if let Some((_, refusal)) = refusals.into_iter().find(|(met, _)| *met) {
            return Err(refusal);
        }
        self.total += 1;
        self.transient += 1;
        for group in [host, prefix] {
            group.count += 1;
            group.tokens -= 1_000;
        }
        Ok(())
    }

    fn release(&mut self, host: u8) {
        self.total -= 1;
        self.hosts.get_mut(&host).expect("eight hosts").count -= 1;
        self.prefixes
            .get_mut(&(host % 2))
            .expect("two networks")
            .count -= 1;
    }

    /// Two tokens a second for a host, five for a network.
    fn pass(&mut self, milliseconds: u16) {
        for group in self.hosts.values_mut() {
            group.tokens = HOST_BURST.min(group.tokens + 2 * u64::from(milliseconds));
        }
        for group in self.prefixes.values_mut() {
            group.tokens = PREFIX_BURST.min(group.tokens + 5 * u64::from(milliseconds));
        }
    }
}

enum Held {
    Socket(SocketPermit),
    Connection { _permit: ConnectionPermit },
}

proptest! {
    #[test]
    fn decides_as_the_plain_rules_do(steps in prop::collection::vec(step(), 0..300)) {
        let (max, transient_max, per_ip_max, per_prefix_max) = MODEL;
        let limits = Limits::new(&ConnectionsConfig {
            max,
            transient_max,
            per_ip_max,
            per_prefix_max,
            rate_per_ip: 2.0,
            burst_per_ip: 4,
            rate_per_prefix: 5.0,
            burst_per_prefix: 6,
            ..open()
        });
        let mut model = Model::new();
        let mut held: Vec<(u8, Held)> = Vec::new();
        let mut now = clock::now();
        for step in steps {
            match step {
                Step::Admit(host) => {
                    let remote = v4([198, 51, host % 2, host]);
                    let outcome = limits.admit(remote, false, now);
                    let expected = model.admit(host);
                    prop_assert_eq!(outcome.as_ref().err(), expected.as_ref().err());
                    held.extend(outcome.map(|permit| (host, Held::Socket(permit))));
                }
                Step::Authenticate(pick) if !held.is_empty() => {
                    let (host, permit) = held.swap_remove(usize::from(pick) % held.len());
                    held.push((host, match permit {
                        Held::Socket(socket) => {
                            model.transient -= 1;
                            Held::Connection {
                                _permit: socket.authenticated(&PeerId::random(), false).expect("a new peer"),
                            }
                        }
                        connection @ Held::Connection { .. } => connection,
                    }));
                }
                Step::Drop(pick) if !held.is_empty() => {
                    let (host, permit) = held.swap_remove(usize::from(pick) % held.len());
                    model.transient -= usize::from(matches!(permit, Held::Socket(_)));
                    model.release(host);
                    drop(permit);
                }
                Step::Authenticate(_) | Step::Drop(_) => {}
                Step::Pass(milliseconds) => {
                    now += Duration::from_millis(u64::from(milliseconds));
                    model.pass(milliseconds);
                }
            }
            let usage = limits.usage();
            prop_assert_eq!(usage.total.taken, model.total);
            prop_assert_eq!(usage.transient.taken, model.transient);
        }
        drop(held);
        assert_all_zero(&limits, now + Duration::from_secs(60));
    }
}

#[test]
fn a_proxied_socket_counts_for_an_address_only_once_that_is_known() {
    let now = clock::now();
    let limits = Limits::new(&ConnectionsConfig {
        per_ip_max: 1,
        transient_max: 3,
        ..open()
    });
    let real = v4([192, 0, 2, 1]);
    let unplaced = [(); 3].map(|()| limits.admit_unplaced().expect("within transient"));
    assert_eq!(limits.usage().hosts.groups.taken, 0);
    assert_eq!(limits.admit_unplaced().err(), Some(Refusal::Transient));
    let [first, second, third] = unplaced;
    let placed = first.place(real, false, now).expect("the first");
    let refused = second.place(real, false, now).err();
    assert_eq!(refused, Some(Refusal::PerIp));
    let exempt = third.place(real, true, now).expect("exempt");
    // Its place went with the one that was refused.
    let direct = limits.admit(real, false, now).err();
    assert_eq!(direct, Some(Refusal::PerIp));
    drop((placed, exempt));
    assert_all_zero(&limits, now + Duration::from_secs(1));
}
