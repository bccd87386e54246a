//! A worker's UDP sockets: receiving many datagrams a call, sending many a call.
//!
//! Owns the receive buffer and what a full socket has not taken: at most one
//! send for each socket, behind which all others wait.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket as StdSocket},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use quinn_proto::EcnCodepoint;
use quinn_udp::{RecvMeta, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use crate::metrics::QuicMetrics;

use super::handover::Datagram;

/// Messages of one receiving call.
const MESSAGES: usize = 8;

/// Longest message: what the kernel joins datagrams to (GRO).
const MESSAGE_MAX: usize = 64 * 1024;

/// Most bytes of one sending call: what IPv4 takes, less its headers.
pub(super) const SEND_MAX: usize = 65_507;

/// A worker's sockets.
pub(super) struct Sockets {
    sockets: Vec<Socket>,
    buffer: Box<[u8]>,
    metrics: Arc<QuicMetrics>,
}

struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    ipv4: bool,
    /// What the kernel had no room for.
    unsent: Option<(quinn_proto::Transmit, Vec<u8>)>,
}

/// What became of a send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Done,
    /// It is kept, and nothing more may be sent there until it has left.
    Full,
}

impl Sockets {
    /// Registers sockets with the runtime.
    pub(super) fn new(sockets: Vec<StdSocket>, metrics: Arc<QuicMetrics>) -> io::Result<Self> {
        let register = |socket: StdSocket| {
            let ipv4 = socket.local_addr()?.is_ipv4();
            let io = UdpSocket::from_std(socket)?;
            let state = UdpSocketState::new((&io).into())?;
            Ok(Socket {
                io,
                state,
                ipv4,
                unsent: None,
            })
        };
        Ok(Self {
            sockets: sockets
                .into_iter()
                .map(register)
                .collect::<io::Result<_>>()?,
            buffer: vec![0; MESSAGES * MESSAGE_MAX].into_boxed_slice(),
            metrics,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether the kernel may cut up what we send.
    pub(super) fn may_fragment(&self) -> bool {
        self.sockets
            .iter()
            .any(|socket| socket.state.may_fragment())
    }

    /// Datagrams that one call can send through any of the sockets.
    pub(super) fn segments(&self) -> usize {
        let segments = self.sockets.iter().map(|one| one.state.max_gso_segments());
        segments.min().unwrap_or(1)
    }

    /// Receives once from a socket and hands on each datagram; tells how many.
    /// `Pending` when there is none.
    pub(super) fn receive(
        &mut self,
        index: usize,
        task: &mut Context<'_>,
        mut on_datagram: impl FnMut(Datagram),
    ) -> Poll<usize> {
        let socket = &self.sockets[index];
        let mut metas = [RecvMeta::default(); MESSAGES];
        let count = loop {
            if ready!(socket.io.poll_recv_ready(task)).is_err() {
                return Poll::Pending;
            }
            let mut chunks = self.buffer.chunks_mut(MESSAGE_MAX);
            let mut slices: [IoSliceMut<'_>; MESSAGES] = std::array::from_fn(|_| {
                IoSliceMut::new(chunks.next().expect("as many as there are messages"))
            });
            let received = socket.io.try_io(Interest::READABLE, || {
                socket
                    .state
                    .recv((&socket.io).into(), &mut slices, &mut metas)
            });
            match received {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // About one datagram, or about one of ours that found nobody.
                Err(error) => {
                    tracing::debug!(%error, "receiving failed");
                    return Poll::Ready(0);
                }
            }
        };
        let mut datagrams = 0;
        let mut total = 0;
        for (meta, message) in metas[..count].iter().zip(self.buffer.chunks(MESSAGE_MAX)) {
            total += meta.len;
            // Each by itself: one that is kept must not keep those that came
            // with it.
            for bytes in message[..meta.len].chunks(meta.stride.max(1)) {
                datagrams += 1;
                on_datagram(Datagram {
                    socket: index,
                    remote: meta.addr,
                    local: meta.dst_ip,
                    ecn: meta.ecn.map(from_udp),
                    bytes: BytesMut::from(bytes),
                });
            }
        }
        self.metrics.received(datagrams, total);
        Poll::Ready(datagrams)
    }

    /// Whether a socket waits for room.
    pub(super) fn is_full(&self, index: usize) -> bool {
        self.sockets[index].unsent.is_some()
    }

    /// The socket for a destination: the wanted one, or, if the peer has moved
    /// to the other family, the first of that.
    pub(super) fn for_destination(&self, wanted: usize, destination: SocketAddr) -> usize {
        let ipv4 = destination.is_ipv4();
        if self.sockets[wanted].ipv4 == ipv4 {
            return wanted;
        }
        let other = self.sockets.iter().position(|one| one.ipv4 == ipv4);
        other.unwrap_or(wanted)
    }

    /// Sends what the first bytes of `buffer` are.
    pub(super) fn send(
        &mut self,
        index: usize,
        transmit: quinn_proto::Transmit,
        buffer: &[u8],
    ) -> Sent {
        if self.send_now(index, &transmit, &buffer[..transmit.size]) {
            return Sent::Done;
        }
        self.metrics.socket_full();
        let contents = buffer[..transmit.size].to_vec();
        self.sockets[index].unsent = Some((transmit, contents));
        Sent::Full
    }

    /// Sends what is kept, if the kernel has room for it now.
    pub(super) fn send_kept(&mut self, index: usize, task: &mut Context<'_>) -> Sent {
        while let Some((transmit, contents)) = self.sockets[index].unsent.take() {
            if self.send_now(index, &transmit, &contents) {
                break;
            }
            let socket = &mut self.sockets[index];
            socket.unsent = Some((transmit, contents));
            if socket.io.poll_send_ready(task).is_pending() {
                return Sent::Full;
            }
        }
        Sent::Done
    }

    /// Whether the kernel took it; what it refuses for another reason than room
    /// is lost, as on the way.
    fn send_now(&self, index: usize, transmit: &quinn_proto::Transmit, contents: &[u8]) -> bool {
        let socket = &self.sockets[index];
        let datagram = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(to_udp),
            contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let sent = socket.io.try_io(Interest::WRITABLE, || {
            socket.state.send((&socket.io).into(), &datagram)
        });
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return false;
        }
        let segment = transmit.segment_size.unwrap_or(contents.len()).max(1);
        self.metrics
            .sent(contents.len().div_ceil(segment), contents.len());
        true
    }
}

fn from_udp(codepoint: quinn_udp::EcnCodepoint) -> EcnCodepoint {
    match codepoint {
        quinn_udp::EcnCodepoint::Ect0 => EcnCodepoint::Ect0,
        quinn_udp::EcnCodepoint::Ect1 => EcnCodepoint::Ect1,
        quinn_udp::EcnCodepoint::Ce => EcnCodepoint::Ce,
    }
}

fn to_udp(codepoint: EcnCodepoint) -> quinn_udp::EcnCodepoint {
    match codepoint {
        EcnCodepoint::Ect0 => quinn_udp::EcnCodepoint::Ect0,
        EcnCodepoint::Ect1 => quinn_udp::EcnCodepoint::Ect1,
        EcnCodepoint::Ce => quinn_udp::EcnCodepoint::Ce,
    }
}

#[cfg(test)]
mod tests;
