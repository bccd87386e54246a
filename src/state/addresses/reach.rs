//! How far an address reaches: this host, a private network, the Internet.
//!
//! Pure. What the registries of special-purpose addresses (RFC 6890, as IANA
//! keeps it) do not call globally reachable is not the Internet, so that nobody
//! is told of it from outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an IP address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// This host.
    Loopback,
    /// A private or link-local network, or no network at all.
    Private,
    /// The Internet.
    Public,
}

impl Reach {
    /// All of them, the shortest first.
    pub const ALL: [Self; 3] = [Self::Loopback, Self::Private, Self::Public];

    /// How far this address reaches.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback,
            IpAddr::V4(v4) if is_global_v4(v4) => Self::Public,
            IpAddr::V6(v6) if is_global_v6(v6) => Self::Public,
            IpAddr::V4(_) | IpAddr::V6(_) => Self::Private,
        }
    }

    /// How far a name reaches. Those that the Internet does not resolve: RFC
    /// 6761, RFC 6762, RFC 8375 and ICANN's reserved `.internal`.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let ends_in = |domain: &str| {
            name.strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if ends_in("localhost") {
            Self::Loopback
        } else if ["local", "internal", "home.arpa", "test", "invalid"]
            .into_iter()
            .any(ends_in)
        {
            Self::Private
        } else {
            Self::Public
        }
    }
}

/// Whether an address is one that a link gives itself, and that means nothing
/// beyond it: RFC 3927, RFC 4291 §2.5.6.
#[must_use]
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        // This network, private use, the class E that never came, multicast.
        [0 | 10 | 224.., ..]
            // Shared between a carrier and its customers (RFC 6598).
            | [100, 64..=127, ..]
            | [127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            // Protocol assignments, documentation, the relays of 6to4.
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            // Benchmarks (RFC 2544), documentation.
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    )
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // An IPv4 address behind a translator (RFC 6052) or in a 6to4 prefix
        // (RFC 3056) reaches as far as itself.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            is_global_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocol assignments, among them benchmarks and ORCHID; documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // The rest of what is given out to networks at all.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn reach(address: &str) -> Reach {
        Reach::of(address.parse().unwrap())
    }

    #[test]
    fn the_internet_is_what_the_registries_call_globally_reachable() {
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.0",
            "192.0.1.1",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:200::1",
            "2606:4700::1",
            "2a01:4f8::1",
            "2002:0808:0808::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(reach(public), Reach::Public, "{public}");
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.7",
            "100.64.0.1",
            "169.254.1.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::ffff:10.0.0.1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "2002:0a00:0001::1",
            "3fff::1",
            "5f00::1",
            "64:ff9b:1::1",
            "64:ff9b::10.0.0.1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert_eq!(reach(private), Reach::Private, "{private}");
        }
        for loopback in ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(reach(loopback), Reach::Loopback, "{loopback}");
        }
    }

    #[test]
    fn names_that_the_internet_does_not_resolve_are_not_public() {
        assert_eq!(Reach::of_name("relay.example.net"), Reach::Public);
        assert_eq!(Reach::of_name("notlocal"), Reach::Public);
        assert_eq!(Reach::of_name("printer.local."), Reach::Private);
        assert_eq!(Reach::of_name("LOCALHOST"), Reach::Loopback);
    }
}
