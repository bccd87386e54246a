//! What no single value can show: ranges, and values that contradict each other.
//!
//! Owns every rule beyond the type of a value. A limit above the one around it
//! is refused when somebody set it, and lowered when it is a default: whoever
//! sets `connections.max` to 100 need not know the limits within it.

use std::net::IpAddr;
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use tracing_subscriber::EnvFilter;

use super::{Config, ConfigError, Fault, Loaded};

/// Most streams one peer may have open. rust's yamux ends a connection at 512
/// in total; 64 are kept for streams we open.
const STREAMS_MAX: usize = 448;
/// Largest count of anything: above what one host's descriptors and memory hold.
const COUNT_MAX: usize = 1 << 24;
/// Smallest budget of memory: a server without any peer takes about half.
const MEMORY_MIN: u64 = 32 << 20;
/// More worker threads than any host has cores.
const WORKERS_MAX: usize = 1024;

/// A count in the configuration: its key and where it stands.
type Count = (&'static str, fn(&mut Config) -> &mut usize);

/// Limits that count a part of what another one counts, outermost first.
const NESTED: &[(Count, Count)] = &[
    (
        ("relay.reservations_per_prefix_max", |config| {
            &mut config.relay.reservations_per_prefix_max
        }),
        ("relay.reservations_max", |config| {
            &mut config.relay.reservations_max
        }),
    ),
    (
        ("relay.reservations_per_ip_max", |config| {
            &mut config.relay.reservations_per_ip_max
        }),
        ("relay.reservations_per_prefix_max", |config| {
            &mut config.relay.reservations_per_prefix_max
        }),
    ),
    (
        ("relay.circuits_per_peer_max", |config| {
            &mut config.relay.circuits_per_peer_max
        }),
        ("relay.circuits_max", |config| {
            &mut config.relay.circuits_max
        }),
    ),
    (
        ("connections.high_water", |config| {
            &mut config.connections.high_water
        }),
        ("connections.max", |config| &mut config.connections.max),
    ),
    (
        ("connections.low_water", |config| {
            &mut config.connections.low_water
        }),
        ("connections.high_water", |config| {
            &mut config.connections.high_water
        }),
    ),
    (
        ("connections.transient_max", |config| {
            &mut config.connections.transient_max
        }),
        ("connections.max", |config| &mut config.connections.max),
    ),
    (
        ("connections.per_prefix_max", |config| {
            &mut config.connections.per_prefix_max
        }),
        ("connections.max", |config| &mut config.connections.max),
    ),
    (
        ("connections.per_ip_max", |config| {
            &mut config.connections.per_ip_max
        }),
        ("connections.per_prefix_max", |config| {
            &mut config.connections.per_prefix_max
        }),
    ),
];

/// All rules, for a configuration whose values could all be read. Lowers
/// defaults to the limits around them.
pub(super) fn faults(loaded: &mut Loaded) -> Vec<Fault> {
    derive_water_marks(loaded);
    let faults = fit_nested(loaded);
    let mut check = Check { loaded, faults };
    check.ranges();
    check.listen();
    check.announce();
    check.log();
    check.faults
}

/// See [`Loaded::announce_addresses`].
pub(super) fn announce_addresses(
    loaded: &Loaded,
    own: &PeerId,
) -> Result<Vec<Multiaddr>, ConfigError> {
    let mut faults = Vec::new();
    let mut addresses = Vec::new();
    for address in &loaded.config.announce.addresses {
        let mut bare = address.clone();
        if let Some(Protocol::P2p(peer)) = address.iter().last() {
            if peer != *own {
                let reason = format!("{address} ends in the id of another peer, ours is {own}");
                faults.push(loaded.fault("announce.addresses", reason));
            }
            bare.pop();
        }
        addresses.push(bare);
    }
    if faults.is_empty() {
        Ok(addresses)
    } else {
        Err(ConfigError(faults))
    }
}

/// Puts the marks that nobody set below the limit above them: far enough that
/// a trim leaves room for a while, near enough that few are sent away.
fn derive_water_marks(loaded: &mut Loaded) {
    let is_set = |key| loaded.origins.contains_key(key);
    let (high_is_set, low_is_set) = (
        is_set("connections.high_water"),
        is_set("connections.low_water"),
    );
    let connections = &mut loaded.config.connections;
    if !high_is_set {
        let derived = connections.max / 10 * 9 + connections.max % 10 * 9 / 10;
        connections.high_water = if low_is_set {
            derived.max(connections.low_water).min(connections.max)
        } else {
            derived
        }
        .max(1);
    }
    if !low_is_set {
        let high = connections.high_water;
        connections.low_water = (high / 9 * 8 + high % 9 * 8 / 9).max(1);
    }
}

/// Lowers a default to the limit around it; refuses a value that somebody set.
fn fit_nested(loaded: &mut Loaded) -> Vec<Fault> {
    let mut faults = Vec::new();
    for ((part_key, part), (whole_key, whole)) in NESTED {
        let whole = *whole(&mut loaded.config);
        let part = part(&mut loaded.config);
        if *part <= whole {
            continue;
        }
        if !loaded.origins.contains_key(part_key) {
            // A whole of 0 is refused for itself.
            *part = whole.max(1);
        } else {
            let origin = loaded.origin(whole_key);
            let reason = format!("is above {whole_key} = {whole} from {origin}");
            faults.push(loaded.fault(part_key, reason));
        }
    }
    faults
}

/// One pass over the rules for single sections.
struct Check<'a> {
    loaded: &'a Loaded,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn ranges(&mut self) {
        let config = &self.loaded.config;
        let (relay, connections) = (&config.relay, &config.connections);
        for (key, count) in [
            ("relay.reservations_max", relay.reservations_max),
            (
                "relay.reservations_per_ip_max",
                relay.reservations_per_ip_max,
            ),
            (
                "relay.reservations_per_prefix_max",
                relay.reservations_per_prefix_max,
            ),
            ("relay.circuits_max", relay.circuits_max),
            ("relay.circuits_per_peer_max", relay.circuits_per_peer_max),
            ("connections.max", connections.max),
            ("connections.high_water", connections.high_water),
            ("connections.low_water", connections.low_water),
            ("connections.transient_max", connections.transient_max),
            ("connections.per_ip_max", connections.per_ip_max),
            ("connections.per_prefix_max", connections.per_prefix_max),
            ("connections.burst_per_ip", connections.burst_per_ip),
            ("connections.burst_per_prefix", connections.burst_per_prefix),
        ] {
            self.within(key, count, 1, COUNT_MAX);
        }
        self.within(
            "connections.streams_max",
            connections.streams_max,
            1,
            STREAMS_MAX,
        );
        self.within("runtime.workers", config.runtime.workers, 0, WORKERS_MAX);
        for (key, rate) in [
            ("connections.rate_per_ip", connections.rate_per_ip),
            ("connections.rate_per_prefix", connections.rate_per_prefix),
        ] {
            if rate <= 0.0 {
                self.refuse(key, "must be above 0");
            }
        }
        if connections.upgrade_timeout.is_zero() {
            self.refuse("connections.upgrade_timeout", "must be above 0");
        }
        if config.memory.max.is_some_and(|max| max < MEMORY_MIN) {
            self.refuse("memory.max", "must be at least 32MiB");
        }
        // Peers are told both in whole seconds, and 0 would mean no limit.
        let told_in_seconds = [
            ("relay.reservation_ttl", Some(relay.reservation_ttl)),
            ("relay.circuit_duration_max", relay.circuit_duration_max),
        ];
        for (key, duration) in told_in_seconds {
            if duration.is_some_and(|duration| duration < Duration::from_secs(1)) {
                self.refuse(key, "must be at least 1s");
            }
        }
    }

    fn listen(&mut self) {
        const ADDRESSES: &str = "listen.addresses";
        const MUXERS: &str = "listen.muxers";
        let listen = &self.loaded.config.listen;
        if listen.addresses.is_empty() {
            self.refuse(ADDRESSES, "needs at least one address");
        }
        for (index, address) in listen.addresses.iter().enumerate() {
            let Some(port) = tcp_port(address) else {
                let reason =
                    format!("{address} is not of the form /ip4/…/tcp/PORT or /ip6/…/tcp/PORT");
                self.refuse(ADDRESSES, &reason);
                continue;
            };
            // Port 0 asks for a free port each time.
            if port != 0 && listen.addresses[..index].contains(address) {
                self.refuse(ADDRESSES, &format!("{address} is listed twice"));
            }
        }
        if listen.muxers.is_empty() {
            self.refuse(MUXERS, "needs at least one of yamux, mplex");
        }
        for (index, muxer) in listen.muxers.iter().enumerate() {
            if listen.muxers[..index].contains(muxer) {
                self.refuse(MUXERS, &format!("{} is listed twice", muxer.name()));
            }
        }
    }

    fn announce(&mut self) {
        let addresses = &self.loaded.config.announce.addresses;
        for (index, address) in addresses.iter().enumerate() {
            let fault = announce_fault(address).or_else(|| {
                addresses[..index]
                    .contains(address)
                    .then_some("is listed twice")
            });
            if let Some(fault) = fault {
                self.refuse("announce.addresses", &format!("{address} {fault}"));
            }
        }
    }

    fn log(&mut self) {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let level = &self.loaded.config.log.level;
        // The filter would take a mistyped level for the name of a module and
        // then log nothing.
        let mistyped = level.split(',').find(|directive| {
            !directive.contains(['=', '[', ':'])
                && !LEVELS.contains(&directive.to_ascii_lowercase().as_str())
        });
        if mistyped.is_some() || EnvFilter::builder().parse(level).is_err() {
            self.refuse(
                "log.level",
                "expected error, warn, info, debug, trace or off, or a list such as \"info,waystation=debug\"",
            );
        }
    }

    fn within(&mut self, key: &str, count: usize, least: usize, most: usize) {
        if count < least || count > most {
            self.refuse(key, &format!("must be from {least} to {most}"));
        }
    }

    fn refuse(&mut self, key: &str, reason: &str) {
        self.faults.push(self.loaded.fault(key, reason));
    }
}

