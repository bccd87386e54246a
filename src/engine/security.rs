//! The protocols that secure a connection, by name.
//!
//! One list for the handshake, the configuration and metric labels, so that
//! they cannot disagree. What each one does is left to `handshake` and `tls`.

/// What authenticates both sides of a connection and encrypts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Security {
    /// `/noise`: XX with X25519, ChaCha20-Poly1305 and SHA-256.
    Noise,
    /// `/tls/1.0.0`: TLS 1.3 with certificates of libp2p.
    Tls,
}

impl Security {
    /// All of them, the one we would rather speak first.
    pub const ALL: [Self; 2] = [Self::Noise, Self::Tls];

    /// Protocol id on the wire.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Noise => "/noise",
            Self::Tls => "/tls/1.0.0",
        }
    }

    /// Short name for configuration and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Tls => "tls",
        }
    }
}
