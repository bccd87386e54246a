//! What a probe found, in lines that people and scripts can read: a label,
//! filled up to one width, and a value, as in the banner of a start.
//!
//! Values may come from a stranger: what a terminal would act on is escaped.
//! How much there is of them is bounded by the codecs they came through.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use multiaddr::Multiaddr;

/// Lines in the order in which they were found. A label may come often.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<(&'static str, String)>,
}

impl Report {
    pub(super) fn add(&mut self, label: &'static str, value: impl Display) {
        self.lines.push((label, printable(&value.to_string())));
    }

    pub(super) fn add_time(&mut self, label: &'static str, time: Duration) {
        let milliseconds = time.as_secs_f64() * 1000.0;
        self.add(label, format_args!("{milliseconds:.3} ms"));
    }

    /// A multiaddr as it came over the wire.
    pub(super) fn add_address(&mut self, label: &'static str, bytes: &[u8]) {
        match Multiaddr::try_from(bytes.to_vec()) {
            Ok(address) => self.add(label, address),
            Err(_) => self.add(label, "not a multiaddr"),
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (label, value) in &self.lines {
            writeln!(f, "{label:<10} {value}")?;
        }
        Ok(())
    }
}

/// Control characters, marks of direction and the like as escapes.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\'' | '"' | '\\' => shown.push(char),
            char => write!(shown, "{}", char.escape_debug()).expect("a string grows"),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_write_to_the_terminal() {
        let mut report = Report::default();
        report.add("agent", "go's \"best\" \u{1b}[2J\r\n\u{202e}é");
        report.add_address("observed", &[4, 127, 0, 0, 1]);
        report.add_address("observed", b"/ip4");
        assert_eq!(
            report.to_string(),
            "agent      go's \"best\" \\u{1b}[2J\\r\\n\\u{202e}é\n\
             observed   /ip4/127.0.0.1\n\
             observed   not a multiaddr\n"
        );
    }
}
