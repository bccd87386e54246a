//! The schema: from one list of sections to structs, defaults and known keys.
//!
//! Owns the macro that reads the list and what is known about a key. The list
//! itself stands in `config.rs`, how a type is read from text in `value.rs`.

use super::value::{Expected, Setting};
use super::{Config, KEYS};

use figment::value::Value;

/// One key an operator can set.
pub(super) struct Key {
    /// Section and name: `relay.circuits_max`.
    pub(super) path: &'static str,
    /// Text for the operator, one string for each line.
    pub(super) doc: &'static [&'static str],
    /// Sets the field from what a source gave.
    pub(super) read: fn(&mut Config, &Value) -> Result<(), Expected>,
    /// The field as it would stand in the file.
    pub(super) show: fn(&Config) -> String,
}

impl Key {
    /// The key with this path, if there is one.
    pub(super) fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The part before the dot.
    pub(super) fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// The part after the dot.
    pub(super) fn name(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(_, name)| name)
    }

    /// The known key that a mistyped one most likely stands for, unless none is
    /// near. A name typed without its section, or with an underscore for the
    /// dot, counts as near; within a known section any key is worth naming.
    pub(super) fn nearest(unknown: &str) -> Option<&'static Self> {
        let unknown = unknown.to_ascii_lowercase();
        let (section, name) = unknown.split_once('.').unwrap_or(("", &unknown));
        let joined = unknown.replace(['.', '-'], "_").replace("__", "_");
        let distance = |key: &Self| {
            let whole = strsim::damerau_levenshtein(&joined, &key.path.replace('.', "_"));
            let alone = strsim::damerau_levenshtein(name, key.name()) + 1;
            whole.min(alone)
        };
        let near = 1 + name.len() / 3;
        KEYS.iter()
            .filter(|key| key.section() == section || distance(key) <= near)
            .min_by_key(|key| distance(key))
    }
}

/// Reads one field; the macro names the type only through the field.
pub(super) fn read_into<T: Setting>(field: &mut T, value: &Value) -> Result<(), Expected> {
    *field = T::read(value)?;
    Ok(())
}

/// Makes `Config`, one struct for each section, their defaults, `SECTIONS` and
/// `KEYS`. The doc comments serve the reader of the code and the operator.
macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty = $default:expr,
            )*
        }
    )*) => {
        /// Everything an operator can set.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct Config {
            $( $(#[doc = $section_doc])* pub $section: $Section, )*
        }

        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $doc])* pub $key: $type, )*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $key: $default, )* }
                }
            }
        )*

        /// Sections and what they are for, in the order of the reference file.
        const SECTIONS: &[(&str, &[&str])] = &[
            $( (stringify!($section), &[$($section_doc),*]), )*
        ];

        /// All keys, section by section.
        const KEYS: &[schema::Key] = &[
            $($(
                schema::Key {
                    path: concat!(stringify!($section), ".", stringify!($key)),
                    doc: &[$($doc),*],
                    read: |config, value| schema::read_into(&mut config.$section.$key, value),
                    show: |config| value::Setting::show(&config.$section.$key),
                },
            )*)*
        ];
    };
}
pub(super) use sections;
