//! multistream-select 1.0, both sides, for connection upgrades and for every
//! stream on a connection.
//!
//! Bounds: one message of [`MAX_MESSAGE`](multistream::MAX_MESSAGE) bytes is
//! held while it is incomplete, and a peer is told `na` at most
//! [`ROUNDS_MAX`] times. Bytes behind the accepted token are never touched:
//! lazy clients send their payload in the same flight. Deadlines are the
//! caller's.

use crate::wire::DecodeError;
use crate::wire::multistream::{self, Message};

/// Answers other than an acceptance before a negotiation has failed. Clients
/// try a handful of protocols; the peers we know put no limit on it.
pub const ROUNDS_MAX: usize = 32;

/// Longest message on the wire: a two-byte length, then the message.
const FRAMED_MAX: usize = 2 + multistream::MAX_MESSAGE;

/// Why a negotiation cannot end in a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NegotiateError {
    /// Not a multistream message at all.
    #[error("multistream message: {0}")]
    Message(#[from] DecodeError),
    /// A message that has no place where it came.
    #[error("multistream message out of order")]
    OutOfOrder,
    /// The peer kept asking for what is not offered.
    #[error("no protocol agreed on in {ROUNDS_MAX} rounds")]
    TooManyRounds,
    /// The proposal was refused and nothing useful followed. Not abuse: a lazy
    /// client's payload stands behind the refused proposal.
    #[error("no protocol agreed on")]
    NoAgreement,
}

/// What a [`Responder`] found in its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// All of the input was taken; the peer has to send more.
    NeedMore,
    /// The peer chose a protocol.
    Accepted {
        /// Its index in the list that was offered.
        protocol: usize,
        /// Bytes of this input that belonged to the negotiation.
        consumed: usize,
    },
}

/// What a [`Dialer`] found in its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// All of the input was taken; the peer has to send more.
    NeedMore,
    /// The peer agreed to the proposal.
    Accepted {
        /// Bytes of this input that belonged to the negotiation.
        consumed: usize,
    },
    /// The peer does not speak it; another proposal may follow.
    Refused {
        /// Bytes of this input that belonged to the negotiation.
        consumed: usize,
    },
}

/// The side that is asked for a protocol.
#[derive(Debug, Default)]
pub struct Responder {
    assembler: Assembler,
    rules: Rules,
}

impl Responder {
    /// Awaits the peer's header.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes from the peer and appends the answers to `output`,
    /// all answers to one input together.
    ///
    /// The header goes out with the first answer when both are known from one
    /// input, and alone when the peer waits for it.
    ///
    /// # Errors
    /// [`NegotiateError`] ends the negotiation; `output` may hold answers to
    /// what came before.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        protocols: &[&str],
        output: &mut Vec<u8>,
    ) -> Result<Negotiation, NegotiateError> {
        let mut consumed = 0;
        loop {
            if !self.rules.greeted {
                self.assembler.expect_header(&input[consumed..])?;
            }
            let rules = &mut self.rules;
            let next = self
                .assembler
                .next(&input[consumed..], |message| {
                    rules.answer(message, protocols, output)
                })
                .map_err(|error| self.rules.fault(error))?;
            let Some((answer, used)) = next else {
                return Ok(Negotiation::NeedMore);
            };
            consumed += used;
            if let Some(protocol) = answer? {
                return Ok(Negotiation::Accepted { protocol, consumed });
            }
        }
    }
}

/// What a responder remembers between messages.
#[derive(Debug, Default)]
struct Rules {
    greeted: bool,
    listed: bool,
    rounds: usize,
}

