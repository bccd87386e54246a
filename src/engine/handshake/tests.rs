//! Two engines joined in memory, and recorded flights replayed in pieces.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod tls;

use libp2p_identity::Keypair;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::engine::record::{MAX_PLAINTEXT, RecordError, TAG_LEN};
use crate::wire::multistream::{self, Message};
use crate::wire::noise::Payload;

const BOTH: [Muxer; 2] = Muxer::ALL;

fn local(identity: &Keypair, muxers: &[Muxer]) -> Local {
    signed_by(identity, StaticKey::generate().unwrap(), muxers)
}

fn signed_by(identity: &Keypair, key: StaticKey, muxers: &[Muxer]) -> Local {
    let signature = identity.sign(&key.signed_bytes()).unwrap();
    let public = identity.public().encode_protobuf();
    Local::new(key, &public, &signature, muxers)
}

/// Speaks `muxers`, but does not say so in its Noise payload.
fn quiet(identity: &Keypair, muxers: &[Muxer]) -> Local {
    let mut quiet = local(identity, &[]);
    quiet.muxers = muxers.to_vec();
    quiet
}

fn tokens(tokens: &[Message<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for token in tokens {
        multistream::encode(*token, &mut bytes);
    }
    bytes
}

fn sealed(seal: &mut SealKey, plaintext: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    frame.extend_from_slice(plaintext);
    frame.extend_from_slice(&[0; TAG_LEN]);
    seal.seal(&mut frame).unwrap();
    frame
}

type Outcome = Result<Box<Established>, HandshakeError>;

/// One end of an in-memory connection.
struct End<'a> {
    handshake: Handshake<'a>,
    outbox: Vec<u8>,
    outcome: Option<Outcome>,
}

impl<'a> End<'a> {
    fn responder(local: &'a Local) -> Self {
        Self {
            handshake: Handshake::responder(local),
            outbox: Vec::new(),
            outcome: None,
        }
    }

    fn initiator(local: &'a Local) -> Self {
        let mut outbox = Vec::new();
        Self {
            handshake: Handshake::initiator(local, &mut outbox).unwrap(),
            outbox,
            outcome: None,
        }
    }

    /// Delivers bytes; what the engine answers lands in the outbox.
    fn receive(&mut self, bytes: &[u8]) {
        match &mut self.outcome {
            // The connection's, as if it had read them itself.
            Some(Ok(established)) => established.ciphertext.extend_from_slice(bytes),
            Some(Err(_)) => {}
            None => {
                let mut answer = Vec::new();
                match self
                    .handshake
                    .handle_input(&mut bytes.to_vec(), &mut answer)
                {
                    Ok(Progress::NeedMore) => self.outbox.extend(answer),
                    Ok(Progress::Established(established)) => {
                        self.outbox.extend(answer);
                        self.outcome = Some(Ok(established));
                    }
                    Err(error) => self.outcome = Some(Err(error)),
                }
            }
        }
    }
}

/// Carries bytes between both ends in pieces of that size until nothing
/// moves; returns how many flights that took.
fn join(a: &mut End<'_>, b: &mut End<'_>, piece: usize) -> usize {
    let mut flights = 0;
    while !a.outbox.is_empty() || !b.outbox.is_empty() {
        flights += deliver(a, b, piece) + deliver(b, a, piece);
    }
    flights
}

fn deliver(from: &mut End<'_>, to: &mut End<'_>, piece: usize) -> usize {
    let flight = std::mem::take(&mut from.outbox);
    flight.chunks(piece).for_each(|piece| to.receive(piece));
    usize::from(!flight.is_empty())
}

const GLUED: usize = usize::MAX;
const TRICKLED: usize = 1;

fn both_up(a: End<'_>, b: End<'_>) -> (Box<Established>, Box<Established>) {
    (
        a.outcome.expect("ended").unwrap_or_else(|e| panic!("{e}")),
        b.outcome.expect("ended").unwrap_or_else(|e| panic!("{e}")),
    )
}

