//! The messages of circuit relay v2, HOP and STOP (protocols.md §11).
//!
//! Bounds a message to 4096 bytes and the addresses read from a reservation to
//! 64. Addresses of a `Peer` are skipped: a relay opens nothing on its own.
//! Which message is allowed when, and with which status it is answered, is
//! left to the relay service.

use super::protobuf::{Fields, put_bytes, put_message, put_varint};
use super::{DecodeError, length_delimited};

/// Protocol of the stream a client opens to the relay.
pub const HOP_PROTOCOL: &str = "/libp2p/circuit/relay/0.2.0/hop";

/// Protocol of the stream the relay opens to the target.
pub const STOP_PROTOCOL: &str = "/libp2p/circuit/relay/0.2.0/stop";

/// Largest message in bytes, without its length prefix.
pub const MAX_MESSAGE: usize = 4096;

/// Addresses kept from a received reservation; those beyond are dropped.
pub const MAX_RESERVATION_ADDRS: usize = 64;

/// A message between client and relay. Every field may be absent on the wire;
/// what is required depends on the kind and is the service's to check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HopMessage<'a> {
    /// `None` when the type was not written: js calls that malformed, go and
    /// rust read it as RESERVE.
    pub kind: Option<HopKind>,
    /// Target of a CONNECT.
    pub peer: Option<Peer<'a>>,
    /// Granted reservation, in a STATUS.
    pub reservation: Option<Reservation<'a>>,
    /// Limit on circuits, in a STATUS.
    pub limit: Option<Limit>,
    /// Outcome, in a STATUS.
    pub status: Option<Status>,
}

impl<'a> HopMessage<'a> {
    /// Reads one message with its length prefix from the front of `input`.
    /// Bytes behind it belong to the circuit.
    ///
    /// # Errors
    /// `TooLarge` above [`MAX_MESSAGE`], `Malformed` for a broken body or a
    /// known field of the wrong wire type, `Incomplete` otherwise.
    pub fn decode(input: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let (body, used) = length_delimited::decode(input, MAX_MESSAGE, "hop message")?;
        let mut message = Self::default();
        for field in Fields::new(body) {
            let field = field?;
            match field.number {
                1 => message.kind = Some(HopKind::from_wire(field.value.varint()?)),
                2 => message.peer = Some(Peer::read(field.value.bytes()?)?),
                3 => message.reservation = Some(Reservation::read(field.value.bytes()?)?),
                4 => message.limit = Some(Limit::read(field.value.bytes()?)?),
                5 => message.status = Some(Status::from_wire(field.value.varint()?)),
                _ => {}
            }
        }
        Ok((message, used))
    }
}

/// A message between relay and target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopMessage<'a> {
    /// `None` when the type was not written.
    pub kind: Option<StopKind>,
    /// Source of the circuit, in a CONNECT.
    pub peer: Option<Peer<'a>>,
    /// Limit on the circuit, in a CONNECT.
    pub limit: Option<Limit>,
    /// Outcome, in a STATUS.
    pub status: Option<Status>,
}

impl<'a> StopMessage<'a> {
    /// Reads one message with its length prefix from the front of `input`.
    /// Bytes behind it belong to the circuit.
    ///
    /// # Errors
    /// As [`HopMessage::decode`].
    pub fn decode(input: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let (body, used) = length_delimited::decode(input, MAX_MESSAGE, "stop message")?;
        let mut message = Self::default();
        for field in Fields::new(body) {
            let field = field?;
            match field.number {
                1 => message.kind = Some(StopKind::from_wire(field.value.varint()?)),
                2 => message.peer = Some(Peer::read(field.value.bytes()?)?),
                3 => message.limit = Some(Limit::read(field.value.bytes()?)?),
                4 => message.status = Some(Status::from_wire(field.value.varint()?)),
                _ => {}
            }
        }
        Ok((message, used))
    }
}

/// Type of a [`HopMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HopKind {
    /// Asks for a reservation.
    Reserve,
    /// Asks for a circuit.
    Connect,
    /// Answers either.
    Status,
    /// A value the specification does not have.
    Unknown(u64),
}

impl HopKind {
    const fn from_wire(value: u64) -> Self {
        match value {
            0 => Self::Reserve,
            1 => Self::Connect,
            2 => Self::Status,
            other => Self::Unknown(other),
        }
    }
}

/// Type of a [`StopMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopKind {
    /// Offers a circuit.
    Connect,
    /// Answers the offer.
    Status,
    /// A value the specification does not have.
    Unknown(u64),
}

impl StopKind {
    const fn from_wire(value: u64) -> Self {
        match value {
            0 => Self::Connect,
            1 => Self::Status,
            other => Self::Unknown(other),
        }
    }
}

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// 0, never sent.
    Unused,
    /// 100.
    Ok,
    /// 200: a limit on reservations is reached.
    ReservationRefused,
    /// 201: a limit on circuits is reached.
    ResourceLimitExceeded,
    /// 202: access list, or a request over a relayed connection.
    PermissionDenied,
    /// 203: the target could not be reached over its STOP stream.
    ConnectionFailed,
    /// 204: the target has no reservation.
    NoReservation,
    /// 400: undecodable.
    MalformedMessage,
    /// 401: well-formed, but of the wrong type.
    UnexpectedMessage,
    /// A value the specification does not have.
    Other(i32),
}

