//! Protocol id to handler: what happens on a stream once its protocol is
//! agreed on.
//!
//! A service is a plain function or a small state machine from the bytes that
//! came in to the bytes that go out, run inline in the connection's read pass:
//! no task and no channel for a stream. What has to wait for another peer (a
//! circuit on offer) is a named state of the stream, kept by the connection.

pub mod gather;
pub mod hop;
pub mod identify;
pub mod ping;
pub mod stop;

use crate::wire::relay::HOP_PROTOCOL;

/// A protocol that peers may open a stream for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// `/ipfs/ping/1.0.0`
    Ping,
    /// `/ipfs/id/1.0.0`
    Identify,
    /// `/ipfs/id/push/1.0.0`
    IdentifyPush,
    /// `/libp2p/circuit/relay/0.2.0/hop`
    Hop,
}

impl Served {
    /// Protocol id on the wire.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Ping => ping::PROTOCOL,
            Self::Identify => identify::PROTOCOL,
            Self::IdentifyPush => identify::PUSH_PROTOCOL,
            Self::Hop => HOP_PROTOCOL,
        }
    }
}

/// What a server offers, in the order in which it is listed to peers.
#[derive(Debug, Clone)]
pub struct Menu {
    served: Vec<Served>,
    protocols: Vec<&'static str>,
}

impl Menu {
    /// Everything, hop only if it relays: a protocol that is announced works.
    #[must_use]
    pub fn new(relaying: bool) -> Self {
        let mut served = vec![Served::Ping, Served::Identify, Served::IdentifyPush];
        if relaying {
            served.push(Served::Hop);
        }
        Self {
            protocols: served.iter().map(|served| served.protocol()).collect(),
            served,
        }
    }

    /// The protocol ids.
    #[must_use]
    pub fn protocols(&self) -> &[&'static str] {
        &self.protocols
    }

    /// The service at a place of [`Self::protocols`].
    #[must_use]
    pub fn at(&self, index: usize) -> Option<Served> {
        self.served.get(index).copied()
    }
}