fn failure(end: End<'_>) -> HandshakeError {
    end.outcome.expect("ended").map(|_| ()).unwrap_err()
}

fn assert_talks(from: &mut Established, to: &mut Established) {
    let mut record = sealed(&mut from.seal, b"muxed");
    assert_eq!(to.open.open(&mut record[HEADER_LEN..]).unwrap(), b"muxed");
}

#[test]
fn muxers_in_both_payloads_save_a_round_trip() {
    let keys = [(); 2].map(|()| Keypair::generate_ed25519());
    for pieces in [GLUED, TRICKLED] {
        let (ours, theirs) = (local(&keys[0], &BOTH), local(&keys[1], &BOTH));
        let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
        let flights = join(&mut a, &mut b, pieces);
        if pieces == GLUED {
            assert_eq!(flights, 3);
        }
        let (mut a, mut b) = both_up(a, b);
        assert!(a.early_muxer && b.early_muxer);
        assert_eq!((a.muxer, b.muxer), (Muxer::Yamux, Muxer::Yamux));
        assert_eq!(a.peer_id, keys[0].public().to_peer_id());
        assert_eq!(b.peer_id, keys[1].public().to_peer_id());
        assert_eq!(b.public_key, keys[1].public());
        assert_talks(&mut a, &mut b);
        assert_talks(&mut b, &mut a);
    }
}

#[test]
fn without_muxers_in_the_payloads_they_are_negotiated_inside() {
    let key = Keypair::generate_ed25519();
    let (theirs, ours) = (quiet(&key, &BOTH), quiet(&key, &BOTH));
    for pieces in [GLUED, TRICKLED] {
        let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
        let flights = join(&mut a, &mut b, pieces);
        if pieces == GLUED {
            assert_eq!(flights, 4);
        }
        let (mut a, mut b) = both_up(a, b);
        assert!(!a.early_muxer && !b.early_muxer);
        assert_eq!((a.muxer, b.muxer), (Muxer::Yamux, Muxer::Yamux));
        assert_talks(&mut a, &mut b);
        assert_talks(&mut b, &mut a);
    }
}

#[test]
fn the_initiators_order_decides_among_muxers_of_both() {
    let key = Keypair::generate_ed25519();
    for (theirs, ours, chosen) in [
        (&[Muxer::Mplex, Muxer::Yamux][..], &BOTH[..], Muxer::Mplex),
        (&BOTH, &[Muxer::Mplex], Muxer::Mplex),
        (&[Muxer::Mplex], &BOTH, Muxer::Mplex),
        (&BOTH, &[Muxer::Mplex, Muxer::Yamux], Muxer::Yamux),
    ] {
        for inside in [false, true] {
            let speak = if inside { quiet } else { local };
            let (theirs, ours) = (speak(&key, theirs), speak(&key, ours));
            let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
            join(&mut a, &mut b, GLUED);
            let (a, b) = both_up(a, b);
            assert_eq!((a.muxer, b.muxer), (chosen, chosen));
            assert_eq!(b.early_muxer, !inside);
        }
    }
}

#[test]
fn without_a_common_muxer_the_responder_says_so_inside() {
    let key = Keypair::generate_ed25519();
    let (theirs, ours) = (local(&key, &[Muxer::Mplex]), local(&key, &[Muxer::Yamux]));
    let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
    join(&mut a, &mut b, TRICKLED);
    assert_eq!(
        failure(a),
        HandshakeError::Muxer(NegotiateError::NoAgreement)
    );
    assert!(b.outcome.is_none(), "the initiator may still propose");
}

#[test]
fn every_kind_of_identity_is_accepted() {
    for key in [
        Keypair::generate_ed25519(),
        Keypair::generate_secp256k1(),
        Keypair::generate_ecdsa(),
    ] {
        let (theirs, ours) = (local(&key, &BOTH), local(&key, &BOTH));
        let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
        join(&mut a, &mut b, GLUED);
        assert_eq!(both_up(a, b).1.peer_id, key.public().to_peer_id());
    }
}

