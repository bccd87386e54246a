//! Which address is told to whom, and why another is not.
//!
//! Pure: from the sources to one entry for each address. A peer is told what
//! reaches it: public addresses everybody, private ones peers in private
//! networks, loopback this host. Where nothing public is known, what reaches
//! furthest is told to everybody, so that a trial in one room works.

use std::collections::HashSet;
use std::net::IpAddr;

use multiaddr::{Multiaddr, Protocol};

use super::reach::{Reach, is_link_local};
use super::votes::{OBSERVERS_MIN, Observed};
use crate::config::{ListenAddress, Transport};

/// An address of an interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Whether it can be handed out.
    pub standing: Standing,
}

/// Whether an interface's address lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Lasting,
    /// Made up for privacy and given up within a day (RFC 8981).
    Temporary,
    /// Still valid, not to be used for anything new (RFC 4862).
    Deprecated,
    /// Not known to be this host's alone, or known not to be (RFC 4862).
    Tentative,
    /// Its interface is switched off.
    Down,
}

/// One address that we have or might have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The address, without our peer id.
    pub address: Multiaddr,
    /// Where it comes from.
    pub source: Source,
    /// Who is told of it.
    pub verdict: Verdict,
}

/// Where an address comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `announce.addresses`
    Configured,
    /// `listen.addresses`
    Bound,
    /// This interface, for an unspecified listen address.
    Interface(String),
    /// Peers in so many networks.
    Observed(usize),
}

/// Who is told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Peers up to this reach.
    Told(Reach),
    /// Everybody, for want of one that reaches further.
    LastResort(Reach),
    /// Nobody.
    Withheld(Withheld),
}

/// Why nobody is told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// The operator's replace it.
    #[error("announce.addresses is set")]
    Configured,
    /// It stands for others.
    #[error("stands for the addresses of the interfaces")]
    Unspecified,
    /// Nobody beyond its link could use it.
    #[error("link-local")]
    LinkLocal,
    /// Not the address of one host.
    #[error("not the address of a host")]
    NoHost,
    /// [`Standing::Temporary`]
    #[error("temporary, for privacy")]
    Temporary,
    /// [`Standing::Deprecated`]
    #[error("deprecated")]
    Deprecated,
    /// [`Standing::Tentative`]
    #[error("not known to be unique")]
    Tentative,
    /// [`Standing::Down`]
    #[error("the interface is down")]
    Down,
    /// A certificate is for a name.
    #[error("needs a name: listen on …/tls/sni/NAME/ws, or announce /dns4/NAME/…/tls/ws")]
    Nameless,
    /// Too few observers.
    #[error("{OBSERVERS_MIN} networks have to agree")]
    Disputed,
    /// Enough observers, and others are believed, or were a moment ago.
    #[error("three others are believed, and give way every ten minutes at most")]
    Surplus,
    /// Peers read no longer list.
    #[error("one too many for the 4 KiB that peers read: announce.addresses says which to tell")]
    NoRoom,
    /// An interface has a public address of that family.
    #[error("an interface has a public address")]
    Needless,
}

impl Verdict {
    /// Whether peers of this reach are told.
    #[must_use]
    pub fn is_told_to(&self, peer: Reach) -> bool {
        match self {
            Self::Told(reach) => *reach >= peer,
            Self::LastResort(_) => true,
            Self::Withheld(_) => false,
        }
    }
}

/// One entry for each address, not in order yet; of two sources the first that is
/// named counts.
pub(super) fn judge(
    configured: &[Multiaddr],
    bound: &[ListenAddress],
    interfaces: &[InterfaceAddress],
    observed: &[(Observed, usize, bool)],
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut known: HashSet<Multiaddr> = HashSet::new();
    let mut add = |address: Multiaddr, source, verdict| {
        if known.insert(address.clone()) {
            entries.push(Entry {
                address,
                source,
                verdict,
            });
        }
    };
    for address in configured {
        let verdict = Verdict::Told(reach_of(address));
        add(address.clone(), Source::Configured, verdict);
    }
    let listened = listened_on(bound, interfaces);
    let is_public = |ipv4: bool| {
        listened.iter().any(|(address, _, verdict)| {
            let family = matches!(address.iter().next(), Some(Protocol::Ip4(_)));
            family == ipv4 && *verdict == Verdict::Told(Reach::Public)
        })
    };
    for (address, source, verdict) in listened.iter().cloned() {
        let replaced = !configured.is_empty() && matches!(verdict, Verdict::Told(_));
        let verdict = if replaced {
            Verdict::Withheld(Withheld::Configured)
        } else {
            verdict
        };
        add(address, source, verdict);
    }
    for (seen, networks, believed) in observed {
        let fitting = bound
            .iter()
            .filter(|bound| bound.transport == seen.transport && same_family(bound, seen));
        // Of several, most likely the one whose port it is, or else one that has a
        // name: that is all in which they differ.
        let listener = fitting.min_by_key(|bound| {
            let other_port = bound.socket.port() != seen.socket.port();
            (other_port, is_nameless(bound))
        });
        let Some(listener) = listener else { continue };
        let verdict = if is_nameless(listener) {
            Verdict::Withheld(Withheld::Nameless)
        } else if is_public(seen.socket.is_ipv4()) {
            Verdict::Withheld(Withheld::Needless)
        } else if *believed {
            Verdict::Told(Reach::Public)
        } else if *networks >= OBSERVERS_MIN {
            Verdict::Withheld(Withheld::Surplus)
        } else {
            Verdict::Withheld(Withheld::Disputed)
        };
        add(
            listener.at(seen.socket),
            Source::Observed(*networks),
            verdict,
        );
    }
    last_resort(&mut entries);
    entries
}

