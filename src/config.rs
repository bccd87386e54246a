//! What an operator can set: sections, keys, defaults, and where values come from.
//!
//! Owns the schema (one list from which the structs, their defaults, the
//! reference file and the list of known keys are made) and the way from
//! defaults, file, environment and flags to one checked [`Config`]. Every
//! refusal is one line naming key, value and source. Reading the key file and
//! acting on the values is left to others.

mod host;
mod render;
mod schema;
mod source;
mod validate;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use crate::engine::muxer::Muxer;
use schema::Key;
use source::Entry;
use value::Expected;

pub use host::Host;
pub use source::{Environment, Origin, Sources};
pub(crate) use value::units;

/// Name of the key file in the state directory.
const KEY_FILE_NAME: &str = "identity.key";

schema::sections! {
    /// Where peers reach us.
    listen: ListenConfig {
        /// Addresses to listen on, each "/ip4/…/tcp/PORT" or "/ip6/…/tcp/PORT".
        /// Port 0 takes a free port, which the start banner names.
        addresses: Vec<Multiaddr> = default_listen_addresses(),
        /// Stream multiplexers to offer, the preferred one first. One that is
        /// left out is switched off.
        muxers: Vec<Muxer> = Muxer::ALL.to_vec(),
    }

    /// What we tell peers about where to reach us.
    announce: AnnounceConfig {
        /// Public addresses, for a host behind a NAT or with a DNS name. Empty:
        /// the addresses we listen on.
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
        reservations_per_ip_max: usize = 32,
        /// Reservations from one network: an IPv4 /24 or an IPv6 /48.
        reservations_per_prefix_max: usize = 512,
        /// How long a reservation holds before the peer has to renew it.
        reservation_ttl: Duration = Duration::from_secs(60 * 60),
        /// Circuits open at the same time.
        circuits_max: usize = 16_384,
        /// Circuits of one peer, counted apart as source and as target.
        circuits_per_peer_max: usize = 16,
        /// How long one circuit may stay open. 0: no limit.
        circuit_duration_max: Option<Duration> = Some(Duration::from_secs(2 * 60)),
        /// Bytes one circuit may carry in each direction. 0: no limit.
        circuit_bytes_max: Option<u64> = Some(128 * 1024),
        /// Peer ids that may neither reserve nor be source or target of a
        /// circuit. Wins over allow_peers.
        deny_peers: Vec<PeerId> = Vec::new(),
        /// When not empty, only these peer ids may reserve.
        allow_peers: Vec<PeerId> = Vec::new(),
    }

    /// Admission: what a remote host may take from us before and after it has
    /// shown who it is. Limits by IP do not apply to loopback.
    connections: ConnectionsConfig {
        /// Connections and sockets in upgrade, together.
        max: usize = 50_000,
        /// Connections at which shedding starts in the background. Not set: nine
        /// tenths of connections.max.
        high_water: usize = 45_000,
        /// Connections that shedding leaves. The least valuable go first; those
        /// with a reservation, with an open circuit or of listed peers are left
        /// alone. Not set: eight ninths of connections.high_water.
        low_water: usize = 40_000,
        /// How long a new connection is not shed.
        grace_period: Duration = Duration::from_secs(60),
        /// Sockets whose peer has not yet shown who it is.
        transient_max: usize = 2_048,
        /// Connections from one host: an IPv4 address or an IPv6 /64.
        per_ip_max: usize = 128,
        /// Connections from one network: an IPv4 /24 or an IPv6 /48.
        per_prefix_max: usize = 2_048,
        /// New connections per second from one IP address, in the long run.
        rate_per_ip: f64 = 4.0,
        /// New connections from one IP address that may come at once.
        burst_per_ip: usize = 64,
        /// New connections per second from one network, in the long run.
        rate_per_prefix: f64 = 32.0,
        /// New connections from one network that may come at once.
        burst_per_prefix: usize = 512,
        /// Time from accepting a socket to a negotiated muxer, over all steps.
        upgrade_timeout: Duration = Duration::from_secs(15),
        /// Streams that one peer may have open towards us, 1 to 448.
        streams_max: usize = 256,
    }

    /// Memory of the whole process.
    memory: MemoryConfig {
        /// Resident size above which connections are shed, also below
        /// connections.low_water and those that are protected. 0: three quarters
        /// of what the host or the control group grants.
        max: Option<u64> = None,
    }

    /// Metrics and health over HTTP.
    admin: AdminConfig {
        /// Address and port to serve on; keep it private. Empty: switched off.
        address: Option<SocketAddr> = Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9464)),
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

/// A checked configuration together with where each value came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values, computed paths filled in.
    pub config: Config,
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
    /// Values that no default gave, by key.
    origins: BTreeMap<&'static str, Origin>,
}

/// One thing an operator got wrong: one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A source that cannot be read at all.
    #[error("{origin}: {reason}")]
    Source {
        /// The source.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that is not in the schema, or a section where a key should be.
    #[error("{key} = {value} from {origin}: unknown key, {}", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// The key as it was given.
        key: String,
        /// Its value.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// A known key that may have been meant, spelled as its source would.
        nearest: Option<String>,
    },
    /// A value that cannot be used.
    #[error("{key} = {value} from {origin}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// Where it came from.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
}

