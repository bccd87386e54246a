//! From listen addresses to sockets: bind, accept, admit.
//!
//! Owns the listening sockets, one per worker and address, and the options of
//! every socket that comes out of them. Bounds the backlog and the accepts in
//! a row; who may stay is decided by `state::limits`, before any crypto. What
//! speaks on an admitted socket is left to `upgrade`.

use std::io;
use std::net::{SocketAddr, TcpListener};

use multiaddr::Multiaddr;
use socket2::{Domain, SockRef, Socket, Type};

use crate::config::{FORMS, ListenAddress, Transport};
use crate::upgrade::Entrances;

use self::inherited::Claim;
use self::ports::ports;

pub use self::accept::{AcceptEvent, Accepted, Admission, accept_loop};
pub use self::inherited::Inherited;
pub use self::udp::UdpListeners;

mod accept;
mod inherited;
pub mod memory;
pub mod options;
mod ports;
pub mod quic;
mod udp;

/// Connections that the kernel completes for us while a worker is busy. The
/// default `net.core.somaxconn` since Linux 5.4, which caps it anyway: about
/// one second of handshakes on a worker.
const BACKLOG: i32 = 4096;

/// All listening sockets of the server, before they are handed to workers.
#[derive(Debug)]
pub struct Listeners {
    endpoints: Vec<Endpoint>,
    unavailable: Vec<ListenError>,
    unused: Vec<SocketAddr>,
    workers: usize,
}

/// One worker's socket for one listen address.
///
/// Not tied to a runtime yet: it can be moved to the worker's thread, where
/// [`accept_loop`] takes it.
#[derive(Debug)]
pub struct WorkerSocket {
    source: Source,
    local: SocketAddr,
    entrances: Entrances,
}

/// Where a worker's connections come from.
#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Memory(memory::Queue),
}

/// Why a listen address could not be used. One line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address this server can listen on.
    #[error("cannot listen on {address}: not of the form {FORMS}")]
    Unsupported {
        /// The address as configured.
        address: Multiaddr,
    },
    /// The system refused.
    #[error("cannot listen on {address}: {reason}")]
    Bind {
        /// The address as configured.
        address: Multiaddr,
        /// Why, as far as it is one of the usual reasons.
        reason: BindFailure,
    },
}

/// The system's reason to refuse a listen address.
#[derive(Debug, thiserror::Error)]
pub enum BindFailure {
    /// Somebody listens there.
    #[error("the port is in use by another process")]
    InUse,
    /// A privileged port, or a policy.
    #[error("permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)")]
    NotPermitted,
    /// No interface has this address.
    #[error("this host does not have that address")]
    NotLocal,
    /// IPv6 on a host that has it switched off.
    #[error("this host does not support IPv6 ({0})")]
    NoFamily(io::Error),
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

/// The sockets of one port: one for each worker.
#[derive(Debug)]
struct Endpoint {
    local: SocketAddr,
    sockets: Vec<TcpListener>,
    /// The listen addresses that share it.
    spoken: Vec<ListenAddress>,
    entrances: Entrances,
}

impl Listeners {
    /// Opens `addresses` for `workers` workers (at least one).
    ///
    /// Workers get sockets of their own with `SO_REUSEPORT`, among which the
    /// kernel spreads connections by hash; with port 0 the first socket picks
    /// the port and the others follow. A socket the service manager passed for
    /// an address is taken in place of binding; being one socket, it is shared
    /// by all workers through duplicates of its descriptor, so every idle
    /// worker wakes for each connection and the first one takes it.
    ///
    /// Addresses of QUIC are left to [`UdpListeners`].
    ///
    /// `/ip6/::` on a host without IPv6 is passed over if anything else can be
    /// opened: see [`unavailable`](Self::unavailable).
    ///
    /// # Errors
    ///
    /// The first address that cannot be used, and why.
    pub fn bind(
        addresses: &[Multiaddr],
        workers: usize,
        mut inherited: Inherited,
    ) -> Result<Self, ListenError> {
        let workers = workers.max(1);
        let mut wanted = Vec::with_capacity(addresses.len());
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for port in ports(addresses)? {
            match inherited.claim(port.requested) {
                Claim::Nothing => wanted.push(port),
                Claim::Covered => {
                    let covering = endpoints
                        .iter_mut()
                        .find(|endpoint| endpoint.local.port() == port.requested.port());
                    if let Some(endpoint) = covering {
                        endpoint.open_to(&port.spoken);
                    }
                }
                Claim::Socket(socket) => endpoints.push(
                    Endpoint::share(socket, workers)
                        .map(|endpoint| endpoint.speaking(port.spoken))
                        .map_err(|error| bind_error(port.address, error))?,
                ),
            }
        }
        for port in &wanted {
            ensure_free(port.requested).map_err(|error| bind_error(port.address, error))?;
        }
        let mut unavailable = Vec::new();
        for port in wanted {
            match Endpoint::bind(port.requested, workers) {
                Ok(endpoint) => endpoints.push(endpoint.speaking(port.spoken)),
                Err(failure) => {
                    let dispensable = matches!(failure, BindFailure::NoFamily(_))
                        && port.requested.ip().is_unspecified();
                    let error = bind_error(port.address, failure);
                    if !dispensable {
                        return Err(error);
                    }
                    unavailable.push(error);
                }
            }
        }
        if endpoints.is_empty()
            && let Some(error) = unavailable.pop()
        {
            return Err(error);
        }
        Ok(Self {
            endpoints,
            unavailable,
            unused: inherited.unclaimed(),
            workers,
        })
    }

