//! A listening socket in memory, and how to dial it.
//!
//! A server that is given one beside its sockets, or in place of them, serves
//! peers on the same thread without the system's sockets, so that tests can
//! have time pass at will. What waits to be accepted is bounded as the kernel
//! bounds it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{BACKLOG, Source, WorkerSocket};
use crate::connection::carrier::memory::{End, pair};
use crate::upgrade::Entrances;

/// Dials one listener in memory.
#[derive(Debug, Clone)]
pub struct Dialer {
    waiting: Sender<(End, SocketAddr)>,
    next_port: Arc<AtomicU16>,
}

/// What waits to be accepted.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Receiver<(End, SocketAddr)>,
}

/// A listener that believes to be at `local`, and its dialer.
#[must_use]
pub fn listen(local: SocketAddr) -> (WorkerSocket, Dialer) {
    listen_for(local, Entrances::PLAIN)
}

/// As [`listen`], with what may be spoken there.
#[must_use]
pub fn listen_for(local: SocketAddr, entrances: Entrances) -> (WorkerSocket, Dialer) {
    let (sender, waiting) = channel(BACKLOG.unsigned_abs() as usize);
    let socket = WorkerSocket {
        source: Source::Memory(Queue { waiting }),
        local,
        entrances,
    };
    let dialer = Dialer {
        waiting: sender,
        next_port: Arc::new(AtomicU16::new(49152)),
    };
    (socket, dialer)
}

impl Dialer {
    /// Connects from this address; port 0 is replaced by one of its own for
    /// each connection.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] if nobody listens any more, or too
    /// many wait to be accepted.
    pub fn dial(&self, mut from: SocketAddr) -> io::Result<End> {
        if from.port() == 0 {
            from.set_port(self.next_port.fetch_add(1, Ordering::Relaxed).max(1));
        }
        let (near, far) = pair();
        let sent = self.waiting.try_send((far, from));
        sent.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }
}

impl Queue {
    /// The next connection. Cancel-safe. Without any dialer nobody will come.
    pub(super) async fn accept(&mut self) -> (End, SocketAddr) {
        match self.waiting.recv().await {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}
