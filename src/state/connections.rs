//! Who is connected: the connections of each peer, how to reach them, and
//! which of them matter.
//!
//! Its duties: count connections and peers, each exactly; find a peer's
//! connection; keep what a peer is worth ([`tags`]) and why it is protected
//! ([`protection`]); tell who is to go ([`select`], [`marks`], [`pressure`]) and
//! send them away. When that happens is the trimmer's, in `app`. Bounded by the
//! permits of `limits`: a connection is registered only while it holds one; a
//! peer without connections is kept only while a reservation or a circuit is
//! counted for it.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use libp2p_identity::PeerId;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::state::{
    leg::{Command, Ending, Link},
    striped::StripedMap,
};

use self::{moment::Epoch, protection::Protections, tags::Tags};

pub use self::{
    marks::{Cause, Demand, Marks, Plan},
    moment::Moment,
    pressure::{Pressure, Reading},
    protection::Reason,
    select::{Candidate, Class, Outcome, Snapshot},
    tags::Tag,
};

mod marks;
mod moment;
mod pressure;
mod protection;
mod select;
mod tags;

/// Stripes of the table. Selecting copies one stripe under its lock, so there
/// are enough of them that 50,000 peers are some 400 to a stripe: about 20 µs
/// (`cargo bench --bench trim`).
const STRIPES: usize = 128;

/// One connection, for the life of the process. A later connection has a
/// greater one.
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

/// What is known of one peer. 96 bytes with one connection, beside the key.
#[derive(Default)]
struct Peer {
    connections: SmallVec<[Open; 1]>,
    tags: Tags,
    protections: Protections,
}

/// One open connection.
struct Open {
    id: ConnectionId,
    link: Arc<dyn Link>,
    remote: IpAddr,
    opened: Moment,
    /// It has been told to end, and is not counted as staying any more.
    closing: bool,
}

/// The open connections by peer.
pub struct Connections {
    peers: StripedMap<PeerId, Peer>,
    next: AtomicU64,
    counts: Counts,
    marks: Marks,
    epoch: Epoch,
    /// Somebody should see to the number of connections.
    attention: Notify,
}

/// A connection that is gone, until its goodbye has been sent.
pub struct Leaving(Arc<Connections>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.counts.leaving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// On cache lines of their own: every connection writes them.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    /// Connections.
    open: AtomicUsize,
    /// Those that are gone, and whose peers have not been sent a goodbye.
    leaving: AtomicUsize,
    /// Connections that have not been told to end.
    staying: AtomicUsize,
    /// Peers with a connection.
    peers: AtomicUsize,
    /// Peers protected, by [`Reason`].
    protected: [AtomicUsize; Reason::COUNT],
}