#[test]
fn forged_identities_are_refused_and_not_answered() {
    let key = Keypair::generate_ed25519();
    let public = key.public().encode_protobuf();
    let honest = StaticKey::generate().unwrap();
    let signature = key.sign(&honest.signed_bytes()).unwrap();
    let mut flipped = signature.clone();
    flipped[9] ^= 1;
    let fresh = || StaticKey::generate().unwrap();

    let cases = [
        (
            Local::new(honest, &public, &flipped, &BOTH),
            HandshakeError::Signature,
        ),
        (
            Local::new(fresh(), &public, &signature, &BOTH),
            HandshakeError::Signature,
        ),
        (
            Local::new(fresh(), &public, &[], &BOTH),
            HandshakeError::Signature,
        ),
        (
            Local::new(fresh(), &[], &signature, &BOTH),
            HandshakeError::IdentityKey,
        ),
        (
            Local::new(fresh(), &public[..20], &signature, &BOTH),
            HandshakeError::IdentityKey,
        ),
    ];
    for (forger, expected) in cases {
        let ours = local(&key, &BOTH);
        let (mut a, mut b) = (End::initiator(&forger), End::responder(&ours));
        join(&mut a, &mut b, GLUED);
        assert_eq!(failure(b), expected);

        let (mut a, mut b) = (End::initiator(&ours), End::responder(&forger));
        join(&mut a, &mut b, GLUED);
        assert_eq!(failure(a), expected);
        assert!(b.outcome.is_none(), "no message 3 for a forger");
    }
}

#[test]
fn a_payload_that_does_not_decode_is_refused() {
    let key = Keypair::generate_ed25519();
    let (mut theirs, ours) = (local(&key, &BOTH), local(&key, &BOTH));
    theirs.payload = vec![0x0a, 0xff];
    let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
    join(&mut a, &mut b, GLUED);
    assert!(matches!(failure(b), HandshakeError::Payload(_)));
}

#[test]
fn the_peer_id_comes_from_the_canonical_key() {
    let key = Keypair::generate_ed25519();
    let canonical = key.public().encode_protobuf();
    let swapped = [&canonical[2..], &canonical[..2]].concat();
    let static_key = StaticKey::generate().unwrap();
    let signature = key.sign(&static_key.signed_bytes()).unwrap();
    let theirs = Local::new(static_key, &swapped, &signature, &BOTH);
    let ours = local(&key, &BOTH);
    let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
    join(&mut a, &mut b, GLUED);
    assert_eq!(both_up(a, b).1.peer_id, key.public().to_peer_id());
}

/// The fixtures are payloads for the X25519 private key `07…07`, signed with
/// `openssl dgst -sha256 -sign` by fresh keys of either size.
#[test]
fn rsa_keys_count_from_2048_bits() {
    let us = Keypair::generate_ed25519();
    let ours = local(&us, &BOTH);
    let sign_with = |payload: &[u8]| {
        let mut theirs = signed_by(&us, StaticKey::fixed([7; 32]), &BOTH);
        theirs.payload = payload.to_vec();
        let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
        join(&mut a, &mut b, GLUED);
        b.outcome
    };

    let strong = include_bytes!("fixtures/rsa-2048.payload");
    assert!(sign_with(strong).is_none(), "goes on to the muxer");

    let weak = include_bytes!("fixtures/rsa-1024.payload");
    let refused = sign_with(weak).expect("ended").map(|_| ());
    assert_eq!(refused, Err(HandshakeError::Signature));
}

