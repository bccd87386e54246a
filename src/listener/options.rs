//! Options of every TCP socket that carries libp2p.
//!
//! Set on the listening socket, from which Linux hands them on to each accepted
//! one, so that accepting costs no system call for them (a test holds that);
//! a dialled socket gets them directly. They bound how long a dead peer and
//! how many unsent bytes are kept in the kernel.
//!
//! Send and receive buffers are left to the kernel's autotuning on purpose. A
//! fixed `SO_RCVBUF` or `SO_SNDBUF` switches that off and is capped by
//! `net.core.[rw]mem_max` (208 KiB by default), which at 100 ms round trip is
//! 2 MB/s for all circuits of a connection together; an idle socket holds no
//! buffer memory either way. What all sockets may take is bounded by
//! `net.ipv4.tcp_mem`, and by `tcp_rmem` and `tcp_wmem` for each.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Silence after which the kernel asks the peer whether it is there: below the
/// timeouts of common NATs for established TCP (minutes; RFC 5382 wants two
/// hours), and at 50,000 idle peers 830 packets a second.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between two unanswered questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered questions after which the connection is dead. With
/// [`USER_TIMEOUT`] set, Linux gives up on that instead when it comes first.
pub const KEEPALIVE_PROBES: u32 = 4;
/// How long bytes may stay unacknowledged, or the peer's window closed, before
/// the kernel aborts the connection: bounds what a vanished or stalled reader
/// holds. Above a mobile handover or a Wi-Fi roam, and with the keepalive it
/// notices a silent death after some 75 s.
pub const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Unsent bytes above which a socket is not writable: one full record.
///
/// Keeps a backlog in the egress, where it can still be coalesced and is
/// counted, and not in the kernel. Bytes in flight do not count, so what it
/// limits is only what can be sent between two wakes: 64 KiB every 0.5 ms is
/// one gigabit a second on one connection.
///
/// Measured over loopback with writes of 64 KiB, two cores, Linux 6.18,
/// 2026-11-20, median of seven: CPU of both ends per gigabyte 0.29 s with one
/// connection and 0.33 s with sixteen; without the mark 0.44 s and 0.53 s, at
/// 256 KiB 0.48 s and 0.38 s. Shorter queues stay in the cache.
pub const NOTSENT_LOWAT_BYTES: u32 = 64 * 1024;

/// Applies all of them to a listening or a connected socket.
///
/// # Errors
///
/// The system's, for an option it does not take.
pub fn apply(socket: &SockRef<'_>) -> io::Result<()> {
    // We coalesce writes ourselves; what is written then has to leave.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    }
    Ok(())
}