impl Connections {
    /// An empty table; `now` is where its time begins.
    #[must_use]
    pub fn new(marks: Marks, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            peers: StripedMap::with_stripes(STRIPES),
            next: AtomicU64::new(0),
            counts: Counts::default(),
            marks,
            epoch: Epoch::new(now),
            attention: Notify::new(),
        })
    }

    /// Makes a connection reachable for others.
    pub fn register(
        &self,
        peer: PeerId,
        remote: IpAddr,
        link: Arc<dyn Link>,
        now: Instant,
    ) -> ConnectionId {
        let opened = self.epoch.moment(now);
        // Counted before it can be found, so that nobody counts it out first.
        let before = self.counts.staying.fetch_add(1, Ordering::Relaxed);
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        let id = self.peers.update(peer, |slot| {
            // Under the lock, so that a peer's ids are given out in the order
            // in which its connections come and go.
            let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed));
            let entry = slot.get_or_insert_default();
            if entry.connections.is_empty() {
                self.counts.peers.fetch_add(1, Ordering::Relaxed);
            }
            entry.connections.push(Open {
                id,
                link,
                remote,
                opened,
                closing: false,
            });
            id
        });
        if before + 1 == self.marks.high {
            self.attend();
        }
        id
    }

    /// Takes a connection out again.
    pub fn unregister(&self, peer: &PeerId, id: ConnectionId) -> Presence {
        let mut gone = None;
        let mut presence = Presence::Connected;
        let emptied = self.peers.remove_if(peer, |entry| {
            let index = entry.connections.iter().position(|open| open.id == id);
            if let Some(index) = index {
                gone = Some(entry.connections.swap_remove(index));
                if entry.connections.is_empty() {
                    self.counts.peers.fetch_sub(1, Ordering::Relaxed);
                }
            }
            if entry.connections.is_empty() {
                let next = self.next.load(Ordering::Relaxed);
                presence = Presence::Left(ConnectionId(next.saturating_sub(1)));
            }
            entry.is_vacant()
        });
        drop(emptied);
        if let Some(open) = gone {
            self.counts.open.fetch_sub(1, Ordering::Release);
            if !open.closing {
                self.counts.staying.fetch_sub(1, Ordering::Relaxed);
            }
        }
        presence
    }

    /// The newest connection of a peer: of several, the one most likely to
    /// work. One that has been told to end comes last.
    #[must_use]
    pub fn find(&self, peer: &PeerId) -> Option<Arc<dyn Link>> {
        self.reach(peer).map(|(link, _)| link)
    }

    /// As [`Self::find`], with where the connection comes from.
    #[must_use]
    pub fn reach(&self, peer: &PeerId) -> Option<(Arc<dyn Link>, IpAddr)> {
        self.peers.with(peer, |entry| {
            entry?
                .connections
                .iter()
                .max_by_key(|open| (!open.closing, open.id))
                .map(|open| (Arc::clone(&open.link), open.remote))
        })
    }

    /// Of one stripe (of [`Self::stripes`]), the peers with a connection from an address that `pick`
    /// chooses, and the newest such connection that has not been told to end.
    /// `pick` runs under the stripe's lock.
    #[must_use]
    pub fn newest_in(
        &self,
        stripe: usize,
        mut pick: impl FnMut(IpAddr) -> bool,
    ) -> Vec<(PeerId, Arc<dyn Link>)> {
        let mut newest = Vec::new();
        self.peers.for_each_in(stripe, |peer, entry| {
            let staying = entry.connections.iter().filter(|open| !open.closing);
            let picked = staying.filter(|open| pick(open.remote));
            if let Some(open) = picked.max_by_key(|open| open.id) {
                newest.push((*peer, Arc::clone(&open.link)));
            }
        });
        newest
    }

    /// Counts one more reason to keep a peer. Each call is to be paired with
    /// one of [`Self::unprotect`]; in between, the count outlives the peer's
    /// connections.
    pub fn protect(&self, peer: PeerId, reason: Reason) {
        self.peers.update(peer, |slot| {
            if slot.get_or_insert_default().protections.add(reason) {
                self.protected_by(reason).fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Takes back what one call of [`Self::protect`] counted.
    pub fn unprotect(&self, peer: &PeerId, reason: Reason) {
        let emptied = self.peers.remove_if(peer, |entry| {
            if entry.protections.remove(reason) {
                self.protected_by(reason).fetch_sub(1, Ordering::Relaxed);
            }
            entry.is_vacant()
        });
        drop(emptied);
    }

    /// Credits a connected peer with what it has just done.
    pub fn credit(&self, peer: &PeerId, tag: Tag, now: Instant) {
        let now = self.epoch.moment(now);
        self.peers.with(peer, |entry| {
            if let Some(entry) = entry {
                entry.tags.credit(tag, now);
            }
        });
    }

    /// Ends the connections that `pick` chooses by peer and remote address;
    /// how many took the command. Walks stripe by stripe: a connection that registers
    /// meanwhile may be missed. `pick` runs under a stripe's lock.
    pub fn close_where(
        &self,
        mut pick: impl FnMut(&PeerId, IpAddr) -> bool,
        ending: Ending,
    ) -> usize {
        let mut told = 0;
        for stripe in 0..self.peers.stripe_count() {
            let mut links = Vec::new();
            self.peers.for_each_in(stripe, |peer, entry| {
                for open in &mut entry.connections {
                    if pick(peer, open.remote) {
                        if !open.closing {
                            open.closing = true;
                            self.counts.staying.fetch_sub(1, Ordering::Relaxed);
                        }
                        links.push(Arc::clone(&open.link));
                    }
                }
            });
            for link in links {
                // One that has ended by itself does not take the command.
                told += usize::from(link.deliver(Command::Close(ending)).is_ok());
            }
        }
        told
    }

    /// Ends every connection. Accepting has to stop first.
    pub fn close_all(&self, ending: Ending) {
        self.close_where(|_, _| true, ending);
    }

    /// Has the trimmer look at once: a limit has been reached.
    pub fn attend(&self) {
        self.attention.notify_one();
    }

    /// Waits until somebody asks for attention. Cancel-safe.
    pub async fn attention(&self) {
        self.attention.notified().await;
    }

    /// Number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// A connection goes, and its goodbye has still to be sent. To be called
    /// before it is taken out.
    #[must_use]
    pub fn leaving(self: &Arc<Self>) -> Leaving {
        self.counts.leaving.fetch_add(1, Ordering::Relaxed);
        Leaving(Arc::clone(self))
    }

    /// Number of connections that are open or have a goodbye to send.
    #[must_use]
    pub fn not_gone(&self) -> usize {
        // In this order: a connection is counted here before it is not there.
        let open = self.counts.open.load(Ordering::Acquire);
        open + self.counts.leaving.load(Ordering::Relaxed)
    }

    /// Number of open connections that have not been told to end.
    #[must_use]
    pub fn staying(&self) -> usize {
        self.counts.staying.load(Ordering::Relaxed)
    }

    /// Number of peers that are connected.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.counts.peers.load(Ordering::Relaxed)
    }

    /// Number of peers that are protected for this reason.
    #[must_use]
    pub fn protected(&self, reason: Reason) -> usize {
        self.protected_by(reason).load(Ordering::Relaxed)
    }

    /// The water marks.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Whether nobody is connected, nothing protected and nothing counted.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.peers.is_empty()
            && self.open() == 0
            && self.staying() == 0
            && self.peers() == 0
            && Reason::ALL
                .iter()
                .all(|reason| self.protected(*reason) == 0)
    }

    fn protected_by(&self, reason: Reason) -> &AtomicUsize {
        &self.counts.protected[reason as usize]
    }
}

impl Peer {
    /// Whether there is nothing left to keep.
    fn is_vacant(&self) -> bool {
        self.connections.is_empty() && self.protections.is_empty()
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

#[cfg(test)]
mod tests;
