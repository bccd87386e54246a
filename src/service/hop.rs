//! HOP: RESERVE and CONNECT of circuit relay v2, the relay's side.
//!
//! Decides and answers; opening the circuit to the target is the connection's.
//! Every refusal maps to its wire status in [`Refusal::status`]. Peers reach us
//! over direct connections only (we are nobody's relay client), so nothing can
//! be granted over a relayed one.

use std::{net::IpAddr, sync::Arc, time::Instant};

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use crate::{
    clock,
    identity::Identity,
    metrics::{CircuitMetrics, RelayMetrics},
    state::{
        access::Access,
        addresses::Addresses,
        circuits::{Circuit, CircuitRefusal, Circuits},
        connections::{ConnectionId, Connections},
        leg::Link,
        reservations::{ReservationRefusal, Reservations},
    },
    wire::{
        DecodeError,
        envelope::{self, Voucher},
        relay::{HopKind, HopMessage, Reservation, Status, encode_hop_status},
    },
};

/// What HOP works with.
pub struct Relay {
    /// Who signs vouchers.
    pub identity: Identity,
    /// The operator's rules.
    pub access: Arc<Access>,
    /// What we tell peers to put in front of `/p2p-circuit`.
    pub addresses: Arc<Addresses>,
    /// Who may be reached.
    pub reservations: Reservations,
    /// What runs.
    pub circuits: Circuits,
    /// Counts RESERVE.
    pub reserve_metrics: Arc<RelayMetrics>,
    /// Counts CONNECT.
    pub connect_metrics: Arc<CircuitMetrics>,
}

/// Why a request was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Undecodable, or without what it needs.
    #[error("malformed request")]
    Malformed,
    /// Decodable, but not a request.
    #[error("not a request")]
    Unexpected,
    /// The operator's rules.
    #[error("denied by the operator's rules")]
    Denied,
    /// The server is about to stop.
    #[error("the server is stopping")]
    Draining,
    /// A limit on reservations.
    #[error(transparent)]
    Reservation(#[from] ReservationRefusal),
    /// A limit on circuits.
    #[error(transparent)]
    Circuit(#[from] CircuitRefusal),
    /// The target has no reservation, or has left.
    #[error("the target has no reservation")]
    NoReservation,
    /// The target could not be asked, or did not accept.
    #[error("the target did not take the circuit")]
    ConnectionFailed,
}

/// Which request a refusal answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// RESERVE, or something that was neither.
    Reserve,
    /// CONNECT.
    Connect,
}

