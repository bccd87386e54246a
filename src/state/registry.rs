//! Who is connected: the connections of each peer and how to reach them.
//!
//! Bounded by the permits of `limits`: a connection is registered only while
//! it holds one. Tells when a peer's last connection goes, which is what its
//! reservation lives on.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use libp2p_identity::PeerId;
use smallvec::SmallVec;

use crate::state::{
    leg::{Command, Ending, Link},
    striped::StripedMap,
};

/// One connection, for the life of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// Whether a peer is still there after one of its connections has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Another connection of the peer is open.
    Connected,
    /// That was the last one; this is the newest id given out by then, so
    /// that what later connections do is told apart from what is to end.
    Left(ConnectionId),
}

struct Registered {
    id: ConnectionId,
    address: IpAddr,
    link: Arc<dyn Link>,
}

/// The open connections by peer.
#[derive(Default)]
pub struct Registry {
    peers: StripedMap<PeerId, SmallVec<[Registered; 1]>>,
    next: AtomicU64,
}

impl Registry {
    /// Makes a connection reachable for others.
    pub fn register(&self, peer: PeerId, address: IpAddr, link: Arc<dyn Link>) -> ConnectionId {
        self.peers.update(peer, |connections| {
            // Under the lock, so that a peer's ids are given out in the order
            // in which its connections come and go.
            let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed));
            connections
                .get_or_insert_default()
                .push(Registered { id, address, link });
            id
        })
    }

    /// Takes a connection out again.
    pub fn unregister(&self, peer: &PeerId, id: ConnectionId) -> Presence {
        let mut link = None;
        let mut newest = id;
        let emptied = self.peers.remove_if(peer, |connections| {
            if let Some(index) = connections.iter().position(|entry| entry.id == id) {
                link = Some(connections.swap_remove(index));
            }
            newest = ConnectionId(self.next.load(Ordering::Relaxed) - 1);
            connections.is_empty()
        });
        match emptied {
            Some(_) => Presence::Left(newest),
            None => Presence::Connected,
        }
    }

    /// The newest connection of a peer: of several, the one most likely to
    /// work.
    #[must_use]
    pub fn find(&self, peer: &PeerId) -> Option<Arc<dyn Link>> {
        self.peers.with(peer, |connections| {
            connections?
                .iter()
                .max_by_key(|entry| entry.id)
                .map(|entry| Arc::clone(&entry.link))
        })
    }

    /// Ends every connection. Walks stripe by stripe: a connection that
    /// registers meanwhile may be missed, so accepting has to stop first.
    pub fn close_all(&self, ending: Ending) {
        self.close_where(|_, _| true, ending);
    }

    /// Ends the connections that `which` names by peer and remote address, and
    /// tells how many took the command. Walks stripe by stripe and sends with
    /// no lock held; `which` runs under a stripe's lock.
    pub fn close_where(&self, which: impl Fn(&PeerId, IpAddr) -> bool, ending: Ending) -> usize {
        let mut closing = 0;
        for stripe in 0..self.peers.stripe_count() {
            let mut links = Vec::new();
            self.peers.for_each_in(stripe, |peer, connections| {
                let named = connections
                    .iter()
                    .filter(|entry| which(peer, entry.address));
                links.extend(named.map(|entry| Arc::clone(&entry.link)));
            });
            for link in links {
                // One that has ended by itself does not take the command.
                closing += usize::from(link.deliver(Command::Close(ending)).is_ok());
            }
        }
        closing
    }

    /// Number of peers that are connected.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
pub(in crate::state) mod tests_support {
    //! Ids for tests of what is kept by connection.

    use super::ConnectionId;

    pub(in crate::state) fn connection(number: u64) -> ConnectionId {
        ConnectionId(number)
    }
}
