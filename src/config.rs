//! What an operator can set: sections, keys, defaults, and where values come from.
//!
//! Owns the schema: one list from which the structs, their defaults, the
//! reference file and the list of known keys are made. The way from defaults,
//! file, environment and flags to one checked [`Config`] is in `loaded.rs`.
//! Reading the key file and acting on the values is left to others.

mod bears;
mod derive;
mod host;
mod listen_address;
mod lists;
mod loaded;
mod nested;
mod private_network;
mod render;
mod schema;
mod source;
mod subject;
mod token;
mod validate;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use multiaddr::Multiaddr;

use crate::engine::muxer::Muxer;
use crate::engine::security::Security;

pub use host::Host;
pub use listen_address::{FORMS, ListenAddress, Transport};
pub use lists::AccessLists;
pub use loaded::{ConfigError, Fault, Loaded};
pub use private_network::read_private_key;
pub use source::{Environment, Origin, Sources};
pub use subject::Subject;
pub(crate) use value::units;

schema::sections! {
    /// Where peers reach us.
    listen: ListenConfig {
        /// Addresses to listen on, each "/ip4/…/tcp/PORT" or
        /// "/ip4/…/udp/PORT/quic-v1", or the same with "/ip6/…". Behind a TCP
        /// port "/ws" is WebSocket and "/tls/ws" secure WebSocket, which needs a
        /// certificate (see tls); all of TCP may share a port. Port 0 takes a
        /// free port, which the start banner names.
        addresses: Vec<Multiaddr> = default_listen_addresses(),
        /// Stream multiplexers to offer, the preferred one first. One that is
        /// left out is switched off.
        muxers: Vec<Muxer> = Muxer::ALL.to_vec(),
        /// What may secure a connection over TCP. One that is left out is
        /// switched off; which one it is, the peer chooses.
        security: Vec<Security> = Security::ALL.to_vec(),
        /// Ranges of the reverse proxies that forward connections to us with the
        /// PROXY protocol, version 1 or 2. A connection from there has to begin
        /// with its header, and counts for the address in it: for limits, rules
        /// and the log. One from elsewhere that begins with it is closed.
        proxy_protocol_from: Vec<IpNet> = Vec::new(),
    }

    /// A network of its own: only peers that hold the same key get in.
    private_network: PrivateNetworkConfig {
        /// File with the key, as go-libp2p writes it (swarm.key). Applies to TCP
        /// and WebSocket; QUIC cannot have it. Refused if it is open to everybody
        /// (chmod o= it). Empty: no private network.
        key_file: PathBuf = PathBuf::new(),
    }

    /// Certificates for listen addresses with /tls/ws, from an authority that
    /// browsers trust. Read again when they change and at SIGHUP, without ending
    /// a connection; one that cannot be served leaves the one before it serving.
    tls: TlsConfig {
        /// Files with a certificate each, in PEM, what vouches for it behind it.
        /// Of several a client is shown the one for the name that it asks for.
        certificate_files: Vec<PathBuf> = Vec::new(),
        /// Files with their private keys, in PEM and in the same order: ECDSA,
        /// RSA or Ed25519.
        key_files: Vec<PathBuf> = Vec::new(),
    }

    /// What we tell peers about where to reach us.
    announce: AnnounceConfig {
        /// What peers are told in place of what the server finds out, for a host
        /// behind a NAT or with a DNS name: "/ip4/…/tcp/PORT",
        /// "/dns4/NAME/udp/PORT/quic-v1", "/dns4/NAME/tcp/PORT/tls/ws" or
        /// "/dnsaddr/NAME". Empty: the addresses of the interfaces, watched, and
        /// public ones that peers in several networks see us under. `waystation
        /// addresses` shows them all.
        addresses: Vec<Multiaddr> = Vec::new(),
    }

    /// What outlives a restart.
    state: StateConfig {
        /// Directory for what is kept. Empty: $STATE_DIRECTORY, else
        /// $XDG_STATE_HOME/waystation, else ~/.local/state/waystation.
        directory: PathBuf = PathBuf::new(),
    }

    /// Who we are.
    identity: IdentityConfig {
        /// File of the private key, created at the first start and never
        /// overwritten. Empty: identity.key in state.directory.
        key_file: PathBuf = PathBuf::new(),
    }

    /// Circuit relay v2.
    relay: RelayConfig {
        /// Whether to relay at all.
        enabled: bool = true,
        /// Peers that may hold a reservation at the same time.
        reservations_max: usize = 50_000,
        /// Reservations from one host: an IPv4 address or an IPv6 /64. Does not
        /// apply to loopback.
        reservations_per_ip_max: usize = 31,
        /// Reservations from one network: an IPv4 /24 or an IPv6 /48.
        reservations_per_prefix_max: usize = 500,
        /// Requests for a reservation, or to renew one, that a peer may make
        /// per second in the long run.
        reserve_rate_per_peer: f64 = 0.1,
        /// Such requests that may come at once.
        reserve_burst_per_peer: usize = 16,
        /// How long a reservation holds before the peer has to renew it.
        reservation_ttl: Duration = Duration::from_secs(60 * 60),
        /// Circuits open at the same time.
        circuits_max: usize = 16_666,
        /// Circuits of one peer, counted apart as source and as target.
        circuits_per_peer_max: usize = 16,
        /// Requests for a circuit that a peer may make per second in the long
        /// run, granted or not.
        connect_rate_per_peer: f64 = 1.0,
        /// Such requests that may come at once.
        connect_burst_per_peer: usize = 32,
        /// How long one circuit may stay open. 0: no limit.
        circuit_duration_max: Option<Duration> = Some(Duration::from_secs(2 * 60)),
        /// Bytes one circuit may carry in each direction. 0: no limit.
        circuit_bytes_max: Option<u64> = Some(128 * 1024),
        /// Bytes that all circuits together may carry in a second, both
        /// directions counted. Whoever sends more is slowed down, nothing is
        /// dropped. 0: no limit.
        bandwidth_max: Option<u64> = None,
        /// Bytes that the circuits of one peer, as source or target, may carry in
        /// a second. 0: no limit.
        bandwidth_per_peer_max: Option<u64> = None,
        /// Bytes that one circuit may carry in a second. 0: no limit.
        bandwidth_per_circuit_max: Option<u64> = None,
        /// Whether only those whom the access lists allow may reserve.
        allowed_only: bool = false,
    }

    /// Who may connect at all, and whom the limits spare. Each entry is a peer
    /// id, an IP address, or a range such as "192.0.2.0/24"; denial always wins.
    /// More can be added while the server runs: see `waystation deny --help`.
    access: AccessConfig {
        /// Refused at accept, at authentication, at RESERVE and at CONNECT.
        deny: Vec<Subject> = Vec::new(),
        /// Trusted: see the keys below for what that means.
        allow: Vec<Subject> = Vec::new(),
        /// File with more to deny, one entry a line, # begins a comment. Empty:
        /// none.
        deny_file: PathBuf = PathBuf::new(),
        /// File with more to allow, likewise.
        allow_file: PathBuf = PathBuf::new(),
        /// Whether limits by address do not count allowed addresses, nor limits
        /// by peer the connections, nor either the reservations and circuits of
        /// those who are allowed. The totals hold for everybody; so do limits by
        /// address for an allowed peer id, which is not known at accept; and a
        /// target is offered no more circuits than its connection bears beside
        /// connections.streams_max.
        allow_uncapped: bool = true,
        /// Whether a circuit with an allowed end has no limit on bytes and time.
        allow_unlimited_circuits: bool = false,
        /// Rules that can be made while the server runs.
        rules_max: usize = 16_384,
    }

    /// Admission: what a remote host may take from us before and after it has
    /// shown who it is. Limits by IP do not apply to loopback.
    connections: ConnectionsConfig {
        /// Connections and sockets in upgrade, together: the capacity from which
        /// the other limits follow.
        max: usize = 50_000,
        /// Of these, the ones over TCP and WebSocket, each of which takes a
        /// descriptor. Those over QUIC share a few sockets.
        sockets_max: usize = 50_000,
        /// Connections at which shedding starts in the background.
        high_water: usize = 45_000,
        /// Connections that shedding leaves. The least valuable go first; those
        /// with a reservation, with an open circuit or of listed peers are left
        /// alone.
        low_water: usize = 40_000,
        /// How long a new connection is not shed.
        grace_period: Duration = Duration::from_secs(60),
        /// Sockets whose peer has not yet shown who it is.
        transient_max: usize = 3_125,
        /// Connections of one peer, once it has shown who it is.
        per_peer_max: usize = 8,
        /// Connections from one host: an IPv4 address or an IPv6 /64.
        per_ip_max: usize = 125,
        /// Connections from one site: an IPv6 /56. Does not apply to IPv4.
        per_site_max: usize = 500,
        /// Connections from one network: an IPv4 /24 or an IPv6 /48.
        per_prefix_max: usize = 2_000,
        /// Connections from one autonomous system, with asn_database only.
        per_asn_max: usize = 12_500,
        /// New connections per second from one IP address, in the long run.
        rate_per_ip: f64 = 5.0,
        /// New connections from one IP address that may come at once.
        burst_per_ip: usize = 62,
        /// New connections per second from one site, in the long run.
        rate_per_site: f64 = 10.0,
        /// New connections from one site that may come at once.
        burst_per_site: usize = 250,
        /// New connections per second from one network, in the long run.
        rate_per_prefix: f64 = 40.0,
        /// New connections from one network that may come at once.
        burst_per_prefix: usize = 500,
        /// New connections per second from one autonomous system, in the long
        /// run.
        rate_per_asn: f64 = 250.0,
        /// New connections from one autonomous system that may come at once.
        burst_per_asn: usize = 3_125,
        /// File that tells which autonomous system announces an address: lines
        /// of first address, last address and number, separated by tabs, as
        /// iptoasn.com offers them (ip2asn-combined.tsv, unpacked). Read at the
        /// start. Empty: no limits by autonomous system.
        asn_database: PathBuf = PathBuf::new(),
        /// Time from accepting a socket to a negotiated muxer, over all steps.
        upgrade_timeout: Duration = Duration::from_secs(15),
        /// Streams that one connection's peer may have open towards us, 1 to 448.
        streams_max: usize = 256,
        /// Memory for bytes on their way through all connections. When it is
        /// taken, no new streams and circuits are let in, and a circuit whose
        /// bytes would have to wait ends. 0: no limit.
        buffers_max: Option<u64> = Some(256 << 20),
    }

    /// Streams over all connections, and of one peer over its connections. A
    /// stream that has become an end of a circuit counts in max only.
    streams: StreamsConfig {
        /// Streams open at the same time, whoever opened them. Peers may open all
        /// but an eighth, which is kept for ours.
        max: usize = 200_000,
        /// ping: streams in all.
        ping_max: usize = 50_000,
        /// ping: streams of one peer: two on each of its connections.
        ping_per_peer_max: usize = 16,
        /// identify: streams in all.
        identify_max: usize = 50_000,
        /// identify: streams of one peer.
        identify_per_peer_max: usize = 16,
        /// identify/push: streams in all.
        push_max: usize = 25_000,
        /// identify/push: streams of one peer.
        push_per_peer_max: usize = 16,
        /// hop, until answered: streams in all.
        hop_max: usize = 25_000,
        /// hop, until answered: streams of one peer.
        hop_per_peer_max: usize = 64,
    }

    /// The peers we have met and where they can be reached, also after a
    /// restart.
    peerstore: PeerstoreConfig {
        /// Peers that are known at the same time; those that are connected count.
        peers_max: usize = 100_000,
        /// Addresses of all known peers together.
        addresses_max: usize = 1_000_000,
        /// Memory that known peers may take. 0: no limit.
        memory_max: Option<u64> = Some(128 * 1024 * 1024),
        /// How long a peer that has left is remembered at most. One that was
        /// there only briefly is remembered for eight times as long as it stayed,
        /// at least 15 minutes.
        recent_ttl: Duration = Duration::from_secs(24 * 60 * 60),
        /// How long an address is remembered that another peer has told us of.
        discovered_ttl: Duration = Duration::from_secs(60 * 60),
        /// How often what has changed is written to state.directory: what a crash
        /// loses at most.
        write_interval: Duration = Duration::from_secs(5),
        /// Peers that are known from the start and never forgotten, each an
        /// address that ends in "/p2p/PEER-ID".
        permanent_peers: Vec<Multiaddr> = Vec::new(),
    }

    /// Memory of the whole process.
    memory: MemoryConfig {
        /// Resident size above which connections are shed, also below
        /// connections.low_water and those that are protected. 0: no limit.
        max: Option<u64> = Some(768 << 20),
    }

    /// Metrics, health and changes while running, over HTTP.
    admin: AdminConfig {
        /// Address and port to serve on; keep it private. Empty: switched off.
        address: Option<SocketAddr> = Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9464)),
        /// File with the secret that changes over HTTP need, 16 characters or
        /// more. Empty: none, and changes are taken on a loopback address only.
        token_file: PathBuf = PathBuf::new(),
    }

    /// Logging, to standard error or the journal.
    log: LogConfig {
        /// Level (error, warn, info, debug, trace, off), optionally by part of
        /// the program: "info,waystation::upgrade=debug".
        level: String = "info".to_owned(),
        /// "text", "json" or "journald". "auto": text on a terminal and in a
        /// container, journald when the service manager connected us to it.
        format: LogFormat = LogFormat::Auto,
    }

    /// The way out.
    shutdown: ShutdownConfig {
        /// How long open circuits may go on after a request to stop.
        drain_timeout: Duration = Duration::from_secs(30),
    }

    /// Threads.
    runtime: RuntimeConfig {
        /// Worker threads. 0: one for each core.
        workers: usize = 0,
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Chosen by what standard error is connected to.
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
    /// Structured fields to the systemd journal.
    Journald,
}