impl Refusal {
    /// The status on the wire (circuit relay v2, "Status codes").
    #[must_use]
    pub const fn status(self, request: Request) -> Status {
        match self {
            Self::Malformed => Status::MalformedMessage,
            Self::Unexpected => Status::UnexpectedMessage,
            Self::Denied => Status::PermissionDenied,
            Self::Draining => match request {
                Request::Reserve => Status::ReservationRefused,
                Request::Connect => Status::ResourceLimitExceeded,
            },
            Self::Reservation(_) => Status::ReservationRefused,
            Self::Circuit(_) => Status::ResourceLimitExceeded,
            Self::NoReservation => Status::NoReservation,
            Self::ConnectionFailed => Status::ConnectionFailed,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unexpected => "unexpected",
            Self::Denied => "denied",
            Self::Draining => "draining",
            Self::Reservation(refusal) => refusal.label(),
            Self::Circuit(refusal) => refusal.label(),
            Self::NoReservation => "no_reservation",
            Self::ConnectionFailed => "connection_failed",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// The authenticated peer.
    pub peer: PeerId,
    /// Where its connection comes from.
    pub address: IpAddr,
    /// The connection it asks on.
    pub connection: ConnectionId,
}

/// What comes of a request.
pub enum Outcome {
    /// The answer has been written; the stream is done.
    Answered,
    /// The target is to be asked.
    Connect(Arc<Circuit>, Arc<dyn Link>),
}

impl Relay {
    /// Handles one request; an answer goes to the end of `output`.
    pub fn handle(
        &self,
        message: &HopMessage<'_>,
        asker: Asker,
        connections: &Connections,
        draining: bool,
        now: Instant,
        output: &mut Vec<u8>,
    ) -> Outcome {
        match message.kind {
            Some(HopKind::Reserve) => {
                match self.reserve(asker, draining, now, output) {
                    Ok(()) => {}
                    Err(refusal) => self.refuse(refusal, Request::Reserve, asker, output),
                }
                Outcome::Answered
            }
            Some(HopKind::Connect) => {
                match self.connect(message, asker, connections, draining, now) {
                    Ok((circuit, link)) => return Outcome::Connect(circuit, link),
                    Err(refusal) => self.refuse(refusal, Request::Connect, asker, output),
                }
                Outcome::Answered
            }
            // js-libp2p writes every type, also 0: an absent one is no
            // request for a reservation.
            None => {
                self.refuse(Refusal::Malformed, Request::Reserve, asker, output);
                Outcome::Answered
            }
            Some(HopKind::Status | HopKind::Unknown(_)) => {
                self.refuse(Refusal::Unexpected, Request::Reserve, asker, output);
                Outcome::Answered
            }
        }
    }

    /// Answers what could not be read as a request.
    pub fn malformed(&self, error: DecodeError, asker: Asker, output: &mut Vec<u8>) {
        tracing::debug!(peer = %asker.peer, %error, "unreadable hop message");
        self.refuse(Refusal::Malformed, Request::Reserve, asker, output);
    }

    /// Answers a request that is not granted, and counts it.
    pub fn refuse(&self, refusal: Refusal, request: Request, asker: Asker, output: &mut Vec<u8>) {
        let status = refusal.status(request);
        let (label, status_label) = (refusal.label(), status_label(status));
        match request {
            Request::Reserve => self
                .reserve_metrics
                .reservation_refused(label, status_label),
            Request::Connect => self.connect_metrics.refused(label, status_label),
        }
        tracing::debug!(peer = %asker.peer, address = %asker.address, ?request, reason = %refusal, "refused");
        encode_hop_status(status, None, None, output);
    }

    fn reserve(
        &self,
        asker: Asker,
        draining: bool,
        now: Instant,
        output: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if draining {
            return Err(Refusal::Draining);
        }
        let standing = self
            .access
            .at_reserve(&asker.peer, asker.address)
            .map_err(|_| Refusal::Denied)?;
        let granted = self.reservations.reserve(
            asker.peer,
            asker.address,
            asker.connection,
            standing,
            now,
        )?;
        let expire = clock::unix_seconds() + self.reservations.ttl().as_secs();
        let voucher = self.voucher(asker.peer, expire);
        let told = self.addresses.told();
        let listed = &told.list_for(asker.address).with_peer;
        let addresses: Vec<Vec<u8>> = listed.iter().map(Multiaddr::to_vec).collect();
        let reservation = Reservation {
            expire,
            addrs: addresses.iter().map(Vec::as_slice).collect(),
            voucher: voucher.as_deref(),
        };
        tracing::debug!(peer = %asker.peer, ?granted, "reserved");
        let limit = self.circuits.limit(standing);
        encode_hop_status(Status::Ok, Some(&reservation), limit.as_ref(), output);
        Ok(())
    }

    /// The signed voucher; left out if the key cannot sign, as it is optional.
    fn voucher(&self, peer: PeerId, expiration: u64) -> Option<Vec<u8>> {
        let relay = self.identity.peer_id().to_bytes();
        let peer = peer.to_bytes();
        let mut payload = Vec::with_capacity(128);
        Voucher {
            relay: &relay,
            peer: &peer,
            expiration,
        }
        .encode(&mut payload);
        envelope::try_seal(
            envelope::VOUCHER_DOMAIN,
            envelope::VOUCHER_TYPE,
            &payload,
            self.identity.public_key_protobuf(),
            |bytes| self.identity.sign(bytes),
        )
        .ok()
    }

    fn connect(
        &self,
        message: &HopMessage<'_>,
        asker: Asker,
        connections: &Connections,
        draining: bool,
        now: Instant,
    ) -> Result<(Arc<Circuit>, Arc<dyn Link>), Refusal> {
        let target = message.peer.ok_or(Refusal::Malformed)?;
        let target = PeerId::from_bytes(target.id).map_err(|_| Refusal::Malformed)?;
        if draining {
            return Err(Refusal::Draining);
        }
        let reached = connections.reach(&target);
        let target_address = reached.as_ref().map(|(_, address)| *address);
        let standings = self
            .access
            .at_connect(&asker.peer, asker.address, &target, target_address)
            .map_err(|_| Refusal::Denied)?;
        let [asker_standing, _] = standings;
        if !asker_standing.uncapped {
            self.circuits.asked(&asker.peer, now)?;
        }
        if !self.reservations.holds(&target, now) {
            return Err(Refusal::NoReservation);
        }
        if target == asker.peer {
            return Err(Refusal::ConnectionFailed);
        }
        let (link, _) = reached.ok_or(Refusal::NoReservation)?;
        let circuit = self.circuits.open(asker.peer, target, standings, now)?;
        Ok((circuit, link))
    }
}

const fn status_label(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::ReservationRefused => "reservation_refused",
        Status::ResourceLimitExceeded => "resource_limit_exceeded",
        Status::PermissionDenied => "permission_denied",
        Status::ConnectionFailed => "connection_failed",
        Status::NoReservation => "no_reservation",
        Status::MalformedMessage => "malformed_message",
        Status::UnexpectedMessage | Status::Unused | Status::Other(_) => "unexpected_message",
    }
}
