//! Whom a rule of the operator is about: a peer, an address, a range.
//!
//! Owns how these are written and read. One address is a range of one, and an
//! IPv4 address mapped into IPv6 is that IPv4 address, so that equal subjects
//! are written alike.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use libp2p_identity::PeerId;

/// Bits in front of an IPv4 address that is mapped into IPv6.
const MAPPED_BITS: u8 = 96;

/// Whom a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A peer, by its id.
    Peer(PeerId),
    /// An address or a range; bits behind the prefix are zero.
    Range(IpNet),
}

/// What a subject can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a peer id, an IP address, or a range such as 192.0.2.0/24")]
pub struct NotASubject;

impl Subject {
    /// Whether it is about a connection of this peer from this address.
    #[must_use]
    pub fn covers(&self, peer: &PeerId, address: IpAddr) -> bool {
        match self {
            Self::Peer(subject) => subject == peer,
            Self::Range(range) => range.contains(&address.to_canonical()),
        }
    }
}

impl From<PeerId> for Subject {
    fn from(peer: PeerId) -> Self {
        Self::Peer(peer)
    }
}

impl From<IpAddr> for Subject {
    fn from(address: IpAddr) -> Self {
        Self::Range(address.to_canonical().into())
    }
}

impl From<IpNet> for Subject {
    fn from(range: IpNet) -> Self {
        Self::Range(canonical(range.trunc()))
    }
}

impl FromStr for Subject {
    type Err = NotASubject;

    fn from_str(text: &str) -> Result<Self, NotASubject> {
        if let Ok(address) = text.parse::<IpAddr>() {
            Ok(address.into())
        } else if let Ok(range) = text.parse::<IpNet>() {
            Ok(range.into())
        } else {
            text.parse().map(Self::Peer).map_err(|_| NotASubject)
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Range(range) if range.prefix_len() == range.max_prefix_len() => {
                range.addr().fmt(f)
            }
            Self::Range(range) => range.fmt(f),
        }
    }
}

fn canonical(range: IpNet) -> IpNet {
    let mapped = |address: &Ipv6Addr| address.to_ipv4_mapped();
    match range {
        IpNet::V6(v6) => match (mapped(&v6.addr()), v6.prefix_len()) {
            (Some(v4), length @ MAPPED_BITS..) => {
                Ipv4Net::new(v4, length - MAPPED_BITS).map_or(range, IpNet::V4)
            }
            _ => range,
        },
        IpNet::V4(_) => range,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";

    #[test]
    fn what_is_the_same_is_written_alike() {
        for (given, shown) in [
            (PEER, PEER),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("192.0.2.77/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("2001:DB8:0::1/32", "2001:db8::/32"),
            ("2001:db8::1/128", "2001:db8::1"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            let subject: Subject = given.parse().unwrap();
            assert_eq!(subject.to_string(), shown);
            assert_eq!(shown.parse::<Subject>().unwrap(), subject);
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "",
            " ",
            "nobody",
            "192.0.2",
            "192.0.2.0/33",
            "192.0.2.1 ",
            "::/129",
            "example.org",
            "192.0.2.1:4001",
            "/ip4/192.0.2.1",
        ] {
            assert_eq!(text.parse::<Subject>(), Err(NotASubject), "{text:?}");
        }
    }

    #[test]
    fn a_range_covers_its_addresses_and_a_peer_itself() {
        let peer: PeerId = PEER.parse().unwrap();
        let covers = |subject: &str, address: &str| {
            let subject: Subject = subject.parse().unwrap();
            subject.covers(&peer, address.parse().unwrap())
        };
        assert!(covers(PEER, "192.0.2.1"));
        assert!(covers("192.0.2.0/24", "192.0.2.255"));
        assert!(covers("192.0.2.0/24", "::ffff:192.0.2.255"));
        assert!(!covers("192.0.2.0/24", "192.0.3.0"));
        assert!(!covers("0.0.0.0/0", "2001:db8::1"));
        assert!(covers("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!Subject::Peer(PeerId::random()).covers(&peer, "192.0.2.1".parse().unwrap()));
    }
}
