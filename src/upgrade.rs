//! From an accepted or dialled TCP socket to an authenticated, muxed
//! connection: drives the handshake engine under one deadline.
//!
//! A pending upgrade owns its socket, a timer and what the engine holds (one
//! incomplete frame); the buffer it reads into belongs to the thread and is
//! borrowed for one pass. Admission, socket options and what runs on the
//! connection are left to others.

mod drive;

use std::io;
use std::time::Duration;

use libp2p_identity::{PeerId, PublicKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use self::drive::Drive;
use crate::engine::handshake::{
    Established, Handshake, HandshakeError, KeyError, Local, StaticKey, TlsLocal,
};
use crate::engine::muxer::Muxer;
use crate::engine::record::{OpenKey, SealKey};
use crate::engine::security::Security;
use crate::engine::tls::TlsError;
use crate::identity::certificate::CertificateFault;
use crate::identity::{Identity, SigningError};

/// Time for a whole upgrade, as go's accept path has it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What all upgrades of this process share: one static key and one certificate,
/// each signed once.
pub struct UpgradeContext {
    local: Local,
    /// Deadline over the whole upgrade, counted from its start.
    pub timeout: Duration,
}

impl UpgradeContext {
    /// Offers every security protocol there is, and `muxers` in this order; the
    /// deadline is [`DEFAULT_TIMEOUT`].
    ///
    /// # Errors
    /// [`ContextError`] if no key can be made or signed.
    pub fn new(identity: &Identity, muxers: &[Muxer]) -> Result<Self, ContextError> {
        Self::offering(identity, &Security::ALL, muxers)
    }

    /// Makes the keys and has `identity` sign them. `security` and `muxers` are
    /// offered in this order; a dialer proposes the first security protocol and
    /// no other.
    ///
    /// # Errors
    /// [`ContextError`] if no key can be made or signed.
    pub fn offering(
        identity: &Identity,
        security: &[Security],
        muxers: &[Muxer],
    ) -> Result<Self, ContextError> {
        let key = StaticKey::generate()?;
        let signature = identity.sign(&key.signed_bytes())?;
        let certificate = identity.certificate()?;
        let tls = TlsLocal {
            server: certificate.server(&[]),
            client: certificate.client(&[]),
        };
        let local = Local::new(key, identity.public_key_protobuf(), &signature, muxers);
        Ok(Self {
            local: local.with_tls(tls, security),
            timeout: DEFAULT_TIMEOUT,
        })
    }
}

/// Why a process cannot upgrade connections at all.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// No static key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No signature over it.
    #[error("the identity cannot sign the noise key: {0}")]
    Sign(#[from] SigningError),
    /// No certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
}

/// A connection that is up: its peer is known and its records are sealed.
pub struct Upgraded<S = TcpStream> {
    /// The socket, read up to and including `ciphertext`.
    pub socket: S,
    /// Who the peer is.
    pub peer_id: PeerId,
    /// The key it proved to hold.
    pub public_key: PublicKey,
    /// What secures it.
    pub security: Security,
    /// The muxer to run.
    pub muxer: Muxer,
    /// Whether the handshake itself settled the muxer, without a round trip.
    pub early_muxer: bool,
    /// Seals what we send next.
    pub seal: SealKey,
    /// Opens what comes next, `ciphertext` first.
    pub open: OpenKey,
    /// Bytes read past the handshake, not yet opened: whole records or the
    /// start of one. They come after `plaintext`.
    pub ciphertext: Vec<u8>,
    /// Opened bytes behind the muxer's token. The first of the muxer.
    pub plaintext: Vec<u8>,
}

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
    /// The peer said what it may not.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl UpgradeError {
    /// Every value of [`label`](Self::label), for a metric that resolves its
    /// label sets at start.
    pub const LABELS: [&'static str; 11] = [
        "timeout",
        "eof",
        "io",
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

/// Upgrades a socket that a peer opened to us.
///
/// # Errors
/// [`UpgradeError`]; the socket is closed, and what the peer is owed is not
/// sent.
pub async fn accept(socket: TcpStream, context: &UpgradeContext) -> Result<Upgraded, UpgradeError> {
    accept_on(socket, context).await
}

/// Upgrades a socket that we opened to a peer. Whether the peer is the one
/// that was meant is the caller's to check.
///
/// # Errors
/// [`UpgradeError`]; the socket is closed.
pub async fn dial(socket: TcpStream, context: &UpgradeContext) -> Result<Upgraded, UpgradeError> {
    dial_on(socket, context).await
}

async fn accept_on<S>(socket: S, context: &UpgradeContext) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = Handshake::responder(&context.local);
    within(context.timeout, socket, handshake, Vec::new()).await
}

async fn dial_on<S>(socket: S, context: &UpgradeContext) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut opening = Vec::new();
    let handshake = Handshake::initiator(&context.local, &mut opening)?;
    within(context.timeout, socket, handshake, opening).await
}

async fn within<S>(
    timeout: Duration,
    mut socket: S,
    handshake: Handshake<'_>,
    opening: Vec<u8>,
) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let upgrade = Drive::new(&mut socket, handshake, opening).run();
    let established = tokio::time::timeout(timeout, upgrade)
        .await
        .map_err(|_| UpgradeError::Timeout(timeout))??;
    Ok(Upgraded::new(socket, *established))
}

impl<S> Upgraded<S> {
    fn new(socket: S, established: Established) -> Self {
        let Established {
            peer_id,
            public_key,
            security,
            muxer,
            early_muxer,
            seal,
            open,
            plaintext,
            ciphertext,
        } = established;
        Self {
            socket,
            peer_id,
            public_key,
            security,
            muxer,
            early_muxer,
            seal,
            open,
            ciphertext,
            plaintext,
        }
    }
}

#[cfg(test)]
mod tests;
