//! What no single value can show: ranges, and values that contradict each other.
//!
//! Owns every rule beyond the type of a value; which limit lies within which
//! stands in `nested.rs`.

mod announce;
mod peerstore;

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{Config, FORMS, Fault, ListenAddress, Loaded, Origin, Transport, derive, nested};
use crate::config::value::units::show_size;

pub(super) use announce::addresses as announce_addresses;

/// What can be spoken on a listen address.
const SERVED: [Transport; 4] = [
    Transport::Tcp,
    Transport::Quic,
    Transport::Ws,
    Transport::Wss,
];

/// Most streams one peer may have open; 64 are kept for streams we open.
const STREAMS_MAX: usize = 448;
/// Most streams that rust's yamux bears on a connection, whoever opened them.
const YAMUX_STREAMS_MAX: usize = 512;
/// Least room for buffers: below this a handful of circuits would fill it.
const BUFFERS_LEAST: u64 = 4 << 20;
/// Largest count of anything: above what one host's descriptors and memory hold.
const COUNT_MAX: usize = 1 << 24;
/// Smallest budget of memory: a server without any peer takes about half.
const MEMORY_MIN: u64 = 32 << 20;
/// Slowest rate that circuits can be held to: at it, a window takes a quarter
/// of a minute, in which a peer over mplex is not read from.
const BANDWIDTH_MIN: u64 = 16 * 1024;
/// Most rules of the operator at run time: a list is sent in one answer.
const RULES_MAX: usize = 1 << 17;
/// More worker threads than any host has cores.
const WORKERS_MAX: usize = 1024;

impl Config {
    /// Circuits that one connection's target bears: what is left of its streams
    /// beside those that it may open and our question who it is.
    #[must_use]
    pub fn circuits_borne(&self) -> usize {
        let theirs = self.connections.streams_max.saturating_add(1);
        YAMUX_STREAMS_MAX
            .saturating_sub(theirs)
            .max(self.relay.circuits_per_peer_max)
    }
}

/// All rules, for a configuration whose values could all be read. Lowers
/// defaults to the limits around them.
pub(super) fn faults(loaded: &mut Loaded) -> Vec<Fault> {
    let faults = nested::fit(loaded);
    let mut check = Check { loaded, faults };
    check.ranges();
    check.bandwidth();
    check.listen();
    check.certificates();
    check.announce();
    check.peerstore();
    check.log();
    let faults = check.faults;
    announce::note(loaded);
    faults
}

