//! Where a remote address belongs: the host, site and network it counts for.
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

/// What limits by site count as one: an IPv6 /56, the usual assignment to a
/// home or a small customer (RFC 6177), who picks among 256 /64 in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SiteKey(pub(super) [u8; 7]);

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
    /// Its site; IPv4 has none.
    pub site: Option<SiteKey>,
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
                    site: None,
                    prefix: PrefixKey::V4([a, b, c]),
                }
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self {
                    host: HostKey::V6([a, b, c, d, e, f, g, h]),
                    site: Some(SiteKey([a, b, c, d, e, f, g])),
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
            let site = a.site.is_some() && a.site == b.site;
            (a.host == b.host, site, a.prefix == b.prefix)
        };
        let address = "2001:db8:1:2::1";
        for (a, b, expected) in [
            ("192.0.2.7", "192.0.2.8", (false, false, true)),
            ("192.0.2.7", "192.0.3.7", (false, false, false)),
            (address, "2001:db8:1:2:ffff::1", (true, true, true)),
            (address, "2001:db8:1:3::1", (false, true, true)),
            (address, "2001:db8:1:102::1", (false, false, true)),
            (address, "2001:db8:2:2::1", (false, false, false)),
        ] {
            assert_eq!(same(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn keys_stay_small() {
        assert_eq!((size_of::<HostKey>(), size_of::<PrefixKey>()), (9, 7));
        assert_eq!(size_of::<SiteKey>(), 7);
    }
}
