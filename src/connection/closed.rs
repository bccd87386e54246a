//! Why connections end, and what their peers are told.
//!
//! One value for each cause, with its go-away code and metric label. Deciding
//! that a connection ends is left to those who find the cause.

use std::io;

use crate::engine::{
    demux::DemuxError,
    record::{Alert, RecordError},
};
use crate::state::leg::Ending;
use crate::wire::yamux::GoAwayCode;

use super::carrier::layer::LayerError;
use super::egress::CreditOverflow;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The peer closed it.
    #[error("closed by the peer")]
    Peer,
    /// The peer said that it goes away.
    #[error("the peer went away")]
    GoAway,
    /// Reading or writing failed.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// Writing failed.
    #[error("writing failed")]
    Write,
    /// A record was not authentic.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What carries the records broke its rules.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The muxer's frames made no sense.
    #[error(transparent)]
    Demux(#[from] DemuxError),
    /// The peer opened a stream that is open.
    #[error("stream opened twice")]
    DuplicateStream,
    /// The peer sent more than its window allows.
    #[error("window overrun")]
    WindowOverrun,
    /// The peer granted more credit than there can be.
    #[error(transparent)]
    Credit(#[from] CreditOverflow),
    /// The memory for buffers is taken, and the peer has not ended a long record
    /// for some time.
    #[error("the memory for buffers is taken (connections.buffers_max)")]
    Memory,
    /// Bytes waited for the peer, and it did not read.
    #[error("the peer does not read")]
    WriteStalled,
    /// The peer broke QUIC.
    #[error("the transport's protocol was broken")]
    Transport,
    /// No sign of life.
    #[error("no sign of life")]
    KeepAlive,
    /// The server ended it.
    #[error("closed by the server")]
    Ending(Ending),
}

impl Closed {
    /// Label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::GoAway => "go_away",
            Self::Io(_) | Self::Write => "io",
            Self::Record(_)
            | Self::Layer(_)
            | Self::Demux(_)
            | Self::DuplicateStream
            | Self::WindowOverrun
            | Self::Transport
            | Self::Credit(_) => "protocol_violation",
            Self::Memory => "memory",
            Self::KeepAlive => "keep_alive",
            Self::WriteStalled => "write_stalled",
            Self::Ending(Ending::Shutdown) => "shutdown",
            Self::Ending(Ending::Denied) => "denied",
            Self::Ending(Ending::Trimmed) => "trimmed",
            Self::Ending(Ending::MemoryShort) => "memory_short",
        }
    }

    pub(super) const fn go_away(self) -> GoAwayCode {
        match self {
            Self::Record(_)
            | Self::Layer(_)
            | Self::Demux(_)
            | Self::DuplicateStream
            | Self::WindowOverrun
            | Self::Transport
            | Self::Credit(_) => GoAwayCode::Protocol,
            Self::Memory => GoAwayCode::ResourceLimit,
            Self::Peer
            | Self::GoAway
            | Self::Io(_)
            | Self::Write
            | Self::KeepAlive
            | Self::WriteStalled
            | Self::Ending(Ending::Shutdown) => GoAwayCode::Normal,
            Self::Ending(Ending::Denied) => GoAwayCode::Gated,
            Self::Ending(Ending::Trimmed) => GoAwayCode::GarbageCollected,
            Self::Ending(Ending::MemoryShort) => GoAwayCode::ResourceLimit,
        }
    }

    /// What the record layer says of it, where TLS is the record layer.
    pub(super) const fn alert(self) -> Option<Alert> {
        match self {
            Self::Record(error) => error.alert(),
            _ => Some(Alert::CLOSE_NOTIFY),
        }
    }

    /// The code of a QUIC connection's close, as go-libp2p means it
    /// (`core/network`, "ConnErrorCode").
    pub(super) const fn connection_code(self) -> u32 {
        match self {
            Self::Record(_)
            | Self::Demux(_)
            | Self::DuplicateStream
            | Self::Layer(_)
            | Self::WindowOverrun
            | Self::Transport
            | Self::Credit(_) => 0x1003,
            Self::Memory | Self::Ending(Ending::MemoryShort) => RESOURCE_LIMIT,
            Self::Peer
            | Self::GoAway
            | Self::Io(_)
            | Self::Write
            | Self::KeepAlive
            | Self::WriteStalled => 0,
            Self::Ending(Ending::Shutdown) => 0x1006,
            Self::Ending(Ending::Denied) => 0x1007,
            Self::Ending(Ending::Trimmed) => 0x1005,
        }
    }
}

/// go-libp2p's code for a connection that a limit ended.
pub const RESOURCE_LIMIT: u32 = 0x1001;
