//! UDP sockets for QUIC: one for each worker and listen address.
//!
//! Owns binding and the sizes of their buffers in the kernel, which are shared by
//! all connections of a worker. What speaks on them is `quic`'s.

use std::net::{SocketAddr, UdpSocket};

use multiaddr::Multiaddr;
use socket2::{Domain, SockRef, Socket, Type};

use crate::config::{ListenAddress, Transport};

use super::{BindFailure, Inherited, ListenError, bind_error, no_socket};

/// Bytes asked for in each direction: what a worker that is busy for ten
/// milliseconds receives at two gigabits a second. The kernel gives at most
/// `net.core.rmem_max` and `wmem_max`, usually 208 KiB; what does not fit is
/// lost and sent again.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The UDP sockets of the server, before they are handed to workers.
#[derive(Debug, Default)]
pub struct UdpListeners {
    endpoints: Vec<Endpoint>,
    unavailable: Vec<ListenError>,
    workers: usize,
}

#[derive(Debug)]
struct Endpoint {
    address: Multiaddr,
    /// One for each worker, or one for the first worker alone.
    sockets: Vec<UdpSocket>,
}

impl UdpListeners {
    /// Opens those of `addresses` that are QUIC's, for `workers` workers.
    ///
    /// As for TCP, workers get sockets of their own with `SO_REUSEPORT`, and
    /// `/ip6/::` is passed over on a host without IPv6. A socket that the service
    /// manager passed is the first worker's alone (see [`alone`](Self::alone)):
    /// read through duplicates, a peer's datagrams would overtake each other on
    /// their way to its worker, and more sockets on its port would have to be
    /// opened by the same user.
    ///
    /// # Errors
    ///
    /// The first address that cannot be used, and why.
    pub fn bind(
        addresses: &[Multiaddr],
        workers: usize,
        inherited: &mut Inherited,
    ) -> Result<Self, ListenError> {
        let mut listeners = Self {
            workers: workers.max(1),
            ..Self::default()
        };
        for address in addresses {
            let Some(wanted) = wanted(address) else {
                continue;
            };
            let failure = match inherited.claim_udp(wanted.socket) {
                Some(socket) => share(&socket).map(|()| vec![socket]),
                None => open(wanted.socket, listeners.workers),
            };
            let opened = failure.and_then(|sockets| {
                let local = sockets[0].local_addr().map_err(BindFailure::Other)?;
                Ok((wanted.at(local), sockets))
            });
            match opened {
                Ok((address, sockets)) => listeners.endpoints.push(Endpoint { address, sockets }),
                Err(failure) => {
                    let dispensable = matches!(failure, BindFailure::NoFamily(_))
                        && wanted.socket.ip().is_unspecified();
                    let error = bind_error(address, failure);
                    if !dispensable {
                        return Err(error);
                    }
                    listeners.unavailable.push(error);
                }
            }
        }
        Ok(listeners)
    }

    /// Whether a listen address is for UDP.
    #[must_use]
    pub fn takes(address: &Multiaddr) -> bool {
        wanted(address).is_some()
    }

    /// The addresses that are listened on, with their real ports.
    pub fn addresses(&self) -> impl Iterator<Item = Multiaddr> {
        self.endpoints
            .iter()
            .map(|endpoint| endpoint.address.clone())
    }

    /// Addresses that were passed over, for a warning to the operator.
    #[must_use]
    pub fn unavailable(&self) -> &[ListenError] {
        &self.unavailable
    }

    /// Addresses whose socket the service manager has passed, so that one worker
    /// of several has it alone. For a warning to the operator.
    pub fn alone(&self) -> impl Iterator<Item = &Multiaddr> {
        let alone = |one: &&Endpoint| one.sockets.len() < self.workers;
        let endpoints = self.endpoints.iter();
        endpoints.filter(alone).map(|one| &one.address)
    }

