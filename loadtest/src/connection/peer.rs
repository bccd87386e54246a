//! The identity that a connection is made with, and what proves it on each security.

use std::sync::Arc;

use anyhow::Context;
use libp2p::{PeerId, identity::Keypair, noise};

use super::quic;
use crate::{
    stack::{Security, Stack, Transport},
    wire,
};

/// A peer, ready to dial over one stack. Certificates are made beforehand, as a peer
/// does once in its life.
#[derive(Clone)]
pub(crate) struct Peer {
    keypair: Keypair,
    /// Always there, for what runs inside a circuit.
    pub(super) noise: noise::Config,
    tls: Option<libp2p_tls::Config>,
    pub(super) quic: Option<quinn::ClientConfig>,
    identify: Arc<[u8]>,
}

impl Peer {
    /// # Errors
    /// When a key cannot be signed or a certificate not be made.
    pub(crate) fn generate(stack: Stack) -> anyhow::Result<Self> {
        let keypair = Keypair::generate_ed25519();
        let noise = noise::Config::new(&keypair)?;
        let tls = match stack.security {
            Security::Tls => Some(libp2p_tls::Config::new(&keypair)?),
            Security::Noise => None,
        };
        let quic = match stack.transport {
            Transport::Quic => Some(quic::client_config(&keypair, stack.keep_alive_seconds())?),
            Transport::Tcp | Transport::Ws | Transport::Wss => None,
        };
        let identify = wire::identify(&keypair.public().encode_protobuf()).into();
        Ok(Self {
            keypair,
            noise,
            tls,
            quic,
            identify,
        })
    }

    pub(crate) fn id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    pub(crate) fn identify(&self) -> Arc<[u8]> {
        Arc::clone(&self.identify)
    }

    /// # Errors
    /// When the peer was made for Noise.
    pub(super) fn tls(&self) -> anyhow::Result<libp2p_tls::Config> {
        let tls = self.tls.clone();
        tls.context("peer was made for another stack")
    }
}
