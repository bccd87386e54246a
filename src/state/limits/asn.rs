//! Which autonomous system announces an address, from a file of the operator's.
//!
//! Owns the ranges in memory, 12 bytes for each of IPv4 and 20 of IPv6: some
//! 8 MiB for today's Internet. Bounds the file's lines and their length. The
//! format is that of ip2asn: first address, last address, number, and whatever
//! else, separated by tabs. It is text without a container, and the data is
//! free to use, so it takes no library and no account to have it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// Number of an autonomous system.
pub(super) type Asn = u32;

/// Longest line: a name stands at its end.
const LINE_BYTES_MAX: u64 = 4 * 1024;
/// Most ranges: twice what is routed today.
const RANGES_MAX: usize = 2_000_000;

/// Ranges of addresses and who announces them.
#[derive(Debug, Default)]
pub struct AsnDatabase {
    v4: Vec<Range<u32>>,
    /// By the upper half of the address: nothing longer than a /64 is routed.
    v6: Vec<Range<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range<T> {
    first: T,
    last: T,
    asn: Asn,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AsnError {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line is not of the format.
    #[error(
        "line {line}: expected first address, last address and AS number separated by tabs, in ascending order"
    )]
    Line {
        /// Which line, from 1.
        line: usize,
    },
    /// There is nothing in it.
    #[error("holds no ranges")]
    Empty,
    /// There is more in it than there can be.
    #[error("holds more than {RANGES_MAX} ranges")]
    TooLarge,
}

impl AsnDatabase {
    /// Reads the file.
    ///
    /// # Errors
    /// [`AsnError`] if it is not a file of the format, whole.
    pub fn open(path: &Path) -> Result<Self, AsnError> {
        Self::read(BufReader::new(File::open(path)?))
    }

    /// Who announces the address; `None` for nobody.
    pub(super) fn find(&self, address: IpAddr) -> Option<Asn> {
        match address.to_canonical() {
            IpAddr::V4(address) => find(&self.v4, u32::from(address)),
            IpAddr::V6(address) => find(&self.v6, upper(address)),
        }
    }

    fn read(mut file: impl BufRead) -> Result<Self, AsnError> {
        let mut database = Self::default();
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            if file.by_ref().take(LINE_BYTES_MAX).read_line(&mut text)? == 0 {
                break;
            }
            let whole = text.len() as u64 != LINE_BYTES_MAX || text.ends_with('\n');
            if !whole || database.add(text.trim_end()).is_none() {
                return Err(AsnError::Line { line });
            }
            if database.v4.len() + database.v6.len() > RANGES_MAX {
                return Err(AsnError::TooLarge);
            }
        }
        database.v4.shrink_to_fit();
        database.v6.shrink_to_fit();
        if database.v4.is_empty() && database.v6.is_empty() {
            return Err(AsnError::Empty);
        }
        Ok(database)
    }

    /// Adds what one line says; `None` if it says nothing. Number 0 is what
    /// nobody announces.
    fn add(&mut self, line: &str) -> Option<()> {
        if line.is_empty() || line.starts_with('#') {
            return Some(());
        }
        let mut fields = line.split('\t');
        let first: IpAddr = fields.next()?.parse().ok()?;
        let last: IpAddr = fields.next()?.parse().ok()?;
        let asn: Asn = fields.next()?.parse().ok()?;
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                push(&mut self.v4, u32::from(first), u32::from(last), asn)
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                push(&mut self.v6, upper(first), upper(last), asn)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

fn upper(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Ranges may share a /64 at their ends: the first one keeps it.
fn push<T: Copy + Ord>(ranges: &mut Vec<Range<T>>, first: T, last: T, asn: Asn) -> Option<()> {
    let ascending = ranges.last().is_none_or(|range| range.first <= first);
    if first > last || !ascending {
        return None;
    }
    if asn != 0 {
        ranges.push(Range { first, last, asn });
    }
    Some(())
}

fn find<T: Copy + Ord>(ranges: &[Range<T>], address: T) -> Option<Asn> {
    let behind = ranges.partition_point(|range| range.first <= address);
    let range = ranges[..behind].last()?;
    (address <= range.last).then_some(range.asn)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    const FILE: &str = "1.0.0.0\t1.0.0.255\t13335\tUS\tCLOUDFLARENET\n\
        1.0.1.0\t1.0.3.255\t0\tNone\tNot routed\n\
        192.0.2.0\t192.0.3.255\t64500\tXX\tONE\n\
        2001:db8::\t2001:db8:ffff:ffff:ffff:ffff:ffff:ffff\t64501\tXX\tTWO\r\n";

    fn read(text: &str) -> Result<AsnDatabase, AsnError> {
        AsnDatabase::read(text.as_bytes())
    }

    #[test]
    fn addresses_belong_to_who_announces_them() {
        let database = read(FILE).unwrap();
        for (address, asn) in [
            ("1.0.0.0", Some(13_335)),
            ("1.0.0.255", Some(13_335)),
            ("1.0.1.0", None),
            ("0.255.255.255", None),
            ("192.0.3.1", Some(64_500)),
            ("192.0.4.0", None),
            ("::ffff:192.0.2.1", Some(64_500)),
            ("2001:db8:1:2::3", Some(64_501)),
            ("2001:db9::", None),
            ("::", None),
        ] {
            assert_eq!(database.find(address.parse().unwrap()), asn, "{address}");
        }
    }

    #[test]
    fn what_is_no_such_file_is_refused_with_its_line() {
        let long = format!("{FILE}1.1.1.1\t1.1.1.1\t1\t{}\n", "x".repeat(5_000));
        for (text, line) in [
            ("first\tlast\tnumber\n", 1),
            (&FILE.replace("64500", "AS64500"), 3),
            (&FILE.replace("192.0.2.0", "192.0.4.0"), 3),
            (&format!("{FILE}1.0.0.0\t1.0.0.255\t13335\n"), 5),
            (&format!("{FILE}1.0.0.0\t2001:db8::\t13335\n"), 5),
            (&long, 5),
        ] {
            match read(text) {
                Err(AsnError::Line { line: found }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(read(""), Err(AsnError::Empty)));
        assert!(matches!(read("# nothing\n"), Err(AsnError::Empty)));
        let binary: &[u8] = b"\xab\xcd\xefMaxMind.com";
        assert!(matches!(AsnDatabase::read(binary), Err(AsnError::Io(_))));
        let absent = AsnDatabase::open(Path::new("/nonexistent/asn.tsv"));
        assert!(matches!(absent, Err(AsnError::Io(_))));
    }
}
