//! The addresses that we have, where each comes from, and who is told of it.
//!
//! What the operator configured replaces what we listen on, the addresses of the
//! interfaces for an unspecified one, and what enough peers see us under
//! ([`votes`]). A peer is told what reaches it ([`judge`]); that is made anew when
//! a source changes. Bounded by what one message holds ([`rank`]), and by votes.

mod judge;
mod rank;
mod reach;
mod votes;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::clock;
use crate::config::{ListenAddress, Transport};
use crate::state::limits::Origin;

use self::votes::{Ballot, Votes};

pub use self::judge::{Entry, InterfaceAddress, Source, Standing, Verdict, Withheld};
pub use self::reach::Reach;
pub use self::votes::{OBSERVERS_MIN, Observed};

/// Bytes of an observed address that is looked at: names aside, none is longer.
const OBSERVED_BYTES_MAX: usize = 128;

/// What we have, and what is told of it.
///
/// Two leaf locks, never both with another: one over the sources, one over the
/// handle of what is told. The second may be taken under the first.
#[derive(Debug)]
pub struct Addresses {
    us: PeerId,
    /// The operator's, without our peer id.
    configured: Vec<Multiaddr>,
    /// What we listen on, with real ports.
    bound: Vec<ListenAddress>,
    sources: Mutex<Sources>,
    told: RwLock<Arc<Told>>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Sources {
    interfaces: Vec<InterfaceAddress>,
    votes: Votes,
    /// Addresses of interfaces that are not looked at.
    not_looked_at: usize,
    /// Addresses that are not told for want of room.
    no_room: usize,
}

/// How many addresses nobody is told because there are too many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// They do not fit into one message.
    pub no_room: usize,
    /// Their interfaces have so many that these were not even looked at.
    pub not_looked_at: usize,
}

/// What peers are told at a time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    lists: [List; 3],
}

/// The addresses for peers of one reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// As identify carries them, without a peer id.
    pub bare: Vec<Multiaddr>,
    /// As reservations carry them, ending in our peer id.
    pub with_peer: Vec<Multiaddr>,
}

impl Addresses {
    /// What the operator configured, and what is listened on. The addresses of
    /// the interfaces are to be told by [`Self::set_interfaces`].
    #[must_use]
    pub fn new(configured: &[Multiaddr], bound: &[Multiaddr], us: PeerId) -> Arc<Self> {
        let addresses = Self {
            us,
            configured: configured.iter().map(without_peer).collect(),
            bound: bound.iter().filter_map(ListenAddress::of).collect(),
            sources: Mutex::default(),
            told: RwLock::default(),
            changed: Notify::new(),
        };
        addresses.update(|_| true);
        Arc::new(addresses)
    }

    /// Our peer id.
    #[must_use]
    pub const fn us(&self) -> PeerId {
        self.us
    }

    /// Whether some listen address stands for those of the interfaces.
    #[must_use]
    pub fn needs_interfaces(&self) -> bool {
        self.bound
            .iter()
            .any(|bound| bound.socket.ip().is_unspecified())
    }

    /// Takes over the addresses of this host's interfaces; whether peers are
    /// told something else now.
    pub fn set_interfaces(&self, interfaces: Vec<InterfaceAddress>) -> bool {
        let (interfaces, not_looked_at) = rank::worth_a_look(interfaces);
        self.update(|sources| {
            sources.not_looked_at = not_looked_at;
            let changed = sources.interfaces != interfaces;
            sources.interfaces = interfaces;
            changed
        })
    }

    /// Counts under which address a peer that dialed us sees us. `None` if it
    /// says nothing that we could use.
    #[must_use]
    pub fn observed(
        self: &Arc<Self>,
        observer: IpAddr,
        transport: Transport,
        address: &[u8],
    ) -> Option<Box<Vote>> {
        // The operator knows better. And who is in one network with us, or
        // behind the same NAT, does not see what the Internet sees.
        if !self.configured.is_empty() || Reach::of(observer) != Reach::Public {
            return None;
        }
        let network = Origin::of(observer)?.prefix;
        let socket = observed_socket(address, transport, &self.us)?;
        // Nobody sees us over another family than the one he comes from.
        if observer.to_canonical().is_ipv4() != socket.is_ipv4() {
            return None;
        }
        let observed = Observed { transport, socket };
        let listened_on = |bound: &ListenAddress| {
            bound.transport == transport && bound.socket.is_ipv4() == socket.is_ipv4()
        };
        if !self.bound.iter().any(listened_on) {
            return None;
        }
        let mut sources = self.sources.lock();
        let known = |held: &InterfaceAddress| held.ip == socket.ip();
        if sources.interfaces.iter().any(known) || self.has_bound(socket.ip()) {
            return None;
        }
        let ballot = sources.votes.cast(observed, network)?;
        let addresses = Arc::clone(self);
        Some(Box::new(Vote { addresses, ballot }))
    }

