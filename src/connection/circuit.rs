//! Circuits, as the connections at their ends see them.
//!
//! A running circuit is two stream entries that point at each other. What is
//! read on one is appended to the other's egress in the same pass, counted
//! against the circuit's budget. Credit for it comes back from there when the
//! bytes have left, so a circuit holds at most one window in each direction.

use std::{sync::Arc, time::Duration};

use crate::metrics::Service;
use crate::service::hop::{Asker, Refusal, Request};
use crate::service::stop::{Offer, PATIENCE};
use crate::state::{
    circuits::{Circuit, CircuitId, EndCause},
    leg::{Command, Effects, Leg, Link, StreamKey, reset_code},
};
use crate::wire::relay::{Status, encode_hop_status};

pub(super) use bound::{Bound, Broken, End};

use super::{
    egress::SendHalf,
    pool,
    queue::Queue,
    read_pass::Pass,
    session::{Sending, Session},
    stream::{Entry, Handler},
};

mod bound;

/// The source's end while the target is being asked.
pub(super) struct Waiting {
    circuit: Arc<Circuit>,
    target: Arc<dyn Link>,
    /// What the source sent behind its request: at most its window.
    early: Queue,
}

impl Waiting {
    /// Tells the target that the circuit is no longer wanted. One that has
    /// left has let go of the offer itself.
    pub(super) fn withdraw(&self) {
        let withdrawn = Command::Withdraw(self.circuit.id());
        let _ = self.target.deliver(withdrawn);
    }

    /// Whether there was memory to keep it in.
    pub(super) fn keep(&mut self, payload: &[u8]) -> bool {
        let room = !pool::is_full();
        if room {
            self.early.extend(payload);
        }
        room
    }
}

impl<E: Sending> Session<E> {
    /// Asks the target of a granted CONNECT.
    pub(super) fn ask_target(
        &mut self,
        stream: StreamKey,
        circuit: Arc<Circuit>,
        target: Arc<dyn Link>,
        early: &[u8],
        pass: &mut Pass<'_>,
    ) {
        let offer = Command::Offer {
            circuit: Arc::clone(&circuit),
            source: self.leg(stream),
        };
        if target.deliver(offer).is_err() {
            drop(circuit);
            self.refuse_connect(stream, pass);
            return;
        }
        let deadline = pass.now + PATIENCE + Duration::from_secs(1);
        self.set_deadline(stream, Some(deadline));
        if let Some(entry) = self.table.find_mut(stream) {
            entry.permit.protocol_done();
            let mut waiting = Waiting {
                circuit,
                target,
                early: Queue::default(),
            };
            waiting.early.extend(early);
            entry.handler = Handler::Waiting(Box::new(waiting));
        }
    }

    /// Takes up a circuit that another connection's peer asked for, unless
    /// this one is ending or its peer could not bear one more stream now.
    pub(super) fn offer(&mut self, circuit: Arc<Circuit>, source: Leg, pass: &mut Pass<'_>) {
        if self.going_away || !self.bears_opening(pass.now) {
            return self.decline(Command::Offer { circuit, source }, pass);
        }
        pass.output.clear();
        let offer = Offer::new(circuit, source, pass.output);
        let (circuit, source) = (Arc::clone(&offer.circuit), offer.source.clone());
        let Some(stream) = self.open_stream(Handler::Offer(Box::new(offer)), Service::Stop) else {
            // Given up before the source is told: it may ask again at once.
            drop(circuit);
            let (stream, full) = (source.stream, true);
            let _ = source.link.deliver(Command::Refused { stream, full });
            return;
        };
        self.set_deadline(stream, Some(pass.now + PATIENCE));
        self.send(stream, pass);
    }

    /// The target has accepted: its end is bound to the source's, and the
    /// source is told. `rest` is what the target sent behind its answer.
    pub(super) fn offer_accepted(
        &mut self,
        stream: StreamKey,
        offer: Offer,
        rest: &[u8],
        pass: &mut Pass<'_>,
    ) {
        let Offer {
            circuit, source, ..
        } = offer;
        let destination = self.leg(stream);
        self.egress.attach(stream, source.clone());
        if circuit.is_paced() {
            self.egress.pace(stream);
        }
        let joined = Command::Joined {
            stream: source.stream,
            destination: destination.clone(),
        };
        pass.output.clear();
        let limit = circuit.limit();
        encode_hop_status(Status::Ok, None, limit.as_ref(), pass.output);
        // First the command, then the answer: when the source's first bytes
        // come, its connection already has the command or keeps them until
        // it does.
        let told = source.link.deliver(joined).is_ok()
            && source
                .link
                .join(source.stream, pass.output, destination, pass.effects)
                .is_ok();
        if !told {
            // The source may have been told that it is joined, and there is no
            // memory for the answer that it waits for.
            source.link.reset(
                source.stream,
                reset_code::RESOURCE_LIMIT,
                false,
                pass.effects,
            );
            self.reset_stream(stream, reset_code::NONE, pass);
            return;
        }
        circuit.started();
        tracing::debug!(source = %circuit.source(), destination = %circuit.destination(), "circuit opened");
        self.set_deadline(stream, circuit.deadline(pass.now));
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        entry.guard.serves(Service::Circuit);
        let mut bound = Bound::new(circuit, End::Destination, source);
        let metrics = &self.context.metrics.circuits;
        let passed = bound.forward(rest, metrics, pass);
        entry.handler = Handler::Circuit(Box::new(bound));
        if let Err(broken) = passed {
            self.circuit_broken(stream, broken, pass);
        }
    }

