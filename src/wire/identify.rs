//! The message of identify and identify/push (protocols.md §7).
//!
//! Bounds a message to 8 KiB, addresses to 500 and protocols to 1024, also
//! when several messages are merged. Whether a key or a record belongs to the
//! peer, and which addresses parse, is left to the identify service.

use super::protobuf::{Fields, put_bytes};
use super::{DecodeError, length_delimited};

/// Protocol of the stream on which the responder describes itself.
pub const PROTOCOL: &str = "/ipfs/id/1.0.0";

/// Protocol of the stream on which the opener tells what changed.
pub const PUSH_PROTOCOL: &str = "/ipfs/id/push/1.0.0";

/// Largest message accepted, in bytes without its length prefix: go and js.
pub const MAX_MESSAGE: usize = 8192;

/// Most reads on one stream, the one that meets its end included: nine
/// messages, as go counts.
pub const MAX_MESSAGES: usize = 10;

/// Largest first message of our own, in bytes without its length prefix: rust
/// reads 4096 and never a second one.
pub const OWN_FIRST_MESSAGE_MAX: usize = 4000;

/// Addresses kept of one peer; those beyond are dropped (go).
pub const MAX_ADDRS: usize = 500;

/// Protocols kept of one peer; those beyond are dropped (go).
pub const MAX_PROTOCOLS: usize = 1024;

/// What a peer says about itself. Every field may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identify<'a> {
    /// `PublicKey` protobuf.
    pub public_key: Option<&'a [u8]>,
    /// Binary multiaddrs as received; some may not parse. At most
    /// [`MAX_ADDRS`].
    pub listen_addrs: Vec<&'a [u8]>,
    /// Protocol ids, at most [`MAX_PROTOCOLS`]. Those that are not UTF-8 are
    /// skipped.
    pub protocols: Vec<&'a str>,
    /// Binary multiaddr the sender sees us under: an untrusted hint.
    pub observed_addr: Option<&'a [u8]>,
    /// For example `ipfs/0.1.0`.
    pub protocol_version: Option<&'a str>,
    /// Name and version of the software.
    pub agent_version: Option<&'a str>,
    /// Sealed peer record (see [`envelope`](super::envelope)).
    pub signed_peer_record: Option<&'a [u8]>,
    /// Addresses and protocols that were dropped on reading.
    pub dropped: (usize, usize),
}

impl<'a> Identify<'a> {
    /// Reads one message with its length prefix from the front of `input`.
    ///
    /// # Errors
    /// `TooLarge` above [`MAX_MESSAGE`], `Malformed` for a broken body or a
    /// known field of the wrong wire type, `Incomplete` otherwise.
    pub fn decode(input: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let (body, used) = length_delimited::decode(input, MAX_MESSAGE, "identify message")?;
        let mut message = Self::default();
        for field in Fields::new(body) {
            let field = field?;
            if !matches!(field.number, 1..=6 | 8) {
                continue;
            }
            let bytes = field.value.bytes()?;
            match field.number {
                1 => message.public_key = Some(bytes),
                2 => message.add_addr(bytes),
                3 => {
                    if let Ok(name) = std::str::from_utf8(bytes) {
                        message.add_protocol(name);
                    }
                }
                4 => message.observed_addr = Some(bytes),
                5 => message.protocol_version = std::str::from_utf8(bytes).ok(),
                6 => message.agent_version = std::str::from_utf8(bytes).ok(),
                _ => message.signed_peer_record = Some(bytes),
            }
        }
        Ok((message, used))
    }

    /// Takes in a later message of the same stream: lists grow up to their
    /// bounds, single fields are replaced where the later message has them.
    pub fn merge(&mut self, later: Self) {
        for addr in later.listen_addrs {
            self.add_addr(addr);
        }
        for name in later.protocols {
            self.add_protocol(name);
        }
        self.public_key = later.public_key.or(self.public_key);
        self.observed_addr = later.observed_addr.or(self.observed_addr);
        self.protocol_version = later.protocol_version.or(self.protocol_version);
        self.agent_version = later.agent_version.or(self.agent_version);
        self.signed_peer_record = later.signed_peer_record.or(self.signed_peer_record);
    }

