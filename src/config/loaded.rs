//! From all sources to one checked configuration.
//!
//! Owns the order of things: merging, reading, deriving, checking; and what
//! there is to say of each value, of where it came from and of what is wrong
//! with it. Every refusal is one line naming key, value and source.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use figment::Figment;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use super::schema::Key;
use super::source::{self, Entry};
use super::value::{self, Expected};
use super::{Config, Environment, Host, KEYS, Origin, Sources, derive, private_network, validate};

/// Name of the key file in the state directory.
const KEY_FILE_NAME: &str = "identity.key";

/// A checked configuration together with where each value came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values, computed paths filled in.
    pub config: Config,
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
    /// Values that no default gave, by key.
    pub(super) origins: BTreeMap<&'static str, Origin>,
    /// Defaults that follow from other values, by key.
    pub(super) derived: BTreeMap<&'static str, Origin>,
    /// Those of them that make room for a value within them.
    pub(super) raised: BTreeSet<&'static str>,
    /// What the values were derived for.
    pub(super) host: Host,
    /// What the operator should know of values that nobody set.
    pub(super) notes: Vec<String>,
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
    #[error("{key} = {value} {}: {reason}", .origin.phrase())]
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
        Self::load_on(sources, &Host::read())
    }

    /// As [`Self::load`], for a host that is told.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_on(sources: &Sources, host: &Host) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        let mut loaded = Self::read(sources, host, &mut faults);
        loaded.resolve_paths(&sources.environment, &mut faults);
        if faults.is_empty() {
            // First, since what the host bears depends on what is listened on.
            faults = private_network::fit(&mut loaded, &sources.environment);
            derive::fill_in(&mut loaded, host);
            faults.extend(validate::faults(&mut loaded));
        }
        loaded.unless(faults)
    }

    /// Reads all sources for a program that talks to the server and is none:
    /// nothing is derived from the host, no path is looked for, and no value is
    /// held against another, as all that is true of the server's surroundings
    /// only.
    ///
    /// # Errors
    ///
    /// Every source and value that cannot be read.
    pub fn load_for_client(sources: &Sources) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        Self::read(sources, &Host::read(), &mut faults).unless(faults)
    }

    fn unless(self, faults: Vec<Fault>) -> Result<Self, ConfigError> {
        if faults.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError(faults))
        }
    }

    fn read(sources: &Sources, host: &Host, faults: &mut Vec<Fault>) -> Self {
        let mut known = Vec::new();
        for entry in sources.entries(faults) {
            match Key::find(&entry.key) {
                Some(key) => known.push((key, entry)),
                None => faults.push(unknown_key(entry)),
            }
        }
        let mut loaded = Self {
            config: Config::default(),
            file: sources.file(),
            origins: BTreeMap::new(),
            derived: BTreeMap::new(),
            raised: BTreeSet::new(),
            host: *host,
            notes: Vec::new(),
        };
        loaded.merge(known, faults);
        loaded
    }

    /// Where the value of a key came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins
            .get(key)
            .or_else(|| self.derived.get(key))
            .unwrap_or(&Origin::Default)
    }

    /// What the operator should know of a configuration that is valid, one line
    /// each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the configuration was derived for and is held against.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Worker threads: as configured, or one for each core.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self.config.runtime.workers {
            0 => self.host.cores,
            count => count,
        }
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
            if derive::rule(key.path).is_some() && value.as_str() == Some(derive::AUTO) {
                continue;
            }
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