    /// The target's end is there: from now on bytes flow.
    pub(super) fn joined(&mut self, stream: StreamKey, destination: Leg, pass: &mut Pass<'_>) {
        let waiting = self
            .table
            .find_mut(stream)
            .filter(|entry| matches!(entry.handler, Handler::Waiting(_)));
        let Some(entry) = waiting else {
            // It was given up, or told no, while the target said yes.
            let Leg { link, stream } = destination;
            link.reset(stream, reset_code::NONE, false, pass.effects);
            return;
        };
        let Handler::Waiting(waiting) = std::mem::replace(&mut entry.handler, Handler::Spent)
        else {
            return;
        };
        let Waiting {
            circuit, mut early, ..
        } = *waiting;
        let deadline = circuit.deadline(pass.now);
        if circuit.is_paced() {
            self.egress.pace(stream);
        }
        let mut bound = Bound::new(circuit, End::Source, destination);
        let metrics = &self.context.metrics.circuits;
        let passed = if early.is_empty() {
            Ok(())
        } else {
            bound.forward(early.make_contiguous(), metrics, pass)
        };
        let finished = entry.finished;
        if finished {
            bound.finish(pass.effects);
        }
        entry.guard.serves(Service::Circuit);
        entry.handler = Handler::Circuit(Box::new(bound));
        self.set_deadline(stream, deadline);
        if let Err(broken) = passed {
            self.circuit_broken(stream, broken, pass);
        }
    }

    /// The target did not take the circuit: tells the source.
    pub(super) fn refuse_connect(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        self.refuse_connect_for(stream, Refusal::ConnectionFailed, pass);
    }

    /// There is no circuit for this reason: tells the source.
    pub(super) fn refuse_connect_for(
        &mut self,
        stream: StreamKey,
        refusal: Refusal,
        pass: &mut Pass<'_>,
    ) {
        if let Some(entry) = self.table.find_mut(stream) {
            // What is refused is not held any more when the source is told.
            entry.handler = Handler::Spent;
        }
        pass.output.clear();
        self.context
            .relay
            .refuse(refusal, Request::Connect, self.asker(), pass.output);
        self.send(stream, pass);
        self.finish_stream(stream, pass);
    }

    /// The source no longer wants the circuit on offer.
    pub(super) fn withdraw(&mut self, id: CircuitId, pass: &mut Pass<'_>) {
        let stream = self.table.iter_mut().find_map(|entry| {
            let offered =
                matches!(&entry.handler, Handler::Offer(offer) if offer.circuit.id() == id);
            offered.then_some(entry.key)
        });
        if let Some(stream) = stream {
            self.reset_stream(stream, reset_code::NONE, pass);
        }
    }

    /// A circuit cannot go on: resets both of its streams.
    pub(super) fn circuit_broken(
        &mut self,
        stream: StreamKey,
        broken: Broken,
        pass: &mut Pass<'_>,
    ) {
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        let Handler::Circuit(bound) = &entry.handler else {
            return;
        };
        let code = match broken {
            Broken::Memory => {
                bound.circuit.ended(EndCause::Memory);
                bound.reset_other(reset_code::RESOURCE_LIMIT, false, pass.effects);
                reset_code::RESOURCE_LIMIT
            }
            Broken::Gone => reset_code::NONE,
            Broken::ByteLimit => {
                bound.circuit.ended(EndCause::ByteLimit);
                bound.reset_other(reset_code::RESOURCE_LIMIT, true, pass.effects);
                reset_code::RESOURCE_LIMIT
            }
        };
        let half = self
            .egress
            .reset_unless_draining(stream, code, pass.effects);
        if half == SendHalf::Ended {
            self.context.metrics.streams.reset_by_us();
            let entry = self.take_entry(stream);
            if let (Some(entry), Broken::Gone | Broken::Memory) = (entry, broken) {
                self.let_go(entry, None, pass.effects);
            }
        }
    }

    /// The peer has ended its direction of a circuit.
    pub(super) fn circuit_finished(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        if let Handler::Circuit(bound) = &entry.handler {
            bound.finish(pass.effects);
        }
        if self.egress.receive_closed(stream) == SendHalf::Ended
            && let Some(entry) = self.take_entry(stream)
            && let Handler::Circuit(bound) = &entry.handler
        {
            bound.circuit.ended(EndCause::Finished);
        }
    }

    /// Lets go of what an entry had to do with other connections. Without a
    /// cause, the one for a reset by this connection's peer is told.
    pub(super) fn let_go(&self, entry: Entry, cause: Option<EndCause>, effects: &mut Effects) {
        match entry.handler {
            Handler::Circuit(bound) => {
                bound
                    .circuit
                    .ended(cause.unwrap_or_else(|| bound.end.reset()));
                bound.reset_other(reset_code::NONE, false, effects);
            }
            Handler::Waiting(waiting) => waiting.withdraw(),
            Handler::Offer(offer) => {
                let Offer {
                    circuit, source, ..
                } = *offer;
                // Given up before the source is told: it may ask again at once.
                drop(circuit);
                let stream = source.stream;
                let full = false;
                let _ = source.link.deliver(Command::Refused { stream, full });
            }
            Handler::Negotiating(_)
            | Handler::Ping(_)
            | Handler::Push(_)
            | Handler::Hop(_)
            | Handler::Question(_)
            | Handler::Telling(_)
            | Handler::Spent => {}
        }
    }

    pub(super) fn asker(&self) -> Asker {
        Asker {
            peer: self.remote.peer,
            address: self.remote.address.ip(),
            connection: self.id,
        }
    }

    fn leg(&self, stream: StreamKey) -> Leg {
        Leg {
            link: Arc::clone(&self.egress) as Arc<dyn Link>,
            stream,
        }
    }
}
