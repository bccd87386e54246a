//! A connection's sending half by itself, so that a bench can drive it.
//!
//! The same [`Egress`] that a connection's task owns, reached by the same
//! calls; only the task is missing, so its part (credit that comes in, a
//! socket that is writable again) is the caller's. No part of the server.

use std::sync::Arc;

use tokio::net::tcp::OwnedWriteHalf;

use crate::engine::{
    demux::{Side, StreamId},
    muxer::Muxer,
    record::SealKey,
};
use crate::metrics::EgressMetrics;
use crate::state::leg::{Effects, Link, StreamKey, Untaken};

use super::{
    carrier::{WriteHalf, layer::Outbound},
    egress::{CreditOverflow, Egress, signal},
    session::Sending,
};

/// An egress with no connection around it.
pub struct LoneEgress {
    egress: Arc<Egress>,
    effects: Effects,
}

impl LoneEgress {
    /// The sending half of a connection whose dialer is the other side.
    #[must_use]
    pub fn new(
        muxer: Muxer,
        seal: SealKey,
        socket: OwnedWriteHalf,
        metrics: Arc<EgressMetrics>,
    ) -> Self {
        Self {
            egress: Egress::new(
                muxer,
                Side::Listener,
                seal,
                Outbound::default(),
                WriteHalf::Tcp(socket),
                metrics,
            ),
            effects: Effects::default(),
        }
    }

    /// Takes up a stream of the peer's, which grants `credit` at once.
    ///
    /// # Errors
    /// [`CreditOverflow`] if that is more than there can be.
    pub fn accept(&mut self, id: StreamId, credit: u32) -> Result<StreamKey, CreditOverflow> {
        let stream = self.egress.accept_stream(id);
        self.egress.credit(stream, credit, &mut self.effects)?;
        Ok(stream)
    }

    /// Appends what a circuit's other end has received.
    ///
    /// # Errors
    /// [`Untaken`] as for [`Link::carry`].
    #[inline]
    pub fn carry(&mut self, stream: StreamKey, payload: &[u8]) -> Result<(), Untaken> {
        self.egress.carry(stream, payload, &mut self.effects)
    }

    /// Ends the read pass: what was appended is flushed. Whether it has all
    /// left; if not, [`Self::writable`] is to be called when the socket is.
    #[inline]
    pub fn settle(&mut self) -> bool {
        self.effects.settle();
        self.egress.take_signals() & signal::BLOCKED == 0
    }

    /// Writes on after the socket has become writable. Whether all has left.
    pub fn writable(&mut self) -> bool {
        self.egress.writable(&mut self.effects);
        self.settle()
    }
}
