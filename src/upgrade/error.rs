//! Why an upgrade failed, and in one word for a metric.
//!
//! What it costs the peer is always its socket; what a peer is still told, each
//! step says itself.

use std::io;
use std::time::Duration;

use crate::connection::carrier::CarrierError;
use crate::connection::carrier::layer::LayerError;
use crate::engine::handshake::HandshakeError;
use crate::engine::tls::TlsError;
use crate::engine::websocket::upgrade::UpgradeError as HttpError;
use crate::wire::DecodeError;

/// Why an upgrade failed.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The deadline passed.
    #[error("upgrade took longer than {0:?}")]
    Timeout(Duration),
    /// The peer left.
    #[error("connection closed during the upgrade")]
    Eof,
    /// The socket failed.
    #[error("upgrade: {0}")]
    Io(#[from] io::Error),
    /// No header of a proxy came where one has to.
    #[error(transparent)]
    Proxy(DecodeError),
    /// There is no outer TLS with this client.
    #[error("outer {0}")]
    Secure(TlsError),
    /// A port of secure WebSocket without a certificate, which the
    /// configuration does not let through.
    #[error("no certificate for secure websocket")]
    NoCertificate,
    /// What came is no upgrade to WebSocket.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The peer broke the rules of what lies under the handshake.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The peer has us answer and does not read.
    #[error("the peer does not read")]
    Unread,
    /// The peer said what it may not.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl UpgradeError {
    /// Every value of [`label`](Self::label), for a metric that resolves its
    /// label sets at start.
    pub const LABELS: [&'static str; 17] = [
        "timeout",
        "eof",
        "io",
        "proxy",
        "outer_tls",
        "http",
        "websocket",
        "private_network",
        "unread",
        "multistream",
        "noise",
        "tls",
        "certificate",
        "identity",
        "signature",
        "record",
        "muxer",
    ];

    /// The cause in one word, for a metric.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Eof => "eof",
            Self::Io(_) => "io",
            Self::Proxy(_) => "proxy",
            Self::Secure(_) | Self::NoCertificate => "outer_tls",
            Self::Http(_) => "http",
            Self::Layer(error) => error.label(),
            Self::Unread => "unread",
            Self::Handshake(error) => match error {
                HandshakeError::Security(_) => "multistream",
                HandshakeError::MessageTooLarge(_)
                | HandshakeError::Noise(_)
                | HandshakeError::Payload(_)
                | HandshakeError::Over => "noise",
                HandshakeError::Tls(TlsError::Refused(
                    rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented,
                )) => "certificate",
                HandshakeError::Tls(_) => "tls",
                HandshakeError::IdentityKey => "identity",
                HandshakeError::Signature => "signature",
                HandshakeError::Record(_) => "record",
                HandshakeError::Muxer(_) => "muxer",
            },
        }
    }
}

impl From<CarrierError> for UpgradeError {
    fn from(error: CarrierError) -> Self {
        match error {
            CarrierError::Io(error) => Self::Io(error),
            CarrierError::Layer(error) => Self::Layer(error),
            CarrierError::Unread => Self::Unread,
        }
    }
}
