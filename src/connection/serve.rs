//! Stream bytes to services: negotiation, then whatever was agreed on.
//!
//! Every branch ends in one of three ways: the handler is put back, the stream
//! is finished behind an answer, or it is reset.

use std::{mem, time::Instant};

use crate::engine::negotiate::{Negotiation, Responder};
use crate::metrics::Service;
use crate::service::{Served, gather::Gather, hop::Outcome, identify, ping};
use crate::state::connections::Tag;
use crate::state::leg::{StreamKey, reset_code};
use crate::state::limits::{Protocol, StreamRefusal};
use crate::state::peerstore::Speaker;
use crate::wire::relay::{HopMessage, MAX_MESSAGE};

use super::{
    egress::SendHalf,
    read_pass::Pass,
    session::{NEGOTIATION_MAX, Sending, Session},
    stream::Handler,
};

/// How long hop may wait for its request, and a spent stream for its end.
const REQUEST_MAX: std::time::Duration = std::time::Duration::from_secs(30);

impl<E: Sending> Session<E> {
    /// Hands payload to what runs on the stream.
    pub(super) fn serve(&mut self, stream: StreamKey, payload: &[u8], pass: &mut Pass<'_>) {
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        match mem::replace(&mut entry.handler, Handler::Spent) {
            Handler::Negotiating(responder) => self.negotiate(stream, responder, payload, pass),
            Handler::Ping(mut echo) => {
                pass.output.clear();
                echo.handle_input(payload, pass.output);
                entry.handler = Handler::Ping(echo);
                self.set_deadline(stream, Some(pass.now + ping::IDLE_MAX));
                if !pass.output.is_empty() {
                    self.send(stream, pass);
                }
                self.consumed(stream, payload.len(), pass);
            }
            Handler::Push(mut listener) => {
                match listener.handle_input(&self.remote.peer, payload) {
                    Ok(()) => {
                        entry.handler = Handler::Push(listener);
                        self.consumed(stream, payload.len(), pass);
                    }
                    Err(error) => self.not_identified(stream, &error, pass),
                }
            }
            Handler::Question(mut question) => {
                match question.handle_input(&self.remote.peer, payload) {
                    Ok(()) => {
                        entry.handler = Handler::Question(question);
                        self.consumed(stream, payload.len(), pass);
                    }
                    Err(error) => self.not_identified(stream, &error, pass),
                }
            }
            Handler::Telling(dialer) => self.tell(stream, dialer, payload, pass),
            Handler::Hop(gather) => self.hop(stream, gather, payload, pass),
            Handler::Offer(mut offer) => match offer.handle_input(payload) {
                Ok(None) => entry.handler = Handler::Offer(offer),
                Ok(Some(used)) => self.offer_accepted(stream, *offer, &payload[used..], pass),
                Err(error) => {
                    tracing::debug!(peer = %self.remote.peer, %error, "circuit not taken");
                    entry.handler = Handler::Offer(offer);
                    self.reset_stream(stream, reset_code::NONE, pass);
                }
            },
            Handler::Waiting(mut waiting) => {
                let kept = waiting.keep(payload);
                entry.handler = Handler::Waiting(waiting);
                if !kept {
                    self.stream_refused(StreamRefusal::Memory);
                    self.reset_stream(stream, reset_code::RESOURCE_LIMIT, pass);
                }
            }
            Handler::Circuit(bound) => entry.handler = Handler::Circuit(bound),
            Handler::Spent => self.consumed(stream, payload.len(), pass),
        }
    }

