//! What a probe asks once it is connected: identify, ping, RESERVE.
//!
//! Each question is one stream; what it finds goes into the report. Bounds:
//! identify as any peer's (nine messages of 8 KiB), a HOP answer at 4 KiB, a
//! ping at its 32 bytes.

use std::time::Duration;

use libp2p_identity::{PeerId, PublicKey};

use super::{HOP_PROTOCOL, ProbeError, Report, session::Session};
use crate::clock;
use crate::config::units::{show_duration, show_size};
use crate::service::ping;
use crate::wire::{
    DecodeError,
    envelope::{Envelope, EnvelopeError, VOUCHER_DOMAIN, VOUCHER_TYPE, Voucher},
    identify::{self, Identify, MAX_MESSAGES},
    relay::{HopKind, HopMessage, Limit, Reservation, Status, encode_reserve},
};

/// Pings sent, one after the other; the fastest counts, since delay only ever
/// adds.
const PINGS: usize = 3;

/// Who the server says it is, and where it sees us.
pub(super) async fn identify(
    session: &mut Session,
    peer: &PeerId,
    report: &mut Report,
) -> Result<(), ProbeError> {
    let protocol = identify::PROTOCOL;
    session.open(protocol).await?;
    let fault = |error| ProbeError::Answer { protocol, error };
    // The answer ends with the stream: more messages may follow the first.
    while !session.has_ended() {
        messages(session.inbox()).map_err(fault)?;
        session.hear().await?;
    }
    let whole = messages(session.inbox()).map_err(fault)?;
    describe(
        &whole.ok_or(ProbeError::StreamEnded(protocol))?,
        peer,
        report,
    )?;
    session.finish().await
}

/// Reads every message in `bytes`; `None` if the last is incomplete, or there
/// is none.
fn messages(mut bytes: &[u8]) -> Result<Option<Identify<'_>>, DecodeError> {
    let mut all = Identify::default();
    for _ in 1..MAX_MESSAGES {
        match Identify::decode(bytes) {
            Ok((message, used)) => {
                all.merge(message);
                bytes = &bytes[used..];
            }
            Err(DecodeError::Incomplete) => return Ok(None),
            Err(error) => return Err(error),
        }
        if bytes.is_empty() {
            return Ok(Some(all));
        }
    }
    Err(DecodeError::Malformed("too many messages"))
}

fn describe(said: &Identify<'_>, peer: &PeerId, report: &mut Report) -> Result<(), ProbeError> {
    let key = said.public_key.map(PublicKey::try_decode_protobuf);
    if key.is_some_and(|key| key.ok().is_none_or(|key| key.to_peer_id() != *peer)) {
        return Err(ProbeError::OtherKey);
    }
    report.add("agent", said.agent_version.unwrap_or("not told"));
    let hop = said.protocols.contains(&HOP_PROTOCOL);
    report.add("relay", if hop { "offered" } else { "not offered" });
    for name in &said.protocols {
        report.add("protocol", name);
    }
    for address in &said.listen_addrs {
        report.add_address("listening", address);
    }
    match said.observed_addr {
        Some(address) => report.add_address("observed", address),
        None => report.add("observed", "not told"),
    }
    Ok(())
}

/// How long the server takes to give bytes back.
pub(super) async fn ping(session: &mut Session, report: &mut Report) -> Result<(), ProbeError> {
    session.open(ping::PROTOCOL).await?;
    let mut fastest = Duration::MAX;
    for round in 0..PINGS {
        let block = [u8::try_from(round).expect("few rounds"); ping::BLOCK];
        let sent = clock::now();
        session.write(&block).await?;
        while session.inbox().len() < block.len() {
            session.hear().await?;
        }
        let took = clock::now().saturating_duration_since(sent);
        if session.inbox() != block {
            return Err(ProbeError::Echo);
        }
        session.take(block.len());
        fastest = fastest.min(took);
    }
    report.add_time("ping", fastest);
    session.finish().await
}

/// Asks for a reservation, which the server gives up when we leave.
pub(super) async fn reserve(
    session: &mut Session,
    relay: &PeerId,
    us: &PeerId,
    report: &mut Report,
) -> Result<(), ProbeError> {
    let protocol = HOP_PROTOCOL;
    let fault = |error| ProbeError::Answer { protocol, error };
    session.open(protocol).await?;
    let mut request = Vec::new();
    encode_reserve(&mut request);
    session.write(&request).await?;
    while let Err(DecodeError::Incomplete) = HopMessage::decode(session.inbox()) {
        session.hear().await?;
    }
    let (answer, _) = HopMessage::decode(session.inbox()).map_err(fault)?;
    granted(&answer, relay, us, report)?;
    session.finish().await
}

fn granted(
    message: &HopMessage<'_>,
    relay: &PeerId,
    us: &PeerId,
    report: &mut Report,
) -> Result<(), ProbeError> {
    let malformed = |what| ProbeError::Answer {
        protocol: HOP_PROTOCOL,
        error: DecodeError::Malformed(what),
    };
    let (Some(HopKind::Status), Some(status)) = (message.kind, message.status) else {
        return Err(malformed("not a status"));
    };
    let code = status.code();
    report.add("status", format_args!("{} ({code})", name(status)));
    if status != Status::Ok {
        return Err(ProbeError::Refused(status));
    }
    let reservation = message.reservation.as_ref();
    let reservation = reservation.ok_or(malformed("no reservation in the answer"))?;
    let left = reservation.expire.saturating_sub(clock::unix_seconds());
    report.add(
        "expires",
        format_args!(
            "in {} (unix time {})",
            show_duration(Duration::from_secs(left)),
            reservation.expire
        ),
    );
    for address in &reservation.addrs {
        report.add_address("reachable", address);
    }
    report.add("limit", limit(message.limit));
    let voucher = if vouched(reservation, relay, us)? {
        "signed by the relay"
    } else {
        "none"
    };
    report.add("voucher", voucher);
    Ok(())
}

