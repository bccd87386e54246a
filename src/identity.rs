//! Who we are: the private key in memory, what is derived from it, signing.
//!
//! Owns the key file through `identity/file.rs` (created once with 0600, never
//! overwritten) and foreign encodings through `identity/foreign.rs`. Bounds
//! what is read of any key file. Never shows the private half.

mod file;
mod foreign;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
pub use libp2p_identity::KeyType;
use libp2p_identity::{Keypair, PeerId, PublicKey};
use zeroize::Zeroizing;

/// Our key pair and what peers know us by. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    keypair: Keypair,
    signer: Signer,
    public_key: PublicKey,
    public_key_protobuf: Vec<u8>,
    peer_id: PeerId,
}

/// Signs for a key pair, by the fastest library that has its kind.
enum Signer {
    /// A handshake signs once on the accepting side: 9 µs here, 14 µs in
    /// libp2p-identity (measured on the reference host, 2026-08).
    Ed25519(Box<Ed25519KeyPair>),
    /// Secp256k1, RSA, ECDSA: through libp2p-identity.
    Library,
}

/// Kinds of key that can be created; every kind can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewKey {
    /// What every implementation understands, with the shortest peer ids.
    #[default]
    Ed25519,
    /// For networks that share keys with a blockchain account.
    Secp256k1,
}

/// Whether a key file was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFile {
    /// This call made it.
    Created,
    /// It was there before.
    Loaded,
}

/// The library could not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key cannot sign")]
pub struct SigningError;

/// A file that could not be used as a key, or written as one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct IdentityError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub fault: KeyFault,
}

/// What is wrong with a key or its file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// The file system said no.
    #[error("{action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        error: std::io::Error,
    },
    /// There is no key file.
    #[error("does not exist yet, a start or \"waystation identity create\" makes it")]
    Missing,
    /// There is a key already, and keys are never overwritten.
    #[error("exists already and is not overwritten")]
    Exists,
    /// Others than the owner may read or write the private key.
    #[error("others can access it (mode {mode:04o}), run: chmod 600 {}", path.display())]
    Exposed {
        /// Permission bits of the file.
        mode: u32,
        /// The file.
        path: PathBuf,
    },
    /// A directory, device or socket.
    #[error("is not a regular file")]
    NotAFile,
    /// More bytes than any key takes.
    #[error("is larger than {max} bytes, which no key is")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// Not a key in any form we know.
    #[error("is not a libp2p private key: {0}")]
    NotAKey(String),
    /// An RSA key outside of what peers accept or we can sign with.
    #[error("rsa key of {bits} bits: only 2048, 3072 and 4096 bits can be used")]
    RsaBits {
        /// Length of the modulus.
        bits: usize,
    },
    /// The peer id noted beside the key is not the key's.
    #[error("notes the peer id {noted}, but its key is the one of {actual}")]
    OtherPeer {
        /// As noted.
        noted: String,
        /// As computed.
        actual: String,
    },
}

impl Identity {
    /// A fresh Ed25519 identity that is kept nowhere.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_keypair(Keypair::generate_ed25519())
    }

    /// The identity of this key pair.
    ///
    /// # Panics
    ///
    /// When the public half of an Ed25519 pair is not the private half's, which
    /// no constructor of `Keypair` lets happen.
    #[must_use]
    pub fn from_keypair(keypair: Keypair) -> Self {
        let public_key = keypair.public();
        let signer = keypair
            .clone()
            .try_into_ed25519()
            .map_or(Signer::Library, |pair| {
                let bytes = Zeroizing::new(pair.to_bytes());
                let (seed, public) = bytes.split_at(32);
                let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public)
                    .expect("both halves come from one pair");
                Signer::Ed25519(Box::new(pair))
            });
        Self(Arc::new(Inner {
            signer,
            public_key_protobuf: public_key.encode_protobuf(),
            peer_id: public_key.to_peer_id(),
            public_key,
            keypair,
        }))
    }

    /// Reads the key file. Nothing is created.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is open to others, or is no private key.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let load = || {
            let bytes = file::read_private(path)?;
            foreign::decode_protobuf(&bytes).map(|key| Self::from_keypair(key.keypair))
        };
        load().map_err(|fault| IdentityError::new(path, fault))
    }

    /// Reads the key file, or creates it with a new Ed25519 key if there is
    /// none. Of several processes that start at once, all get the same key.
    ///
    /// # Errors
    ///
    /// As [`Identity::load`] and [`Identity::create`].
    pub fn load_or_create(path: &Path) -> Result<(Self, KeyFile), IdentityError> {
        if !path.exists() {
            match Self::create(path, NewKey::default()) {
                Ok(identity) => return Ok((identity, KeyFile::Created)),
                // Somebody else was faster.
                Err(error) if matches!(error.fault, KeyFault::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((Self::load(path)?, KeyFile::Loaded))
    }

    /// Makes a new key and its file.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn create(path: &Path, kind: NewKey) -> Result<Self, IdentityError> {
        let keypair = match kind {
            NewKey::Ed25519 => Keypair::generate_ed25519(),
            NewKey::Secp256k1 => Keypair::generate_secp256k1(),
        };
        let encoded = keypair
            .to_protobuf_encoding()
            .map(Zeroizing::new)
            .expect("both kinds can be encoded");
        file::create_private(path, &encoded).map_err(|fault| IdentityError::new(path, fault))?;
        Ok(Self::from_keypair(keypair))
    }

    /// Takes over the key of an existing node: makes our key file from the key
    /// in `from`, in any form that `identity/foreign.rs` lists.
    ///
    /// # Errors
    ///
    /// When `from` holds no key that we can use, or our file exists or cannot
    /// be written. The error names the file at fault.
    pub fn import(path: &Path, from: &Path) -> Result<Self, IdentityError> {
        let key = file::read_any(from)
            .and_then(|bytes| foreign::decode(&bytes))
            .map_err(|fault| IdentityError::new(from, fault))?;
        file::create_private(path, &key.encoded)
            .map_err(|fault| IdentityError::new(path, fault))?;
        Ok(Self::from_keypair(key.keypair))
    }

    /// What peers know us by.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// The public half in its deterministic protobuf encoding, as handshakes,
    /// identify and envelopes carry it.
    #[must_use]
    pub fn public_key_protobuf(&self) -> &[u8] {
        &self.0.public_key_protobuf
    }

    /// The kind of key.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.0.keypair.key_type()
    }

    /// The pair, for libraries that sign by themselves (TLS certificates).
    #[must_use]
    pub fn keypair(&self) -> &Keypair {
        &self.0.keypair
    }

    /// Signs as libp2p does for this kind of key (peer id spec, "Keys").
    ///
    /// # Errors
    ///
    /// When the library fails, which it does for lack of memory or entropy.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        match &self.0.signer {
            Signer::Ed25519(pair) => pair
                .try_sign(message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SigningError),
            Signer::Library => self.0.keypair.sign(message).map_err(|_| SigningError),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.0.peer_id).finish()
    }
}

impl IdentityError {
    /// Whether there simply is no file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.fault, KeyFault::Missing)
    }

    fn new(path: &Path, fault: KeyFault) -> Self {
        Self {
            path: path.to_owned(),
            fault,
        }
    }
}