    /// The peer has ended its direction of a stream that is not a circuit.
    pub(super) fn served_to_the_end(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        let speaker = self.speaker();
        let Some(entry) = self.table.find_mut(stream) else {
            return;
        };
        let peerstore = &self.context.peerstore;
        let addresses = &self.context.relay.addresses;
        let (from, transport) = (self.remote.address.ip(), self.remote.transport);
        // What it said of us, if it said anything, counts in place of what it
        // said before.
        let vote = &mut self.vote;
        let mut hear = |listener: &identify::Listener| {
            if let Some(seen) = listener.observed() {
                *vote = addresses.observed(from, transport, seen);
            }
        };
        match &entry.handler {
            Handler::Push(listener) => {
                let heard = listener.finish(&speaker, false, peerstore, pass.now);
                if heard.is_ok() {
                    hear(listener);
                }
                self.identified(stream, heard, Direction::Pushed, pass);
            }
            Handler::Question(question) => {
                let listener = &question.listener;
                let heard = listener.finish(&speaker, true, peerstore, pass.now);
                if heard.is_ok() {
                    hear(listener);
                }
                self.identified(stream, heard, Direction::Asked, pass);
            }
            Handler::Ping(_) => self.finish_stream(stream, pass),
            Handler::Spent => {
                if self.egress.receive_closed(stream) == SendHalf::Ended {
                    drop(self.take_entry(stream));
                }
            }
            Handler::Negotiating(_) | Handler::Hop(_) => {
                self.context.metrics.streams.refused("negotiation_failed");
                self.reset_stream(stream, reset_code::NONE, pass);
            }
            Handler::Telling(_) | Handler::Offer(_) => {
                self.reset_stream(stream, reset_code::NONE, pass);
            }
            Handler::Waiting(_) | Handler::Circuit(_) => {}
        }
    }

    /// Ends our direction behind what was sent; the stream is spent, or gone.
    pub(super) fn finish_stream(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        let Some(entry) = self.table.set_idle(stream, true) else {
            return;
        };
        entry.handler = Handler::Spent;
        let finished = entry.finished;
        let mut half = self.egress.finish_own(stream, pass.effects);
        if finished && half == SendHalf::Open {
            half = self.egress.receive_closed(stream);
        }
        if half == SendHalf::Ended {
            drop(self.take_entry(stream));
        } else {
            self.set_deadline(stream, Some(pass.now + REQUEST_MAX));
        }
    }

    fn negotiate(
        &mut self,
        stream: StreamKey,
        mut responder: Box<Responder>,
        payload: &[u8],
        pass: &mut Pass<'_>,
    ) {
        pass.output.clear();
        let menu = &self.context.menu;
        let result = responder.handle_input(payload, menu.protocols(), pass.output);
        if !pass.output.is_empty() {
            self.send(stream, pass);
        }
        match result {
            Ok(Negotiation::NeedMore) => {
                if let Some(entry) = self.table.find_mut(stream) {
                    entry.handler = Handler::Negotiating(responder);
                }
                self.consumed(stream, payload.len(), pass);
            }
            Ok(Negotiation::Accepted { protocol, consumed }) => {
                let Some(served) = self.context.menu.at(protocol) else {
                    return self.reset_stream(stream, reset_code::NONE, pass);
                };
                self.consumed(stream, consumed, pass);
                self.agreed(stream, served, &payload[consumed..], pass);
            }
            Err(error) => {
                tracing::debug!(peer = %self.remote.peer, %error, "no protocol agreed on");
                self.context.metrics.streams.refused("negotiation_failed");
                self.reset_stream(stream, reset_code::NONE, pass);
            }
        }
    }

    /// A protocol has been agreed on; `rest` is what came behind it.
    fn agreed(&mut self, stream: StreamKey, served: Served, rest: &[u8], pass: &mut Pass<'_>) {
        if let Err(refusal) = self.count_protocol(stream, served, pass.now) {
            self.stream_refused(refusal);
            return self.reset_stream(stream, reset_code::RESOURCE_LIMIT, pass);
        }
        match served {
            Served::Ping => {
                self.serves(stream, Service::Ping, Handler::Ping(Box::default()));
                self.set_deadline(stream, Some(pass.now + ping::IDLE_MAX));
            }
            Served::Identify => {
                self.serves(stream, Service::Identify, Handler::Spent);
                pass.output.clear();
                self.context
                    .answer
                    .write(self.remote.address, self.remote.transport, pass.output);
                self.send(stream, pass);
                self.finish_stream(stream, pass);
                self.context.metrics.identify.sent();
            }
            Served::IdentifyPush => {
                self.serves(stream, Service::IdentifyPush, Handler::Push(Box::default()));
                self.set_deadline(stream, Some(pass.now + NEGOTIATION_MAX));
            }
            Served::Hop => {
                self.serves(stream, Service::Hop, Handler::Hop(Box::default()));
                self.set_deadline(stream, Some(pass.now + REQUEST_MAX));
            }
        }
        if !rest.is_empty() {
            self.serve(stream, rest, pass);
        }
    }

