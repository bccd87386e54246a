//! Whom the operator denies and trusts: peers, addresses, ranges.
//!
//! Owns the decision at each of the four gates and what trust brings. The
//! configured lists are fixed and read without a lock; rules made at run time
//! are a striped table, capped, and may expire. Denial wins over trust, however
//! narrow the one and wide the other. Keeping rules and cutting what is open is
//! [`rulebook`]'s.

use std::{net::IpAddr, sync::Arc};

use libp2p_identity::PeerId;

use crate::{
    config::{AccessLists, Config, Subject},
    metrics::AccessMetrics,
};

use fixed::Set;
use live::Live;

mod fixed;
mod live;
pub mod rulebook;

pub use live::{NOTE_MAX, Rule, RulesFull};

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Refused everywhere.
    Deny,
    /// Trusted.
    Allow,
}

impl Verdict {
    /// Its name in rules, over HTTP and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }

    /// The verdict of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Deny, Self::Allow]
            .into_iter()
            .find(|verdict| verdict.name() == name)
    }
}

/// Where somebody is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// A socket, before any crypto.
    Accept,
    /// A connection whose peer has just shown who it is.
    Authentication,
    /// A reservation.
    Reserve,
    /// A circuit.
    Connect,
}

impl Gate {
    /// Label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Authentication => "authentication",
            Self::Reserve => "reserve",
            Self::Connect => "connect",
        }
    }
}

/// The operator does not want this peer or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("denied by the operator's rules")]
pub struct Denied;

/// What somebody who is not denied may have beyond others. The totals hold for
/// everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// No limit by address or by peer applies.
    pub uncapped: bool,
    /// Circuits have no limit on bytes and time.
    pub unlimited: bool,
}

/// What the rules say of a subject: both can be true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Said {
    denied: bool,
    allowed: bool,
}

impl Said {
    fn and(self, other: Self) -> Self {
        Self {
            denied: self.denied || other.denied,
            allowed: self.allowed || other.allowed,
        }
    }
}

/// The operator's word.
#[derive(Debug)]
pub struct Access {
    deny: Set,
    allow: Set,
    live: Live,
    allowed_only: bool,
    trusted: Standing,
    metrics: Arc<AccessMetrics>,
}

impl Access {
    /// The configured lists, and no rule made at run time yet.
    #[must_use]
    pub fn new(config: &Config, lists: &AccessLists, metrics: &Arc<AccessMetrics>) -> Self {
        metrics.set_configured(lists.deny.len(), lists.allow.len());
        metrics.set_rules_max(config.access.rules_max);
        Self {
            deny: Set::new(&lists.deny),
            allow: Set::new(&lists.allow),
            live: Live::new(config.access.rules_max),
            allowed_only: config.relay.allowed_only,
            trusted: Standing {
                uncapped: config.access.allow_uncapped,
                unlimited: config.access.allow_unlimited_circuits,
            },
            metrics: Arc::clone(metrics),
        }
    }

    /// Decides about a socket by where it comes from.
    ///
    /// # Errors
    /// [`Denied`], which is counted here, as at the other gates.
    pub fn at_accept(&self, address: IpAddr) -> Result<Standing, Denied> {
        self.judge(self.of_address(address), Gate::Accept)
    }