impl Rules {
    /// Answers one message; the index of the protocol if that was agreed on.
    fn answer(
        &mut self,
        message: Message<'_>,
        protocols: &[&str],
        output: &mut Vec<u8>,
    ) -> Result<Option<usize>, NegotiateError> {
        match message {
            Message::Header if self.greeted => self.count_round()?,
            Message::Header => {
                self.greeted = true;
                multistream::encode(Message::Header, output);
            }
            Message::Na | Message::Ls | Message::Protocol(_) if !self.greeted => {
                return Err(NegotiateError::OutOfOrder);
            }
            Message::Ls if !self.listed => {
                self.listed = true;
                multistream::encode_ls(protocols.iter().copied(), output);
            }
            Message::Ls | Message::Na => self.refuse(output)?,
            Message::Protocol(name) => match protocols.iter().position(|known| *known == name) {
                Some(protocol) => {
                    multistream::encode(Message::Protocol(name), output);
                    return Ok(Some(protocol));
                }
                None => self.refuse(output)?,
            },
        }
        Ok(None)
    }

    fn refuse(&mut self, output: &mut Vec<u8>) -> Result<(), NegotiateError> {
        self.count_round()?;
        multistream::encode(Message::Na, output);
        Ok(())
    }

    fn count_round(&mut self) -> Result<(), NegotiateError> {
        if self.rounds == ROUNDS_MAX {
            return Err(NegotiateError::TooManyRounds);
        }
        self.rounds += 1;
        Ok(())
    }

    /// Behind a refusal stands what a lazy client sent for the protocol that
    /// it hoped for.
    fn fault(&self, error: DecodeError) -> NegotiateError {
        if self.rounds > 0 {
            NegotiateError::NoAgreement
        } else {
            NegotiateError::Message(error)
        }
    }
}

/// The side that asks for a protocol, without waiting: header, proposal and
/// what the caller puts behind them are one flight.
#[derive(Debug)]
pub struct Dialer {
    assembler: Assembler,
    greeted: bool,
    proposed: &'static str,
}

impl Dialer {
    /// Appends header and proposal to `output`. The caller may put payload
    /// behind them at once.
    #[must_use]
    pub fn propose(protocol: &'static str, output: &mut Vec<u8>) -> Self {
        multistream::encode(Message::Header, output);
        multistream::encode(Message::Protocol(protocol), output);
        Self {
            assembler: Assembler::default(),
            greeted: false,
            proposed: protocol,
        }
    }

    /// Appends another proposal after [`Reply::Refused`].
    pub fn propose_next(&mut self, protocol: &'static str, output: &mut Vec<u8>) {
        multistream::encode(Message::Protocol(protocol), output);
        self.proposed = protocol;
    }

    /// Takes the next bytes from the peer.
    ///
    /// # Errors
    /// [`NegotiateError`] when they are no answer to the proposal.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<Reply, NegotiateError> {
        let mut consumed = 0;
        loop {
            if !self.greeted {
                self.assembler.expect_header(&input[consumed..])?;
            }
            let proposed = self.proposed;
            let next = self
                .assembler
                .next(&input[consumed..], |message| Answer::of(message, proposed))?;
            let Some((answer, used)) = next else {
                return Ok(Reply::NeedMore);
            };
            consumed += used;
            match (self.greeted, answer) {
                (false, Answer::Header) => self.greeted = true,
                (true, Answer::Agreed) => return Ok(Reply::Accepted { consumed }),
                (true, Answer::Refused) => return Ok(Reply::Refused { consumed }),
                (false, Answer::Agreed | Answer::Refused)
                | (true, Answer::Header)
                | (_, Answer::Stray) => return Err(NegotiateError::OutOfOrder),
            }
        }
    }
}

/// A message as the dialer sees it.
enum Answer {
    Header,
    Agreed,
    Refused,
    Stray,
}

impl Answer {
    fn of(message: Message<'_>, proposed: &str) -> Self {
        match message {
            Message::Header => Self::Header,
            Message::Na => Self::Refused,
            Message::Protocol(name) if name == proposed => Self::Agreed,
            Message::Protocol(_) | Message::Ls => Self::Stray,
        }
    }
}

/// Holds the incomplete message at the end of one input until the next.
/// Never more than [`FRAMED_MAX`] bytes, and none in the usual case.
#[derive(Debug, Default)]
struct Assembler {
    partial: Vec<u8>,
}