#[test]
fn other_security_is_refused_until_noise_is_asked_for() {
    let key = Keypair::generate_ed25519();
    let (theirs, ours) = (local(&key, &BOTH), local(&key, &BOTH));
    let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
    b.receive(&tokens(&[
        Message::Header,
        Message::Protocol("/secio/1.0.0"),
        Message::Protocol("/plaintext/2.0.0"),
        Message::Protocol("/tls/1.0.0"),
    ]));
    assert_eq!(
        b.outbox,
        tokens(&[Message::Header, Message::Na, Message::Na, Message::Na])
    );
    b.outbox.clear();

    // The header again, as some clients send it, then /noise and message 1.
    b.receive(&std::mem::take(&mut a.outbox));
    b.outbox.splice(0..0, tokens(&[Message::Header]));
    join(&mut a, &mut b, GLUED);
    both_up(a, b);
}

#[test]
fn a_secio_clients_pipelined_bytes_end_the_connection_quietly() {
    let key = Keypair::generate_ed25519();
    let ours = local(&key, &BOTH);
    let mut b = End::responder(&ours);
    let mut flight = tokens(&[Message::Header, Message::Protocol("/secio/1.0.0")]);
    flight.extend([0, 0, 1, 0x50]);
    b.receive(&flight);
    assert_eq!(
        failure(b),
        HandshakeError::Security(NegotiateError::NoAgreement)
    );
}

/// Both ends just before the responder reads message 3.
fn before_message_3<'a>(theirs: &'a Local, ours: &'a Local) -> (End<'a>, End<'a>) {
    let (mut a, mut b) = (End::initiator(theirs), End::responder(ours));
    b.receive(&std::mem::take(&mut a.outbox));
    a.receive(&std::mem::take(&mut b.outbox));
    (a, b)
}

#[test]
fn a_payload_in_message_1_is_ignored() {
    let key = Keypair::generate_ed25519();
    let ours = local(&key, &BOTH);
    let mut b = End::responder(&ours);
    let mut flight = tokens(&[
        Message::Header,
        Message::Protocol(Security::Noise.protocol()),
    ]);
    flight.extend([0, 36]);
    flight.extend([9; 32]);
    flight.extend(b"hey!");
    b.receive(&flight);
    assert!(b.outcome.is_none());
    assert!(b.outbox.len() > 100, "message 2 is out");
}

#[test]
fn broken_handshake_messages_are_refused() {
    let key = Keypair::generate_ed25519();
    let ours = local(&key, &BOTH);
    let opening = tokens(&[
        Message::Header,
        Message::Protocol(Security::Noise.protocol()),
    ]);
    let first = |frame: &[u8]| {
        let mut b = End::responder(&ours);
        b.receive(&[&opening[..], frame].concat());
        b
    };
    let framed = |length: u16, body: &[u8]| [&length.to_be_bytes()[..], body].concat();

    assert_eq!(
        failure(first(&framed(0, &[]))),
        HandshakeError::Noise(snow::Error::Input)
    );
    assert_eq!(
        failure(first(&framed(31, &[9; 31]))),
        HandshakeError::Noise(snow::Error::Input)
    );
    // A point of small order: every secret with it is zero.
    assert_eq!(
        failure(first(&framed(32, &[0; 32]))),
        HandshakeError::Noise(snow::Error::Dh)
    );
    // Refused at its length, before any of it arrives.
    assert_eq!(
        failure(first(&framed(8193, &[]))),
        HandshakeError::MessageTooLarge(8193)
    );
    assert!(first(&framed(8192, &[])).outcome.is_none());

    let theirs = local(&key, &BOTH);
    let (mut a, mut b) = before_message_3(&theirs, &ours);
    let last = a.outbox.len() - 1;
    a.outbox[last] ^= 1;
    b.receive(&a.outbox);
    assert_eq!(failure(b), HandshakeError::Noise(snow::Error::Decrypt));
}

#[test]
fn an_ended_handshake_takes_nothing_more() {
    let key = Keypair::generate_ed25519();
    let ours = local(&key, &BOTH);
    let mut handshake = Handshake::responder(&ours);
    let mut output = Vec::new();
    assert!(handshake.handle_input(&mut [0], &mut output).is_err());
    assert_eq!(
        handshake.handle_input(&mut [0], &mut output).map(|_| ()),
        Err(HandshakeError::Over)
    );
}

