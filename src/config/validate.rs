//! What no single value can show: ranges, and values that contradict each other.
//!
//! Owns every rule beyond the type of a value. A smaller limit above a larger
//! one is refused only when somebody wrote it: lowering `connections.max` alone
//! leaves the default limits within it harmless.

use std::net::IpAddr;
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use tracing_subscriber::EnvFilter;

use super::{ConfigError, Fault, Loaded, Origin};

/// Most streams one peer may have open. rust's yamux ends a connection at 512
/// in total; 64 are kept for streams we open.
const STREAMS_MAX: usize = 448;
/// Largest count of anything: above what one host's descriptors and memory hold.
const COUNT_MAX: usize = 1 << 24;
/// More worker threads than any host has cores.
const WORKERS_MAX: usize = 1024;

/// All rules, for a configuration whose values could all be read.
pub(super) fn faults(loaded: &Loaded) -> Vec<Fault> {
    let mut check = Check {
        loaded,
        faults: Vec::new(),
    };
    check.ranges();
    check.nested_limits();
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

/// One pass over the rules.
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

    fn nested_limits(&mut self) {
        let config = &self.loaded.config;
        let (relay, connections) = (&config.relay, &config.connections);
        let per_ip = (
            "relay.reservations_per_ip_max",
            relay.reservations_per_ip_max,
        );
        let per_prefix = (
            "relay.reservations_per_prefix_max",
            relay.reservations_per_prefix_max,
        );
        let all = ("relay.reservations_max", relay.reservations_max);
        self.not_above(per_ip, per_prefix);
        self.not_above(per_ip, all);
        self.not_above(per_prefix, all);

        let per_peer = ("relay.circuits_per_peer_max", relay.circuits_per_peer_max);
        self.not_above(per_peer, ("relay.circuits_max", relay.circuits_max));

        let per_ip = ("connections.per_ip_max", connections.per_ip_max);
        let per_prefix = ("connections.per_prefix_max", connections.per_prefix_max);
        let all = ("connections.max", connections.max);
        self.not_above(
            ("connections.transient_max", connections.transient_max),
            all,
        );
        self.not_above(per_ip, per_prefix);
        self.not_above(per_ip, all);
        self.not_above(per_prefix, all);
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
        let mistyped = level.split(',').map(str::trim).find(|directive| {
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

    fn not_above(&mut self, (key, part): (&str, usize), (whole_key, whole): (&str, usize)) {
        if part > whole && *self.loaded.origin(key) != Origin::Default {
            let origin = self.loaded.origin(whole_key);
            self.refuse(
                key,
                &format!("is above {whole_key} = {whole} from {origin}"),
            );
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
