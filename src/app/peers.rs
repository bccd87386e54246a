//! The peerstore between starts: permanent peers from the configuration, the
//! others from the store, and what changes written behind.
//!
//! Bounds a batch to a thousand peers, which is one transaction, and what a
//! crash loses to one interval. Nothing here runs on a worker, and a store that
//! fails only delays: what could not be written stays marked as changed.

use std::sync::Arc;

use multiaddr::{Multiaddr, Protocol};

use crate::{
    clock,
    config::PeerstoreConfig,
    metrics::Metrics,
    state::peerstore::{Class, Peerstore, Source},
};

/// A peerstore that knows the permanent peers.
pub(super) fn open(config: &PeerstoreConfig, metrics: &Metrics) -> Peerstore {
    let now = clock::now();
    let peerstore = Peerstore::new(config, Arc::clone(&metrics.peerstore), now);
    for address in &config.permanent_peers {
        let mut bare: Multiaddr = address.clone();
        if let Some(Protocol::P2p(peer)) = bare.pop() {
            let (class, source) = (Class::Permanent, Source::Operator);
            peerstore.heard_of(&peer, class, source, [bare.as_ref()], now);
        }
    }
    peerstore
}