/// One pass over the rules for single sections.
struct Check<'a> {
    loaded: &'a Loaded,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn counts(&mut self) {
        let config = &self.loaded.config;
        let (relay, connections) = (&config.relay, &config.connections);
        let streams = &config.streams;
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
            ("relay.reserve_burst_per_peer", relay.reserve_burst_per_peer),
            ("relay.connect_burst_per_peer", relay.connect_burst_per_peer),
            ("connections.max", connections.max),
            ("connections.high_water", connections.high_water),
            ("connections.low_water", connections.low_water),
            ("connections.transient_max", connections.transient_max),
            ("connections.per_peer_max", connections.per_peer_max),
            ("connections.per_ip_max", connections.per_ip_max),
            ("connections.per_site_max", connections.per_site_max),
            ("connections.per_prefix_max", connections.per_prefix_max),
            ("connections.per_asn_max", connections.per_asn_max),
            ("connections.burst_per_ip", connections.burst_per_ip),
            ("connections.burst_per_site", connections.burst_per_site),
            ("connections.burst_per_prefix", connections.burst_per_prefix),
            ("connections.burst_per_asn", connections.burst_per_asn),
            ("streams.ping_max", streams.ping_max),
            ("streams.ping_per_peer_max", streams.ping_per_peer_max),
            ("streams.identify_max", streams.identify_max),
            (
                "streams.identify_per_peer_max",
                streams.identify_per_peer_max,
            ),
            ("streams.push_max", streams.push_max),
            ("streams.push_per_peer_max", streams.push_per_peer_max),
            ("streams.hop_max", streams.hop_max),
            ("streams.hop_per_peer_max", streams.hop_per_peer_max),
        ] {
            self.within(key, count, 1, COUNT_MAX);
        }
    }

    fn ranges(&mut self) {
        self.counts();
        let config = &self.loaded.config;
        let (relay, connections) = (&config.relay, &config.connections);
        self.within(
            "connections.streams_max",
            connections.streams_max,
            1,
            STREAMS_MAX,
        );
        self.within("access.rules_max", config.access.rules_max, 0, RULES_MAX);
        self.within("runtime.workers", config.runtime.workers, 0, WORKERS_MAX);
        self.within("streams.max", config.streams.max, 1, 4 * COUNT_MAX);
        self.rates();
        self.streams_fit_one_connection();
        let buffers_least = derive::buffers_least(self.loaded.workers()).max(BUFFERS_LEAST);
        if connections
            .buffers_max
            .is_some_and(|bytes| bytes < buffers_least)
        {
            let least = show_size(buffers_least);
            self.refuse(
                "connections.buffers_max",
                &format!("must be at least {least} (1MiB for each worker), or 0 for no limit"),
            );
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

    /// Each rate is possible, and none is above the one around it.
    fn bandwidth(&mut self) {
        let relay = &self.loaded.config.relay;
        let rates = [
            (
                "relay.bandwidth_per_circuit_max",
                relay.bandwidth_per_circuit_max,
            ),
            ("relay.bandwidth_per_peer_max", relay.bandwidth_per_peer_max),
            ("relay.bandwidth_max", relay.bandwidth_max),
        ];
        for (index, (key, rate)) in rates.into_iter().enumerate() {
            let Some(rate) = rate else { continue };
            if rate < BANDWIDTH_MIN {
                self.refuse(key, "must be at least 16KiB (a second), or 0 for no limit");
            }
            let around = rates[index + 1..]
                .iter()
                .find_map(|(key, around)| around.filter(|around| rate > *around).map(|_| key));
            if let Some(around) = around {
                self.refuse(key, &format!("is above {around}"));
            }
        }
    }

    fn rates(&mut self) {
        let config = &self.loaded.config;
        let (relay, connections) = (&config.relay, &config.connections);
        for (key, rate) in [
            ("connections.rate_per_ip", connections.rate_per_ip),
            ("connections.rate_per_site", connections.rate_per_site),
            ("connections.rate_per_prefix", connections.rate_per_prefix),
            ("connections.rate_per_asn", connections.rate_per_asn),
            ("relay.reserve_rate_per_peer", relay.reserve_rate_per_peer),
            ("relay.connect_rate_per_peer", relay.connect_rate_per_peer),
        ] {
            if rate <= 0.0 {
                self.refuse(key, "must be above 0");
            }
        }
    }

    /// What a peer opens, and what we open towards it for circuits, come
    /// together on one connection.
    fn streams_fit_one_connection(&mut self) {
        let theirs = self.loaded.config.connections.streams_max;
        let ours = self.loaded.config.relay.circuits_per_peer_max;
        if theirs.saturating_add(ours) > YAMUX_STREAMS_MAX {
            let origin = self.loaded.origin("connections.streams_max").phrase();
            self.refuse(
                "relay.circuits_per_peer_max",
                &format!(
                    "together with connections.streams_max = {theirs} {origin} is above \
                     {YAMUX_STREAMS_MAX}: some peers end a connection with more streams"
                ),
            );
        }
        let circuits = self.loaded.config.relay.circuits_max;
        let streams = self.loaded.config.streams.max;
        if circuits.saturating_mul(2) > streams {
            let origin = self.loaded.origin("streams.max").phrase();
            let reason =
                format!("takes two streams each, and streams.max = {streams} {origin} has fewer");
            self.refuse("relay.circuits_max", &reason);
        }
    }

    fn listen(&mut self) {
        const ADDRESSES: &str = "listen.addresses";
        const MUXERS: &str = "listen.muxers";
        const SECURITY: &str = "listen.security";
        const PROXIES: &str = "listen.proxy_protocol_from";
        let listen = &self.loaded.config.listen;
        if listen.addresses.is_empty() {
            self.refuse(ADDRESSES, "needs at least one address");
        }
        for (index, address) in listen.addresses.iter().enumerate() {
            let wanted =
                ListenAddress::of(address).filter(|wanted| SERVED.contains(&wanted.transport));
            let Some(wanted) = wanted else {
                self.refuse(ADDRESSES, &format!("{address} is not of the form {FORMS}"));
                continue;
            };
            // Port 0 asks for a free port each time; /wss is another spelling.
            let before = listen.addresses[..index]
                .iter()
                .filter_map(ListenAddress::of);
            if wanted.socket.port() != 0 && before.into_iter().any(|other| other == wanted) {
                self.refuse(ADDRESSES, &format!("{address} is listed twice"));
            }
            if wanted.transport == Transport::Wss
                && self.loaded.config.tls.certificate_files.is_empty()
            {
                let reason = format!(
                    "{address} needs tls.certificate_files and tls.key_files, for browsers"
                );
                self.refuse(ADDRESSES, &reason);
            }
        }
        for range in &listen.proxy_protocol_from {
            if range.prefix_len() == 0 {
                let reason = format!("{range} would let everybody say where they come from");
                self.refuse(PROXIES, &reason);
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
        if listen.security.is_empty() {
            self.refuse(SECURITY, "needs at least one of noise, tls");
        }
        for (index, security) in listen.security.iter().enumerate() {
            if listen.security[..index].contains(security) {
                self.refuse(SECURITY, &format!("{} is listed twice", security.name()));
            }
        }
    }

    fn certificates(&mut self) {
        let tls = &self.loaded.config.tls;
        let (certificates, keys) = (tls.certificate_files.len(), tls.key_files.len());
        if certificates != keys {
            let reason = format!("{keys} keys for {certificates} in tls.certificate_files");
            self.refuse("tls.key_files", &reason);
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

    /// What is derived is as wrong as what it is derived from.
    fn within(&mut self, key: &str, count: usize, least: usize, most: usize) {
        if matches!(self.loaded.origin(key), Origin::Derived(_)) {
            return;
        }
        if count < least || count > most {
            self.refuse(key, &format!("must be from {least} to {most}"));
        }
    }

    fn refuse(&mut self, key: &str, reason: &str) {
        self.faults.push(self.loaded.fault(key, reason));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::announce::tests::OTHER;
    use super::*;
    use crate::config::{ConfigError, Host, Sources};

    pub(super) fn load(settings: &[&str]) -> Result<Loaded, ConfigError> {
        let host = Host {
            memory_bytes: 1 << 40,
            descriptors: 1 << 20,
            cores: 4,
        };
        let sources = Sources {
            // An empty file, so that no installed one is read.
            file: Some("/dev/null".into()),
            environment: [("HOME", "/home/somebody")].into_iter().collect(),
            flags: settings.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        Loaded::load_on(&sources, &host)
    }

    /// The reason after key, value and source of the only refusal.
    pub(super) fn reason(settings: &[&str]) -> String {
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
            ("connections.per_ip_max", "connections.per_site_max"),
            ("connections.per_site_max", "connections.per_prefix_max"),
            ("connections.per_prefix_max", "connections.per_asn_max"),
            ("connections.per_asn_max", "connections.max"),
            ("connections.per_peer_max", "connections.max"),
            ("relay.reservations_max", "connections.max"),
            ("relay.circuits_per_peer_max", "connections.streams_max"),
            ("streams.ping_per_peer_max", "streams.ping_max"),
            ("streams.hop_per_peer_max", "streams.hop_max"),
            ("streams.ping_max", "streams.max"),
        ] {
            let whole_is = format!("{whole}=20");
            let reason = reason(&[&format!("{part}=21"), &whole_is]);
            assert_eq!(reason, format!("is above {whole} = 20 from flag --set"));
            load(&[&format!("{part}=20"), &whole_is]).unwrap();
        }
    }

    #[test]
    fn rates_are_possible_and_nested() {
        let rate = |key: &str, value: &str| format!("relay.bandwidth_{key}={value}");
        for key in ["max", "per_peer_max", "per_circuit_max"] {
            assert_eq!(
                reason(&[&rate(key, "1KiB")]),
                "must be at least 16KiB (a second), or 0 for no limit"
            );
            load(&[&rate(key, "16KiB")]).unwrap();
            load(&[&rate(key, "0")]).unwrap();
        }
        assert_eq!(
            reason(&[&rate("per_circuit_max", "2MiB"), &rate("max", "1MiB")]),
            "is above relay.bandwidth_max"
        );
        load(&[&rate("per_peer_max", "1MiB"), &rate("max", "1MiB")]).unwrap();
    }

    #[test]
    fn a_limit_that_somebody_raises_takes_derived_ones_around_it_along() {
        let loaded = load(&["connections.per_ip_max=9000"]).unwrap();
        let connections = &loaded.config.connections;
        assert_eq!(connections.per_site_max, 9_000);
        assert_eq!(connections.per_prefix_max, 9_000);
        assert_eq!(connections.per_asn_max, 12_500);
        // What follows from them comes along, but for what somebody set.
        assert_eq!(connections.rate_per_prefix, 180.0);
        assert_eq!(connections.burst_per_site, 4_500);
        assert_eq!(
            loaded.origin("connections.rate_per_prefix").to_string(),
            "derived from connections.per_prefix_max = 9000"
        );
        assert_eq!(loaded.config.relay.reservations_per_prefix_max, 2_250);
        assert_eq!(loaded.config.relay.reservations_per_ip_max, 2_250);
        let kept = ["connections.per_ip_max=9000", "connections.rate_per_site=3"];
        assert_eq!(load(&kept).unwrap().config.connections.rate_per_site, 3.0);
        let lowered = load(&["connections.per_asn_max=100"]).unwrap();
        assert_eq!(lowered.config.connections.per_prefix_max, 100);
        assert_eq!(lowered.config.connections.rate_per_prefix, 2.0);
        assert_eq!(lowered.config.relay.reservations_per_prefix_max, 32);
        assert_eq!(
            loaded.origin("connections.per_prefix_max").to_string(),
            "derived from connections.per_site_max = 9000"
        );
        // Never the capacity.
        assert_eq!(
            reason(&["connections.per_ip_max=50001"]),
            "is above connections.per_site_max = 50000 derived from connections.per_prefix_max = 50000"
        );
    }

    #[test]
    fn circuits_and_streams_fit_into_one_connection() {
        load(&[
            "relay.circuits_per_peer_max=64",
            "connections.streams_max=448",
        ])
        .unwrap();
        assert_eq!(
            reason(&[
                "relay.circuits_per_peer_max=65",
                "connections.streams_max=448"
            ]),
            "together with connections.streams_max = 448 from flag --set is above 512: \
             some peers end a connection with more streams"
        );
        assert_eq!(
            reason(&["connections.buffers_max=1MiB"]),
            "must be at least 4MiB (1MiB for each worker), or 0 for no limit"
        );
        assert_eq!(
            reason(&["connections.buffers_max=4MiB", "runtime.workers=8"]),
            "must be at least 8MiB (1MiB for each worker), or 0 for no limit"
        );
        load(&["connections.buffers_max=0"]).unwrap();
    }

    #[test]
    fn lowering_a_total_lowers_the_defaults_within_it() {
        let loaded = load(&["connections.max=10", "relay.reservations_max=5"]).unwrap();
        let (relay, connections) = (&loaded.config.relay, &loaded.config.connections);
        assert_eq!(connections.per_prefix_max, 10);
        assert_eq!(connections.per_ip_max, 10);
        assert_eq!(connections.transient_max, 10);
        assert_eq!(relay.reservations_per_prefix_max, 5);
        assert_eq!(relay.reservations_per_ip_max, 5);
        assert_eq!(
            loaded.origin("relay.reservations_per_ip_max").to_string(),
            "derived from relay.reservations_per_prefix_max = 5"
        );
        let loaded = load(&["streams.max=20"]).unwrap();
        assert_eq!(loaded.config.relay.circuits_max, 10);
        assert_eq!(loaded.config.streams.hop_max, 20);
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
            "is above connections.high_water = 100 derived from connections.max = 100"
        );
        assert_eq!(reason(&["memory.max=1MiB"]), "must be at least 32MiB");
        load(&["memory.max=32MiB", "connections.grace_period=0"]).unwrap();
    }

    #[test]
    fn listen_addresses_are_ip_and_tcp_and_each_once() {
        for address in [
            "/ip4/0.0.0.0/udp/4001",
            "/dns4/localhost/tcp/4001",
            "/ip4/0.0.0.0",
            "/ip4/0.0.0.0/tcp/4001/ws/tls",
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
        load(&["listen.addresses=/ip6/::1/tcp/1,/ip6/::1/tcp/1/ws"]).unwrap();
    }

    #[test]
    fn secure_websocket_needs_a_certificate_and_each_certificate_its_key() {
        for address in ["/ip6/::/tcp/1/wss", "/ip6/::/tcp/1/tls/sni/a.example/ws"] {
            assert_eq!(
                reason(&[&format!("listen.addresses={address}")]),
                format!("{address} needs tls.certificate_files and tls.key_files, for browsers")
            );
        }
        let pair = ["tls.certificate_files=a.pem", "tls.key_files=a.key"];
        load(&["listen.addresses=/ip6/::/tcp/1/tls/ws", pair[0], pair[1]]).unwrap();
        let twice = "listen.addresses=/ip6/::/tcp/1/tls/ws,/ip6/::/tcp/1/wss";
        assert_eq!(
            reason(&[twice, pair[0], pair[1]]),
            "/ip6/::/tcp/1/wss is listed twice"
        );
        assert_eq!(reason(&[pair[0]]), "0 keys for 1 in tls.certificate_files");
    }

    #[test]
    fn not_everybody_is_a_proxy() {
        for range in ["0.0.0.0/0", "::/0"] {
            assert_eq!(
                reason(&[&format!("listen.proxy_protocol_from={range}")]),
                format!("{range} would let everybody say where they come from")
            );
        }
        load(&["listen.proxy_protocol_from=10.0.0.0/8"]).unwrap();
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
    fn security_is_at_least_one_and_each_once() {
        assert_eq!(
            reason(&["listen.security=[]"]),
            "needs at least one of noise, tls"
        );
        assert_eq!(reason(&["listen.security=tls,tls"]), "tls is listed twice");
    }

    #[test]
    fn the_peerstore_holds_at_least_who_is_connected() {
        let raised = load(&["connections.max=200000"]).unwrap().config.peerstore;
        assert_eq!(raised.peers_max, 400_000);
        assert_eq!(raised.addresses_max, 4_000_000);
        assert_eq!(
            reason(&["peerstore.peers_max=1000", "connections.max=2000"]),
            "is below connections.max = 2000 from flag --set: peers that are connected are known"
        );
        load(&["peerstore.peers_max=2000", "connections.max=2000"]).unwrap();
    }

    #[test]
    fn permanent_peers_are_addresses_of_peers() {
        for address in ["/ip4/192.0.2.1/tcp/4001", &format!("/p2p/{OTHER}")] {
            assert_eq!(
                reason(&[&format!("peerstore.permanent_peers={address}")]),
                format!("{address} is not an address that ends in /p2p/PEER-ID")
            );
        }
        let whole = format!("/ip4/192.0.2.1/tcp/4001/p2p/{OTHER}");
        load(&[&format!("peerstore.permanent_peers={whole}")]).unwrap();
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
