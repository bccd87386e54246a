//! identify and identify/push: telling peers who we are, and asking them
//! (libp2p identify spec).
//!
//! Our own message is made once for each kind of peer, whenever our addresses change,
//! and only the observed address is put behind it. Bounds: our message is at most 4,000 bytes, which
//! is what rust-libp2p reads; a peer's at most 8 KiB each, nine of them, of which
//! as much is kept until the last as one can hold. What of it is worth keeping
//! longer, the peerstore decides.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use libp2p_identity::{PeerId, PublicKey};
use multiaddr::Multiaddr;
use parking_lot::RwLock;

use crate::{
    config::Transport,
    identity::Identity,
    service::{Menu, gather::Gather},
    state::{
        addresses::{Reach, Told},
        peerstore::{Announcement, Peerstore, Speaker},
    },
    wire::{
        DecodeError,
        envelope::{self, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, PeerRecord},
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
    identity: Identity,
    protocols: Vec<&'static str>,
    current: RwLock<Arc<Current>>,
}

/// What changes with our addresses.
struct Current {
    /// Encoded addresses, by the reach of the peer that asks.
    addresses: [Vec<Vec<u8>>; 3],
    /// The same, each list in a record that we have signed.
    records: [Option<Vec<u8>>; 3],
    seq: u64,
}

impl Answer {
    /// The message for these addresses and services. Addresses that do not fit
    /// are left out. `seq` is the sequence number of our signed record; it has
    /// to grow from start to start, as the time does.
    #[must_use]
    pub fn new(identity: &Identity, menu: &Menu, told: &Told, seq: u64) -> Self {
        Self {
            protocols: menu.protocols().to_vec(),
            current: RwLock::new(Arc::new(Current::new(identity, told, seq))),
            identity: identity.clone(),
        }
    }

    /// Takes over other addresses. The record's number grows, whatever the
    /// clock does.
    pub fn renew(&self, told: &Told, seq: u64) {
        let after = self.current.read().seq.saturating_add(1);
        let new = Arc::new(Current::new(&self.identity, told, seq.max(after)));
        *self.current.write() = new;
    }

    /// Appends the message for a peer that we see at `remote` over `transport`.
    pub fn write(&self, remote: SocketAddr, transport: Transport, output: &mut Vec<u8>) {
        let observed = observed_address(remote, transport).to_vec();
        let reach = Reach::of(remote.ip()) as usize;
        let current = Arc::clone(&self.current.read());
        let addresses = &current.addresses[reach];
        Identify {
            public_key: Some(self.identity.public_key_protobuf()),
            listen_addrs: addresses.iter().map(Vec::as_slice).collect(),
            protocols: self.protocols.clone(),
            observed_addr: Some(&observed),
            protocol_version: Some(PROTOCOL_VERSION),
            agent_version: Some(AGENT),
            signed_peer_record: current.records[reach].as_deref(),
            dropped: (0, 0),
        }
        .encode_split(output);
    }
}

impl Current {
    fn new(identity: &Identity, told: &Told, seq: u64) -> Self {
        let addresses = Reach::ALL.map(|reach| {
            let bare = told.list(reach).bare.iter().map(Multiaddr::to_vec);
            bare.collect::<Vec<_>>()
        });
        Self {
            records: addresses.each_ref().map(|list| sign(identity, list, seq)),
            addresses,
            seq,
        }
    }
}

/// A record of these addresses, unless the library cannot sign; then there is
/// none, which peers take for an older server.
fn sign(identity: &Identity, addresses: &[Vec<u8>], seq: u64) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    PeerRecord {
        peer_id: &identity.peer_id().to_bytes(),
        seq,
        addresses: addresses.iter().map(Vec::as_slice).collect(),
    }
    .encode(&mut payload);
    let sealed = envelope::try_seal(
        PEER_RECORD_DOMAIN,
        PEER_RECORD_TYPE,
        &payload,
        identity.public_key_protobuf(),
        |bytes| identity.sign(bytes),
    );
    sealed.ok().filter(|sealed| sealed.len() < MAX_MESSAGE - 8)
}

/// The address that a peer comes from over this transport, as a multiaddr.
#[must_use]
pub fn observed_address(remote: SocketAddr, transport: Transport) -> Multiaddr {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    transport.address(remote)
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

/// Bytes of addresses, and of protocol ids, that one answer may bring, over all
/// of its messages: what the largest single one can hold.
const SAID_MAX: usize = MAX_MESSAGE;

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
    /// Under which address it sees us.
    observed: Option<Box<[u8]>>,
    /// Protocol ids, one a line.
    protocols: String,
    /// Addresses, each behind its length in two bytes.
    addresses: Vec<u8>,
    record: Option<Box<[u8]>>,
    /// Addresses and protocols beyond the bounds.
    dropped: (usize, usize),
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

    /// Under which address the peer says it sees us.
    #[must_use]
    pub fn observed(&self) -> Option<&[u8]> {
        self.said.observed.as_deref()
    }

    /// The peer has ended its direction: keeps what it said. An answer to a
    /// question is `complete`; a push may tell only what has changed.
    ///
    /// # Errors
    /// [`ListenError::Truncated`] if it ended in the middle.
    pub fn finish(
        &self,
        speaker: &Speaker,
        complete: bool,
        peerstore: &Peerstore,
        now: Instant,
    ) -> Result<(), ListenError> {
        if self.messages == 0 || self.gather.has_begun() {
            return Err(ListenError::Truncated);
        }
        let said = &self.said;
        tracing::debug!(peer = %speaker.peer, agent = said.agent.as_deref(), "identified");
        peerstore.cut(said.dropped.0, said.dropped.1);
        let announcement = Announcement {
            agent: said.agent.as_deref(),
            protocols: Some(&*said.protocols).filter(|lines| !lines.is_empty()),
            addresses: said.addresses(),
            complete,
            record: said.record.as_deref(),
        };
        peerstore.announced(speaker, announcement, now);
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
        if let Some(observed) = message.observed_addr {
            self.observed = Some(observed.into());
        }
        self.dropped.0 += message.dropped.0;
        self.dropped.1 += message.dropped.1;
        for name in &message.protocols {
            // A name with a line break in it is none.
            if name.contains('\n') || self.protocols.len() + name.len() + 1 > SAID_MAX {
                self.dropped.1 += 1;
            } else {
                self.protocols.push_str(name);
                self.protocols.push('\n');
            }
        }
        for address in &message.listen_addrs {
            match u16::try_from(address.len()) {
                Ok(length) if self.addresses.len() + 2 + address.len() <= SAID_MAX => {
                    self.addresses.extend_from_slice(&length.to_be_bytes());
                    self.addresses.extend_from_slice(address);
                }
                _ => self.dropped.0 += 1,
            }
        }
        if let Some(record) = message.signed_peer_record {
            self.record = Some(record.into());
        }
        Ok(())
    }

    fn addresses(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.addresses[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (address, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
            rest = after;
            Some(address)
        })
    }
}
