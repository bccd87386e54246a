//! Who may begin a QUIC handshake, and who may stay after it.
//!
//! Decided before any crypto, as for TCP, with one difference: the address of a
//! first datagram may be forged. So a handshake counts for where it comes from
//! only when its address has been shown to be its sender's, by the end of the
//! handshake or by a token; and when many handshakes are under way, or that
//! place has all it may, the sender is asked for a token first (Retry).

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Instant,
};

use quinn_proto::{ConnectionError, ConnectionHandle, Incoming};

use crate::clock;
use crate::connection::RESOURCE_LIMIT;
use crate::connection::quic::{Handshake, QuicConnection};
use crate::engine::token_bucket::Rate;
use crate::metrics::{ConnectionLabels, Direction, Muxer, Security, Transport};
use crate::state::access::Gate;
use crate::state::limits::{Refusal, SocketPermit};

use super::{drive::Loop, table::Entrance};

/// Share of `connections.transient_max` from which on addresses are asked for
/// first: it costs an honest peer a round trip, and a forger the attack.
const RETRY_FROM: usize = 4;

/// Handshakes of a worker that begin in a second, and at once, for addresses
/// that have not been shown: a tenth of what a core can do. Whoever forges
/// addresses may also end each of them in the datagram that begins it, so that
/// the number under way tells nothing.
static UNSHOWN: LazyLock<Rate> = LazyLock::new(|| Rate::new(200.0, 400));

impl Loop {
    /// Decides about the beginning of a handshake.
    pub(super) fn enter(&mut self, incoming: Incoming, socket: usize, now: Instant) {
        self.buffer.clear();
        let remote = canonical(incoming.remote_address());
        if self.server.accepting.is_cancelled() {
            return self.refuse(incoming, socket);
        }
        let standing = match self.server.context.relay.access.at_accept(remote.ip()) {
            Ok(standing) => standing,
            Err(denied) => {
                tracing::debug!(%remote, gate = Gate::Accept.label(), reason = %denied, "handshake refused");
                return self.refuse(incoming, socket);
            }
        };
        let exempt = standing.uncapped;
        let shown = incoming.remote_address_validated();
        if !shown && self.asks_first(remote, exempt, now) {
            return self.ask_for_token(incoming, socket);
        }
        let limits = &self.server.limits;
        let admitted = if shown {
            limits.admit_shared(remote, exempt, now)
        } else {
            limits.admit_shared_unplaced()
        };
        match admitted {
            Ok(permit) => {
                let entrance = self.entrance(permit, shown, now);
                self.begin(incoming, entrance, socket, now);
            }
            Err(refusal) => {
                tracing::debug!(%remote, limit = refusal.label(), %refusal, "handshake refused");
                self.refused(refusal);
                if shown {
                    self.refuse(incoming, socket);
                } else {
                    // Whoever it is would get an answer that he did not ask for.
                    self.server.context.metrics.quic.ignored();
                    self.endpoint.ignore(incoming);
                }
            }
        }
    }

    /// Whether a sender has to show its address before anything is done for it.
    fn asks_first(&mut self, remote: SocketAddr, exempt: bool, now: Instant) -> bool {
        let limits = &self.server.limits;
        let transient = limits.transient();
        transient.taken * RETRY_FROM >= transient.max
            || !limits.would_place(remote, exempt, now)
            // Nobody elsewhere can forge an address of this host.
            || (!remote.ip().is_loopback() && self.unshown.take(&UNSHOWN, 1, now).is_err())
    }

    fn ask_for_token(&mut self, incoming: Incoming, socket: usize) {
        match self.endpoint.retry(incoming, &mut self.buffer) {
            Ok(transmit) => {
                self.server.context.metrics.quic.retried();
                self.respond(socket, transmit);
            }
            // It has shown its address already, and is not asked twice.
            Err(error) => self.endpoint.ignore(error.into_incoming()),
        }
    }

    fn refuse(&mut self, incoming: Incoming, socket: usize) {
        let transmit = self.endpoint.refuse(incoming, &mut self.buffer);
        let metrics = &self.server.context.metrics.quic;
        metrics.responded(&self.buffer[..transmit.size]);
        self.respond(socket, transmit);
    }

    fn refused(&self, refusal: Refusal) {
        let context = &self.server.context;
        context.metrics.listener.socket_refused(refusal.label());
        if refusal == Refusal::Total {
            context.connections.attend();
        }
    }