impl Assembler {
    /// Looks whether what is held and `input` behind it begin with the header, as
    /// far as they go: who speaks something else is not waited for until its
    /// first byte, taken for a length, is filled.
    fn expect_header(&self, input: &[u8]) -> Result<(), NegotiateError> {
        let rest = multistream::HEADER_MESSAGE.strip_prefix(self.partial.as_slice());
        let rest = rest.ok_or(NegotiateError::OutOfOrder)?;
        let common = rest.len().min(input.len());
        if rest[..common] == input[..common] {
            Ok(())
        } else {
            Err(NegotiateError::OutOfOrder)
        }
    }

    /// Gives `read` the next message; returns what it said and how much of
    /// `input` the message took. `None` if all of `input` was kept instead.
    fn next<R>(
        &mut self,
        input: &[u8],
        read: impl FnOnce(Message<'_>) -> R,
    ) -> Result<Option<(R, usize)>, DecodeError> {
        let held = self.partial.len();
        let source = if held == 0 {
            input
        } else {
            let room = FRAMED_MAX.saturating_sub(held).min(input.len());
            self.partial.extend_from_slice(&input[..room]);
            &self.partial
        };
        match multistream::decode(source) {
            Ok((message, used)) => {
                let answer = read(message);
                self.partial.clear();
                // What was held was incomplete, so the message ends behind it.
                Ok(Some((answer, used.saturating_sub(held))))
            }
            Err(DecodeError::Incomplete) => {
                if held == 0 {
                    self.partial.extend_from_slice(input);
                }
                debug_assert!(
                    self.partial.len() < FRAMED_MAX,
                    "decode refuses longer ones"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFERED: [&str; 2] = ["/a", "/ipfs/ping/1.0.0"];

    fn wire(tokens: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for token in tokens {
            let message = match *token {
                multistream::HEADER => Message::Header,
                "na" => Message::Na,
                "ls" => Message::Ls,
                name => Message::Protocol(name),
            };
            multistream::encode(message, &mut bytes);
        }
        bytes
    }

    fn header_and(tokens: &[&str]) -> Vec<u8> {
        [wire(&[multistream::HEADER]), wire(tokens)].concat()
    }

    /// Everything a peer can see of a responder that is fed these chunks.
    #[derive(Debug, PartialEq)]
    struct Seen {
        outcome: Result<Option<usize>, NegotiateError>,
        answers: Vec<u8>,
        consumed: usize,
    }

    fn feed<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Seen {
        let mut responder = Responder::new();
        let mut seen = Seen {
            outcome: Ok(None),
            answers: Vec::new(),
            consumed: 0,
        };
        for chunk in chunks {
            match responder.handle_input(chunk, &OFFERED, &mut seen.answers) {
                Ok(Negotiation::NeedMore) => seen.consumed += chunk.len(),
                Ok(Negotiation::Accepted { protocol, consumed }) => {
                    seen.consumed += consumed;
                    seen.outcome = Ok(Some(protocol));
                    break;
                }
                Err(error) => {
                    seen.consumed = 0;
                    seen.outcome = Err(error);
                    break;
                }
            }
            assert!(responder.assembler.partial.len() < FRAMED_MAX);
        }
        seen
    }

    fn respond(input: &[u8]) -> Seen {
        feed([input])
    }

    fn fails(input: &[u8]) -> NegotiateError {
        respond(input).outcome.unwrap_err()
    }

    #[test]
    fn what_cannot_become_the_header_is_not_waited_for() {
        let header = multistream::HEADER_MESSAGE;
        for length in 1..header.len() {
            let mut responder = Responder::new();
            let begun = responder.handle_input(&header[..length], &OFFERED, &mut Vec::new());
            assert_eq!(begun, Ok(Negotiation::NeedMore));
            // 80 as a length is not filled by a header of the PROXY protocol.
            let mut other = header[..length - 1].to_vec();
            other.push(b'P');
            let mut responder = Responder::new();
            let begun = responder.handle_input(&other, &OFFERED, &mut Vec::new());
            assert_eq!(begun, Err(NegotiateError::OutOfOrder), "{length}");
            let mut dialer = Dialer::propose("/a", &mut Vec::new());
            assert_eq!(dialer.handle_input(&other), Err(NegotiateError::OutOfOrder));
        }
    }

    #[test]
    fn a_lazy_client_gets_one_answer_and_keeps_its_payload() {
        let flight = [header_and(&["/a"]), b"payload".to_vec()].concat();
        let seen = respond(&flight);
        assert_eq!(seen.outcome, Ok(Some(0)));
        assert_eq!(seen.answers, header_and(&["/a"]));
        assert_eq!(&flight[seen.consumed..], b"payload");
    }

    #[test]
    fn a_client_that_waits_for_the_header_gets_it() {
        let seen = respond(&header_and(&[]));
        assert_eq!(seen.outcome, Ok(None));
        assert_eq!(seen.answers, header_and(&[]));
    }

    #[test]
    fn an_unknown_protocol_is_refused_and_another_may_follow() {
        for unknown in [
            "/unknown",
            "foo",
            "na",
            "/secio/1.0.0",
            "/libp2p/simultaneous-connect",
        ] {
            let seen = respond(&header_and(&[unknown, OFFERED[1]]));
            assert_eq!(seen.outcome, Ok(Some(1)), "{unknown}");
            assert_eq!(seen.answers, header_and(&["na", OFFERED[1]]));
        }
    }

    #[test]
    fn the_longest_message_is_answered_and_a_longer_one_fails_at_its_length() {
        let longest = format!("/{}", "x".repeat(multistream::MAX_MESSAGE - 2));
        let mut input = header_and(&[&longest, "/a"]);
        assert_eq!(respond(&input).outcome, Ok(Some(0)));

        let length = header_and(&[]).len();
        input[length..length + 2].copy_from_slice(&[0x81, 0x08]);
        assert!(matches!(
            fails(&input[..length + 2]),
            NegotiateError::Message(DecodeError::TooLarge {
                announced: 1025,
                max: 1024,
                ..
            })
        ));
    }

    #[test]
    fn the_list_is_given_once_and_selection_goes_on() {
        let seen = respond(&header_and(&["ls", "ls", "/a"]));
        assert_eq!(seen.outcome, Ok(Some(0)));
        let mut expected = header_and(&[]);
        multistream::encode_ls(OFFERED, &mut expected);
        expected.extend(wire(&["na", "/a"]));
        assert_eq!(seen.answers, expected);
    }

    #[test]
    fn a_second_header_needs_no_second_answer() {
        let seen = respond(&header_and(&[multistream::HEADER, "/a"]));
        assert_eq!(seen.outcome, Ok(Some(0)));
        assert_eq!(seen.answers, header_and(&["/a"]));
    }

    #[test]
    fn what_does_not_open_with_the_header_is_no_multistream() {
        for first in ["/a", "ls", "na", "/multistream/2.0.0"] {
            assert_eq!(fails(&wire(&[first])), NegotiateError::OutOfOrder);
        }
    }

    #[test]
    fn broken_messages_fail() {
        for broken in [
            &b"\x00"[..],
            b"\x03abc",
            b"\x83\x00na\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03",
            b"GET / HTTP/1.1\r\nHost: relay\r\nAccept: text/html, application/xhtml+xml, image/*\r\n",
            &[0xff; 16],
        ] {
            assert_eq!(fails(broken), NegotiateError::OutOfOrder);
            let late = [header_and(&[]), broken.to_vec()].concat();
            assert!(matches!(fails(&late), NegotiateError::Message(_)));
        }
    }

    #[test]
    fn garbage_behind_a_refusal_is_an_ordinary_failure() {
        let lazy = [header_and(&["/unknown"]), vec![0xff; 32]].concat();
        assert_eq!(fails(&lazy), NegotiateError::NoAgreement);
    }

    #[test]
    fn a_peer_may_be_refused_so_often_and_no_more() {
        let mut tokens = ["/unknown"; ROUNDS_MAX + 1];
        assert_eq!(fails(&header_and(&tokens)), NegotiateError::TooManyRounds);
        tokens[ROUNDS_MAX] = "/a";
        assert_eq!(respond(&header_and(&tokens)).outcome, Ok(Some(0)));

        let headers = [multistream::HEADER; ROUNDS_MAX + 2];
        assert_eq!(fails(&wire(&headers)), NegotiateError::TooManyRounds);
    }

    #[test]
    fn a_dialer_proposes_in_one_flight_and_checks_the_echo() {
        let mut flight = Vec::new();
        let mut dialer = Dialer::propose("/a", &mut flight);
        assert_eq!(flight, header_and(&["/a"]));

        let reply = [header_and(&["/a"]), b"data".to_vec()].concat();
        let (early, late) = reply.split_at(9);
        assert_eq!(dialer.handle_input(early), Ok(Reply::NeedMore));
        let consumed = late.len() - b"data".len();
        assert_eq!(dialer.handle_input(late), Ok(Reply::Accepted { consumed }));
    }

    #[test]
    fn a_refused_dialer_may_propose_again() {
        let mut responder = Responder::new();
        let (mut out, mut back) = (Vec::new(), Vec::new());
        let mut dialer = Dialer::propose("/b", &mut out);
        assert_eq!(
            responder.handle_input(&out, &OFFERED, &mut back),
            Ok(Negotiation::NeedMore)
        );
        let consumed = back.len();
        assert_eq!(dialer.handle_input(&back), Ok(Reply::Refused { consumed }));

        out.clear();
        back.clear();
        dialer.propose_next("/a", &mut out);
        assert_eq!(
            responder.handle_input(&out, &OFFERED, &mut back),
            Ok(Negotiation::Accepted {
                protocol: 0,
                consumed: out.len()
            })
        );
        let consumed = back.len();
        assert_eq!(dialer.handle_input(&back), Ok(Reply::Accepted { consumed }));
    }

    #[test]
    fn a_dialer_takes_no_other_answer() {
        for answer in [
            wire(&["/a"]),
            wire(&["na"]),
            header_and(&["/b"]),
            header_and(&["ls"]),
            header_and(&[multistream::HEADER]),
        ] {
            let mut dialer = Dialer::propose("/a", &mut Vec::new());
            assert_eq!(
                dialer.handle_input(&answer),
                Err(NegotiateError::OutOfOrder)
            );
        }
        let mut dialer = Dialer::propose("/a", &mut Vec::new());
        assert_eq!(dialer.handle_input(&[0]), Err(NegotiateError::OutOfOrder));
        let mut dialer = Dialer::propose("/a", &mut Vec::new());
        assert!(matches!(
            dialer.handle_input(&[header_and(&[]), vec![0]].concat()),
            Err(NegotiateError::Message(_))
        ));
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            6 => prop::sample::select(vec!["ls", "na", "/a", "foo", multistream::HEADER])
                .prop_map(|token| wire(&[token])),
            2 => (0..1100_usize).prop_map(|length| wire(&[&"y".repeat(length.min(1023))])),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ]
    }

    proptest! {
        #[test]
        fn no_split_changes_what_a_peer_sees(
            greets in prop::bool::weighted(0.9),
            pieces in prop::collection::vec(piece(), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut input = if greets { header_and(&[]) } else { Vec::new() };
            input.extend(pieces.concat());
            let whole = respond(&input);
            prop_assert_eq!(&feed(input.chunks(1)), &whole);

            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|ends| &input[ends[0]..ends[1]]);
            prop_assert_eq!(&feed(chunks), &whole);
        }
    }
}
