//! The command line: what can be asked for, and the commands that do not serve.
//!
//! Owns arguments, exit codes and how errors look: one line each on standard
//! error, code 2 for what the operator can put right, 3 for a rule that holds and
//! is not on disk yet, and 1 for the rest. What
//! a setting means is left to `config`, serving to [`super::run`].

mod access;
mod addresses;
mod client;
mod probe;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, ConfigError, Environment, Loaded, Sources};
use crate::identity::{Identity, IdentityError, KeyFile, KeyType, NewKey};
use crate::state::access::Verdict;

/// Key that errors about the key file name.
const KEY_FILE: &str = "identity.key_file";
/// Exit code for what an operator can put right.
const OPERATOR_ERROR: u8 = 2;
/// Exit code for a change that a restart may undo.
const NOT_KEPT: u8 = 3;

/// A libp2p circuit relay and bootstrap server. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "waystation", version, about)]
pub struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Accepted before and after a command, and joined: with clap's global
/// arguments the ones after the command would silently replace the others.
#[derive(Debug, Clone, Default, Args)]
struct Settings {
    /// Configuration file, in place of $CONFIGURATION_DIRECTORY/waystation.toml
    /// or /etc/waystation/waystation.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one value, for example relay.circuits_max=100. Wins over the
    /// environment and the file; may be given many times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration as a start would and show it with the origin of
    /// each value.
    CheckConfig {
        #[command(flatten)]
        settings: Settings,
        /// Print the reference file with all keys and defaults instead.
        #[arg(long)]
        print_defaults: bool,
    },
    /// The key that makes this server known to its peers.
    Identity {
        #[command(subcommand)]
        command: IdentityCommand,
    },
    /// Refuse a peer, an address or a range from now on, and close what it has
    /// open. Told to the running server over admin.address.
    Deny(access::Add),
    /// Trust a peer, an address or a range from now on, as access.allow does.
    Allow(access::Add),
    /// The rules that deny and allow have made.
    Access {
        #[command(subcommand)]
        command: access::AccessCommand,
    },
    /// Where peers reach this server: each address with where it comes from, who
    /// is told of it, and why others are not.
    Addresses(addresses::Show),
    /// The TXT records that make a name in the DNS stand for this server, as
    /// /dnsaddr/NAME, among bootstrap addresses.
    Dnsaddr(addresses::Dnsaddr),
    /// Dial a server as a peer would, and show what it answers: who it is, what
    /// it offers, how fast. Exit code 1 if it does not answer as it should.
    Probe(probe::Dial),
}

#[derive(Debug, Subcommand)]
enum IdentityCommand {
    /// Make a new key. An existing one is never overwritten.
    Create {
        #[command(flatten)]
        settings: Settings,
        /// Kind of key.
        #[arg(long, value_enum, default_value_t)]
        key_type: KeyTypeName,
    },
    /// Show the peer id and where its key is.
    Show {
        #[command(flatten)]
        settings: Settings,
    },
    /// Take over the key of an existing node: a go, js or rust key file, its
    /// base64 text, or a kubo configuration.
    Import {
        #[command(flatten)]
        settings: Settings,
        /// File that holds the key.
        from: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum KeyTypeName {
    #[default]
    Ed25519,
    Secp256k1,
}

/// Does what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let Err(error) = Arguments::parse().execute() else {
        return ExitCode::SUCCESS;
    };
    let operator = error.is::<ConfigError>() || error.is::<IdentityError>();
    let mut stderr = io::stderr().lock();
    for line in format!("{error:#}").lines() {
        // Nobody is left to tell when this fails.
        let _ = writeln!(stderr, "error: {line}");
    }
    ExitCode::from(if operator {
        OPERATOR_ERROR
    } else if error.is::<access::NotKept>() {
        NOT_KEPT
    } else {
        1
    })
}

/// The identity that the configuration names, made at the first start.
///
/// # Errors
///
/// The line about `identity.key_file` when there is a file that is no usable
/// key or none can be made, and those about `announce.addresses` that carry the
/// id of another peer.
pub fn open_identity(loaded: &Loaded) -> Result<(Identity, KeyFile), ConfigError> {
    let opened = Identity::load_or_create(&loaded.config.identity.key_file)
        .map_err(|error| key_file_fault(loaded, &error))?;
    loaded.announce_addresses(&opened.0.peer_id())?;
    Ok(opened)
}

