//! The sources of configuration, each turned into single keys with an origin.
//!
//! Owns where the file is looked for, how environment names and flags map to
//! keys, and the line a file's key stands on. Bounds the file to 1 MiB. What a
//! value means is left to `value.rs`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Empty, Map, Num, Tag, Value};
use figment::{Metadata, Profile, Provider};
use toml_edit::{ImDocument, Item, TableLike};

use super::Fault;

/// What every environment variable of ours begins with.
const PREFIX: &str = "WAYSTATION_";
/// Name of the configuration file in a configuration directory.
const FILE_NAME: &str = "waystation.toml";
/// Where the file is looked for when nobody names it.
const SYSTEM_FILE: &str = "/etc/waystation/waystation.toml";
/// A larger file is not a configuration of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where configuration is taken from beside the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// File named with `--config`. It has to exist.
    pub file: Option<PathBuf>,
    /// Environment of the process.
    pub environment: Environment,
    /// `key=value` of each `--set`, in order; the last one for a key wins.
    pub flags: Vec<String>,
}

/// A copy of environment variables, so that tests need not touch their own.
#[derive(Debug, Clone, Default)]
pub struct Environment(Vec<(OsString, OsString)>);

/// Where one value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// Made from what this names.
    Derived(String),
    /// The configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line the key stands on, from 1.
        line: usize,
    },
    /// The environment variable of this name.
    Environment(String),
    /// `--set` on the command line.
    Flag,
}

/// One key as a source gave it. Merged one by one, so that figment's metadata
/// tells the line of the file or the name of the variable, not only the layer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl Sources {
    /// The file that is read: the one that was named, else the first that
    /// exists of `$CONFIGURATION_DIRECTORY/waystation.toml` (set by the service
    /// manager) and `/etc/waystation/waystation.toml`.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        if self.file.is_some() {
            return self.file.clone();
        }
        self.environment
            .first_path("CONFIGURATION_DIRECTORY")
            .map(|directory| directory.join(FILE_NAME))
            .into_iter()
            .chain([PathBuf::from(SYSTEM_FILE)])
            .find(|path| path.exists())
    }

    /// All keys of all sources, in the order in which they override each other.
    pub(super) fn entries(&self, faults: &mut Vec<Fault>) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(path) = self.file() {
            match read_file(&path) {
                Ok(text) => file_entries(&path, &text, &mut entries, faults),
                Err(reason) => faults.push(Fault::Source {
                    origin: format!("configuration file {}", path.display()),
                    reason,
                }),
            }
        }
        self.environment.entries(&mut entries, faults);
        for flag in &self.flags {
            match flag.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => entries.push(Entry {
                    key: key.trim().to_owned(),
                    value: value.into(),
                    origin: Origin::Flag,
                }),
                _ => faults.push(Fault::Source {
                    origin: format!("flag --set {flag:?}"),
                    reason: "expected section.key=value".to_owned(),
                }),
            }
        }
        entries
    }
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// An absolute path from a variable that may list several, parted by colons.
    pub(super) fn first_path(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(self.get(name)?)
            .next()
            .filter(|path| path.is_absolute())
    }

    /// `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/waystation`, else
    /// `~/.local/state/waystation`.
    pub(super) fn state_directory(&self) -> Option<PathBuf> {
        self.first_path("STATE_DIRECTORY")
            .or_else(|| {
                self.first_path("XDG_STATE_HOME")
                    .map(|state| state.join("waystation"))
            })
            .or_else(|| {
                self.first_path("HOME")
                    .map(|home| home.join(".local/state/waystation"))
            })
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// `WAYSTATION_RELAY__CIRCUITS_MAX` is `relay.circuits_max`.
    fn entries(&self, entries: &mut Vec<Entry>, faults: &mut Vec<Fault>) {
        let mut ours: Vec<_> = self
            .0
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(PREFIX)?, value)))
            .collect();
        ours.sort_unstable();
        for (name, value) in ours {
            let variable = format!("{PREFIX}{name}");
            match value.to_str() {
                Some(value) => entries.push(Entry {
                    key: key_of_variable(name),
                    value: value.into(),
                    origin: Origin::Environment(variable),
                }),
                None => faults.push(Fault::Source {
                    origin: format!("environment {variable}"),
                    reason: "the value is not UTF-8".to_owned(),
                }),
            }
        }
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl Origin {
    /// As a sentence goes on behind a value: "from flag --set".
    pub(super) fn phrase(&self) -> String {
        match self {
            Self::Derived(_) => self.to_string(),
            Self::Default | Self::File { .. } | Self::Environment(_) | Self::Flag => {
                format!("from {self}")
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived(from) => write!(f, "derived from {from}"),
            Self::File { path, line } => write!(f, "file {} line {line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag --set"),
        }
    }
}

impl Provider for Entry {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let (section, name) = self.key.split_once('.').unwrap_or(("", &self.key));
        let section_dict = Dict::from([(name.to_owned(), self.value.clone())]);
        let dict = Dict::from([(section.to_owned(), section_dict.into())]);
        Ok(Profile::Default.collect(dict))
    }
}

