//! Who we are: the private key in memory, what is derived from it, signing.
//!
//! Owns the key file through `identity/file.rs` (created once with 0600, never
//! overwritten), foreign encodings through `identity/foreign.rs`, and what TLS
//! and QUIC show of us through `identity/certificate.rs`. Bounds what is read
//! of any key file. Never shows the private half.

pub mod certificate;
mod file;
mod foreign;
mod secret;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::Ed25519KeyPair;
pub use libp2p_identity::KeyType;
use libp2p_identity::{Keypair, PeerId, PublicKey};
use zeroize::Zeroizing;

use self::certificate::{Certificate, CertificateFault};
pub use secret::Secret;

/// Our key pair and what peers know us by. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    keypair: Keypair,
    signer: Signer,
    public_key: PublicKey,
    public_key_protobuf: Vec<u8>,
    peer_id: PeerId,
    /// Made when it is first asked for.
    certificate: OnceLock<Certificate>,
}

/// Signs for a key pair, by the fastest library that has its kind.
enum Signer {
    /// Every handshake and every voucher signs once: 9 µs here, 17 µs in the
    /// library behind libp2p-identity.
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
    /// Not what [`Secret`] has written.
    #[error(
        "is not 32 bytes; if nothing else is kept in it, remove it and a start makes a new one"
    )]
    NotASecret,
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
            certificate: OnceLock::new(),
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

    /// The certificate that TLS and QUIC show of us, the same for the life of
    /// the process.
    ///
    /// # Errors
    ///
    /// When it cannot be made, for lack of entropy.
    pub fn certificate(&self) -> Result<&Certificate, CertificateFault> {
        if let Some(certificate) = self.0.certificate.get() {
            return Ok(certificate);
        }
        let fresh = Certificate::generate(self)?;
        // Another thread may have been faster; then that one counts.
        Ok(self.0.certificate.get_or_init(|| fresh))
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    use super::*;

    const MESSAGE: &[u8] = b"waystation";

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/identity")
            .join(name)
    }

    /// Imports a fixture into a new state directory, and reads it back as a
    /// start would.
    fn import(name: &str) -> Result<Identity, IdentityError> {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("deep/er/identity.key");
        let imported = Identity::import(&path, &fixture(name))?;
        let loaded = Identity::load(&path).unwrap();
        assert_eq!(loaded.peer_id(), imported.peer_id());
        Ok(loaded)
    }

    fn import_bytes(bytes: &[u8]) -> Result<Identity, IdentityError> {
        let state = tempfile::tempdir().unwrap();
        let from = state.path().join("from");
        fs::write(&from, bytes).unwrap();
        Identity::import(&state.path().join("identity.key"), &from)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn keys_made_by_go_keep_their_peer_id_and_signatures() {
        let peer_ids = fs::read_to_string(fixture("peer-ids.txt")).unwrap();
        for line in peer_ids.lines() {
            let (name, peer_id) = line.split_once(' ').unwrap();
            let identity = import(&format!("{name}.key")).unwrap();
            assert_eq!(identity.peer_id().to_base58(), peer_id, "{name}");

            let theirs = fs::read(fixture(&format!("{name}.sig"))).unwrap();
            assert!(identity.public_key().verify(MESSAGE, &theirs), "{name}");
            let ours = identity.sign(MESSAGE).unwrap();
            assert!(identity.public_key().verify(MESSAGE, &ours), "{name}");
            // Only these two kinds sign the same message the same way twice.
            if name.starts_with("rsa") || name == "ed25519" {
                assert_eq!(ours, theirs, "{name}");
            }
        }
        assert_eq!(peer_ids.lines().count(), 6);
    }

    #[test]
    fn an_rsa_key_made_by_openssl_signs_as_openssl_does() {
        let identity = import("rsa2048-openssl.key").unwrap();
        let theirs = fs::read(fixture("rsa2048-openssl.sig")).unwrap();
        assert_eq!(identity.sign(MESSAGE).unwrap(), theirs);
    }

    #[test]
    fn a_kubo_configuration_and_its_base64_give_the_same_identity() {
        for name in ["ed25519", "rsa2048"] {
            let expected = import(&format!("{name}.key")).unwrap().peer_id();
            let kubo = format!("{name}.kubo.json");
            assert_eq!(import(&kubo).unwrap().peer_id(), expected);

            let json: serde_json::Value =
                serde_json::from_slice(&fs::read(fixture(&kubo)).unwrap()).unwrap();
            let base64 = json["Identity"]["PrivKey"].as_str().unwrap();
            let lines = format!("{}\n{}\n", &base64[..40], &base64[40..]);
            for text in [base64, &lines] {
                assert_eq!(import_bytes(text.as_bytes()).unwrap().peer_id(), expected);
            }
        }
    }

    #[test]
    fn a_kubo_configuration_with_another_peer_id_is_refused() {
        let kubo = fs::read_to_string(fixture("ed25519.kubo.json")).unwrap();
        let actual = import("ed25519.key").unwrap().peer_id().to_base58();
        let other = import("rsa2048.key").unwrap().peer_id().to_base58();
        let error = import_bytes(kubo.replace(&actual, &other).as_bytes()).unwrap_err();
        assert_eq!(
            error.fault.to_string(),
            format!("notes the peer id {other}, but its key is the one of {actual}")
        );
    }

    #[test]
    fn rsa_below_2048_bits_is_refused() {
        let error = import("rsa1024-openssl.key").unwrap_err();
        assert!(
            matches!(error.fault, KeyFault::RsaBits { bits: 1024 }),
            "{error}"
        );
    }

    #[test]
    fn the_old_form_of_ed25519_is_accepted_when_its_copies_agree() {
        let key = fs::read(fixture("ed25519.key")).unwrap();
        let mut old = vec![0x08, 0x01, 0x12, 96];
        old.extend_from_slice(&key[4..]);
        old.extend_from_slice(&key[36..]);
        let expected = import("ed25519.key").unwrap().peer_id();
        assert_eq!(import_bytes(&old).unwrap().peer_id(), expected);

        *old.last_mut().unwrap() ^= 1;
        let error = import_bytes(&old).unwrap_err().to_string();
        assert!(error.contains("copies"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_refused_without_making_a_file() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("identity.key");
        let from = state.path().join("from");
        let key = fs::read(fixture("ed25519.key")).unwrap();
        let mut wrong_half = key.clone();
        *wrong_half.last_mut().unwrap() ^= 1;
        for bytes in [
            b"".as_slice(),
            b"hello",
            b"{\"Identity\": {}}",
            b"{\"Identity\": {\"PrivKey\": \"?\"}}",
            b"-----BEGIN PRIVATE KEY-----",
            &key[..key.len() - 1],
            &[&key[..], b"x"].concat(),
            &[0x08, 0x07, 0x12, 0x00],
            &[0x08, 0x00, 0x12, 0x03, 0x30, 0x82, 0xff],
            &[0x08, 0x00, 0x12, 0x02, 0x30, 0x81],
            &[0xff; 64],
            &wrong_half,
        ] {
            fs::write(&from, bytes).unwrap();
            let error = Identity::import(&path, &from).unwrap_err();
            assert_eq!(error.path, from);
            let line = error.to_string();
            assert!(line.contains("is not a libp2p private key: "), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
        fs::write(&from, vec![b'A'; (1 << 20) + 1]).unwrap();
        let error = Identity::import(&path, &from).unwrap_err();
        assert!(matches!(error.fault, KeyFault::TooLarge { .. }), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_created_key_is_private_and_alone_in_its_directory() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("a/b");
        let path = directory.join("identity.key");
        for kind in [NewKey::Ed25519, NewKey::Secp256k1] {
            let created = Identity::create(&path, kind).unwrap();
            assert_eq!(mode(&path), 0o600);
            assert_eq!(mode(&directory), 0o700);
            assert_eq!(mode(directory.parent().unwrap()), 0o700);
            assert_eq!(entries(&directory), 1);
            assert_eq!(Identity::load(&path).unwrap().peer_id(), created.peer_id());
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn whatever_stands_at_the_name_is_not_overwritten() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("identity.key");
        fs::write(&path, "precious").unwrap();
        let dangling = state.path().join("dangling.key");
        symlink(state.path().join("nowhere"), &dangling).unwrap();
        for path in [&path, &dangling] {
            let create = Identity::create(path, NewKey::Ed25519).unwrap_err();
            let import = Identity::import(path, &fixture("ed25519.key")).unwrap_err();
            for error in [create, import] {
                assert!(matches!(error.fault, KeyFault::Exists), "{error}");
            }
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(entries(state.path()), 2);
    }

    #[test]
    fn starts_at_the_same_time_agree_on_one_key() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("new/identity.key");
        let opened: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(&path).unwrap()))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        let creators = opened.iter().filter(|(_, file)| *file == KeyFile::Created);
        assert_eq!(creators.count(), 1);
        let peer_id = opened[0].0.peer_id();
        assert!(
            opened
                .iter()
                .all(|(identity, _)| identity.peer_id() == peer_id)
        );
        assert_eq!(entries(path.parent().unwrap()), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("identity.key");
        Identity::create(&path, NewKey::Ed25519).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Identity::load(&path).unwrap_err().fault.to_string();
            let command = format!("run: chmod 600 {}", path.display());
            assert!(error.ends_with(&command), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        Identity::load(&path).unwrap();
    }

    #[test]
    fn only_a_regular_file_is_a_key_file() {
        let state = tempfile::tempdir().unwrap();
        let error = Identity::load(state.path()).unwrap_err();
        assert!(matches!(error.fault, KeyFault::NotAFile), "{error}");
        let error = Identity::load(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(error.fault, KeyFault::NotAFile), "{error}");
        assert!(
            Identity::load(&state.path().join("absent"))
                .unwrap_err()
                .is_not_found()
        );
    }

    #[test]
    fn a_known_ed25519_key_has_the_peer_id_of_the_specification() {
        // Peer id specification, test vectors.
        let seed_and_public = "7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d\
                               1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e";
        let protobuf: Vec<u8> = format!("08011240{seed_and_public}")
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let identity = import_bytes(&protobuf).unwrap();
        assert_eq!(
            identity.peer_id().to_base58(),
            "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
        );
        assert_eq!(
            identity.public_key_protobuf()[..4],
            [0x08, 0x01, 0x12, 0x20]
        );
        assert_eq!(identity.public_key_protobuf()[4..], protobuf[36..]);
    }

    #[test]
    fn debug_output_shows_the_peer_id_only() {
        let identity = Identity::generate();
        let shown = format!("{identity:?}");
        assert!(shown.contains(&identity.peer_id().to_base58()), "{shown}");
        assert!(shown.len() < 100, "{shown}");
    }
}