    /// Decides about the socket of a proxy that is believed because it stands in
    /// a range of this length. Only rules as narrow are about the proxy; wider
    /// ones are about whom it forwards, whose trust is no business of a proxy.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn at_accept_of_proxy(&self, address: IpAddr, length: u8) -> Result<(), Denied> {
        let said = Said {
            allowed: false,
            ..self.of_ranges(address, length)
        };
        self.judge(said, Gate::Accept).map(|_| ())
    }

    /// Decides about a connection. To be asked when others can already find
    /// it: a rule made before that is seen here, a rule made after that finds
    /// the connection.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn at_authentication(&self, peer: &PeerId, address: IpAddr) -> Result<Standing, Denied> {
        self.judge(self.of(peer, address), Gate::Authentication)
    }

    /// Decides about a reservation.
    ///
    /// # Errors
    /// [`Denied`], also when only those who are allowed may reserve and this
    /// peer is not.
    pub fn at_reserve(&self, peer: &PeerId, address: IpAddr) -> Result<Standing, Denied> {
        let mut said = self.of(peer, address);
        said.denied |= self.allowed_only && !said.allowed;
        self.judge(said, Gate::Reserve)
    }

    /// What somebody may have, without deciding whether it may stay.
    #[must_use]
    pub fn standing(&self, peer: &PeerId, address: IpAddr) -> Standing {
        let said = self.of(peer, address);
        if said.allowed && !said.denied {
            self.trusted
        } else {
            Standing::default()
        }
    }

    /// Decides about a circuit: what its source and its target may have. The
    /// target's address is that of its connection, if it has one.
    ///
    /// # Errors
    /// [`Denied`] if either end is, also when only those who are allowed may be
    /// reached and the target is not, any more.
    pub fn at_connect(
        &self,
        source: &PeerId,
        address: IpAddr,
        target: &PeerId,
        target_address: Option<IpAddr>,
    ) -> Result<[Standing; 2], Denied> {
        let source = self.judge(self.of(source, address), Gate::Connect)?;
        let mut said = self.of_peer(target);
        if let Some(address) = target_address {
            said = said.and(self.of_address(address));
            said.denied |= self.allowed_only && !said.allowed;
        }
        let target = self.judge(said, Gate::Connect)?;
        Ok([source, target])
    }

    /// Whether the operator has named this peer as one to keep: allowed and
    /// not denied.
    #[must_use]
    pub fn is_protected(&self, peer: &PeerId) -> bool {
        let said = self.of_peer(peer);
        said.allowed && !said.denied
    }

    /// The verdict about exactly this subject in the configuration, if any.
    #[must_use]
    pub fn configured(&self, subject: &Subject) -> Option<Verdict> {
        if self.deny.has(subject) {
            Some(Verdict::Deny)
        } else if self.allow.has(subject) {
            Some(Verdict::Allow)
        } else {
            None
        }
    }

    /// Entries of the configuration: denied, allowed.
    #[must_use]
    pub fn configured_counts(&self) -> [usize; 2] {
        [self.deny.len(), self.allow.len()]
    }

    /// The rules made at run time, in no order. Not a snapshot: collected
    /// stripe by stripe.
    #[must_use]
    pub fn rules(&self) -> Vec<(Subject, Rule)> {
        self.live.list()
    }

    /// Brings the gauges of the table up to date.
    pub fn observe(&self) {
        let [denied, allowed] = self.live.counts();
        self.metrics.set_rules(denied, allowed);
    }

    /// Whether trust has given something that has to be taken back when it
    /// ends: a reservation, circuits without a limit.
    fn trust_gives(&self) -> bool {
        self.allowed_only || self.trusted.unlimited
    }

    fn judge(&self, said: Said, gate: Gate) -> Result<Standing, Denied> {
        if said.denied {
            self.metrics.denied(gate.label());
            Err(Denied)
        } else if said.allowed {
            Ok(self.trusted)
        } else {
            Ok(Standing::default())
        }
    }

    fn of(&self, peer: &PeerId, address: IpAddr) -> Said {
        self.of_peer(peer).and(self.of_address(address))
    }

    fn of_peer(&self, peer: &PeerId) -> Said {
        let fixed = Said {
            denied: self.deny.has_peer(peer),
            allowed: self.allow.has_peer(peer),
        };
        fixed.and(self.live.of_peer(peer))
    }

    fn of_address(&self, address: IpAddr) -> Said {
        self.of_ranges(address, 0)
    }

    /// What is said by ranges whose prefix is so long at least.
    fn of_ranges(&self, address: IpAddr, shortest: u8) -> Said {
        let address = address.to_canonical();
        let fixed = Said {
            denied: self.deny.has_address(address, shortest),
            allowed: self.allow.has_address(address, shortest),
        };
        fixed.and(self.live.of_address(address, shortest))
    }
}

#[cfg(test)]
mod tests;