type Judged = (Multiaddr, Source, Verdict);

/// What we listen on, unspecified addresses as those of the interfaces.
fn listened_on(bound: &[ListenAddress], interfaces: &[InterfaceAddress]) -> Vec<Judged> {
    let mut found = Vec::new();
    for listener in bound {
        let ip = listener.socket.ip();
        if !ip.is_unspecified() {
            let verdict = of_ip(listener, ip, Standing::Lasting);
            found.push((listener.at(listener.socket), Source::Bound, verdict));
            continue;
        }
        let unspecified = Verdict::Withheld(Withheld::Unspecified);
        found.push((listener.at(listener.socket), Source::Bound, unspecified));
        for held in interfaces {
            if held.ip.is_ipv4() != ip.is_ipv4() {
                continue;
            }
            let mut socket = listener.socket;
            socket.set_ip(held.ip);
            let source = Source::Interface(held.interface.clone());
            let verdict = of_ip(listener, held.ip, held.standing);
            found.push((listener.at(socket), source, verdict));
        }
    }
    found
}

fn of_ip(listener: &ListenAddress, ip: IpAddr, standing: Standing) -> Verdict {
    let withheld = match standing {
        _ if is_link_local(ip) => Some(Withheld::LinkLocal),
        _ if ip.is_multicast() || ip.is_unspecified() => Some(Withheld::NoHost),
        Standing::Temporary => Some(Withheld::Temporary),
        Standing::Deprecated => Some(Withheld::Deprecated),
        Standing::Tentative => Some(Withheld::Tentative),
        Standing::Down => Some(Withheld::Down),
        Standing::Lasting if is_nameless(listener) && Reach::of(ip) == Reach::Public => {
            Some(Withheld::Nameless)
        }
        Standing::Lasting => None,
    };
    withheld.map_or_else(|| Verdict::Told(Reach::of(ip)), Verdict::Withheld)
}

/// Nobody on the Internet, browsers least of all, can check a certificate without
/// the name it is for; a trial on one host or in one network may do without.
fn is_nameless(listener: &ListenAddress) -> bool {
    listener.transport == Transport::Wss && listener.server_name.is_none()
}

fn same_family(bound: &ListenAddress, seen: &Observed) -> bool {
    bound.socket.is_ipv4() == seen.socket.is_ipv4()
}

/// Where nothing is told to everybody, what reaches furthest is.
fn last_resort(entries: &mut [Entry]) {
    let told = |entry: &Entry| match entry.verdict {
        Verdict::Told(reach) => Some(reach),
        Verdict::LastResort(_) | Verdict::Withheld(_) => None,
    };
    let Some(furthest) = entries.iter().filter_map(told).max() else {
        return;
    };
    if furthest == Reach::Public {
        return;
    }
    for entry in entries {
        if entry.verdict == Verdict::Told(furthest) {
            entry.verdict = Verdict::LastResort(furthest);
        }
    }
}

/// How far an address reaches that begins like this.
fn reach_of(address: &Multiaddr) -> Reach {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Reach::of(ip.into()),
        Some(Protocol::Ip6(ip)) => Reach::of(ip.into()),
        Some(
            Protocol::Dns(name)
            | Protocol::Dns4(name)
            | Protocol::Dns6(name)
            | Protocol::Dnsaddr(name),
        ) => Reach::of_name(&name),
        _ => Reach::Public,
    }
}