/// What one circuit to us may use.
fn limit(limit: Option<Limit>) -> String {
    let limit = limit.unwrap_or_default();
    let mut bytes = show_size(limit.data_bytes);
    if !bytes.ends_with('B') {
        bytes.push_str(" bytes");
    }
    let duration = show_duration(Duration::from_secs(limit.duration_seconds.into()));
    match (limit.duration_seconds, limit.data_bytes) {
        (0, 0) => "none".to_owned(),
        (0, _) => format!("{bytes} in each direction"),
        (_, 0) => duration,
        (_, _) => format!("{duration}, {bytes} in each direction"),
    }
}

/// Whether there is a voucher, which then must be the relay's word for us.
fn vouched(reservation: &Reservation<'_>, relay: &PeerId, us: &PeerId) -> Result<bool, ProbeError> {
    let Some(sealed) = reservation.voucher else {
        return Ok(false);
    };
    verify(sealed, relay, us).map_err(ProbeError::Voucher)?;
    Ok(true)
}

fn verify(sealed: &[u8], relay: &PeerId, us: &PeerId) -> Result<(), EnvelopeError> {
    let (envelope, _) = Envelope::decode(sealed)?;
    if envelope.payload_type != VOUCHER_TYPE {
        return Err(EnvelopeError::PayloadType);
    }
    let signer = envelope.verify(VOUCHER_DOMAIN)?.to_peer_id();
    let (voucher, _) = Voucher::decode(envelope.payload)?;
    let parties = [voucher.relay, voucher.peer].map(PeerId::from_bytes);
    match parties {
        [Ok(by), Ok(of)] if by == *relay && signer == *relay && of == *us => Ok(()),
        _ => Err(EnvelopeError::Signer),
    }
}

/// The word of the specification for a status (circuit relay v2, "Status
/// codes").
pub(super) const fn name(status: Status) -> &'static str {
    match status {
        Status::Unused => "UNUSED",
        Status::Ok => "OK",
        Status::ReservationRefused => "RESERVATION_REFUSED",
        Status::ResourceLimitExceeded => "RESOURCE_LIMIT_EXCEEDED",
        Status::PermissionDenied => "PERMISSION_DENIED",
        Status::ConnectionFailed => "CONNECTION_FAILED",
        Status::NoReservation => "NO_RESERVATION",
        Status::MalformedMessage => "MALFORMED_MESSAGE",
        Status::UnexpectedMessage => "UNEXPECTED_MESSAGE",
        Status::Other(_) => "unknown status",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::wire::envelope::seal;

    #[test]
    fn identify_is_whole_when_its_last_message_is() {
        let mut bytes = Vec::new();
        let said = Identify {
            agent_version: Some("somebody"),
            ..Identify::default()
        };
        assert_eq!(messages(&bytes), Ok(None));
        for _ in 1..MAX_MESSAGES {
            said.encode(&mut bytes);
            assert_eq!(messages(&bytes), Ok(Some(said.clone())));
            assert_eq!(messages(&bytes[..bytes.len() - 1]), Ok(None));
        }
        said.encode(&mut bytes);
        assert!(matches!(messages(&bytes), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_voucher_is_the_relays_word_for_us() {
        let [relay, other] = [Identity::generate(), Identity::generate()];
        let us = PeerId::random();
        let sealed = |by: &Identity, of: &PeerId, signer: &Identity| {
            let (by, of) = (by.peer_id().to_bytes(), of.to_bytes());
            let mut payload = Vec::new();
            Voucher {
                relay: &by,
                peer: &of,
                expiration: 1,
            }
            .encode(&mut payload);
            let key = signer.public_key_protobuf();
            seal(VOUCHER_DOMAIN, VOUCHER_TYPE, &payload, key, |bytes| {
                signer.sign(bytes).unwrap()
            })
        };
        let check = |sealed: &[u8]| verify(sealed, &relay.peer_id(), &us);
        assert_eq!(check(&sealed(&relay, &us, &relay)), Ok(()));
        for false_one in [
            sealed(&relay, &other.peer_id(), &relay),
            sealed(&other, &us, &relay),
            sealed(&relay, &us, &other),
        ] {
            assert_eq!(check(&false_one), Err(EnvelopeError::Signer));
        }
        let mut forged = sealed(&relay, &us, &relay);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(check(&forged), Err(EnvelopeError::Signature));
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let shown = |duration_seconds, data_bytes| {
            limit(Some(Limit {
                duration_seconds,
                data_bytes,
            }))
        };
        assert_eq!(shown(120, 1 << 17), "2m, 128KiB in each direction");
        assert_eq!(shown(0, 1001), "1001 bytes in each direction");
        assert_eq!(shown(90, 0), "1m30s");
        assert_eq!(shown(0, 0), limit(None));
    }
}