#[test]
fn data_behind_message_3_is_kept() {
    let key = Keypair::generate_ed25519();
    let (theirs, ours) = (local(&key, &BOTH), local(&key, &BOTH));
    let (mut a, mut b) = before_message_3(&theirs, &ours);
    let mut flight = std::mem::take(&mut a.outbox);
    let mut up = a.outcome.unwrap().unwrap();
    let record = sealed(&mut up.seal, b"first frames");
    flight.extend(&record);
    flight.extend(&record[..7]);
    b.receive(&flight);
    let b = b.outcome.unwrap().unwrap();
    assert_eq!(b.plaintext, b"");
    assert_eq!(b.ciphertext, [&record[..], &record[..7]].concat());
}

/// A responder that has read message 3 and awaits the muxer's token in
/// records, and the key its peer seals with.
///
/// The peer is an initiator that forgot to list the muxers it goes by.
fn choosing_a_muxer<'a>(theirs: &'a Local, ours: &'a Local) -> (SealKey, End<'a>) {
    let (a, mut b) = before_message_3(theirs, ours);
    b.receive(&a.outbox);
    assert!(b.outcome.is_none());
    (a.outcome.unwrap().unwrap().seal, b)
}

#[test]
fn data_behind_the_muxer_token_is_kept_opened_and_unopened() {
    let key = Keypair::generate_ed25519();
    let (theirs, ours) = (quiet(&key, &BOTH), local(&key, &BOTH));
    for pieces in [GLUED, TRICKLED, 100] {
        let (mut seal, mut b) = choosing_a_muxer(&theirs, &ours);
        let proposal = tokens(&[Message::Header, Message::Protocol("/mplex/6.7.0")]);
        let (early, late) = proposal.split_at(23);
        let mut flight = sealed(&mut seal, &[]);
        flight.extend(sealed(&mut seal, early));
        flight.extend(sealed(&mut seal, &[late, b"frames"].concat()));
        let next = sealed(&mut seal, b"more frames");
        flight.extend(&next);

        flight.chunks(pieces).for_each(|piece| b.receive(piece));
        let up = b.outcome.unwrap().unwrap();
        assert_eq!(up.muxer, Muxer::Mplex);
        assert_eq!(up.plaintext, b"frames");
        assert_eq!(up.ciphertext, next);
    }
}

#[test]
fn records_of_the_muxer_negotiation_may_have_any_honest_size() {
    let key = Keypair::generate_ed25519();
    let (theirs, ours) = (quiet(&key, &BOTH), local(&key, &BOTH));
    let mut proposal = tokens(&[Message::Header, Message::Protocol("/yamux/1.0.0")]);
    let token = proposal.len();
    proposal.resize(MAX_PLAINTEXT, 7);

    let outcome = |record: &dyn Fn(&mut SealKey) -> Vec<u8>| {
        let (mut seal, mut b) = choosing_a_muxer(&theirs, &ours);
        record(&mut seal)
            .chunks(1400)
            .for_each(|piece| b.receive(piece));
        b.outcome.expect("ended").map(|up| up.plaintext.len())
    };
    let unauthentic = Err(HandshakeError::Record(RecordError::Authentication));
    assert_eq!(
        outcome(&|seal| sealed(seal, &proposal)),
        Ok(MAX_PLAINTEXT - token)
    );
    for short in 0..16_u8 {
        let frame = [vec![0, short], vec![0; usize::from(short)]].concat();
        assert_eq!(outcome(&|_| frame.clone()), unauthentic);
    }
    let flipped = outcome(&|seal| {
        let mut record = sealed(seal, &proposal[..token]);
        record[5] ^= 1;
        record
    });
    assert_eq!(flipped, unauthentic);
    assert_eq!(
        outcome(&|seal| sealed(seal, &[0])),
        Err(HandshakeError::Muxer(NegotiateError::OutOfOrder))
    );
}