    /// The addresses that are listened on, with their real ports, in the order
    /// they were opened.
    pub fn addresses(&self) -> impl Iterator<Item = Multiaddr> {
        self.endpoints.iter().flat_map(|endpoint| {
            let spoken = endpoint.spoken.iter();
            spoken.map(|address| address.at(endpoint.local))
        })
    }

    /// Addresses that were passed over, for a warning to the operator.
    #[must_use]
    pub fn unavailable(&self) -> &[ListenError] {
        &self.unavailable
    }

    /// Sockets of the service manager that no listen address asks for; they
    /// are closed. For a warning to the operator.
    #[must_use]
    pub fn unused(&self) -> &[SocketAddr] {
        &self.unused
    }

    /// The sockets by worker: as many lists as there are workers, each with one
    /// socket for every address.
    #[must_use]
    pub fn into_workers(self) -> Vec<Vec<WorkerSocket>> {
        let mut by_worker: Vec<Vec<WorkerSocket>> = Vec::new();
        by_worker.resize_with(self.workers, Vec::new);
        for endpoint in self.endpoints {
            let (local, entrances) = (endpoint.local, endpoint.entrances);
            for (worker, socket) in by_worker.iter_mut().zip(endpoint.sockets) {
                let source = Source::Tcp(socket);
                worker.push(WorkerSocket {
                    source,
                    local,
                    entrances,
                });
            }
        }
        by_worker
    }
}

impl WorkerSocket {
    /// The address it listens on.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What may be spoken on what it accepts.
    #[must_use]
    pub fn entrances(&self) -> Entrances {
        self.entrances
    }
}

impl Endpoint {
    fn new(local: SocketAddr, sockets: Vec<TcpListener>) -> Self {
        Self {
            local,
            sockets,
            spoken: Vec::new(),
            entrances: Entrances::default(),
        }
    }

    fn speaking(mut self, spoken: Vec<ListenAddress>) -> Self {
        self.open_to(&spoken);
        self.spoken = spoken;
        self
    }

    fn open_to(&mut self, spoken: &[ListenAddress]) {
        for address in spoken {
            match address.transport {
                Transport::Tcp => self.entrances.plain = true,
                Transport::Ws => self.entrances.web_socket = true,
                Transport::Wss => self.entrances.secure = true,
                Transport::Quic => {}
            }
        }
    }

    fn bind(requested: SocketAddr, workers: usize) -> Result<Self, BindFailure> {
        let first = listen(requested, Sharing::Workers)?;
        let local = first.local_addr().map_err(BindFailure::Other)?;
        let mut sockets = vec![first];
        while sockets.len() < workers {
            sockets.push(listen(local, Sharing::Workers)?);
        }
        Ok(Self::new(local, sockets))
    }

    fn share(socket: TcpListener, workers: usize) -> Result<Self, BindFailure> {
        let prepare = || {
            options::apply(&SockRef::from(&socket))?;
            socket.set_nonblocking(true)?;
            let local = socket.local_addr()?;
            let mut sockets = Vec::with_capacity(workers);
            for _ in 1..workers {
                sockets.push(socket.try_clone()?);
            }
            Ok((local, sockets))
        };
        let (local, mut sockets) = prepare().map_err(BindFailure::Other)?;
        sockets.push(socket);
        Ok(Self::new(local, sockets))
    }
}

/// With whom a socket may share its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Nobody,
    Workers,
}

/// With `SO_REUSEPORT` a second server of the same user would join the port
/// and silently take half of the connections; a bind without it finds that
/// out. All addresses are tried before the first is opened, so that
/// overlapping ones (`0.0.0.0` and `127.0.0.1`) do not meet each other here.
fn ensure_free(requested: SocketAddr) -> Result<(), BindFailure> {
    if requested.port() == 0 {
        return Ok(());
    }
    match bind(requested, Sharing::Nobody) {
        // `Endpoint::bind` meets the same and knows what to do.
        Ok(_) | Err(BindFailure::NoFamily(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

fn listen(local: SocketAddr, sharing: Sharing) -> Result<TcpListener, BindFailure> {
    let socket = bind(local, sharing)?;
    socket.listen(BACKLOG).map_err(BindFailure::from)?;
    Ok(socket.into())
}

fn bind(local: SocketAddr, sharing: Sharing) -> Result<Socket, BindFailure> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)
        .map_err(|error| no_socket(local, error))?;
    let prepare = || {
        // Lets a restart bind while connections of the last run linger.
        socket.set_reuse_address(true)?;
        if sharing == Sharing::Workers {
            socket.set_reuse_port(true)?;
        }
        if local.is_ipv6() {
            // IPv4 has sockets of its own; remote addresses stay unmapped.
            socket.set_only_v6(true)?;
        }
        options::apply(&SockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        socket.bind(&local.into())
    };
    prepare().map_err(BindFailure::from)?;
    Ok(socket)
}

/// Tells a host without IPv6 from one that gives out no socket at all.
fn no_socket(local: SocketAddr, error: io::Error) -> BindFailure {
    if local.is_ipv6() && Socket::new(Domain::IPV4, Type::STREAM, None).is_ok() {
        BindFailure::NoFamily(error)
    } else {
        BindFailure::Other(error)
    }
}

impl From<io::Error> for BindFailure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse,
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            io::ErrorKind::AddrNotAvailable => Self::NotLocal,
            _ => Self::Other(error),
        }
    }
}

fn bind_error(address: &Multiaddr, reason: BindFailure) -> ListenError {
    ListenError::Bind {
        address: address.clone(),
        reason,
    }
}

#[cfg(test)]
mod tests;
