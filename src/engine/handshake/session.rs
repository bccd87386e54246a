//! Noise XX with libp2p's payloads: who the peer is, proven by a signature
//! over its static key, and the two record keys.
//!
//! Bounds a handshake message to [`MESSAGE_MAX`] bytes. What the connection
//! runs after it (muxer negotiation, records) is left to the parent.

use std::sync::{Arc, LazyLock};

use libp2p_identity::{PeerId, PublicKey};
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};

use super::crypto::{KEY_LEN, KeyError, KeyPair, Resolver};
use super::tls::TlsLocal;
use super::{HandshakeError, Role};
use crate::engine::muxer::Muxer;
use crate::engine::record::{HEADER_LEN, OpenKey, SealKey};
use crate::engine::security::Security;
use crate::wire::noise::{Payload, SIGNATURE_PREFIX};

/// Longest Noise handshake message accepted, the length prefix not counted.
/// The largest honest one carries an RSA-8192 identity (1.1 KiB of key, 1 KiB
/// of signature), a hundred muxer names and a few certificate hashes: below
/// 5 KiB. The frame alone would allow a stranger 64 KiB.
pub const MESSAGE_MAX: usize = 8 * 1024;

/// Bytes of message 2 besides its payload, the longest of the three: ephemeral
/// key, static key with tag, tag of the payload.
const MESSAGE_OVERHEAD: usize = KEY_LEN + KEY_LEN + 16 + 16;

static PARAMS: LazyLock<NoiseParams> = LazyLock::new(|| {
    "Noise_XX_25519_ChaChaPoly_SHA256"
        .parse()
        .expect("a protocol name that snow knows")
});

/// The X25519 key of this process, before it is signed.
pub struct StaticKey(Arc<KeyPair>);

impl StaticKey {
    /// A fresh key. One for the life of the process: XX hides and
    /// authenticates it, and forward secrecy comes from the ephemeral keys.
    ///
    /// # Errors
    /// [`KeyError`] if the system's random source fails.
    pub fn generate() -> Result<Self, KeyError> {
        KeyPair::generate().map(|pair| Self(Arc::new(pair)))
    }

    #[cfg(test)]
    pub(super) fn fixed(private: [u8; KEY_LEN]) -> Self {
        Self(Arc::new(
            KeyPair::from_private(private).expect("any 32 bytes are a key"),
        ))
    }

    /// What the identity key has to sign for this key.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [SIGNATURE_PREFIX, self.0.public()].concat()
    }
}

/// What every handshake of this process says about us.
pub struct Local {
    static_key: Arc<KeyPair>,
    pub(super) payload: Vec<u8>,
    pub(super) muxers: Vec<Muxer>,
    /// What is offered, the preferred one first; dialers propose nothing else
    /// than that one.
    pub(super) security: Vec<Security>,
    pub(super) tls: Option<TlsLocal>,
    /// Makes a handshake repeatable, so that a recorded one can be replayed.
    #[cfg(test)]
    pub(super) ephemeral: Option<[u8; KEY_LEN]>,
}

impl Local {
    /// Encodes the payload once: identity, its signature over `static_key`
    /// ([`StaticKey::signed_bytes`]), and the muxers in order of preference.
    #[must_use]
    pub fn new(
        static_key: StaticKey,
        identity_key: &[u8],
        identity_sig: &[u8],
        muxers: &[Muxer],
    ) -> Self {
        let mut payload = Vec::new();
        Payload {
            identity_key,
            identity_sig,
            stream_muxers: muxers.iter().map(|muxer| muxer.protocol()).collect(),
        }
        .encode(&mut payload);
        Self {
            static_key: static_key.0,
            payload,
            muxers: muxers.to_vec(),
            security: vec![Security::Noise],
            tls: None,
            #[cfg(test)]
            ephemeral: None,
        }
    }

    /// Offers TLS, too, or in place of Noise: `security` is the list of what is
    /// offered, the preferred one first.
    #[must_use]
    pub fn with_tls(mut self, mut tls: TlsLocal, security: &[Security]) -> Self {
        tls.offer(&self.muxers);
        self.tls = Some(tls);
        self.security = security.to_vec();
        self
    }
}

/// What a finished Noise or TLS handshake knows.
pub(super) struct Authenticated {
    pub(super) peer_id: PeerId,
    pub(super) public_key: PublicKey,
    pub(super) security: Security,
    pub(super) seal: SealKey,
    pub(super) open: OpenKey,
    /// The muxer that both sides agreed on in the handshake itself.
    pub(super) early_muxer: Option<Muxer>,
}

/// One Noise handshake under way.
pub(super) struct Session {
    noise: HandshakeState,
    role: Role,
}

