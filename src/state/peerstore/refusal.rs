//! Why something that a peer announced was not kept: one name for each reason,
//! which is the metric's label.

/// Why something that a peer announced was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// An address that cannot be read.
    Malformed,
    /// An address of more than 255 bytes.
    TooLong,
    /// An address that ends in another peer's id.
    OtherPeer,
    /// A private address of a public peer, or a loopback one of one that is
    /// not on this host.
    Private,
    /// An address that nobody can dial.
    Unreachable,
    /// More addresses than are kept of a peer.
    Addresses,
    /// More protocols than are kept of a peer.
    Protocols,
    /// The end of a long agent string.
    Agent,
    /// An agent or a protocol list for which the tables have no room.
    Texts,
    /// A record that cannot be read, or another kind of record.
    RecordMalformed,
    /// A record of more than 4 KiB.
    RecordTooLarge,
    /// A record about another peer.
    RecordForeign,
    /// A record that the peer has not signed.
    RecordSignature,
    /// A record that is not newer than the one that is held.
    RecordSequence,
    /// A record too soon after the last.
    RecordRate,
    /// A peer for which there is no room.
    Peer,
    /// Addresses or a record for which there is no room.
    Memory,
}

impl Refusal {
    /// Value of the metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::OtherPeer => "other_peer",
            Self::Private => "private",
            Self::Unreachable => "unreachable",
            Self::Addresses => "addresses",
            Self::Protocols => "protocols",
            Self::Agent => "agent",
            Self::Texts => "texts",
            Self::RecordMalformed => "record_malformed",
            Self::RecordTooLarge => "record_too_large",
            Self::RecordForeign => "record_foreign",
            Self::RecordSignature => "record_signature",
            Self::RecordSequence => "record_sequence",
            Self::RecordRate => "record_rate",
            Self::Peer => "peer",
            Self::Memory => "memory",
        }
    }
}
