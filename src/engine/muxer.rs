//! The stream multiplexers that a connection can run, by name.
//!
//! One list for the handshake, the configuration and metric labels, so that
//! they cannot disagree. How each one frames is left to `demux` and `frames`.

/// A stream multiplexer as negotiated for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Muxer {
    /// `/yamux/1.0.0`: credit per stream.
    Yamux,
    /// `/mplex/6.7.0`: no flow control of its own.
    Mplex,
}

impl Muxer {
    /// All muxers, the one we would rather speak first.
    pub const ALL: [Self; 2] = [Self::Yamux, Self::Mplex];

    /// Protocol id on the wire.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Yamux => "/yamux/1.0.0",
            Self::Mplex => "/mplex/6.7.0",
        }
    }

    /// Short name for configuration and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yamux => "yamux",
            Self::Mplex => "mplex",
        }
    }

    /// The muxer with this protocol id.
    #[must_use]
    pub fn from_protocol(protocol: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|muxer| muxer.protocol() == protocol)
    }
}
