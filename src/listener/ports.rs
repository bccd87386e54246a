//! Listen addresses that share a port share its sockets: what is spoken there is
//! told by the first bytes (`upgrade/entrance.rs`).

use std::net::SocketAddr;

use multiaddr::Multiaddr;

use super::ListenError;
use crate::config::{ListenAddress, Transport};

/// A port that is asked for.
pub(super) struct Wanted<'a> {
    /// As configured, the first of those that share it.
    pub(super) address: &'a Multiaddr,
    pub(super) requested: SocketAddr,
    pub(super) spoken: Vec<ListenAddress>,
}

/// The TCP ports that are asked for, each with all that is spoken there. Port 0 is
/// another one each time.
pub(super) fn ports(addresses: &[Multiaddr]) -> Result<Vec<Wanted<'_>>, ListenError> {
    let mut ports: Vec<Wanted<'_>> = Vec::with_capacity(addresses.len());
    for address in addresses {
        let spoken = ListenAddress::of(address).ok_or_else(|| ListenError::Unsupported {
            address: address.clone(),
        })?;
        if spoken.transport == Transport::Quic {
            continue;
        }
        let requested = spoken.socket;
        let shared = ports
            .iter_mut()
            .find(|port| port.requested == requested && requested.port() != 0);
        match shared {
            Some(port) => port.spoken.push(spoken),
            None => ports.push(Wanted {
                address,
                requested,
                spoken: vec![spoken],
            }),
        }
    }
    Ok(ports)
}
