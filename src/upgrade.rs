//! From an accepted or dialled socket to an authenticated, muxed connection:
//! what comes in front of the handshake, and the handshake, under one deadline.
//!
//! In front may stand, in this order: what a proxy says of whom it forwards,
//! the outer TLS of secure WebSocket (`secure.rs`), the HTTP exchange of
//! WebSocket (`websocket.rs`) and the nonces of a private network
//! (`private_network.rs`); the last three add a layer each to the socket's
//! carrier. A pending upgrade owns its socket, a timer and what the engine holds (one incomplete frame); the buffer
//! it reads into belongs to the thread and is borrowed for one pass. Admission,
//! socket options and what runs on the connection are left to others.

mod drive;
mod entrance;
mod error;
mod private_network;
mod secure;
mod websocket;

use std::time::{Duration, Instant};

use libp2p_identity::{PeerId, PublicKey};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use self::drive::Line;
pub use self::entrance::{Entrance, Entrances};
pub use self::error::UpgradeError;
use crate::clock;
use crate::connection::carrier::{Layers, Socket};
use crate::engine::demux::Side;
use crate::engine::handshake::{Established, Handshake, KeyError, Local, StaticKey, TlsLocal};
use crate::engine::muxer::Muxer;
use crate::engine::private_network::PrivateKey;
use crate::engine::record::{OpenKey, SealKey};
use crate::engine::security::Security;
use crate::identity::certificate::CertificateFault;
use crate::identity::{Identity, SigningError};
use crate::wire::DecodeError;
use crate::wire::proxy::{self, Source};

/// Time for a whole upgrade, as go's accept path has it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What all upgrades of this process share: one static key and one certificate,
/// each signed once.
pub struct UpgradeContext {
    local: Local,
    /// Deadline over the whole upgrade, counted from its start.
    pub timeout: Duration,
    /// The key of the private network that all peers have to be in.
    pub private: Option<PrivateKey>,
    /// The operator's certificates, for [`Entrance::Secure`].
    pub secure: Option<ServerConfig>,
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
            private: None,
            secure: None,
        })
    }
}