impl Session {
    pub(super) fn new(role: Role, local: &Local) -> Result<Self, HandshakeError> {
        let resolver = Resolver {
            static_key: Arc::clone(&local.static_key),
        };
        let builder = Builder::with_resolver(PARAMS.clone(), Box::new(resolver))
            .local_private_key(local.static_key.private())?;
        #[cfg(test)]
        let builder = match &local.ephemeral {
            Some(key) => builder.fixed_ephemeral_key_for_testing_only(key),
            None => builder,
        };
        let noise = match role {
            Role::Responder => builder.build_responder(),
            Role::Initiator => builder.build_initiator(),
        }?;
        Ok(Self { noise, role })
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// Appends message 1 to `output`. It carries no payload.
    pub(super) fn start(&mut self, output: &mut Vec<u8>) -> Result<(), HandshakeError> {
        self.write(&[], output)
    }

    /// Takes the peer's next message and appends the answer, if there is one.
    pub(super) fn handle_message(
        &mut self,
        message: &[u8],
        local: &Local,
        output: &mut Vec<u8>,
    ) -> Result<Option<Authenticated>, HandshakeError> {
        let mut buffer = [0; MESSAGE_MAX];
        let length = self.noise.read_message(message, &mut buffer)?;
        let payload = &buffer[..length];
        match (self.role, self.noise.is_handshake_finished()) {
            (Role::Responder, false) => {
                // Message 1 should be empty; like go, we do not look.
                self.write(&local.payload, output)?;
                Ok(None)
            }
            (Role::Responder, true) => self.authenticate(payload, local).map(Some),
            (Role::Initiator, _) => {
                // Nothing is sent to a peer that has not proven who it is.
                let verified = self.verify(payload, local)?;
                self.write(&local.payload, output)?;
                Ok(Some(self.finish(verified)))
            }
        }
    }

    fn authenticate(
        &mut self,
        payload: &[u8],
        local: &Local,
    ) -> Result<Authenticated, HandshakeError> {
        let verified = self.verify(payload, local)?;
        Ok(self.finish(verified))
    }

    fn verify(&self, payload: &[u8], local: &Local) -> Result<Verified, HandshakeError> {
        let (payload, _) = Payload::decode(payload)?;
        let static_key = self
            .noise
            .get_remote_static()
            .expect("messages 2 and 3 carry the sender's static key");
        let public_key = verify_identity(&payload, static_key)?;
        Ok(Verified {
            public_key,
            early_muxer: early_muxer(self.role, &local.muxers, &payload.stream_muxers),
        })
    }

    fn finish(&mut self, verified: Verified) -> Authenticated {
        // Noise §5.3, Split: the initiator seals with the first key.
        let (first, second) = self.noise.dangerously_get_raw_split();
        let (seal, open) = match self.role {
            Role::Responder => (second, first),
            Role::Initiator => (first, second),
        };
        Authenticated {
            // From the canonical encoding, never from the bytes received.
            peer_id: verified.public_key.to_peer_id(),
            public_key: verified.public_key,
            security: Security::Noise,
            seal: SealKey::new(seal),
            open: OpenKey::new(open),
            early_muxer: verified.early_muxer,
        }
    }

    fn write(&mut self, payload: &[u8], output: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let start = output.len();
        output.resize(start + HEADER_LEN + MESSAGE_OVERHEAD + payload.len(), 0);
        let (header, body) = output[start..].split_at_mut(HEADER_LEN);
        let length = self.noise.write_message(payload, body)?;
        let framed = u16::try_from(length).map_err(|_| snow::Error::Input)?;
        header.copy_from_slice(&framed.to_be_bytes());
        output.truncate(start + HEADER_LEN + length);
        Ok(())
    }
}

struct Verified {
    public_key: PublicKey,
    early_muxer: Option<Muxer>,
}

/// The identity in `payload`, if it signed the Noise static key. Keys too weak
/// to be accepted (RSA below 2048 bits) fail their own verification.
fn verify_identity(payload: &Payload<'_>, static_key: &[u8]) -> Result<PublicKey, HandshakeError> {
    let public_key = PublicKey::try_decode_protobuf(payload.identity_key)
        .map_err(|_| HandshakeError::IdentityKey)?;
    let mut signed = [0; SIGNATURE_PREFIX.len() + KEY_LEN];
    signed[..SIGNATURE_PREFIX.len()].copy_from_slice(SIGNATURE_PREFIX);
    signed[SIGNATURE_PREFIX.len()..].copy_from_slice(static_key);
    if public_key.verify(&signed, payload.identity_sig) {
        Ok(public_key)
    } else {
        Err(HandshakeError::Signature)
    }
}

/// The first muxer of the initiator's list that the responder lists too
/// (connections/inlined-muxer-negotiation.md). Without one the muxer is
/// negotiated inside the channel, as go does; js gives up by itself.
fn early_muxer(role: Role, ours: &[Muxer], theirs: &[&str]) -> Option<Muxer> {
    match role {
        Role::Responder => theirs
            .iter()
            .filter_map(|name| Muxer::from_protocol(name))
            .find(|muxer| ours.contains(muxer)),
        Role::Initiator => ours
            .iter()
            .copied()
            .find(|muxer| theirs.contains(&muxer.protocol())),
    }
}