/// The environment variable that sets this key.
pub(super) fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// Only capitals are taken, so that no two variables mean the same key; others
/// stay as they are and are refused as unknown.
fn key_of_variable(name: &str) -> String {
    if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        name.to_owned()
    } else {
        name.replace("__", ".").to_ascii_lowercase()
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

fn file_entries(path: &Path, text: &str, entries: &mut Vec<Entry>, faults: &mut Vec<Fault>) {
    let document = match ImDocument::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            faults.push(Fault::Source {
                origin: format!("configuration file {} line {line}", path.display()),
                reason: error.message().trim().replace('\n', ", "),
            });
            return;
        }
    };
    let file = File { path, text };
    file.flatten(document.as_table(), "", entries);
}

/// A parsed file while its keys are taken out.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    /// Sections become part of the key; everything below a section is a value.
    fn flatten(&self, table: &dyn TableLike, prefix: &str, entries: &mut Vec<Entry>) {
        for (name, item) in table.iter() {
            let key = format!("{prefix}{name}");
            // An empty section that is unknown stays, so that it is refused.
            if let Some(section) = item.as_table_like()
                && prefix.is_empty()
                && (!section.is_empty() || super::SECTIONS.iter().any(|(known, _)| *known == name))
            {
                self.flatten(section, &format!("{name}."), entries);
                continue;
            }
            let span = table
                .key(name)
                .and_then(toml_edit::Key::span)
                .or(item.span());
            entries.push(Entry {
                key,
                value: value_of(item),
                origin: Origin::File {
                    path: self.path.to_owned(),
                    line: span.map_or(1, |span| line_of(self.text, span.start)),
                },
            });
        }
    }
}

fn value_of(item: &Item) -> Value {
    match item {
        Item::Value(value) => value_of_value(value),
        Item::None => Value::Empty(Tag::Default, Empty::None),
        Item::Table(_) => Value::Dict(Tag::Default, Dict::new()),
        Item::ArrayOfTables(_) => Value::Array(Tag::Default, Vec::new()),
    }
}

fn value_of_value(value: &toml_edit::Value) -> Value {
    use toml_edit::Value as Toml;
    match value {
        Toml::String(text) => Value::String(Tag::Default, text.value().clone()),
        Toml::Integer(number) => Value::Num(Tag::Default, Num::I64(*number.value())),
        Toml::Float(number) => Value::Num(Tag::Default, Num::F64(*number.value())),
        Toml::Boolean(bool) => Value::Bool(Tag::Default, *bool.value()),
        // No setting is a date; as text it is refused like any other.
        Toml::Datetime(date) => Value::String(Tag::Default, date.value().to_string()),
        Toml::Array(values) => {
            Value::Array(Tag::Default, values.iter().map(value_of_value).collect())
        }
        Toml::InlineTable(_) => Value::Dict(Tag::Default, Dict::new()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