impl Arguments {
    /// # Errors
    ///
    /// [`ConfigError`] and [`IdentityError`] are the operator's, others ours.
    fn execute(self) -> anyhow::Result<()> {
        let settings = self.settings;
        match self.command {
            None => super::run(settings.load()?),
            Some(Command::CheckConfig {
                print_defaults: true,
                ..
            }) => print(&Config::render_defaults()),
            Some(Command::CheckConfig { settings: more, .. }) => {
                check_config(&settings.join(more).load()?)
            }
            Some(Command::Identity { command }) => command.execute(settings),
            Some(Command::Deny(rule)) => rule.execute(settings, Verdict::Deny),
            Some(Command::Allow(rule)) => rule.execute(settings, Verdict::Allow),
            Some(Command::Access { command }) => command.execute(settings),
            Some(Command::Addresses(show)) => show.execute(settings),
            Some(Command::Dnsaddr(dnsaddr)) => dnsaddr.execute(settings),
            Some(Command::Probe(probe)) => probe.execute(),
        }
    }
}

impl Settings {
    fn join(mut self, more: Self) -> Self {
        self.config = more.config.or(self.config);
        self.set.extend(more.set);
        self
    }

    fn load(self) -> Result<Loaded, ConfigError> {
        Loaded::load(&self.sources())
    }

    fn load_for_client(self) -> Result<Loaded, ConfigError> {
        Loaded::load_for_client(&self.sources())
    }

    fn sources(self) -> Sources {
        Sources {
            file: self.config,
            environment: Environment::of_process(),
            flags: self.set,
        }
    }
}

impl IdentityCommand {
    fn execute(self, settings: Settings) -> anyhow::Result<()> {
        match self {
            Self::Create {
                settings: more,
                key_type,
            } => {
                let kind = match key_type {
                    KeyTypeName::Ed25519 => NewKey::Ed25519,
                    KeyTypeName::Secp256k1 => NewKey::Secp256k1,
                };
                let loaded = settings.join(more).load()?;
                let path = &loaded.config.identity.key_file;
                let created = Identity::create(path, kind);
                show_identity(
                    path,
                    &created.map_err(|error| key_file_fault(&loaded, &error))?,
                )
            }
            Self::Show { settings: more } => {
                let loaded = settings.join(more).load()?;
                let path = &loaded.config.identity.key_file;
                let found = Identity::load(path);
                show_identity(
                    path,
                    &found.map_err(|error| key_file_fault(&loaded, &error))?,
                )
            }
            Self::Import {
                settings: more,
                from,
            } => {
                let loaded = settings.join(more).load()?;
                let path = &loaded.config.identity.key_file;
                match Identity::import(path, &from) {
                    Ok(identity) => show_identity(path, &identity),
                    Err(error) if error.path == from => Err(error.into()),
                    Err(error) => Err(key_file_fault(&loaded, &error).into()),
                }
            }
        }
    }
}

/// Everything that a start would look at before it opens a socket, without
/// making anything.
fn check_config(loaded: &Loaded) -> anyhow::Result<()> {
    loaded.access_lists()?;
    loaded.admin_token()?;
    let path = &loaded.config.identity.key_file;
    let identity = match Identity::load(path) {
        Ok(identity) => {
            loaded.announce_addresses(&identity.peer_id())?;
            format!("{} ({})", identity.peer_id(), key_type_name(&identity))
        }
        Err(error) if error.is_not_found() => "created at the first start".to_owned(),
        Err(error) => return Err(key_file_fault(loaded, &error).into()),
    };
    super::server::open_asn_database(loaded)?;
    super::certificates::open(loaded)?;
    let network = match loaded.private_network()? {
        Some(key) => format!("# private network: {}\n", key.fingerprint()),
        None => String::new(),
    };
    print(&format!(
        "# identity: {identity}\n{network}{}",
        loaded.render()
    ))
}

fn show_identity(path: &Path, identity: &Identity) -> anyhow::Result<()> {
    print(&format!(
        "peer id    {}\nkey type   {}\nfile       {}\n",
        identity.peer_id(),
        key_type_name(identity),
        path.display(),
    ))
}

fn key_type_name(identity: &Identity) -> &'static str {
    match identity.key_type() {
        KeyType::Ed25519 => "ed25519",
        KeyType::RSA => "rsa",
        KeyType::Secp256k1 => "secp256k1",
        KeyType::Ecdsa => "ecdsa",
    }
}

fn key_file_fault(loaded: &Loaded, error: &IdentityError) -> ConfigError {
    ConfigError(vec![loaded.fault(KEY_FILE, error.fault.to_string())])
}

/// A reader that closes early (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
