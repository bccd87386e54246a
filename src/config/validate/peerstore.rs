//! Rules for what the peerstore may hold: room for every connection, spans that
//! its clock can count, and permanent peers that can be dialled.

use std::time::Duration;

use multiaddr::Protocol;

use super::{COUNT_MAX, Check};

/// Addresses for each known peer, at most.
const ADDRESSES_PER_PEER: usize = 64;
/// Longest time that anything is remembered: half of what the peerstore counts.
const REMEMBERED_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

impl Check<'_> {
    pub(super) fn peerstore(&mut self) {
        let config = &self.loaded.config;
        let peerstore = &config.peerstore;
        let connections = config.connections.max;
        if peerstore.peers_max < connections && connections <= COUNT_MAX {
            let reason = format!(
                "is below connections.max = {connections} from {}: peers that are connected are known",
                self.loaded.origin("connections.max")
            );
            self.refuse("peerstore.peers_max", &reason);
        }
        self.within("peerstore.peers_max", peerstore.peers_max, 1, COUNT_MAX * 2);
        self.within(
            "peerstore.addresses_max",
            peerstore.addresses_max,
            1,
            COUNT_MAX * 2 * ADDRESSES_PER_PEER,
        );
        for (key, span) in [
            ("peerstore.recent_ttl", peerstore.recent_ttl),
            ("peerstore.discovered_ttl", peerstore.discovered_ttl),
        ] {
            if span < Duration::from_secs(60) || span > REMEMBERED_MAX {
                self.refuse(key, "must be at least 1m and at most 10 years");
            }
        }
        if peerstore.write_interval < Duration::from_millis(100) {
            self.refuse("peerstore.write_interval", "must be at least 100ms");
        }
        for address in &peerstore.permanent_peers {
            let last = address.iter().last();
            if address.iter().count() < 2 || !matches!(last, Some(Protocol::P2p(_))) {
                let reason = format!("{address} is not an address that ends in /p2p/PEER-ID");
                self.refuse("peerstore.permanent_peers", &reason);
            }
        }
    }
}