impl Status {
    /// The status for a decoded enum field. Unknown values do not fail the
    /// message (protocols.md §0).
    #[must_use]
    pub const fn from_wire(value: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "protobuf enums keep the low 32 bits"
        )]
        match value as i32 {
            0 => Self::Unused,
            100 => Self::Ok,
            200 => Self::ReservationRefused,
            201 => Self::ResourceLimitExceeded,
            202 => Self::PermissionDenied,
            203 => Self::ConnectionFailed,
            204 => Self::NoReservation,
            400 => Self::MalformedMessage,
            401 => Self::UnexpectedMessage,
            other => Self::Other(other),
        }
    }

    /// The value of the enum.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Unused => 0,
            Self::Ok => 100,
            Self::ReservationRefused => 200,
            Self::ResourceLimitExceeded => 201,
            Self::PermissionDenied => 202,
            Self::ConnectionFailed => 203,
            Self::NoReservation => 204,
            Self::MalformedMessage => 400,
            Self::UnexpectedMessage => 401,
            Self::Other(code) => code,
        }
    }

    fn put(self, number: u32, out: &mut Vec<u8>) {
        // Protobuf sign-extends enums to 64 bits.
        put_varint(number, i64::from(self.code()).cast_unsigned(), out);
    }
}

/// The other end of a circuit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Binary peer id as received; empty when absent, which parses as none.
    pub id: &'a [u8],
}

impl<'a> Peer<'a> {
    fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut peer = Self::default();
        for field in Fields::new(body) {
            let field = field?;
            if field.number == 1 {
                peer.id = field.value.bytes()?;
            }
        }
        Ok(peer)
    }

    fn put(self, number: u32, out: &mut Vec<u8>) {
        put_message(number, out, |out| put_bytes(1, self.id, out));
    }
}

/// A granted reservation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reservation<'a> {
    /// End of the reservation, in seconds since the Unix epoch.
    pub expire: u64,
    /// The relay's public binary multiaddrs, each ending in its peer id.
    pub addrs: Vec<&'a [u8]>,
    /// Sealed voucher (see [`envelope`](super::envelope)).
    pub voucher: Option<&'a [u8]>,
}

impl<'a> Reservation<'a> {
    fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reservation = Self::default();
        for field in Fields::new(body) {
            let field = field?;
            match field.number {
                1 => reservation.expire = field.value.varint()?,
                2 => {
                    let addr = field.value.bytes()?;
                    if reservation.addrs.len() < MAX_RESERVATION_ADDRS {
                        reservation.addrs.push(addr);
                    }
                }
                3 => reservation.voucher = Some(field.value.bytes()?),
                _ => {}
            }
        }
        Ok(reservation)
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        // What the addresses may not use: the voucher, and below 64 bytes of
        // type, status, limit, expiry and field headers.
        let rest = 64 + self.voucher.map_or(0, <[u8]>::len);
        let room = MAX_MESSAGE.saturating_sub(rest);
        put_message(number, out, |out| {
            put_varint(1, self.expire, out);
            let start = out.len();
            for addr in &self.addrs {
                let before = out.len();
                put_bytes(2, addr, out);
                if out.len() - start > room {
                    out.truncate(before);
                }
            }
            if let Some(voucher) = self.voucher {
                put_bytes(3, voucher, out);
            }
        });
    }
}

/// What one circuit may use; zero means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// Life of a circuit, in seconds.
    pub duration_seconds: u32,
    /// Bytes in each direction.
    pub data_bytes: u64,
}

impl Limit {
    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let mut limit = Self::default();
        for field in Fields::new(body) {
            let field = field?;
            match field.number {
                1 => {
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "protobuf reads a uint32 as the low 32 bits"
                    )]
                    let seconds = field.value.varint()? as u32;
                    limit.duration_seconds = seconds;
                }
                2 => limit.data_bytes = field.value.varint()?,
                _ => {}
            }
        }
        Ok(limit)
    }

    fn put(self, number: u32, out: &mut Vec<u8>) {
        put_message(number, out, |out| {
            put_varint(1, u64::from(self.duration_seconds), out);
            put_varint(2, self.data_bytes, out);
        });
    }
}

/// Appends the relay's answer on a HOP stream.
///
/// Addresses of the reservation that would take the message past
/// [`MAX_MESSAGE`] are left out, so that every client can read it.
pub fn encode_hop_status(
    status: Status,
    reservation: Option<&Reservation<'_>>,
    limit: Option<&Limit>,
    out: &mut Vec<u8>,
) {
    length_delimited::encode_with(out, |out| {
        put_varint(1, 2, out);
        if let Some(reservation) = reservation {
            reservation.put(3, out);
        }
        if let Some(limit) = limit {
            limit.put(4, out);
        }
        status.put(5, out);
    });
}

/// Appends the relay's offer of a circuit from the binary peer id `source`.
pub fn encode_stop_connect(source: &[u8], limit: Option<&Limit>, out: &mut Vec<u8>) {
    length_delimited::encode_with(out, |out| {
        put_varint(1, 0, out);
        Peer { id: source }.put(2, out);
        if let Some(limit) = limit {
            limit.put(3, out);
        }
    });
}

/// Appends the target's answer on a STOP stream.
pub fn encode_stop_status(status: Status, out: &mut Vec<u8>) {
    length_delimited::encode_with(out, |out| {
        put_varint(1, 1, out);
        status.put(4, out);
    });
}

/// Appends a client's request for a reservation.
pub fn encode_reserve(out: &mut Vec<u8>) {
    length_delimited::encode_with(out, |out| put_varint(1, 0, out));
}

/// Appends a client's request for a circuit to the binary peer id `target`.
pub fn encode_connect(target: &[u8], out: &mut Vec<u8>) {
    length_delimited::encode_with(out, |out| {
        put_varint(1, 1, out);
        Peer { id: target }.put(2, out);
    });
}

#[cfg(test)]
mod tests;
