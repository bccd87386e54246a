//! Durations and sizes as people write them.
//!
//! Bounds durations to a century and sizes to 64 bits; both are refused rather
//! than cut when they are larger.

use std::time::Duration;

/// Longest duration that can be set, so that adding it to any instant is safe.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Numbers with units, one after the other: `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let unit_end = after
            .find(|char: char| !char.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(milliseconds)?))?;
        rest = after.trim_start();
    }
    (total <= DURATION_MAX).then_some(total)
}

pub(crate) fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut shown = String::new();
    for (unit, milliseconds) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= milliseconds {
            shown.push_str(&format!("{}{unit}", rest / milliseconds));
            rest %= milliseconds;
        }
    }
    shown
}

/// A number with a binary or decimal unit, in either case: `128KiB`, `1GB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = leading_number(text.trim())?;
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

pub(crate) fn show_size(size: u64) -> String {
    let units = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    units
        .into_iter()
        .find(|(_, factor)| size.is_multiple_of(*factor))
        .map_or_else(
            || size.to_string(),
            |(unit, factor)| format!("{}{unit}", size / factor),
        )
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|char: char| !char.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("15s", 15_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("90m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            let expected = Some(Duration::from_millis(milliseconds));
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            " ",
            "15",
            "s",
            "-1s",
            "1.5s",
            "2 m",
            "1w",
            "1h30",
            "2M",
            "36501d",
            "18446744073709551615d",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, size) in [
            ("128KiB", 131_072),
            ("128 kib", 131_072),
            ("1MiB", 1_048_576),
            ("1GB", 1_000_000_000),
            ("100B", 100),
            ("2TiB", 2_199_023_255_552),
        ] {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "KiB",
            "1K",
            "1.5MiB",
            "-1KiB",
            "1 Kibibyte",
            "18446744073709551615KiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(milliseconds in 0_u64..=3_153_600_000_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn a_shown_size_reads_back(size in 1_u64.., shift in 0_u32..40) {
            let size = (size >> shift).max(1) << shift.min((size >> shift).max(1).leading_zeros());
            let shown = show_size(size);
            let read = shown.parse().ok().or_else(|| parse_size(&shown));
            prop_assert_eq!(read, Some(size));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