/// How a server that takes WebSocket is asked for it.
#[derive(Debug)]
pub struct Web {
    /// Host and port, as they stand in a URL.
    pub host: String,
    /// Of secure WebSocket: whose certificates are believed, and whose is wanted.
    pub secure: Option<(ClientConfig, ServerName<'static>)>,
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
pub struct Upgraded<S = Socket> {
    /// The socket, read up to and including `ciphertext`.
    pub socket: S,
    /// What lies between it and the records.
    pub layers: Layers,
    /// Which way it came in.
    pub entrance: Entrance,
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

/// A socket that a peer opened to us, on its way to a connection.
///
/// Dropped, or with an error, the socket is closed, and what the peer is owed
/// is not sent.
pub struct Incoming<'a, S = Socket> {
    context: &'a UpgradeContext,
    line: Line<S>,
    /// Of all steps together.
    deadline: Instant,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Incoming<'a, S> {
    /// The deadline counts from here.
    #[must_use]
    pub fn new(socket: S, context: &'a UpgradeContext) -> Self {
        Self {
            context,
            line: Line::new(socket),
            deadline: clock::now() + context.timeout,
        }
    }

    /// Whom the proxy that opened the socket forwards. To be asked first, and
    /// only of a proxy that is believed.
    ///
    /// # Errors
    /// [`UpgradeError`], also if it says nothing of the kind.
    pub async fn source(&mut self) -> Result<Source, UpgradeError> {
        let line = &mut self.line;
        let header = async {
            loop {
                match proxy::decode(&line.input) {
                    Ok((source, length)) => {
                        line.input.drain(..length);
                        return Ok(source);
                    }
                    Err(DecodeError::Incomplete) => line.more(proxy::HEADER_MAX).await?,
                    Err(error) => return Err(UpgradeError::Proxy(error)),
                }
            }
        };
        let timed = timeout_at(self.deadline.into(), header).await;
        timed.map_err(|_| UpgradeError::Timeout(self.context.timeout))?
    }

    /// Goes through the other steps. `entrances` are the ways in that its port
    /// has.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub async fn upgrade(self, entrances: Entrances) -> Result<Upgraded<S>, UpgradeError> {
        let Self {
            context,
            mut line,
            deadline,
        } = self;
        let steps = async {
            let entrance = entrance::tell(&mut line, entrances).await?;
            match entrance {
                Entrance::Plain => {}
                Entrance::WebSocket => websocket::accept(&mut line).await?,
                Entrance::Secure => {
                    let config = context.secure.clone().ok_or(UpgradeError::NoCertificate)?;
                    secure::accept(&mut line, config).await?;
                    websocket::accept(&mut line).await?;
                }
            }
            let handshake = Handshake::responder(&context.local);
            let mut upgraded = steps(line, context, Side::Listener, handshake, &[]).await?;
            upgraded.entrance = entrance;
            Ok(upgraded)
        };
        let timed = timeout_at(deadline.into(), steps).await;
        timed.map_err(|_| UpgradeError::Timeout(context.timeout))?
    }

    /// The socket, for who does not want it any more.
    #[must_use]
    pub fn into_socket(self) -> S {
        self.line.carrier.into_parts().0
    }
}

/// Upgrades a socket that we opened to a peer. Whether the peer is the one
/// that was meant is the caller's to check.
///
/// # Errors
/// [`UpgradeError`]; the socket is closed.
pub async fn dial(
    socket: TcpStream,
    context: &UpgradeContext,
) -> Result<Upgraded<TcpStream>, UpgradeError> {
    dial_on(socket, context).await
}

/// As [`dial`], to a server that takes WebSocket.
///
/// # Errors
/// [`UpgradeError`]; the socket is closed.
pub async fn dial_web(
    socket: TcpStream,
    web: Web,
    context: &UpgradeContext,
) -> Result<Upgraded<TcpStream>, UpgradeError> {
    dial_web_on(socket, web, context).await
}

async fn dial_web_on<S>(
    socket: S,
    web: Web,
    context: &UpgradeContext,
) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut opening = Vec::new();
    let handshake = Handshake::initiator(&context.local, &mut opening)?;
    let mut line = Line::new(socket);
    let steps = async {
        let entrance = match web.secure {
            None => Entrance::WebSocket,
            Some((config, name)) => {
                secure::connect(&mut line, config, name).await?;
                Entrance::Secure
            }
        };
        websocket::connect(&mut line, &web.host).await?;
        let mut upgraded = steps(line, context, Side::Dialer, handshake, &opening).await?;
        upgraded.entrance = entrance;
        Ok(upgraded)
    };
    let timed = tokio::time::timeout(context.timeout, steps).await;
    timed.map_err(|_| UpgradeError::Timeout(context.timeout))?
}

async fn dial_on<S>(socket: S, context: &UpgradeContext) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut opening = Vec::new();
    let handshake = Handshake::initiator(&context.local, &mut opening)?;
    let line = Line::new(socket);
    let steps = steps(line, context, Side::Dialer, handshake, &opening);
    let timed = tokio::time::timeout(context.timeout, steps).await;
    timed.map_err(|_| UpgradeError::Timeout(context.timeout))?
}

async fn steps<S>(
    mut line: Line<S>,
    context: &UpgradeContext,
    side: Side,
    handshake: Handshake<'_>,
    opening: &[u8],
) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(key) = &context.private {
        private_network::enter(&mut line, key, side).await?;
    }
    line.carrier.enqueue(opening)?;
    let established = line.handshake(handshake).await?;
    let (socket, layers) = line.carrier.into_parts();
    Ok(Upgraded::new(socket, layers, *established))
}

impl<S> Upgraded<S> {
    fn new(socket: S, layers: Layers, established: Established) -> Self {
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
            layers,
            entrance: Entrance::Plain,
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
