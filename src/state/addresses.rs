//! The addresses that we hand out, by who asks.
//!
//! What the operator configured is handed out as it is. Otherwise it is what
//! we listen on, sorted by reach: a peer on the Internet is told public
//! addresses only, unless there are none; a peer in a private network or on
//! this host is also told those of its own kind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

/// How far an IP address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// This host.
    Loopback,
    /// A private or link-local network.
    Private,
    /// The Internet.
    Public,
}

impl Reach {
    /// How far this address reaches.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback,
            IpAddr::V4(v4) if is_private_v4(v4) => Self::Private,
            IpAddr::V6(v6) if is_private_v6(v6) => Self::Private,
            IpAddr::V4(_) | IpAddr::V6(_) => Self::Public,
        }
    }

    /// All of them, the shortest first.
    pub const ALL: [Self; 3] = [Self::Loopback, Self::Private, Self::Public];
}

/// RFC 1918, RFC 3927, RFC 6598, and what is no address of a host.
fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_documentation()
        || (a == 100 && b & 0xc0 == 64)
}

/// RFC 4193, RFC 4291 §2.5.6, and what is no address of a host.
fn is_private_v6(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xfe00 == 0xfc00
        || first & 0xffc0 == 0xfe80
        || address.is_unspecified()
        || address.is_multicast()
}

/// The lists of addresses to hand out, made once.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    lists: [List; 3],
}

/// The addresses for peers of one reach.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// As identify carries them, without a peer id.
    pub bare: Vec<Multiaddr>,
    /// As reservations carry them, ending in our peer id.
    pub with_peer: Vec<Multiaddr>,
}

impl Addresses {
    /// Lists made from the operator's addresses, or, if there are none, from
    /// the bound ones (each with a specified IP).
    #[must_use]
    pub fn new(configured: &[Multiaddr], bound: &[Multiaddr], us: PeerId) -> Self {
        let lists = Reach::ALL.map(|reach| {
            let bare = if configured.is_empty() {
                select(bound, reach)
            } else {
                configured.iter().map(without_peer).collect()
            };
            let with_peer = bare
                .iter()
                .map(|address| address.clone().with(Protocol::P2p(us)))
                .collect();
            List { bare, with_peer }
        });
        Self { lists }
    }

    /// What a peer at this address is told.
    #[must_use]
    pub fn list_for(&self, peer: IpAddr) -> &List {
        self.list(Reach::of(peer))
    }

    /// What peers of this reach are told.
    #[must_use]
    pub fn list(&self, reach: Reach) -> &List {
        &self.lists[reach as usize]
    }

    /// Every address that anybody is told, those of the widest reach first.
    #[must_use]
    pub fn all(&self) -> Vec<Multiaddr> {
        let mut all: Vec<Multiaddr> = Vec::new();
        for list in self.lists.iter().rev() {
            for address in &list.with_peer {
                if !all.contains(address) {
                    all.push(address.clone());
                }
            }
        }
        all
    }
}

/// Of what we listen on, the addresses that reach a peer of that reach; all of
/// them when there is none, so that a trial in one room works.
fn select(bound: &[Multiaddr], reach: Reach) -> Vec<Multiaddr> {
    let reaching: Vec<_> = bound
        .iter()
        .filter(|address| ip_of(address).is_none_or(|ip| Reach::of(ip) >= reach))
        .cloned()
        .collect();
    if reaching.is_empty() {
        bound.to_vec()
    } else {
        reaching
    }
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address
        .iter()
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/4001";
    const PRIVATE: &str = "/ip4/10.0.0.7/tcp/4001";
    const PUBLIC: &str = "/ip4/8.8.8.8/tcp/4001";

    #[test]
    fn a_peer_is_told_addresses_that_reach_it() {
        let us = PeerId::random();
        let told = Addresses::new(&[], &addresses(&[LOOPBACK, PRIVATE, PUBLIC]), us);
        let bare = |peer: &str| told.list_for(peer.parse().unwrap()).bare.clone();
        assert_eq!(bare("1.1.1.1"), addresses(&[PUBLIC]));
        assert_eq!(bare("192.168.1.1"), addresses(&[PRIVATE, PUBLIC]));
        assert_eq!(bare("127.0.0.1"), addresses(&[LOOPBACK, PRIVATE, PUBLIC]));
        assert_eq!(bare("::ffff:1.1.1.1"), addresses(&[PUBLIC]));
    }

    #[test]
    fn with_no_public_address_everything_is_told() {
        let told = Addresses::new(&[], &addresses(&[LOOPBACK, PRIVATE]), PeerId::random());
        let list = told.list_for("1.1.1.1".parse().unwrap());
        assert_eq!(list.bare, addresses(&[LOOPBACK, PRIVATE]));
    }

    #[test]
    fn the_operators_addresses_replace_what_we_listen_on() {
        let us = PeerId::random();
        let dns = "/dns4/relay.example.net/tcp/4001";
        let configured = addresses(&[&format!("{dns}/p2p/{us}")]);
        let told = Addresses::new(&configured, &addresses(&[LOOPBACK, PUBLIC]), us);
        let list = told.list_for("1.1.1.1".parse().unwrap());
        assert_eq!(list.bare, addresses(&[dns]));
        assert_eq!(list.with_peer, configured);
        assert_eq!(told.all(), configured);
    }
}