#[test]
fn the_payload_lists_muxers_in_the_configured_order() {
    let key = Keypair::generate_ed25519();
    let ours = local(&key, &[Muxer::Mplex, Muxer::Yamux]);
    let (payload, _) = Payload::decode(&ours.payload).unwrap();
    assert_eq!(payload.stream_muxers, ["/mplex/6.7.0", "/yamux/1.0.0"]);
}

/// What an initiator with fixed keys sent to a responder with fixed keys, and
/// a record behind it.
fn recorded(theirs: &Local, ours: &Local) -> Vec<u8> {
    let (mut a, mut b) = (End::initiator(theirs), End::responder(ours));
    let mut sent = Vec::new();
    while !a.outbox.is_empty() {
        let flight = std::mem::take(&mut a.outbox);
        sent.extend(&flight);
        b.receive(&flight);
        a.receive(&std::mem::take(&mut b.outbox));
    }
    sent.extend(sealed(&mut a.outcome.unwrap().unwrap().seal, b"frames"));
    sent
}

/// What the peer and the connection see of a responder.
#[derive(Debug, PartialEq)]
enum Seen {
    Waiting(Vec<u8>),
    Up {
        answers: Vec<u8>,
        plaintext: Vec<u8>,
        ciphertext: Vec<u8>,
        muxer: Muxer,
    },
    Refused(HandshakeError),
}

fn replay<'c>(ours: &Local, pieces: impl IntoIterator<Item = &'c [u8]>) -> Seen {
    let mut b = End::responder(ours);
    for piece in pieces {
        b.receive(piece);
        assert!(b.handshake.pending.len() < crate::engine::record::MAX_RECORD);
    }
    match b.outcome {
        None => Seen::Waiting(b.outbox),
        Some(Err(error)) => Seen::Refused(error),
        Some(Ok(up)) => Seen::Up {
            answers: b.outbox,
            plaintext: up.plaintext,
            ciphertext: up.ciphertext,
            muxer: up.muxer,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_split_and_no_flipped_bit_brings_about_another_end(
        inside in any::<bool>(),
        flip in prop::option::of((any::<Index>(), 0..8_u8)),
        cut_off in prop::option::of(any::<Index>()),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let identity = Keypair::ed25519_from_bytes([3; 32]).unwrap();
        let speak = |private: u8| {
            let listed = if inside { &[][..] } else { &BOTH };
            let mut speaker = signed_by(&identity, StaticKey::fixed([private; 32]), listed);
            speaker.ephemeral = Some([private + 1; 32]);
            speaker.muxers = BOTH.to_vec();
            speaker
        };
        let (ours, theirs) = (speak(1), speak(5));
        let mut sent = recorded(&theirs, &ours);
        if let Some((at, bit)) = flip {
            let at = at.index(sent.len());
            sent[at] ^= 1 << bit;
        }
        if let Some(end) = cut_off {
            sent.truncate(end.index(sent.len()));
        }

        let whole = replay(&ours, [&sent[..]]);
        if flip.is_none() && cut_off.is_none() {
            let up = matches!(whole, Seen::Up { .. });
            prop_assert!(up);
        }
        prop_assert_eq!(&replay(&ours, sent.chunks(1)), &whole);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(sent.len() + 1)).collect();
        cuts.extend([0, sent.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| &sent[ends[0]..ends[1]]);
        prop_assert_eq!(&replay(&ours, pieces), &whole);
    }

    #[test]
    fn no_bytes_of_a_stranger_make_it_panic(
        greeted in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let identity = Keypair::ed25519_from_bytes([3; 32]).unwrap();
        let ours = signed_by(&identity, StaticKey::fixed([1; 32]), &BOTH);
        let mut input = if greeted {
            tokens(&[Message::Header, Message::Protocol(Security::Noise.protocol())])
        } else {
            Vec::new()
        };
        input.extend(bytes);
        let ended = replay(&ours, [&input[..]]);
        let up = matches!(ended, Seen::Up { .. });
        prop_assert!(!up);
    }
}