/// Everything an operator got wrong, one line each. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Fault>);

impl Loaded {
    /// Reads all sources, merges them and checks the result.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        let mut known = Vec::new();
        for entry in sources.entries(&mut faults) {
            match Key::find(&entry.key) {
                Some(key) => known.push((key, entry)),
                None => faults.push(unknown_key(entry)),
            }
        }
        let mut loaded = Self {
            config: Config::default(),
            file: sources.file(),
            origins: BTreeMap::new(),
        };
        loaded.merge(known, &mut faults);
        loaded.resolve_paths(&sources.environment, &mut faults);
        if faults.is_empty() {
            faults = validate::faults(&mut loaded);
        }
        if faults.is_empty() {
            Ok(loaded)
        } else {
            Err(ConfigError(faults))
        }
    }

    /// Where the value of a key came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// A line about a value that turned out unusable only when it was used: a
    /// port that is taken, a key file that is not one.
    #[must_use]
    pub fn fault(&self, key: &str, reason: impl Into<String>) -> Fault {
        Fault::Value {
            key: key.to_owned(),
            value: Key::find(key).map_or_else(String::new, |key| (key.show)(&self.config)),
            origin: self.origin(key).clone(),
            reason: reason.into(),
        }
    }

    /// The line about a key whose value cannot be used.
    #[must_use]
    pub fn refuse(&self, key: &str, reason: &impl std::fmt::Display) -> ConfigError {
        ConfigError(vec![self.fault(key, reason.to_string())])
    }

    /// Announced addresses without the peer id they may end in.
    ///
    /// # Errors
    ///
    /// Each address that ends in the id of another peer than `own`.
    pub fn announce_addresses(&self, own: &PeerId) -> Result<Vec<Multiaddr>, ConfigError> {
        validate::announce_addresses(self, own)
    }

    /// Lets figment decide which entry of a key counts, and reads that one.
    fn merge(&mut self, known: Vec<(&'static Key, Entry)>, faults: &mut Vec<Fault>) {
        let mut figment = Figment::new();
        let mut origins = HashMap::new();
        for (_, entry) in known {
            origins.insert(entry.origin.to_string(), entry.origin.clone());
            figment = figment.merge(entry);
        }
        for key in KEYS {
            let Ok(value) = figment.find_value(key.path) else {
                continue;
            };
            let origin = figment
                .get_metadata(value.tag())
                .and_then(|metadata| origins.get(metadata.name.as_ref()))
                .cloned()
                .unwrap_or(Origin::Default);
            if let Err(Expected(what)) = (key.read)(&mut self.config, &value) {
                faults.push(Fault::Value {
                    key: key.path.to_owned(),
                    value: value::show_value(&value),
                    origin: origin.clone(),
                    reason: format!("expected {what}"),
                });
            }
            self.origins.insert(key.path, origin);
        }
    }

    /// Fills in the paths that depend on the environment or on each other.
    fn resolve_paths(&mut self, environment: &Environment, faults: &mut Vec<Fault>) {
        if self.config.state.directory.as_os_str().is_empty() {
            match environment.state_directory() {
                Some(directory) => self.config.state.directory = directory,
                None => faults.push(self.fault(
                    "state.directory",
                    "is needed when none of STATE_DIRECTORY, XDG_STATE_HOME and HOME names an absolute path",
                )),
            }
        }
        if self.config.identity.key_file.as_os_str().is_empty() {
            self.config.identity.key_file = self.config.state.directory.join(KEY_FILE_NAME);
        }
    }
}

fn unknown_key(entry: Entry) -> Fault {
    let nearest = Key::nearest(&entry.key).map(|key| match entry.origin {
        Origin::Environment(_) => source::variable_name(key.path),
        _ => key.path.to_owned(),
    });
    Fault::UnknownKey {
        value: value::show_value(&entry.value),
        key: entry.key,
        origin: entry.origin,
        nearest,
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "all keys are in check-config --print-defaults".to_owned(),
        |nearest| format!("did you mean {nearest}?"),
    )
}

fn default_listen_addresses() -> Vec<Multiaddr> {
    ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"]
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
        assert_eq!(uncommented.origins.len(), KEYS.len());
    }

    #[test]
    fn the_effective_configuration_reads_back() {
        let loaded = flags(&[
            "listen.addresses=/ip4/127.0.0.1/tcp/0,/ip6/::1/tcp/0",
            "listen.muxers=[\"mplex\"]",
            "announce.addresses=/dns4/relay.example.org/tcp/4001",
            "state.directory=/var/lib/a \"quoted\" place",
            "relay.circuit_duration_max=0",
            "relay.circuit_bytes_max=0",
            &format!("relay.deny_peers={PEER}"),
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
        assert_eq!(loaded.config.relay.deny_peers, [PEER.parse().unwrap()]);

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
            "relay.deny_peers=nobody",
            "connections.rate_per_ip=NaN",
            "connections.rate_per_ip=inf",
            "listen.addresses=0.0.0.0:4001",
            "listen.muxers=yamux,smux",
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