fn default_listen_addresses() -> Vec<Multiaddr> {
    [
        "/ip4/0.0.0.0/tcp/4001",
        "/ip6/::/tcp/4001",
        "/ip4/0.0.0.0/udp/4001/quic-v1",
        "/ip6/::/udp/4001/quic-v1",
    ]
    .map(|address| address.parse().expect("a literal multiaddr"))
    .to_vec()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs;

    use super::*;

    const PEER: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";

    /// A directory with a configuration file, and sources that read it.
    fn sources(file: &str) -> (tempfile::TempDir, Sources) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("waystation.toml");
        fs::write(&path, file).unwrap();
        let sources = Sources {
            file: Some(path),
            environment: [("HOME", "/home/somebody")].into_iter().collect(),
            flags: Vec::new(),
        };
        (directory, sources)
    }

    fn load_file(file: &str) -> Result<Loaded, ConfigError> {
        let (_directory, sources) = sources(file);
        Loaded::load(&sources)
    }

    /// The lines of the error, with the file's changing path taken out.
    fn refusals(file: &str) -> Vec<String> {
        let (directory, sources) = sources(file);
        let path = directory.path().to_str().unwrap();
        let error = Loaded::load(&sources).unwrap_err().to_string();
        error.replace(path, "").lines().map(str::to_owned).collect()
    }

    fn flags(settings: &[&str]) -> Result<Loaded, ConfigError> {
        let (_directory, mut sources) = sources("");
        sources.flags = settings.iter().map(|flag| (*flag).to_owned()).collect();
        Loaded::load(&sources)
    }

    fn flag_refusals(settings: &[&str]) -> Vec<String> {
        let error = flags(settings).unwrap_err().to_string();
        error.lines().map(str::to_owned).collect()
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let (_directory, mut sources) = sources(
            "[relay]\ncircuits_max = 1000\nreservations_max = 2000\ncircuits_per_peer_max = 3\n",
        );
        sources.environment = [
            ("HOME", "/home/somebody"),
            ("WAYSTATION_RELAY__CIRCUITS_MAX", "1001"),
            ("WAYSTATION_RELAY__RESERVATIONS_MAX", "2001"),
        ]
        .into_iter()
        .collect();
        sources.flags = vec![
            "relay.circuits_max=1".to_owned(),
            "relay.circuits_max=1002".to_owned(),
        ];
        let loaded = Loaded::load(&sources).unwrap();
        let relay = &loaded.config.relay;
        assert_eq!(relay.circuits_max, 1002);
        assert_eq!(relay.reservations_max, 2001);
        assert_eq!(relay.circuits_per_peer_max, 3);
        assert_eq!(relay.enabled, Config::default().relay.enabled);

        let file = sources.file.unwrap();
        assert_eq!(*loaded.origin("relay.circuits_max"), Origin::Flag);
        assert_eq!(
            *loaded.origin("relay.reservations_max"),
            Origin::Environment("WAYSTATION_RELAY__RESERVATIONS_MAX".to_owned())
        );
        assert_eq!(
            *loaded.origin("relay.circuits_per_peer_max"),
            Origin::File {
                path: file,
                line: 4
            }
        );
        assert_eq!(*loaded.origin("relay.enabled"), Origin::Default);
    }

    #[test]
    fn the_reference_file_is_the_defaults_and_names_every_key() {
        let reference = Config::render_defaults();
        let as_it_is = load_file(&reference).unwrap();
        assert!(as_it_is.origins.is_empty());

        let settings: Vec<_> = reference
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.starts_with(' ') => setting,
                _ => line,
            })
            .collect();
        let uncommented = load_file(&settings.join("\n")).unwrap();
        assert_eq!(uncommented.config, as_it_is.config);
        assert_eq!(uncommented.origins.len() + derive::RULES.len(), KEYS.len());
    }

    #[test]
    fn the_effective_configuration_reads_back() {
        let loaded = flags(&[
            "listen.addresses=/ip4/127.0.0.1/tcp/0,/ip6/::1/tcp/0",
            "listen.muxers=[\"mplex\"]",
            "listen.security=[\"tls\"]",
            "announce.addresses=/dns4/relay.example.org/tcp/4001",
            "state.directory=/var/lib/a \"quoted\" place",
            "relay.circuit_duration_max=0",
            "relay.circuit_bytes_max=0",
            &format!("access.deny={PEER},192.0.2.0/24,2001:db8::1"),
            "connections.rate_per_ip=0.5",
            "connections.upgrade_timeout=1s500ms",
            "admin.address=",
            "log.level=info,waystation::upgrade=debug",
        ])
        .unwrap();
        assert_eq!(loaded.config.relay.circuit_duration_max, None);
        assert_eq!(loaded.config.relay.circuit_bytes_max, None);
        assert_eq!(loaded.config.admin.address, None);
        assert_eq!(loaded.config.listen.muxers, [Muxer::Mplex]);
        assert_eq!(loaded.config.listen.security, [Security::Tls]);
        let denied = [PEER, "192.0.2.0/24", "2001:db8::1"].map(|text| text.parse().unwrap());
        assert_eq!(loaded.config.access.deny, denied);

        let again = load_file(&loaded.render()).unwrap();
        assert_eq!(again.config, loaded.config);
    }

    #[test]
    fn file_and_flags_read_the_same_values() {
        let file = load_file(
            "relay.circuit_bytes_max = 131072\nrelay.enabled = false\nconnections.rate_per_ip = 5\n\
             listen.addresses = '/ip4/127.0.0.1/tcp/1'\nruntime = { workers = 2 }\n",
        );
        let flags = flags(&[
            "relay.circuit_bytes_max=128KiB",
            "relay.enabled=false",
            "connections.rate_per_ip=5.0",
            "listen.addresses=[ '/ip4/127.0.0.1/tcp/1' ]",
            "runtime.workers=2",
        ]);
        assert_eq!(file.unwrap().config, flags.unwrap().config);
    }

    #[test]
    fn a_wrong_value_is_one_line_with_key_value_and_source() {
        let (_directory, mut sources) = sources("");
        sources.environment = [
            ("HOME", "/home/somebody"),
            ("WAYSTATION_RELAY__CIRCUITS_MAX", "many"),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            Loaded::load(&sources).unwrap_err().to_string(),
            "relay.circuits_max = \"many\" from environment WAYSTATION_RELAY__CIRCUITS_MAX: \
             expected a whole number"
        );
        assert_eq!(
            flag_refusals(&["relay.circuits_max=-1"]),
            ["relay.circuits_max = \"-1\" from flag --set: expected a whole number"]
        );
        assert_eq!(
            refusals("[relay]\n\ncircuits_max = 1.5\n"),
            ["relay.circuits_max = 1.5 from file /waystation.toml line 3: expected a whole number"]
        );
    }

    #[test]
    fn every_type_refuses_what_it_cannot_be() {
        for setting in [
            "relay.enabled=yes",
            "relay.circuits_max=99999999999999999999999",
            "relay.reservation_ttl=60",
            "relay.circuit_bytes_max=lots",
            "relay.circuit_duration_max=forever",
            "access.deny=nobody",
            "connections.rate_per_ip=NaN",
            "connections.rate_per_ip=inf",
            "listen.addresses=0.0.0.0:4001",
            "listen.muxers=yamux,smux",
            "listen.security=secio",
            "admin.address=localhost:9464",
            "log.format=xml",
        ] {
            let (key, value) = setting.split_once('=').unwrap();
            let lines = flag_refusals(&[setting]);
            assert_eq!(lines.len(), 1, "{lines:?}");
            let start = format!("{key} = \"{value}\" from flag --set: expected ");
            assert!(lines[0].starts_with(&start), "{lines:?}");
        }
    }

    #[test]
    fn a_section_where_a_value_belongs_and_the_reverse_are_refused() {
        for file in [
            "relay = 3",
            "relay.circuits_max = { a = 1 }",
            "[[relay]]\nenabled = true",
            "[relay.enabled]\nx = 1",
            "[relay.more]",
            "[nothing]",
            "relay.enabled = [true]",
            "relay.enabled = 1979-05-27",
            "listen.addresses = [1]",
        ] {
            let lines = refusals(file);
            assert_eq!(lines.len(), 1, "{file}: {lines:?}");
            assert!(
                lines[0].contains("from file /waystation.toml line "),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn unknown_keys_are_refused_from_every_source_with_the_nearest_known_one() {
        let (_directory, mut sources) = sources("[relay]\ncircuit_max = 1\n");
        sources.environment = [
            ("HOME", "/home/somebody"),
            ("WAYSTATION_RELAY_CIRCUITS_MAX", "1"),
            ("WAYSTATION_log__level", "info"),
            ("WAYSTATION_NETWORK__PORT", "1"),
            ("WAYSTATIONS", "not ours"),
        ]
        .into_iter()
        .collect();
        sources.flags = vec!["circuits_max=1".to_owned()];
        let error = Loaded::load(&sources).unwrap_err().to_string();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), 5, "{error}");
        assert!(lines[0].starts_with("relay.circuit_max = 1 from file "));
        assert!(lines[0].ends_with("line 2: unknown key, did you mean relay.circuits_max?"));
        assert_eq!(
            lines[1..],
            [
                "network.port = \"1\" from environment WAYSTATION_NETWORK__PORT: unknown key, \
                 all keys are in check-config --print-defaults",
                "relay_circuits_max = \"1\" from environment WAYSTATION_RELAY_CIRCUITS_MAX: \
                 unknown key, did you mean WAYSTATION_RELAY__CIRCUITS_MAX?",
                "log__level = \"info\" from environment WAYSTATION_log__level: \
                 unknown key, did you mean WAYSTATION_LOG__LEVEL?",
                "circuits_max = \"1\" from flag --set: unknown key, did you mean relay.circuits_max?",
            ]
        );
    }

    #[test]
    fn a_file_that_cannot_be_parsed_is_one_line_with_its_line() {
        for (file, line) in [
            ("\n\na = = 1", 3),
            ("[relay\n", 1),
            ("[relay]\na=1\na=2", 3),
        ] {
            let lines = refusals(file);
            assert_eq!(lines.len(), 1, "{lines:?}");
            let start = format!("configuration file /waystation.toml line {line}: ");
            assert!(lines[0].starts_with(&start), "{lines:?}");
        }
    }

    #[test]
    fn a_file_too_large_to_be_ours_is_refused() {
        let lines = refusals(&"# \n".repeat(400_000));
        assert_eq!(
            lines,
            ["configuration file /waystation.toml: is larger than 1048576 bytes"]
        );
    }

    #[test]
    fn the_file_of_the_service_manager_is_found_and_a_named_one_must_exist() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("waystation.toml");
        let mut sources = Sources {
            environment: [("CONFIGURATION_DIRECTORY", directory.path())]
                .into_iter()
                .collect(),
            ..Sources::default()
        };
        assert_ne!(sources.file().as_ref(), Some(&path));
        fs::write(&path, "").unwrap();
        assert_eq!(sources.file().as_ref(), Some(&path));

        let absent = directory.path().join("absent.toml");
        sources.file = Some(absent.clone());
        let error = Loaded::load(&sources).unwrap_err().to_string();
        let start = format!("configuration file {}: cannot be read: ", absent.display());
        assert!(error.starts_with(&start), "{error}");
    }

    #[test]
    fn the_state_directory_follows_the_environment() {
        for (variables, directory) in [
            (
                [
                    ("STATE_DIRECTORY", "/s:/t"),
                    ("XDG_STATE_HOME", "/x"),
                    ("HOME", "/h"),
                ]
                .as_slice(),
                "/s",
            ),
            (&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")], "/x/waystation"),
            (
                &[("XDG_STATE_HOME", "relative"), ("HOME", "/h")],
                "/h/.local/state/waystation",
            ),
        ] {
            let (_directory, mut sources) = sources("");
            sources.environment = variables.iter().copied().collect();
            let config = Loaded::load(&sources).unwrap().config;
            assert_eq!(config.state.directory, PathBuf::from(directory));
            assert_eq!(
                config.identity.key_file,
                PathBuf::from(directory).join("identity.key")
            );
        }
        let (_directory, mut sources) = sources("");
        sources.environment = Environment::default();
        let error = Loaded::load(&sources).unwrap_err().to_string();
        assert!(
            error.starts_with("state.directory = \"\" from default: "),
            "{error}"
        );
    }
}
