//! The reference of all metrics, generated from their declarations.
//!
//! `docs/METRICS.md` is its output; a test keeps the two the same.

use super::Metrics;
use super::declare::{Declared, Kind};

const INTRODUCTION: &str = "\
# Metrics

`/metrics` on `admin.address` serves these families in the Prometheus text format.
Labels take values from closed sets only: no peer id and no address ever becomes one.
Families named `libp2p_…` mean what go-libp2p's of the same name mean, so that its
dashboards work; `process_…` is what every Prometheus client library exports.

This file is generated. After changing a metric:

    UPDATE_REFERENCE=1 cargo test --lib metrics::reference

";

impl Metrics {
    /// All families as a Markdown document, ordered by name.
    #[must_use]
    pub fn reference(&self) -> String {
        let mut families: Vec<&Declared> = self.declared.iter().collect();
        families.sort_by_key(|family| family.name);
        let mut out = String::from(INTRODUCTION);
        out.push_str("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
        for family in families {
            out.push_str(&format!(
                "| `{}` | {} | {} | {} | {} |\n",
                family.name,
                kind(family.kind),
                unit(family.name),
                labels(family),
                family.help,
            ));
        }
        out
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// The base unit is the last word of a name, before `_total`.
fn unit(name: &str) -> &'static str {
    match name.trim_end_matches("_total").rsplit('_').next() {
        Some("seconds") => "seconds",
        Some("bytes") => "bytes",
        _ => "",
    }
}

fn labels(family: &Declared) -> String {
    let labels: Vec<String> = family
        .labels
        .iter()
        .map(|(name, values)| {
            // The version would make the file stale with every release.
            if *name == "version" {
                return "`version`".to_owned();
            }
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{name}`: {}", values.join(", "))
        })
        .collect();
    labels.join("; ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn the_reference_in_the_repository_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
        let current = Metrics::new().reference();
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, &current).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == current,
            "docs/METRICS.md is stale: UPDATE_REFERENCE=1 cargo test --lib metrics::reference"
        );
    }
}
