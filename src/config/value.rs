//! How each type of setting is read from what a source gave, and shown again.
//!
//! Sources other than the file only have text, so every type can be read from
//! text: lists as `a,b` or `["a", "b"]`, durations as `1h30m`, sizes as
//! `128KiB` (`value/units.rs`). Ranges are checked in `validate.rs`.

pub(crate) mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::{Num, Value};
use ipnet::IpNet;
use multiaddr::Multiaddr;

use super::{LogFormat, Subject};
use crate::engine::muxer::Muxer;
use crate::engine::security::Security;
use units::{parse_duration, parse_size, show_duration, show_size};

/// What a value should have been.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected(pub(super) String);

impl Expected {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// A type of setting.
pub(super) trait Setting: Sized {
    /// Reads what a source gave.
    fn read(value: &Value) -> Result<Self, Expected>;
    /// The value as it stands in a TOML file.
    fn show(&self) -> String;
}

/// One element of a list setting.
trait Element: Sized {
    /// What to call one in an error message.
    const WHAT: &'static str;
    fn parse(text: &str) -> Option<Self>;
    fn text(&self) -> String;
}

/// A value as it would stand in a TOML file, cut to a readable length.
pub(super) fn show_value(value: &Value) -> String {
    /// Enough for any address or peer id.
    const LENGTH_MAX: usize = 160;
    let mut shown = match value {
        Value::String(_, text) => quote(text),
        Value::Char(_, char) => quote(&char.to_string()),
        Value::Bool(_, bool) => bool.to_string(),
        Value::Num(_, number) => show_number(*number),
        Value::Empty(..) => "(nothing)".to_owned(),
        Value::Dict(..) => "{…}".to_owned(),
        Value::Array(_, values) => {
            let shown: Vec<_> = values.iter().map(show_value).collect();
            format!("[{}]", shown.join(", "))
        }
    };
    if let Some((cut, _)) = shown.char_indices().nth(LENGTH_MAX) {
        shown.truncate(cut);
        shown.push('…');
    }
    shown
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, Expected> {
        match (value, text(value)) {
            (Value::Bool(_, bool), _) => Ok(*bool),
            (_, Some("true")) => Ok(true),
            (_, Some("false")) => Ok(false),
            _ => Err(Expected::new("true or false")),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for usize {
    fn read(value: &Value) -> Result<Self, Expected> {
        let expected = || Expected::new("a whole number");
        whole_number(value)
            .ok_or_else(expected)?
            .try_into()
            .map_err(|_| expected())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for f64 {
    fn read(value: &Value) -> Result<Self, Expected> {
        let number = match value {
            Value::Num(_, Num::F64(number)) => Some(*number),
            Value::Num(_, number) => show_number(*number).parse().ok(),
            _ => text(value).and_then(|text| text.parse().ok()),
        };
        number
            .filter(|number: &Self| number.is_finite())
            .ok_or_else(|| Expected::new("a number"))
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, Expected> {
        if whole_number(value) == Some(0) {
            return Ok(Self::ZERO);
        }
        text(value).and_then(parse_duration).ok_or_else(|| {
            Expected::new(
                "a duration of at most 100 years such as \"500ms\", \"15s\", \"2m\" or \"1h30m\"",
            )
        })
    }

    fn show(&self) -> String {
        quote(&show_duration(*self))
    }
}

/// A duration that can be without limit, written 0.
impl Setting for Option<Duration> {
    fn read(value: &Value) -> Result<Self, Expected> {
        Duration::read(value)
            .map(|duration| Some(duration).filter(|duration| !duration.is_zero()))
            .map_err(|Expected(what)| Expected(format!("{what}, or 0 for no limit")))
    }

    fn show(&self) -> String {
        self.map_or_else(|| "0".to_owned(), |duration| duration.show())
    }
}

/// A size in bytes that can be without limit, written 0.
impl Setting for Option<u64> {
    fn read(value: &Value) -> Result<Self, Expected> {
        whole_number(value)
            .or_else(|| text(value).and_then(parse_size))
            .map(|size| Some(size).filter(|size| *size != 0))
            .ok_or_else(|| {
                Expected::new(
                    "a size such as \"128KiB\", \"1MiB\", \"1GB\" or a number of bytes, or 0 for no limit",
                )
            })
    }

    fn show(&self) -> String {
        self.map_or_else(|| "0".to_owned(), |size| quote(&show_size(size)))
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, Expected> {
        text(value)
            .map(str::to_owned)
            .ok_or_else(|| Expected::new("a text in quotes"))
    }

    fn show(&self) -> String {
        quote(self)
    }
}

impl Setting for PathBuf {
    fn read(value: &Value) -> Result<Self, Expected> {
        text(value)
            .filter(|text| !text.contains('\0'))
            .map(Self::from)
            .ok_or_else(|| Expected::new("a path in quotes"))
    }

    fn show(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

/// An address that can be absent, written as the empty text.
impl Setting for Option<SocketAddr> {
    fn read(value: &Value) -> Result<Self, Expected> {
        match text(value) {
            Some("") => Ok(None),
            given => given
                .and_then(|text| text.parse().ok())
                .map(Some)
                .ok_or_else(|| {
                    Expected::new(
                        "an IP address and a port such as \"127.0.0.1:9464\", or \"\" for none",
                    )
                }),
        }
    }

    fn show(&self) -> String {
        quote(&self.map(|address| address.to_string()).unwrap_or_default())
    }
}

impl Setting for LogFormat {
    fn read(value: &Value) -> Result<Self, Expected> {
        match text(value) {
            Some("auto") => Ok(Self::Auto),
            Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            Some("journald") => Ok(Self::Journald),
            _ => Err(Expected::new("one of auto, text, json, journald")),
        }
    }

    fn show(&self) -> String {
        quote(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        })
    }
}

impl<T: Element> Setting for Vec<T> {
    fn read(value: &Value) -> Result<Self, Expected> {
        if let Value::Array(_, values) = value {
            return values
                .iter()
                .map(|value| {
                    text(value)
                        .ok_or_else(|| Expected(format!("a list of {}s in quotes", T::WHAT)))
                        .and_then(parse_element)
                })
                .collect();
        }
        let given = text(value)
            .ok_or_else(|| Expected(format!("a list of {}s in quotes", T::WHAT)))?
            .trim();
        let bare = given
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(given);
        if bare.trim().is_empty() {
            return Ok(Self::new());
        }
        bare.split(',')
            .map(|element| parse_element(element.trim().trim_matches(['"', '\''])))
            .collect()
    }

    fn show(&self) -> String {
        let shown: Vec<_> = self.iter().map(|element| quote(&element.text())).collect();
        format!("[{}]", shown.join(", "))
    }
}

impl Element for Multiaddr {
    const WHAT: &'static str = "multiaddr";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Element for PathBuf {
    const WHAT: &'static str = "path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}

impl Element for Subject {
    const WHAT: &'static str = "peer id, IP address or range";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Element for IpNet {
    const WHAT: &'static str = "IP address or range";

    /// As ranges of rules are read, so that equal ones are written alike.
    fn parse(text: &str) -> Option<Self> {
        match text.parse().ok()? {
            Subject::Range(range) => Some(range),
            Subject::Peer(_) => None,
        }
    }

    fn text(&self) -> String {
        Subject::Range(*self).to_string()
    }
}

impl Element for Muxer {
    const WHAT: &'static str = "muxer (yamux, mplex)";

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|muxer| muxer.name() == text)
    }

    fn text(&self) -> String {
        self.name().to_owned()
    }
}

impl Element for Security {
    const WHAT: &'static str = "security protocol (noise, tls)";

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == text)
    }

    fn text(&self) -> String {
        self.name().to_owned()
    }
}

fn parse_element<T: Element>(text: &str) -> Result<T, Expected> {
    T::parse(text).ok_or_else(|| Expected(format!("each to be a {}, not {}", T::WHAT, quote(text))))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(_, text) => Some(text),
        _ => None,
    }
}

/// A whole number, itself or as text.
fn whole_number(value: &Value) -> Option<u64> {
    match value {
        Value::Num(_, number) => number.to_i128()?.try_into().ok(),
        _ => text(value)?.trim().parse().ok(),
    }
}

fn show_number(number: Num) -> String {
    match (number.to_i128(), number.to_f64()) {
        (Some(number), _) => number.to_string(),
        (None, Some(number)) => format!("{number:?}"),
        (None, None) => "(a number)".to_owned(),
    }
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}
