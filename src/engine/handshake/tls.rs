//! TLS 1.3 as `/tls/1.0.0` has it: the muxer by ALPN, and who the peer is by
//! its certificate.
//!
//! The handshake is `engine/tls.rs`, which bounds it too; certificates are
//! verified by the configurations in [`TlsLocal`]. Nothing of the peer's is
//! looked at before both are done.

use libp2p_identity::PublicKey;
use rustls::{ClientConfig, ServerConfig};

use super::session::{Authenticated, Local};
use super::{HandshakeError, Role};
use crate::engine::muxer::Muxer;
use crate::engine::security::Security;
use crate::engine::tls::{Finished, HANDSHAKE_MAX, PEER, TlsError, TlsHandshake};
use crate::wire::certificate::Certificate;
use crate::wire::tls::{offered_protocols, record_len};

/// The protocol of peers that agree on a muxer afterwards.
const NO_MUXER: &[u8] = b"libp2p";

/// What every TLS handshake of this process shows and accepts. Both lists of
/// protocols are filled in from the muxers.
#[derive(Debug)]
pub struct TlsLocal {
    /// For peers that come to us.
    pub server: ServerConfig,
    /// For peers that we go to.
    pub client: ClientConfig,
}

impl TlsLocal {
    /// Offers these muxers, best first, and behind them to agree on one later.
    pub(super) fn offer(&mut self, muxers: &[Muxer]) {
        let names = muxers.iter().map(|muxer| muxer.protocol().as_bytes());
        let names: Vec<_> = names.chain([NO_MUXER]).map(<[u8]>::to_vec).collect();
        self.server.alpn_protocols.clone_from(&names);
        self.client.alpn_protocols = names;
    }
}

/// One TLS handshake under way.
pub(super) struct TlsSession {
    role: Role,
    /// Not there before the first record of a client has come: how we answer
    /// depends on what it offers.
    handshake: Option<TlsHandshake>,
}

impl TlsSession {
    pub(super) fn responder() -> Self {
        Self {
            role: Role::Responder,
            handshake: None,
        }
    }

    /// Appends the hello to `output`.
    pub(super) fn initiator(
        local: &TlsLocal,
        output: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self {
            role: Role::Initiator,
            handshake: Some(TlsHandshake::client(local.client.clone(), output)?),
        })
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// Takes what is whole from the front of `input` and answers it. Tells how
    /// much that was; the rest has to stand in front of the next input.
    pub(super) fn handle_input(
        &mut self,
        input: &mut [u8],
        local: &Local,
        output: &mut Vec<u8>,
    ) -> Result<(usize, Option<Authenticated>), HandshakeError> {
        let handshake = match &mut self.handshake {
            Some(handshake) => handshake,
            None => match answer_to(input, local)? {
                Some(handshake) => self.handshake.insert(handshake),
                None => return Ok((0, None)),
            },
        };
        let (used, finished) = handshake.handle_input(input, output)?;
        let peer = finished.map(|finished| authenticate(finished, local));
        Ok((used, peer.transpose()?))
    }
}

/// The handshake for the client whose hello is at the front of `input`, once it
/// is there.
///
/// The client's order decides on the muxer, as go has it, where rustls would
/// follow the server's: so it is given nothing but the client's first protocol
/// that we know. If there is none, it is given all and says no.
fn answer_to(input: &[u8], local: &Local) -> Result<Option<TlsHandshake>, HandshakeError> {
    let Some(length) = record_len(input) else {
        return Ok(None);
    };
    if length > HANDSHAKE_MAX {
        return Err(TlsError::TooLarge(PEER).into());
    }
    let Some(record) = input.get(..length) else {
        return Ok(None);
    };
    let tls = local.tls.as_ref().ok_or(HandshakeError::Over)?;
    let mut config = tls.server.clone();
    if let Ok(mut offered) = offered_protocols(record)
        && let Some(first) = offered.find(|name| {
            let mut known = config.alpn_protocols.iter();
            known.any(|known| known == name)
        })
    {
        config.alpn_protocols = vec![first.to_vec()];
    }
    Ok(Some(TlsHandshake::server(config)?))
}

/// Who the verified certificate says the peer is.
fn authenticate(finished: Finished, local: &Local) -> Result<Authenticated, HandshakeError> {
    let [certificate] = &finished.chain[..] else {
        return Err(HandshakeError::IdentityKey);
    };
    let key = Certificate::decode(certificate)
        .ok()
        .and_then(|found| PublicKey::try_decode_protobuf(found.identity_key).ok());
    let public_key = key.ok_or(HandshakeError::IdentityKey)?;
    let protocol = finished.protocol.as_deref();
    let mut muxers = local.muxers.iter().copied();
    let early_muxer = muxers.find(|muxer| protocol == Some(muxer.protocol().as_bytes()));
    Ok(Authenticated {
        // From the canonical encoding, never from the bytes received.
        peer_id: public_key.to_peer_id(),
        public_key,
        security: Security::Tls,
        seal: finished.seal,
        open: finished.open,
        early_muxer,
    })
}
