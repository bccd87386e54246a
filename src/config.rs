//! What an operator can set: sections, keys, defaults, and where values come from.
//!
//! Owns the schema (one list from which the structs, their defaults, the
//! reference file and the list of known keys are made) and the way from
//! defaults, file, environment and flags to one checked [`Config`]. Every
//! refusal is one line naming key, value and source. Reading the key file and
//! acting on the values is left to others.

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

pub use source::{Environment, Origin, Sources};

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
        /// Reservations from one IP address. Does not apply to loopback.
        reservations_per_ip_max: usize = 32,
        /// Reservations from one network: an IPv4 /24 or an IPv6 /56.
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
        /// Sockets whose peer has not yet shown who it is.
        transient_max: usize = 2_048,
        /// Connections from one IP address.
        per_ip_max: usize = 128,
        /// Connections from one network: an IPv4 /24 or an IPv6 /56.
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
    #[error("{key} = {value} from {origin}: unknown key, did you mean {nearest}?")]
    UnknownKey {
        /// The key as it was given.
        key: String,
        /// Its value.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// The known key nearest to it, spelled as this source would.
        nearest: String,
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
            faults = validate::faults(&loaded);
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
    let path = Key::nearest(&entry.key).path;
    let nearest = match entry.origin {
        Origin::Environment(_) => source::variable_name(path),
        _ => path.to_owned(),
    };
    Fault::UnknownKey {
        value: value::show_value(&entry.value),
        key: entry.key,
        origin: entry.origin,
        nearest,
    }
}

fn default_listen_addresses() -> Vec<Multiaddr> {
    ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"]
        .map(|address| address.parse().expect("a literal multiaddr"))
        .to_vec()
}