/// The port, when the address is an IP address and a TCP port and nothing else.
fn tcp_port(address: &Multiaddr) -> Option<u16> {
    let mut parts = address.iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Ip4(_) | Protocol::Ip6(_)), Some(Protocol::Tcp(port)), None) => Some(port),
        _ => None,
    }
}

/// Why peers could not reach us at this address.
fn announce_fault(address: &Multiaddr) -> Option<&'static str> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return Some("goes through another relay");
    }
    let parts: Vec<_> = address.iter().collect();
    let host = match parts.first() {
        Some(Protocol::Ip4(ip)) => Some(IpAddr::from(*ip)),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::from(*ip)),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => None,
        _ => return Some("does not begin with /ip4, /ip6, /dns, /dns4 or /dns6"),
    };
    if host.is_some_and(|ip| ip.is_unspecified()) {
        return Some("names no host");
    }
    match parts.get(1) {
        Some(Protocol::Tcp(0) | Protocol::Udp(0)) => Some("names no port"),
        Some(Protocol::Tcp(_) | Protocol::Udp(_)) => None,
        _ => Some("names no port"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::config::Sources;

    const OWN: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";
    const OTHER: &str = "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY";

    fn load(settings: &[&str]) -> Result<Loaded, ConfigError> {
        Loaded::load(&Sources {
            // An empty file, so that no installed one is read.
            file: Some("/dev/null".into()),
            environment: [("HOME", "/home/somebody")].into_iter().collect(),
            flags: settings.iter().map(|flag| (*flag).to_owned()).collect(),
        })
    }

    /// The reason after key, value and source of the only refusal.
    fn reason(settings: &[&str]) -> String {
        let faults = load(settings).unwrap_err().0;
        match faults.as_slice() {
            [Fault::Value { reason, .. }] => reason.clone(),
            other => panic!("{settings:?}: {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        load(&[]).unwrap();
    }

    #[test]
    fn ranges_hold() {
        for key in [
            "relay.reservations_max",
            "relay.circuits_max",
            "connections.max",
            "connections.burst_per_ip",
        ] {
            for count in ["0", "16777217"] {
                let reason = reason(&[&format!("{key}={count}")]);
                assert!(reason.starts_with("must be from 1 to "), "{key}: {reason}");
            }
        }
        for refused in ["0", "449"] {
            let setting = format!("connections.streams_max={refused}");
            assert_eq!(reason(&[&setting]), "must be from 1 to 448");
        }
        for accepted in ["1", "448"] {
            load(&[&format!("connections.streams_max={accepted}")]).unwrap();
        }
        assert_eq!(reason(&["connections.rate_per_ip=0"]), "must be above 0");
        assert_eq!(
            reason(&["connections.upgrade_timeout=0"]),
            "must be above 0"
        );
        assert_eq!(
            reason(&["relay.reservation_ttl=999ms"]),
            "must be at least 1s"
        );
        assert_eq!(
            reason(&["relay.circuit_duration_max=500ms"]),
            "must be at least 1s"
        );
    }

    #[test]
    fn a_limit_within_another_may_not_be_above_it() {
        for (part, whole) in [
            (
                "relay.reservations_per_ip_max",
                "relay.reservations_per_prefix_max",
            ),
            (
                "relay.reservations_per_prefix_max",
                "relay.reservations_max",
            ),
            ("relay.circuits_per_peer_max", "relay.circuits_max"),
            ("connections.high_water", "connections.max"),
            ("connections.low_water", "connections.high_water"),
            ("connections.transient_max", "connections.max"),
            ("connections.per_ip_max", "connections.per_prefix_max"),
            ("connections.per_prefix_max", "connections.max"),
        ] {
            let whole_is = format!("{whole}=20");
            let reason = reason(&[&format!("{part}=21"), &whole_is]);
            assert_eq!(reason, format!("is above {whole} = 20 from flag --set"));
            load(&[&format!("{part}=20"), &whole_is]).unwrap();
        }
    }

    #[test]
    fn lowering_a_total_lowers_the_defaults_within_it() {
        let loaded = load(&["connections.max=100", "relay.reservations_max=20"]).unwrap();
        let (relay, connections) = (&loaded.config.relay, &loaded.config.connections);
        assert_eq!(connections.per_prefix_max, 100);
        assert_eq!(connections.per_ip_max, 100);
        assert_eq!(connections.transient_max, 100);
        assert_eq!(relay.reservations_per_prefix_max, 20);
        assert_eq!(relay.reservations_per_ip_max, 20);
    }

    #[test]
    fn the_water_marks_follow_the_limit_above_them() {
        for (settings, high, low) in [
            (&[][..], 45_000, 40_000),
            (&["connections.max=1000"], 900, 800),
            (&["connections.max=1"], 1, 1),
            (&["connections.high_water=90"], 90, 80),
            (&["connections.max=100", "connections.low_water=95"], 95, 95),
            (&["connections.max=7"], 6, 5),
        ] {
            let connections = load(settings).unwrap().config.connections;
            assert_eq!(
                (connections.high_water, connections.low_water),
                (high, low),
                "{settings:?}"
            );
        }
        assert_eq!(
            reason(&["connections.max=100", "connections.low_water=101"]),
            "is above connections.high_water = 100 from default"
        );
        assert_eq!(reason(&["memory.max=1MiB"]), "must be at least 32MiB");
        load(&["memory.max=32MiB", "connections.grace_period=0"]).unwrap();
    }

    #[test]
    fn listen_addresses_are_ip_and_tcp_and_each_once() {
        for address in [
            "/ip4/0.0.0.0/udp/4001/quic-v1",
            "/dns4/localhost/tcp/4001",
            "/ip4/0.0.0.0",
            "/ip4/0.0.0.0/tcp/4001/ws",
            "/tcp/4001",
        ] {
            let reason = reason(&[&format!("listen.addresses={address}")]);
            assert!(
                reason.starts_with(&format!("{address} is not of the form")),
                "{reason}"
            );
        }
        assert_eq!(reason(&["listen.addresses="]), "needs at least one address");
        assert_eq!(
            reason(&["listen.addresses=/ip6/::/tcp/1,/ip6/::/tcp/1"]),
            "/ip6/::/tcp/1 is listed twice"
        );
        load(&["listen.addresses=/ip6/::1/tcp/0,/ip6/::1/tcp/0"]).unwrap();
    }

    #[test]
    fn muxers_are_at_least_one_and_each_once() {
        assert_eq!(
            reason(&["listen.muxers=[]"]),
            "needs at least one of yamux, mplex"
        );
        assert_eq!(
            reason(&["listen.muxers=yamux,yamux"]),
            "yamux is listed twice"
        );
    }

    #[test]
    fn announced_addresses_can_be_dialled() {
        let relayed = format!("/ip4/192.0.2.1/tcp/1/p2p/{OTHER}/p2p-circuit");
        for (address, fault) in [
            (relayed.as_str(), "goes through another relay"),
            ("/ip4/0.0.0.0/tcp/1", "names no host"),
            ("/ip4/192.0.2.1", "names no port"),
            ("/ip4/192.0.2.1/tcp/0", "names no port"),
            (
                "/tcp/1",
                "does not begin with /ip4, /ip6, /dns, /dns4 or /dns6",
            ),
        ] {
            let reason = reason(&[&format!("announce.addresses={address}")]);
            assert_eq!(reason, format!("{address} {fault}"));
        }
        assert_eq!(
            reason(&["announce.addresses=/dns/a.example/tcp/1,/dns/a.example/tcp/1"]),
            "/dns/a.example/tcp/1 is listed twice"
        );
    }

    #[test]
    fn announced_addresses_may_end_in_our_peer_id_and_no_other() {
        let own: PeerId = OWN.parse().unwrap();
        let bare = "/dns4/relay.example.org/tcp/4001";
        let addresses = |peer: &str| {
            load(&[&format!("announce.addresses={bare}/p2p/{peer}")])
                .unwrap()
                .announce_addresses(&own)
        };
        assert_eq!(addresses(OWN).unwrap(), [bare.parse().unwrap()]);
        let error = addresses(OTHER).unwrap_err().to_string();
        assert!(error.starts_with("announce.addresses = ["), "{error}");
        assert!(
            error.ends_with(&format!("in the id of another peer, ours is {OWN}")),
            "{error}"
        );
    }

    #[test]
    fn log_levels_are_levels() {
        for level in ["loud", "info,waystaton", "waystation=loud", ""] {
            let reason = reason(&[&format!("log.level={level}")]);
            assert!(reason.starts_with("expected error, warn, info"), "{reason}");
        }
        for level in [
            "INFO",
            "off",
            "warn,waystation::upgrade=trace",
            "info,waystation[peer]=debug",
        ] {
            load(&[&format!("log.level={level}")]).unwrap();
        }
    }
}
