//! How one connection reaches another: the sending half it shows, and the
//! commands it takes.
//!
//! A [`Leg`] is one end of a circuit: a stream on somebody's connection. It
//! accepts bytes, returns credit, and can be finished or reset; any transport
//! that does these four joins any other. Nothing found out under one
//! connection's lock is applied under another's: it is put into [`Effects`]
//! and settled when the lock is free.

use std::sync::Arc;

use crate::engine::demux::StreamId;
use crate::state::circuits::{Circuit, CircuitId};
use crate::wire::yamux::INITIAL_WINDOW;

/// The stream or its connection has ended; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Gone;

/// Why bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untaken {
    /// There is nobody to take them, or who is there has taken all it may.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// They would have to wait, and the memory for that is taken.
    #[error("the memory for buffers is taken (connections.buffers_max)")]
    Memory,
}

/// A stream's place on a connection, told apart from any later stream that
/// uses the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamKey {
    /// Id on that connection.
    pub id: StreamId,
    /// Which user of that id.
    pub generation: u32,
}

/// Reset codes as go-libp2p writes them into its frames
/// (go-libp2p `core/network`, "StreamErrorCode").
pub mod reset_code {
    /// No particular reason.
    pub const NONE: u32 = 0;
    /// A limit was reached.
    pub const RESOURCE_LIMIT: u32 = 0x1002;
    /// The peer broke the protocol on this stream.
    pub const PROTOCOL_VIOLATION: u32 = 0x1004;
}

/// The sending half of one connection, as others see it.
///
/// Every method locks that connection's egress briefly and never another's.
pub trait Link: Send + Sync {
    /// Takes `payload` for the stream, all of it, to be sent in order.
    ///
    /// # Errors
    /// [`Untaken::Gone`] if the stream or the connection has ended, or if the
    /// stream's queue is at its bound; [`Untaken::Memory`] if there is no memory
    /// for what would have to wait.
    fn carry(
        &self,
        stream: StreamKey,
        payload: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Untaken>;

    /// Bytes of credit for a stream that are worth a grant: half of what its
    /// peer may send without one. Many small grants cost the peers more than
    /// they cost us.
    fn grant_at(&self) -> u32 {
        INITIAL_WINDOW / 2
    }

    /// Lets the peer send `bytes` more on the stream.
    fn grant(&self, stream: StreamKey, bytes: u32, effects: &mut Effects);

    /// Sends `first` on the stream and from then on returns the credit for
    /// what is carried to `upstream`.
    ///
    /// # Errors
    /// [`Gone`] in either case of [`Link::carry`].
    fn join(
        &self,
        stream: StreamKey,
        first: &[u8],
        upstream: Leg,
        effects: &mut Effects,
    ) -> Result<(), Gone>;

    /// Ends the stream's sending direction behind what was carried.
    fn finish(&self, stream: StreamKey, effects: &mut Effects);

    /// Resets the stream: behind what was carried if `drain`, else at once.
    fn reset(&self, stream: StreamKey, code: u32, drain: bool, effects: &mut Effects);

    /// Writes what was appended, if the socket takes it.
    fn flush(&self, effects: &mut Effects);

    /// Puts a command into the connection's inbox and wakes it.
    ///
    /// # Errors
    /// The command comes back if the connection has ended, or if it asks for
    /// something new and the inbox is at its bound.
    fn deliver(&self, command: Command) -> Result<(), Command>;
}

/// One end of a circuit.
#[derive(Clone)]
pub struct Leg {
    /// The connection that it ends on.
    pub link: Arc<dyn Link>,
    /// The stream on that connection.
    pub stream: StreamKey,
}

/// What other connections and the server ask of a connection. Acted upon by
/// its own task, in order.
pub enum Command {
    /// Offer this circuit to the peer (circuit relay v2, STOP CONNECT).
    Offer {
        /// The circuit; holds its permits.
        circuit: Arc<Circuit>,
        /// The end that is already there.
        source: Leg,
    },
    /// The circuit that this connection's stream asked for has its other end.
    Joined {
        /// The stream that asked.
        stream: StreamKey,
        /// The other end.
        destination: Leg,
    },
    /// The circuit that this connection's stream asked for came to nothing.
    Refused {
        /// The stream that asked.
        stream: StreamKey,
        /// Whether for want of room on this server, and not by the target.
        full: bool,
    },
    /// The circuit on offer is no longer wanted.
    Withdraw(CircuitId),
    /// The stream is to be reset behind what it was given; see that this does
    /// not take forever.
    Draining(StreamKey),
    /// Credit for a stream whose bytes are charged against a rate: to be passed
    /// on to the peer when they are paid for.
    Credit {
        /// The stream that is to send.
        stream: StreamKey,
        /// How much more.
        bytes: u32,
    },
    /// The stream has ended in the egress; forget it.
    Forget(StreamKey),
    /// Our addresses have changed: push identify.
    Push,
    /// End the connection.
    Close(Ending),
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The server stops.
    Shutdown,
    /// The peer may not be connected any longer.
    Denied,
    /// Others matter more, and there are too many.
    Trimmed,
    /// Memory is short.
    MemoryShort,
}

/// What is left to do when a lock has been let go: who has something to
/// write, and who is owed credit. One per thread, lent to each read pass.
#[derive(Default)]
pub struct Effects {
    touched: Vec<Arc<dyn Link>>,
    grants: Vec<(Leg, u32)>,
}

impl Effects {
    /// Remembers a connection that has something to write. To be called once
    /// per connection until it is flushed.
    pub fn touch(&mut self, link: Arc<dyn Link>) {
        self.touched.push(link);
    }

    /// Remembers credit that is owed.
    pub fn owe(&mut self, leg: Leg, bytes: u32) {
        self.grants.push((leg, bytes));
    }

    /// Pays what is owed and flushes who was touched, each once, until
    /// nothing is left. Ends because credit makes nobody owe credit, and each
    /// flush moves queued bytes forward.
    pub fn settle(&mut self) {
        loop {
            while let Some((leg, bytes)) = self.grants.pop() {
                let Leg { link, stream } = leg;
                link.grant(stream, bytes, self);
            }
            let Some(link) = self.touched.pop() else {
                break;
            };
            link.flush(self);
        }
    }

    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.touched.is_empty() && self.grants.is_empty()
    }
}
