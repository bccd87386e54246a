//! Datagrams that arrived on another worker than their connection's.
//!
//! One box for each worker, filled by the others. Bounded; what does not fit is
//! dropped, as a full socket would, and sent again by the peer.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use quinn_proto::EcnCodepoint;

use crate::connection::quic::Bell;

/// Most datagrams that wait for a worker: what a migrated bulk transfer sends
/// in some ten milliseconds.
const WAITING_MAX: usize = 1024;

/// A datagram and how it came.
pub(super) struct Datagram {
    /// Which of a worker's sockets it came in on; all workers have the same.
    pub(super) socket: usize,
    pub(super) remote: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) bytes: BytesMut,
}

/// What other workers have for one worker.
pub(super) struct Inbox {
    waiting: Mutex<VecDeque<Datagram>>,
    pub(super) bell: Arc<Bell>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            bell: Bell::new(),
        }
    }

    /// Puts in a datagram and wakes the worker; whether there was room.
    pub(super) fn hand_over(&self, datagram: Datagram) -> bool {
        let first = {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return false;
            }
            waiting.push_back(datagram);
            waiting.len() == 1
        };
        if first {
            self.bell.wake();
        }
        true
    }

    pub(super) fn take(&self) -> Option<Datagram> {
        self.waiting.lock().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_box_takes_no_more() {
        let inbox = Inbox::new();
        let datagram = || Datagram {
            socket: 0,
            remote: SocketAddr::from(([192, 0, 2, 1], 1)),
            local: None,
            ecn: None,
            bytes: BytesMut::new(),
        };
        for _ in 0..WAITING_MAX {
            assert!(inbox.hand_over(datagram()));
        }
        assert!(!inbox.hand_over(datagram()));
        assert!(inbox.take().is_some());
        assert!(inbox.hand_over(datagram()));
    }
}
