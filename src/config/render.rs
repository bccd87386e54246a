//! The configuration as text that can be read back.
//!
//! Owns the reference file made from the schema's comments and the effective
//! configuration with the origin of each value. Bounds nothing: both are as
//! long as the schema.

use super::{Config, KEYS, Loaded, SECTIONS, derive};

impl Config {
    /// The reference file: every key with its explanation and its default,
    /// commented out, so that an operator removes one `#` to change a value
    /// and defaults of later versions reach everybody else. Where a default is
    /// derived it shows the rule, so that the file is the same on every host.
    #[must_use]
    pub fn render_defaults() -> String {
        let defaults = Self::default();
        let mut text = String::from(
            "# Waystation's settings and their defaults. Uncomment what should differ.\n\
             # Each can also be set in the environment (relay.circuits_max is\n\
             # WAYSTATION_RELAY__CIRCUITS_MAX) and with --set relay.circuits_max=100,\n\
             # which both win over this file.\n",
        );
        for (section, doc) in SECTIONS {
            text.push('\n');
            push_comment(&mut text, doc);
            text.push_str(&format!("[{section}]\n"));
            for key in KEYS.iter().filter(|key| key.section() == *section) {
                text.push('\n');
                push_comment(&mut text, key.doc);
                let value = match derive::rule(key.path) {
                    Some(rule) => {
                        text.push_str(&format!("# {:?}: {}.\n", derive::AUTO, rule.text));
                        format!("{:?}", derive::AUTO)
                    }
                    None => (key.show)(&defaults),
                };
                text.push_str(&format!("#{} = {value}\n", key.name()));
            }
        }
        text
    }
}

impl Loaded {
    /// The effective configuration, each value with where it came from.
    #[must_use]
    pub fn render(&self) -> String {
        /// Column at which origins stand, when the value leaves room.
        const ORIGIN_COLUMN: usize = 48;
        let mut text = match &self.file {
            Some(path) => format!("# configuration file: {}\n", path.display()),
            None => "# configuration file: none\n".to_owned(),
        };
        text.push_str(&format!("# host: {}\n", self.host()));
        for note in &self.notes {
            text.push_str(&format!("# note: {note}\n"));
        }
        for (section, _) in SECTIONS {
            text.push_str(&format!("\n[{section}]\n"));
            for key in KEYS.iter().filter(|key| key.section() == *section) {
                let setting = format!("{} = {}", key.name(), (key.show)(&self.config));
                let origin = self.origin(key.path);
                text.push_str(&format!("{setting:ORIGIN_COLUMN$}  # {origin}\n"));
            }
        }
        text
    }
}

fn push_comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        text.push('#');
        text.push_str(line);
        text.push('\n');
    }
}