    /// The sockets by worker; those of the first worker may be more.
    #[must_use]
    pub fn into_workers(self) -> Vec<Vec<UdpSocket>> {
        let mut by_worker: Vec<Vec<UdpSocket>> = Vec::new();
        by_worker.resize_with(self.workers, Vec::new);
        for endpoint in self.endpoints {
            for (worker, socket) in by_worker.iter_mut().zip(endpoint.sockets) {
                worker.push(socket);
            }
        }
        by_worker
    }
}

fn wanted(address: &Multiaddr) -> Option<ListenAddress> {
    ListenAddress::of(address).filter(|wanted| wanted.transport == Transport::Quic)
}

fn open(requested: SocketAddr, workers: usize) -> Result<Vec<UdpSocket>, BindFailure> {
    if requested.port() != 0 {
        // With `SO_REUSEPORT` alone a second server of the same user would join
        // the port and silently take half of the datagrams.
        bind(requested, false)?;
    }
    let first = bind(requested, true)?;
    let local = first.local_addr().map_err(BindFailure::Other)?;
    let mut sockets = vec![first];
    while sockets.len() < workers {
        sockets.push(bind(local, true)?);
    }
    Ok(sockets)
}

fn bind(local: SocketAddr, shared: bool) -> Result<UdpSocket, BindFailure> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)
        .map_err(|error| no_socket(local, error))?;
    let prepare = || {
        socket.set_reuse_port(shared)?;
        if local.is_ipv6() {
            // IPv4 has sockets of its own.
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())
    };
    prepare().map_err(BindFailure::from)?;
    let socket = UdpSocket::from(socket);
    share(&socket)?;
    Ok(socket)
}

/// What every socket gets, whoever opened it.
fn share(socket: &UdpSocket) -> Result<(), BindFailure> {
    let options = SockRef::from(socket);
    // Less than asked for is no error.
    let _ = options.set_recv_buffer_size(BUFFER_BYTES);
    let _ = options.set_send_buffer_size(BUFFER_BYTES);
    socket.set_nonblocking(true).map_err(BindFailure::Other)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn listen(address: &str, workers: usize) -> Result<UdpListeners, ListenError> {
        let addresses = [
            address.parse().unwrap(),
            "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
        ];
        UdpListeners::bind(&addresses, workers, &mut Inherited::default())
    }

    #[test]
    fn each_worker_gets_a_socket_on_the_port_that_the_first_found() {
        let listeners = listen("/ip4/127.0.0.1/udp/0/quic-v1", 3).unwrap();
        let addresses: Vec<_> = listeners.addresses().collect();
        assert_eq!(addresses.len(), 1, "tcp is not ours");
        let sockets = listeners.into_workers();
        let ports: Vec<_> = sockets
            .iter()
            .map(|sockets| sockets[0].local_addr().unwrap().port())
            .collect();
        assert_eq!(ports, [ports[0]; 3]);
        assert!(
            addresses[0]
                .to_string()
                .contains(&format!("/udp/{}/", ports[0]))
        );
    }

    #[test]
    fn a_socket_that_was_passed_is_one_workers_and_that_is_told() {
        let passed = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = passed.local_addr().unwrap();
        let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", local.port());
        let listen = |workers| {
            let mut inherited = Inherited::default().with_udp(vec![passed.try_clone().unwrap()]);
            UdpListeners::bind(&[address.parse().unwrap()], workers, &mut inherited).unwrap()
        };
        assert_eq!(listen(1).alone().count(), 0, "the only one has it");
        let listeners = listen(2);
        let alone: Vec<_> = listeners.alone().map(Multiaddr::to_string).collect();
        assert_eq!(alone, [address.as_str()]);
        let sockets = listeners.into_workers();
        assert_eq!(sockets.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn a_port_in_use_is_told() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(&format!("/ip4/127.0.0.1/udp/{port}/quic-v1"), 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on /ip4/127.0.0.1/udp/{port}/quic-v1: the port is in use by another process"
            )
        );
    }

    #[test]
    fn a_second_server_does_not_join_the_port() {
        let first = listen("/ip4/127.0.0.1/udp/0/quic-v1", 1).unwrap();
        let address = first.addresses().next().unwrap().to_string();
        assert!(listen(&address, 1).is_err());
    }
}
