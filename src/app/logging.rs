//! Log output: where lines go, in which form, and from which level on.
//!
//! Owns the one global subscriber. Standard output stays free for what the
//! program was asked to print. What is worth a line is left to its callers;
//! nothing a peer causes is above debug.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing::Subscriber;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{ConfigError, Loaded, LogFormat};

/// Changes the level while the program runs.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Directives that are no filter, or a subscriber that is gone.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level and not a list of directives.
    #[error("expected a level or a list such as \"info,waystation=debug\": {0}")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// The subscriber was never installed or its lock is poisoned.
    #[error("the level cannot be changed any more: {0}")]
    Gone(#[from] reload::Error),
}

/// Starts logging for the whole process.
///
/// # Errors
///
/// The line about `log.format` or `log.level` that makes it impossible.
pub fn init(loaded: &Loaded) -> Result<LogLevel, ConfigError> {
    let log = &loaded.config.log;
    let refuse = |key, reason: String| ConfigError(vec![loaded.fault(key, reason)]);
    let filter = EnvFilter::builder()
        .parse(&log.level)
        .map_err(|error| refuse("log.level", error.to_string()))?;
    let output = output(log.format).map_err(|error| {
        refuse(
            "log.format",
            format!("the journal cannot be reached: {error}"),
        )
    })?;
    let (subscriber, level) = subscriber(filter, output);
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| refuse("log.format", error.to_string()))?;
    Ok(level)
}

impl LogLevel {
    /// Takes effect at once, also for spans that are open.
    ///
    /// # Errors
    ///
    /// When `directives` are none; then the old ones stay.
    pub fn set(&self, directives: &str) -> Result<(), LogError> {
        let filter = EnvFilter::builder().parse(directives)?;
        Ok(self.0.reload(filter)?)
    }

    /// The directives in force.
    ///
    /// # Errors
    ///
    /// When there is no subscriber.
    pub fn get(&self) -> Result<String, LogError> {
        Ok(self.0.with_current(ToString::to_string)?)
    }
}

/// What writes the lines that the filter lets through.
type Output = Box<dyn Layer<Filtered> + Send + Sync>;
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn subscriber(filter: EnvFilter, output: Output) -> (impl Subscriber + Send + Sync, LogLevel) {
    let (filter, handle) = reload::Layer::new(filter);
    let subscriber = tracing_subscriber::registry().with(filter).with(output);
    (subscriber, LogLevel(handle))
}

fn output(format: LogFormat) -> io::Result<Output> {
    let text = || {
        fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .boxed()
    };
    Ok(match format {
        LogFormat::Text => text(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(io::stderr)
            .boxed(),
        LogFormat::Journald => tracing_journald::layer()?.boxed(),
        LogFormat::Auto if stderr_is_journal() => match tracing_journald::layer() {
            Ok(journal) => journal.boxed(),
            // Its socket may be out of reach of a sandbox; standard error is not.
            Err(_) => text(),
        },
        LogFormat::Auto => text(),
    })
}

/// systemd.exec(5): `$JOURNAL_STREAM` is device and inode of the journal's
/// stream, and inherited by programs that have since been redirected.
fn stderr_is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_level_changes_while_the_program_runs_and_not_to_nonsense() {
        let (subscriber, level) = subscriber(
            EnvFilter::builder().parse("info").unwrap(),
            output(LogFormat::Json).unwrap(),
        );
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(Level::DEBUG));
            level.set("debug").unwrap();
            assert!(tracing::enabled!(Level::DEBUG));
            assert!(level.set("waystation=loud").is_err());
            assert_eq!(level.get().unwrap(), "debug");
            level.set("warn").unwrap();
            assert!(!tracing::enabled!(Level::INFO));
        });
    }
}