    fn entrance(&self, permit: SocketPermit, placed: bool, now: Instant) -> Entrance {
        let metrics = &self.server.context.metrics;
        Entrance {
            permit,
            placed,
            _guard: metrics.listener.socket_accepted(),
            timer: metrics.upgrade.started(now),
            until: now + self.server.timeout,
        }
    }

    fn begin(&mut self, incoming: Incoming, entrance: Entrance, socket: usize, now: Instant) {
        let accepted = self.endpoint.accept(incoming, now, &mut self.buffer, None);
        match accepted {
            Ok((ConnectionHandle(place), transport)) => {
                let bell = Arc::clone(&self.server.inboxes[self.worker].bell);
                let connection = QuicConnection::new(transport, place, bell);
                self.table.insert(place, connection, entrance, socket);
                self.note(place);
            }
            Err(error) => {
                tracing::debug!(cause = %error.cause, "handshake failed");
                entrance.timer.failed("quic", now);
                if let Some(transmit) = error.response {
                    self.respond(socket, transmit);
                }
            }
        }
    }

    /// Drives a handshake on, and ends one that has had its time.
    pub(super) fn handshake(&mut self, place: usize, now: Instant) {
        let Some(slot) = self.table.get_mut(place) else {
            return;
        };
        match slot.connection.handshake(now) {
            Handshake::Pending => {
                if slot.entrance.as_ref().is_some_and(|one| now >= one.until) {
                    if let Some(entrance) = slot.entrance.take() {
                        entrance.timer.failed("timeout", now);
                    }
                    // Nothing is owed to who is no connection yet.
                    self.forget(place);
                }
            }
            Handshake::Complete => self.complete(place, now),
            Handshake::Failed(reason) => {
                tracing::debug!(remote = %slot.connection.remote(), %reason, "handshake failed");
                if let Some(entrance) = slot.entrance.take() {
                    entrance.timer.failed(label(&reason), now);
                }
                // Who has ended it himself is waited for no longer: he may have
                // done so in the datagram that began it.
                slot.lingers = !matches!(
                    reason,
                    ConnectionError::ApplicationClosed(_)
                        | ConnectionError::ConnectionClosed(_)
                        | ConnectionError::Reset
                );
                slot.connection.turn_away(now, 0);
            }
        }
    }

    /// The peer has shown who and where it is.
    fn complete(&mut self, place: usize, now: Instant) {
        let context = Arc::clone(&self.server.context);
        let Some(slot) = self.table.get_mut(place) else {
            return;
        };
        let Some(entrance) = slot.entrance.take() else {
            return;
        };
        let address = slot.connection.remote();
        let Some(peer) = slot.connection.peer() else {
            entrance.timer.failed("identity", now);
            return slot.connection.turn_away(now, 0);
        };
        let access = &context.relay.access;
        let exempt = access.standing(&peer, address.ip()).uncapped;
        let Entrance {
            permit,
            placed,
            timer,
            ..
        } = *entrance;
        timer.completed(labels(address), now);
        let permit = if placed {
            Ok(permit)
        } else {
            permit.place(address, exempt, now)
        };
        match permit.and_then(|permit| permit.authenticated(&peer, exempt)) {
            Ok(permit) => {
                let labels = labels(address);
                let guard = context.metrics.connections.opened(labels, clock::now());
                slot.connection
                    .up(Arc::clone(&context), peer, permit, guard, now);
            }
            Err(refusal) => {
                tracing::debug!(%peer, remote = %address, limit = refusal.label(), %refusal, "connection refused");
                slot.connection.turn_away(now, RESOURCE_LIMIT);
                self.refused(refusal);
            }
        }
    }
}

/// An IPv4 peer on a dual-stack socket is that IPv4 peer.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn label(reason: &ConnectionError) -> &'static str {
    match reason {
        ConnectionError::TimedOut => "timeout",
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed => "eof",
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::CidsExhausted => "quic",
    }
}

fn labels(remote: SocketAddr) -> ConnectionLabels {
    ConnectionLabels {
        direction: Direction::Inbound,
        transport: Transport::Quic,
        security: Security::OfTransport,
        muxer: Muxer::OfTransport,
        early_muxer: false,
        ip_version: remote.ip().into(),
    }
}
