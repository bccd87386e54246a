//! The addresses of this host's interfaces: listed, and watched for changes.
//!
//! Both over netlink, which tells of an address also whether it lasts. Bounds
//! how long the kernel may take and how much it may tell. Whom an address
//! reaches, and who is told, is for `state::addresses`.

mod netlink;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use tokio::io::unix::AsyncFd;

use crate::state::addresses::InterfaceAddress;

use self::netlink::{Dump, Table};

/// How long the kernel may take for a part of its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of one part of an answer (the kernel's largest).
const PART_MAX: usize = 32 * 1024;

/// Parts of an answer that are read: some ten thousand addresses.
const PARTS_MAX: usize = 64;

/// Links, IPv4 addresses and IPv6 addresses (`RTMGRP_…`, rtnetlink(7)).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// The addresses of all interfaces, in the kernel's order.
///
/// # Errors
/// The kernel's, or that it told too much, or not in time.
pub(super) fn list() -> io::Result<Vec<InterfaceAddress>> {
    let socket = open(0, SocketFlags::CLOEXEC)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut dump = Dump::default();
    for table in [Table::Links, Table::Addresses] {
        send(&socket, &table.request(), SendFlags::empty())?;
        let mut part = vec![0; PART_MAX];
        let mut parts = 0;
        loop {
            let (_, length) = recv(&socket, &mut part[..], RecvFlags::TRUNC)?;
            parts += 1;
            let told = part.get(..length).filter(|_| parts <= PARTS_MAX);
            let told = told.ok_or_else(|| io::Error::other("more addresses than are looked at"))?;
            if dump.handle_part(told, table)? {
                break;
            }
        }
    }
    Ok(dump.finish())
}

/// Tells when an address or an interface has come, gone or changed.
pub(super) struct Watch {
    socket: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new() -> io::Result<Self> {
        let socket = open(GROUPS, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "sound for an owned descriptor; what replaces it is an unsafe function"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket })
    }

    /// Waits for a change; several at once are one. Cancel-safe: a change that
    /// has been read is one that was told.
    ///
    /// # Errors
    /// The kernel's, after which watching is over.
    pub(super) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            if drain(self.socket.get_ref())? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// Reads what there is and looks at none of it, as all is listed anew; whether
/// there was anything.
fn drain(socket: &OwnedFd) -> io::Result<bool> {
    let mut part = [0; 256];
    let mut any = false;
    loop {
        match recv(socket, &mut part[..], RecvFlags::empty()) {
            Ok(_) => any = true,
            // More has happened than the socket holds.
            Err(Errno::NOBUFS) => any = true,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(any),
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    // No protocol is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_loopback_interface() {
        let listed = list().unwrap();
        let loopback = listed.iter().find(|held| held.ip.is_loopback()).unwrap();
        assert_eq!(loopback.interface, "lo", "{listed:?}");
    }
}
