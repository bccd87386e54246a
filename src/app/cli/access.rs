//! `deny`, `allow`, `access list`, `access remove`: rules of the running
//! server, changed through its API.
//!
//! Owns the arguments and what is shown. What a rule does is left to the
//! server, reaching it to `client.rs`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::admin::api::{ACCESS_PATH, Done, Listed, NewRule, OldRule};
use crate::clock;
use crate::config::Subject;
use crate::config::units::{parse_duration, show_duration};
use crate::state::access::{NOTE_MAX, Verdict};

use super::client::Client;
use super::{Settings, print};

#[derive(Debug, Args)]
pub(super) struct Add {
    #[command(flatten)]
    settings: Settings,
    /// A peer id, an IP address, or a range such as 192.0.2.0/24.
    #[arg(value_name = "WHAT")]
    subject: Subject,
    /// How long the rule holds, through restarts too; for ever if not given.
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    lasts: Option<Duration>,
    /// Why, for whoever lists the rules later.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = note)]
    note: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum AccessCommand {
    /// Show the rules that were made at run time.
    List {
        #[command(flatten)]
        settings: Settings,
    },
    /// Take back a rule that was made at run time.
    Remove {
        #[command(flatten)]
        settings: Settings,
        /// Whom the rule is about.
        #[arg(value_name = "WHAT")]
        subject: Subject,
    },
}

impl Add {
    pub(super) fn execute(self, settings: Settings, verdict: Verdict) -> anyhow::Result<()> {
        let client = Client::new(&settings.join(self.settings).load_for_client()?)?;
        let done: Done = client.ask(
            "POST",
            ACCESS_PATH,
            Some(&NewRule {
                subject: self.subject.to_string(),
                verdict: verdict.name().to_owned(),
                lasts: self.lasts.map(show_duration),
                note: self.note,
            }),
        )?;
        let lasts = self.lasts.map_or_else(
            || "for ever".to_owned(),
            |lasts| format!("for {}", show_duration(lasts)),
        );
        let closing = match verdict {
            Verdict::Allow => String::new(),
            Verdict::Deny => closing(done.closing),
        };
        let said = match verdict {
            Verdict::Deny => "denied",
            Verdict::Allow => "allowed",
        };
        print(&format!("{said} {} {lasts}{closing}\n", done.subject))?;
        kept(&done)
    }
}

impl AccessCommand {
    pub(super) fn execute(self, settings: Settings) -> anyhow::Result<()> {
        match self {
            Self::List { settings: more } => {
                let client = Client::new(&settings.join(more).load_for_client()?)?;
                let listed: Listed = client.ask::<(), _>("GET", ACCESS_PATH, None)?;
                print(&show(&listed, clock::unix_seconds()))
            }
            Self::Remove {
                settings: more,
                subject,
            } => {
                let client = Client::new(&settings.join(more).load_for_client()?)?;
                let subject = subject.to_string();
                let done: Done = client.ask("DELETE", ACCESS_PATH, Some(&OldRule { subject }))?;
                let closing = match done.closing {
                    0 => String::new(),
                    connections => closing(connections),
                };
                print(&format!(
                    "removed the rule about {}{closing}\n",
                    done.subject
                ))?;
                kept(&done)
            }
        }
    }
}

fn closing(connections: usize) -> String {
    let s = if connections == 1 { "" } else { "s" };
    format!(", closing {connections} connection{s}")
}

/// The rule holds now, and may not after a restart.
#[derive(Debug, thiserror::Error)]
#[error("the store has not taken the change yet; it holds, but a restart now would undo it")]
pub(super) struct NotKept;

/// # Errors
/// [`NotKept`] if it is not.
fn kept(done: &Done) -> anyhow::Result<()> {
    if done.kept {
        Ok(())
    } else {
        Err(NotKept.into())
    }
}

/// One line for each rule, then what the configuration adds.
fn show(listed: &Listed, now: u64) -> String {
    let mut out = String::new();
    for rule in &listed.rules {
        let lasts = rule.expires.map_or_else(
            || "for ever".to_owned(),
            |expires| {
                let left = Duration::from_secs(expires.saturating_sub(now));
                format!("for {}", show_duration(left))
            },
        );
        // A note is shown on one line, whatever its maker put into it.
        let note: String = rule.note.chars().map(printable).collect();
        let line = format!("{:<6}{} {lasts} {note}", rule.verdict, rule.subject);
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let _ = writeln!(
        out,
        "configured: {} denied, {} allowed",
        listed.configured_deny, listed.configured_allow
    );
    out
}

fn printable(char: char) -> char {
    if char.is_control() { ' ' } else { char }
}

fn lasting(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text)
        .filter(|lasts| lasts.as_secs() > 0)
        .ok_or("expected a duration from 1s to 100 years, for example 1h or 7d")
}

fn note(text: &str) -> Result<String, String> {
    if text.len() > NOTE_MAX {
        return Err(format!("is longer than {NOTE_MAX} bytes"));
    }
    Ok(text.to_owned())
}
