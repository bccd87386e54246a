//! How much a QUIC connection may hold, and how many streams its peer may open:
//! little at first, more as it carries circuits and opens streams.
//!
//! Bounds what a peer can make us keep: bytes out of order or unread by the
//! receive window, bytes not acknowledged by the send window, tables of streams
//! by the limit on streams, which the peer only learns of step by step.

use std::time::Duration;

use quinn_proto::{Connection as Transport, Dir, IdleTimeout, TransportConfig, VarInt};

use crate::connection::pool;
use crate::wire::yamux::INITIAL_WINDOW;

/// Window of each stream: what the other transports give theirs.
pub(super) const STREAM: u32 = INITIAL_WINDOW;

/// Bytes of a stream that are read and carried on before those in front have
/// left. What has been read is granted to the peer again, so that a circuit
/// whose other end does not read holds this and a window.
pub(super) const AHEAD: u32 = 64 * 1024;

/// Windows of a connection without circuits: requests and answers of services
/// are a few KiB.
pub(super) const BASE: u32 = 64 * 1024;

/// Circuits beyond which a connection's windows do not grow.
const CIRCUITS_MOST: u32 = 16;

/// Streams that a new peer may open: ping, identify, a reservation, and as many
/// to spare. quinn fills its tables for all of them in advance, 84 bytes each.
const STREAMS_FIRST: u32 = 8;

/// Most streams that a peer may have open, as go-libp2p and rust-libp2p allow.
const STREAMS_MOST: u64 = 256;

/// Silence after which a connection is over (go-libp2p: 30 s; rust-libp2p ends
/// its own after 10). Peers keep alive what they want to keep: go-libp2p asks
/// every 15 s, rust-libp2p every 5. Were we to ask as well, each quiet peer would
/// cost twice as many packets, and who is gone would not be found out sooner.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Memory for handshake messages out of order: a certificate chain of ours is a
/// few hundred bytes.
const CRYPTO_MAX: usize = 8 * 1024;

/// What every connection begins with.
pub(super) fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE_MAX).expect("half a minute");
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_FIRST))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(None)
        .stream_receive_window(VarInt::from_u32(STREAM))
        .receive_window(VarInt::from_u32(BASE))
        .send_window(u64::from(BASE))
        .crypto_buffer_size(CRYPTO_MAX)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .allow_spin(false);
    config
}

/// Windows of a connection with so many circuits.
pub(super) const fn wanted(circuits: u32) -> u32 {
    let most = if circuits < CIRCUITS_MOST {
        circuits
    } else {
        CIRCUITS_MOST
    };
    BASE + most * STREAM
}

/// Fits a connection's windows to its circuits; `granted` is the largest
/// receive window that it has had, [`BASE`] at first.
///
/// That one never shrinks: what a peer was once allowed it stays allowed, and
/// quinn adds each growth to that whatever was taken back before. While the
/// memory for buffers is taken, nothing grows.
pub(super) fn fit(transport: &mut Transport, circuits: u32, granted: &mut u32) {
    let window = wanted(circuits);
    if pool::is_full() && window > *granted {
        return;
    }
    if window > *granted {
        *granted = window;
        transport.set_receive_window(VarInt::from_u32(window));
    }
    transport.set_send_window(u64::from(window));
}

/// The peer has opened a stream: lets it open more when half of what it may is
/// taken.
pub(super) fn opened(transport: &mut Transport) {
    let open = transport.streams().remote_open_streams(Dir::Bi);
    let allowed = transport.max_concurrent_streams(Dir::Bi);
    if open * 2 >= allowed && allowed < STREAMS_MOST {
        let more = (allowed * 2).min(STREAMS_MOST);
        let more = VarInt::from_u64(more).expect("a few hundred");
        transport.set_max_concurrent_streams(Dir::Bi, more);
    }
}
