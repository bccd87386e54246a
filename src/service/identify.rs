//! identify and identify/push: telling peers who we are, and asking them
//! (libp2p identify spec).
//!
//! Our own message is made once for each kind of peer and only the observed
//! address is put behind it. Bounds: our message is at most 4,000 bytes, which
//! is what rust-libp2p reads; a peer's at most 8 KiB each, nine of them.

use std::net::SocketAddr;

use libp2p_identity::{PeerId, PublicKey};
use multiaddr::{Multiaddr, Protocol};

use crate::{
    identity::Identity,
    service::{Menu, gather::Gather},
    state::{
        addresses::{Addresses, Reach},
        connections::ConnectionId,
        peers::Peers,
    },
    wire::{
        DecodeError,
        identify::{Identify, MAX_MESSAGE, MAX_MESSAGES},
    },
};

pub use crate::wire::identify::{PROTOCOL, PUSH_PROTOCOL};

/// Which network's conventions we follow, as kubo, go and js write it.
const PROTOCOL_VERSION: &str = "ipfs/0.1.0";

/// What we say of ourselves.
pub const AGENT: &str = concat!("waystation/", env!("CARGO_PKG_VERSION"));

/// What we tell a peer that asks, ready but for the observed address.
pub struct Answer {
    public_key: Vec<u8>,
    protocols: Vec<&'static str>,
    /// Encoded addresses, by the reach of the peer that asks.
    addresses: [Vec<Vec<u8>>; 3],
}

impl Answer {
    /// The message for these addresses and services. Addresses that do not fit
    /// are left out.
    #[must_use]
    pub fn new(identity: &Identity, menu: &Menu, addresses: &Addresses) -> Self {
        Self {
            public_key: identity.public_key_protobuf().to_vec(),
            protocols: menu.protocols().to_vec(),
            addresses: Reach::ALL.map(|reach| {
                let list = addresses.list(reach);
                list.bare.iter().map(Multiaddr::to_vec).collect()
            }),
        }
    }

    /// Appends the message for a peer that we see at `remote`.
    pub fn write(&self, remote: SocketAddr, output: &mut Vec<u8>) {
        let observed = observed_address(remote).to_vec();
        let addresses = &self.addresses[Reach::of(remote.ip()) as usize];
        Identify {
            public_key: Some(&self.public_key),
            listen_addrs: addresses.iter().map(Vec::as_slice).collect(),
            protocols: self.protocols.clone(),
            observed_addr: Some(&observed),
            protocol_version: Some(PROTOCOL_VERSION),
            agent_version: Some(AGENT),
            signed_peer_record: None,
        }
        .encode_split(output);
    }
}

/// The address that a peer comes from, as a multiaddr.
#[must_use]
pub fn observed_address(remote: SocketAddr) -> Multiaddr {
    Multiaddr::from(remote.ip().to_canonical()).with(Protocol::Tcp(remote.port()))
}

/// Why what a peer said of itself was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Not an identify message, or too long for one.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// More messages than a peer may send.
    #[error("more than {} messages", MAX_MESSAGES - 1)]
    TooMany,
    /// It ended inside a message, or before the first.
    #[error("ended inside a message")]
    Truncated,
    /// The key in it belongs to another peer.
    #[error("public key of another peer")]
    OtherPeer,
}

/// Listens to what one peer says of itself, over one or more messages.
#[derive(Debug, Default)]
pub struct Listener {
    gather: Gather,
    messages: usize,
    said: Said,
}

#[derive(Debug, Default)]
struct Said {
    agent: Option<String>,
    protocols: Vec<String>,
    addresses: Vec<Vec<u8>>,
}

impl Listener {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`ListenError`] resets the stream; what was said before is dropped.
    pub fn handle_input(&mut self, peer: &PeerId, mut input: &[u8]) -> Result<(), ListenError> {
        while !input.is_empty() {
            let said = &mut self.said;
            let message = self.gather.message(input, MAX_MESSAGE, |bytes| {
                let (message, used) = Identify::decode(bytes)?;
                Ok((said.merge(peer, &message), used))
            })?;
            let Some((merged, used)) = message else {
                return Ok(());
            };
            merged?;
            input = &input[used..];
            self.messages += 1;
            if self.messages >= MAX_MESSAGES {
                return Err(ListenError::TooMany);
            }
        }
        Ok(())
    }

    /// The peer has ended its direction: keeps what it said.
    ///
    /// # Errors
    /// [`ListenError::Truncated`] if it ended in the middle.
    pub fn finish(
        &self,
        peer: PeerId,
        connection: ConnectionId,
        peers: &Peers,
    ) -> Result<(), ListenError> {
        if self.messages == 0 || self.gather.has_begun() {
            return Err(ListenError::Truncated);
        }
        let Said {
            agent,
            protocols,
            addresses,
        } = &self.said;
        tracing::debug!(%peer, agent = agent.as_deref(), protocols = protocols.len(), "identified");
        peers.learn(
            peer,
            connection,
            agent.as_deref(),
            protocols.iter().map(String::as_str),
            addresses.iter().map(Vec::as_slice),
        );
        Ok(())
    }
}

impl Said {
    /// Later messages add to earlier ones: go-libp2p sends its signed record
    /// in a second message.
    fn merge(&mut self, peer: &PeerId, message: &Identify<'_>) -> Result<(), ListenError> {
        if let Some(key) = message.public_key {
            let matches = PublicKey::try_decode_protobuf(key)
                .is_ok_and(|key| PeerId::from_public_key(&key) == *peer);
            if !matches {
                return Err(ListenError::OtherPeer);
            }
        }
        if let Some(agent) = message.agent_version {
            self.agent = Some(agent.to_owned());
        }
        if self.protocols.is_empty() {
            self.protocols = message.protocols.iter().map(ToString::to_string).collect();
        }
        if self.addresses.is_empty() {
            let kept = message.listen_addrs.iter();
            self.addresses = kept.map(|address| address.to_vec()).collect();
        }
        Ok(())
    }
}