    fn hop(
        &mut self,
        stream: StreamKey,
        mut gather: Box<Gather>,
        payload: &[u8],
        pass: &mut Pass<'_>,
    ) {
        let asker = self.asker();
        let context = &self.context;
        let (relay, now) = (&context.relay, pass.now);
        pass.output.clear();
        let output = &mut *pass.output;
        let result = gather.message(payload, MAX_MESSAGE, |bytes| {
            let (message, used) = HopMessage::decode(bytes)?;
            let draining = context.is_draining();
            let outcome =
                relay.handle(&message, asker, &context.connections, draining, now, output);
            Ok((outcome, used))
        });
        match result {
            Ok(None) => {
                if let Some(entry) = self.table.find_mut(stream) {
                    entry.handler = Handler::Hop(gather);
                }
                self.consumed(stream, payload.len(), pass);
            }
            Ok(Some((Outcome::Answered, _))) => self.answered(stream, pass),
            Ok(Some((Outcome::Connect(circuit, target), used))) => {
                self.consumed(stream, used, pass);
                self.ask_target(stream, circuit, target, &payload[used..], pass);
            }
            Err(error) => {
                relay.malformed(error, asker, pass.output);
                self.answered(stream, pass);
            }
        }
    }

    /// Sends hop's answer, behind which nothing comes.
    fn answered(&mut self, stream: StreamKey, pass: &mut Pass<'_>) {
        if let Some(entry) = self.table.find_mut(stream) {
            entry.permit.protocol_done();
        }
        self.send(stream, pass);
        self.finish_stream(stream, pass);
    }

    fn identified(
        &mut self,
        stream: StreamKey,
        heard: Result<(), identify::ListenError>,
        direction: Direction,
        pass: &mut Pass<'_>,
    ) {
        match heard {
            Ok(()) => {
                let connections = &self.context.connections;
                connections.credit(&self.remote.peer, Tag::Identified, pass.now);
                let metrics = &self.context.metrics.identify;
                match direction {
                    Direction::Asked => metrics.received(),
                    Direction::Pushed => metrics.push_received(),
                }
                self.finish_stream(stream, pass);
            }
            Err(error) => self.not_identified(stream, &error, pass),
        }
    }

    fn not_identified(
        &mut self,
        stream: StreamKey,
        error: &(dyn std::error::Error + 'static),
        pass: &mut Pass<'_>,
    ) {
        tracing::debug!(peer = %self.remote.peer, %error, "not identified");
        self.context.metrics.identify.failed();
        self.reset_stream(stream, reset_code::NONE, pass);
    }

    /// Who speaks on this connection.
    fn speaker(&self) -> Speaker {
        Speaker {
            peer: self.remote.peer,
            connection: self.id,
            remote: self.remote.address,
        }
    }

    fn count_protocol(
        &mut self,
        stream: StreamKey,
        served: Served,
        now: Instant,
    ) -> Result<(), StreamRefusal> {
        let protocol = match served {
            Served::Ping => Protocol::Ping,
            Served::Identify => Protocol::Identify,
            Served::IdentifyPush => Protocol::Push,
            Served::Hop => Protocol::Hop,
        };
        if protocol == Protocol::Push {
            self.may_push(now)?;
        }
        let Some(entry) = self.table.set_idle(stream, false) else {
            return Ok(());
        };
        let peer = &self.remote.peer;
        self.context
            .streams
            .agreed(&mut entry.permit, protocol, peer)
    }
}

/// How an identify message came about.
#[derive(Clone, Copy)]
enum Direction {
    /// We asked.
    Asked,
    /// The peer pushed it.
    Pushed,
}