    /// Forgets votes that have expired and looks which are enough; whether
    /// peers are told something else now.
    pub fn review(&self, now: Instant) -> bool {
        self.update(|sources| sources.votes.review(now))
    }

    /// What peers are told now.
    #[must_use]
    pub fn told(&self) -> Arc<Told> {
        Arc::clone(&self.told.read())
    }

    /// Every address that we have, with where it comes from and who is told:
    /// first those that are, in the order in which they are.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.judge(&self.sources.lock()).0
    }

    /// Addresses that nobody is told because there are too many: they have no
    /// room in a message, or stand on an interface that has hundreds.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        let sources = self.sources.lock();
        LeftOut {
            no_room: sources.no_room,
            not_looked_at: sources.not_looked_at,
        }
    }

    /// Addresses that peers say they see us under.
    #[must_use]
    pub fn observed_count(&self) -> usize {
        self.sources.lock().votes.len()
    }

    /// Waits until peers are told something else. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn has_bound(&self, ip: IpAddr) -> bool {
        self.bound.iter().any(|bound| bound.socket.ip() == ip)
    }

    /// All entries in order, and how many have no room.
    fn judge(&self, sources: &Sources) -> (Vec<Entry>, usize) {
        let observed = sources.votes.list();
        let mut entries = judge::judge(
            &self.configured,
            &self.bound,
            &sources.interfaces,
            &observed,
        );
        let no_room = rank::rank(&mut entries);
        (entries, no_room)
    }

    /// Changes the sources, where `change` says whether that matters; whether
    /// peers are told something else now.
    fn update(&self, change: impl FnOnce(&mut Sources) -> bool) -> bool {
        let mut sources = self.sources.lock();
        if !change(&mut sources) {
            return false;
        }
        let (entries, no_room) = self.judge(&sources);
        sources.no_room = no_room;
        let new = Told::new(&entries, self.us);
        let mut told = self.told.write();
        let changed = **told != new;
        if changed {
            *told = Arc::new(new);
        }
        // Nobody is woken under a lock.
        drop(told);
        drop(sources);
        if changed {
            self.changed.notify_one();
        }
        changed
    }
}

impl Told {
    fn new(entries: &[Entry], us: PeerId) -> Self {
        let lists = Reach::ALL.map(|reach| {
            let told = entries
                .iter()
                .filter(|entry| entry.verdict.is_told_to(reach));
            let bare: Vec<Multiaddr> = told.map(|entry| entry.address.clone()).collect();
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

    /// Every address that anybody is told, those of the widest reach first. Who
    /// is on this host is told all of them.
    #[must_use]
    pub fn all(&self) -> &[Multiaddr] {
        &self.list(Reach::Loopback).with_peer
    }
}

/// One connection's word on how it sees us, counted until it is dropped, and a
/// while longer.
#[derive(Debug)]
pub struct Vote {
    addresses: Arc<Addresses>,
    ballot: Ballot,
}

impl Drop for Vote {
    fn drop(&mut self) {
        let mut sources = self.addresses.sources.lock();
        sources.votes.withdraw(&self.ballot, clock::now());
    }
}

/// The socket in an address that a peer says it sees us under over this
/// transport. What is behind the port may be written in several ways, and says
/// nothing that the connection does not; a relay in it says that it is not ours.
fn observed_socket(address: &[u8], transport: Transport, us: &PeerId) -> Option<SocketAddr> {
    if address.len() > OBSERVED_BYTES_MAX {
        return None;
    }
    let address = Multiaddr::try_from(address.to_vec()).ok()?;
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (port, over_udp) = match parts.next()? {
        Protocol::Tcp(port) => (port, false),
        Protocol::Udp(port) => (port, true),
        _ => return None,
    };
    let (mut elsewhere, mut secure) = (false, false);
    for part in parts {
        match part {
            Protocol::P2pCircuit => elsewhere = true,
            Protocol::P2p(peer) => elsewhere |= peer != *us,
            Protocol::Tls | Protocol::Wss(_) => secure = true,
            _ => {}
        }
    }
    let ip = ip.to_canonical();
    // A proxy in front of us may speak TLS where we do not.
    let fits = over_udp == (transport == Transport::Quic)
        && secure == (transport == Transport::Wss)
        && !is_translated(ip);
    (fits && !elsewhere && port != 0 && Reach::of(ip) == Reach::Public)
        .then(|| SocketAddr::new(ip, port))
}

/// Whether an address stands for an IPv4 address, for some or for all networks
/// (NAT64, RFC 6052; 6to4, RFC 3056).
fn is_translated(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => {
            let segments = ip.segments();
            segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || segments[0] == 0x2002
        }
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut bare = address.clone();
    if matches!(bare.iter().last(), Some(Protocol::P2p(_))) {
        bare.pop();
    }
    bare
}

#[cfg(test)]
mod tests;
