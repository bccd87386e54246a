//! Where a remote address belongs: the host and the network it counts for.
//!
//! Pure. Keys are byte arrays in their shortest form, because every connection
//! and every table entry holds them.

use std::net::IpAddr;

/// What limits by address count as one host: an IPv4 address, or an IPv6 /64,
/// which is the least that a site hands to one machine (RFC 7421).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostKey {
    /// An address.
    V4([u8; 4]),
    /// The first 64 bits of an address.
    V6([u8; 8]),
}

/// What limits by network count as one: an IPv4 /24, the longest prefix that
/// is routed on the Internet, or an IPv6 /48, the same there and what a site
/// gets at most (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrefixKey {
    /// The first 24 bits of an address.
    V4([u8; 3]),
    /// The first 48 bits of an address.
    V6([u8; 6]),
}

/// The groups that an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Its host.
    pub host: HostKey,
    /// Its network.
    pub prefix: PrefixKey,
}

impl Origin {
    /// The groups of an address; `None` for loopback, to which limits by
    /// address do not apply. An IPv4 address mapped into IPv6 is that IPv4
    /// address.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return None;
        }
        Some(match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self {
                    host: HostKey::V4([a, b, c, d]),
                    prefix: PrefixKey::V4([a, b, c]),
                }
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self {
                    host: HostKey::V6([a, b, c, d, e, f, g, h]),
                    prefix: PrefixKey::V6([a, b, c, d, e, f]),
                }
            }
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn origin(address: &str) -> Option<Origin> {
        Origin::of(address.parse().unwrap())
    }

    #[test]
    fn loopback_belongs_nowhere() {
        for address in ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(origin(address), None, "{address}");
        }
    }

    #[test]
    fn mapped_addresses_are_the_ipv4_address() {
        assert_eq!(origin("::ffff:192.0.2.7"), origin("192.0.2.7"));
        assert!(origin("192.0.2.7").is_some());
    }

    #[test]
    fn hosts_and_networks_have_the_stated_lengths() {
        let same = |a: &str, b: &str| {
            let (a, b) = (origin(a).unwrap(), origin(b).unwrap());
            (a.host == b.host, a.prefix == b.prefix)
        };
        assert_eq!(same("192.0.2.7", "192.0.2.8"), (false, true));
        assert_eq!(same("192.0.2.7", "192.0.3.7"), (false, false));
        assert_eq!(
            same("2001:db8:1:2::1", "2001:db8:1:2:ffff::1"),
            (true, true)
        );
        assert_eq!(same("2001:db8:1:2::1", "2001:db8:1:3::1"), (false, true));
        assert_eq!(same("2001:db8:1:2::1", "2001:db8:2:2::1"), (false, false));
    }

    #[test]
    fn keys_stay_small() {
        assert_eq!((size_of::<HostKey>(), size_of::<PrefixKey>()), (9, 7));
    }
}