    /// Appends everything as one message with its length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        length_delimited::encode_with(out, |out| {
            self.put_without_addrs(out);
            for addr in &self.listen_addrs {
                put_bytes(2, addr, out);
            }
            self.put_record(out);
        });
    }

    /// Appends what this server sends: a first message without the signed
    /// record, then the record alone, if there is one.
    ///
    /// Addresses, taken in order, that do not fit into
    /// [`OWN_FIRST_MESSAGE_MAX`] are left out. Nothing else is: debug builds
    /// check that our own protocols and versions leave room.
    pub fn encode_split(&self, out: &mut Vec<u8>) {
        length_delimited::encode_with(out, |out| {
            let start = out.len();
            self.put_without_addrs(out);
            debug_assert!(out.len() - start <= OWN_FIRST_MESSAGE_MAX);
            for addr in &self.listen_addrs {
                let before = out.len();
                put_bytes(2, addr, out);
                if out.len() - start > OWN_FIRST_MESSAGE_MAX {
                    out.truncate(before);
                }
            }
        });
        if self.signed_peer_record.is_some() {
            length_delimited::encode_with(out, |out| self.put_record(out));
        }
    }

    fn add_addr(&mut self, addr: &'a [u8]) {
        if self.listen_addrs.len() < MAX_ADDRS {
            self.listen_addrs.push(addr);
        } else {
            self.dropped.0 += 1;
        }
    }

    fn add_protocol(&mut self, name: &'a str) {
        if self.protocols.len() < MAX_PROTOCOLS {
            self.protocols.push(name);
        } else {
            self.dropped.1 += 1;
        }
    }

    fn put_without_addrs(&self, out: &mut Vec<u8>) {
        if let Some(key) = self.public_key {
            put_bytes(1, key, out);
        }
        for name in &self.protocols {
            put_bytes(3, name.as_bytes(), out);
        }
        if let Some(addr) = self.observed_addr {
            put_bytes(4, addr, out);
        }
        if let Some(version) = self.protocol_version {
            put_bytes(5, version.as_bytes(), out);
        }
        if let Some(version) = self.agent_version {
            put_bytes(6, version.as_bytes(), out);
        }
    }

    fn put_record(&self, out: &mut Vec<u8>) {
        if let Some(record) = self.signed_peer_record {
            put_bytes(8, record, out);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    fn encoded(message: &Identify<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    fn framed(body: &str) -> Vec<u8> {
        let mut out = Vec::new();
        length_delimited::encode(&hex(body), &mut out);
        out
    }

    fn decoded(bytes: &[u8]) -> Identify<'_> {
        let (message, used) = Identify::decode(bytes).unwrap();
        assert_eq!(used, bytes.len());
        message
    }

    /// As go writes it, fields in order of their numbers.
    #[test]
    fn fields_stand_where_the_schema_puts_them() {
        let bytes =
            framed("0a0101 12020203 12010a 1a022f61 1a022f62 220104 2a0135 320136 420108 0a0105");
        let message = decoded(&bytes);
        assert_eq!(
            message,
            Identify {
                public_key: Some(&[5]),
                listen_addrs: vec![&[2, 3], &[10]],
                protocols: vec!["/a", "/b"],
                observed_addr: Some(&[4]),
                protocol_version: Some("5"),
                agent_version: Some("6"),
                signed_peer_record: Some(&[8]),
                dropped: (0, 0),
            }
        );
    }

    #[test]
    fn the_removed_delta_and_unknown_fields_are_skipped() {
        assert_eq!(
            decoded(&framed("3a020801 4801 fa010100")).protocols,
            Vec::<&str>::new()
        );
    }

    #[test]
    fn texts_that_are_not_utf8_are_skipped_one_by_one() {
        let message = framed("1a02ffff 1a022f61 2a01ff 32022f62");
        let message = decoded(&message[..]);
        assert_eq!(message.protocols, ["/a"]);
        assert_eq!(message.protocol_version, None);
        assert_eq!(message.agent_version, Some("/b"));
    }

    #[test]
    fn the_cap_is_eight_kibibytes() {
        assert_eq!(
            Identify::decode(&hex("8140")),
            Err(DecodeError::TooLarge {
                what: "identify message",
                announced: 8193,
                max: 8192
            })
        );
        let record = vec![1; MAX_MESSAGE - 3];
        let largest = encoded(&Identify {
            signed_peer_record: Some(&record),
            ..Identify::default()
        });
        assert_eq!(decoded(&largest).signed_peer_record, Some(&record[..]));
    }

    #[test]
    fn broken_messages_are_malformed() {
        for (bytes, why) in [
            ("020801", "key as integer"),
            ("021001", "address as integer"),
            ("021801", "protocol as integer"),
            ("024001", "record as integer"),
            ("021205", "address cut short"),
            ("0100", "field number zero"),
            ("8000", "non-minimal length"),
        ] {
            assert!(
                matches!(
                    Identify::decode(&hex(bytes)),
                    Err(DecodeError::Malformed(_))
                ),
                "{why}"
            );
        }
    }

    #[test]
    fn lists_stop_at_their_bounds_alone_and_merged() {
        let addrs = encoded(&Identify {
            listen_addrs: vec![b"addr"; 600],
            ..Identify::default()
        });
        let names = encoded(&Identify {
            protocols: vec!["/a"; 2000],
            ..Identify::default()
        });
        let mut all = Identify::default();
        for _ in 1..MAX_MESSAGES {
            for message in [&addrs, &names] {
                let message = decoded(message);
                assert!(message.listen_addrs.len() <= MAX_ADDRS);
                assert!(message.protocols.len() <= MAX_PROTOCOLS);
                all.merge(message);
            }
        }
        assert_eq!(all.listen_addrs.len(), MAX_ADDRS);
        assert_eq!(all.protocols.len(), MAX_PROTOCOLS);
    }

    #[test]
    fn a_split_answer_is_read_whole_after_merging() {
        let full = Identify {
            public_key: Some(b"key"),
            listen_addrs: vec![b"one", b"two"],
            protocols: vec!["/a"],
            observed_addr: Some(b"seen"),
            protocol_version: Some("ipfs/0.1.0"),
            agent_version: Some("agent"),
            signed_peer_record: Some(b"record"),
            dropped: (0, 0),
        };
        let mut bytes = Vec::new();
        full.encode_split(&mut bytes);
        let (mut first, used) = Identify::decode(&bytes).unwrap();
        assert_eq!(first.signed_peer_record, None);
        let second = decoded(&bytes[used..]);
        assert_eq!(
            second,
            Identify {
                signed_peer_record: Some(b"record"),
                ..Identify::default()
            }
        );
        first.merge(second);
        assert_eq!(first, full);
    }

    #[test]
    fn a_first_message_of_ours_fits_every_reader() {
        let addr = [4; 100];
        let ours = Identify {
            public_key: Some(&[0; 555]),
            listen_addrs: vec![&addr; 200],
            protocols: vec!["/libp2p/circuit/relay/0.2.0/hop"; 60],
            ..Identify::default()
        };
        let mut bytes = Vec::new();
        ours.encode_split(&mut bytes);
        let message = decoded(&bytes);
        assert!(bytes.len() <= OWN_FIRST_MESSAGE_MAX + 2);
        assert_eq!(message.protocols, ours.protocols);
        assert!(bytes.len() > OWN_FIRST_MESSAGE_MAX - 102, "room is used");
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..60)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            fields in prop::collection::vec(prop::option::of(bytes()), 3),
            texts in prop::collection::vec(prop::option::of(".{0,20}"), 2),
            addrs in prop::collection::vec(bytes(), 0..10),
            names in prop::collection::vec("/[a-z]{0,20}", 0..10),
        ) {
            let message = Identify {
                public_key: fields[0].as_deref(),
                listen_addrs: addrs.iter().map(Vec::as_slice).collect(),
                protocols: names.iter().map(String::as_str).collect(),
                observed_addr: fields[1].as_deref(),
                protocol_version: texts[0].as_deref(),
                agent_version: texts[1].as_deref(),
                signed_peer_record: fields[2].as_deref(),
                dropped: (0, 0),
            };
            let bytes = encoded(&message);
            for end in 0..bytes.len() {
                prop_assert_eq!(Identify::decode(&bytes[..end]), Err(DecodeError::Incomplete));
            }
            prop_assert_eq!(decoded(&bytes), message);
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in any::<Vec<u8>>()) {
            let mut input = Vec::new();
            length_delimited::encode(&body, &mut input);
            let _ = Identify::decode(&input);
            let _ = Identify::decode(&body);
        }
    }
}
