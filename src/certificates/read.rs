//! From PEM files to a certificate that can be served with its key: there, in
//! its time, and matching.
//!
//! Bounds each file, and a chain to what a handshake can carry; takes regular
//! files only, so that a pipe cannot hold up a reload. What vouches for a certificate is not verified here, which its
//! clients do.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::{Files, Print};

/// A chain of certificates is 4 to 8 KiB.
const FILE_MAX: u64 = 256 << 10;

/// Most bytes of certificates that a handshake can show: all that we say in it
/// waits at once for a client that does not read, up to 64 KiB.
pub const CHAIN_MAX: usize = 48 << 10;

/// A file that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct CertificateFault {
    /// The file.
    pub path: PathBuf,
    /// Which of a pair it is.
    pub part: Part,
    /// What is wrong with it.
    pub reason: Reason,
}

/// A file of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The certificate and those that vouch for it.
    Chain,
    /// The private key.
    Key,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The system does not let us.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A directory, a pipe, a device.
    #[error("is not a regular file")]
    NotAFile,
    /// Nothing of the kind is so long.
    #[error("is larger than {FILE_MAX} bytes")]
    TooLarge,
    /// Clients would never see all of it.
    #[error("holds {0} bytes of certificates, and a handshake carries {CHAIN_MAX}")]
    ChainTooLong(usize),
    /// No `BEGIN CERTIFICATE`.
    #[error("holds no certificate in PEM")]
    NoCertificate,
    /// No `BEGIN PRIVATE KEY` or the like.
    #[error("holds no private key in PEM, or an encrypted one")]
    NoKey,
    /// A certificate that is none.
    #[error("holds a certificate that cannot be read: {0}")]
    Malformed(String),
    /// A key of an unknown kind.
    #[error("holds a private key that cannot be used: {0}")]
    Unusable(String),
    /// The key of something else.
    #[error("does not match the certificate in {}", .0.display())]
    Mismatch(PathBuf),
    /// Its time is over.
    #[error("holds a certificate that expired on {0}")]
    Expired(String),
    /// Its time has not begun.
    #[error("holds a certificate that is not valid before {0}")]
    NotYet(String),
    /// A listen address promises a name that no certificate has.
    #[error("no certificate is for {0}, which listen.addresses names")]
    Unnamed(String),
}

/// A certificate with its key.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// Seconds since 1970.
    pub(super) expiry: i64,
    /// Of the files as they were read.
    pub(super) print: Print,
    /// DNS names, a first label `*` stands for any one label.
    names: Arc<[String]>,
}

impl Pair {
    /// Whether the certificate has this name.
    pub(super) fn is_for(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|own| {
            own.eq_ignore_ascii_case(name)
                || own.strip_prefix("*.").is_some_and(|own| {
                    parent.is_some_and(|parent| own.eq_ignore_ascii_case(parent))
                })
        })
    }
}

/// All pairs, or the first fault.
pub(super) fn pairs(
    files: &[Files],
    promised: &[String],
    provider: &CryptoProvider,
    now: u64,
) -> Result<Arc<[Pair]>, CertificateFault> {
    let pairs = files
        .iter()
        .map(|files| pair(files, provider, now))
        .collect::<Result<Arc<[Pair]>, _>>()?;
    let missing = promised
        .iter()
        .find(|name| !pairs.iter().any(|pair| pair.is_for(name)));
    match (missing, files.first()) {
        (Some(name), Some(first)) => Err(first.fault(Part::Chain, Reason::Unnamed(name.clone()))),
        _ => Ok(pairs),
    }
}

impl Files {
    fn fault(&self, part: Part, reason: Reason) -> CertificateFault {
        let path = match part {
            Part::Chain => &self.chain,
            Part::Key => &self.key,
        };
        CertificateFault {
            path: path.clone(),
            part,
            reason,
        }
    }
}

fn pair(files: &Files, provider: &CryptoProvider, now: u64) -> Result<Pair, CertificateFault> {
    let chain_fault = |reason| files.fault(Part::Chain, reason);
    let key_fault = |reason| files.fault(Part::Key, reason);
    let chain_pem = contents(&files.chain).map_err(chain_fault)?;
    let chain = chain(&chain_pem).map_err(chain_fault)?;
    let (expiry, names) = in_time(&chain[0], now).map_err(chain_fault)?;
    let pem = contents(&files.key).map_err(key_fault)?;
    let print = [&chain_pem, &pem].map(|pem| Some(hash(pem)));
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| key_fault(Reason::NoKey))?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            key_fault(Reason::Mismatch(files.chain.clone()))
        }
        Error::InvalidCertificate(error) => chain_fault(Reason::Malformed(error.to_string())),
        error => key_fault(Reason::Unusable(error.to_string())),
    })?;
    Ok(Pair {
        key: Arc::new(certified),
        expiry,
        print,
        names: names.into(),
    })
}

/// At least one certificate, and no more than clients can be shown.
fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Reason::Malformed(error.to_string()))?;
    if chain.is_empty() {
        return Err(Reason::NoCertificate);
    }
    let length = chain.iter().map(|certificate| certificate.len()).sum();
    if length > CHAIN_MAX {
        return Err(Reason::ChainTooLong(length));
    }
    Ok(chain)
}

/// When a certificate that is valid now expires, and the names in it.
fn in_time(der: &[u8], now: u64) -> Result<(i64, Vec<String>), Reason> {
    let malformed = |error: String| Reason::Malformed(error);
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| malformed(error.to_string()))?;
    let validity = certificate.validity();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if now < validity.not_before.timestamp() {
        return Err(Reason::NotYet(validity.not_before.to_string()));
    }
    if now > validity.not_after.timestamp() {
        return Err(Reason::Expired(validity.not_after.to_string()));
    }
    let names = names(&certificate).map_err(malformed)?;
    Ok((validity.not_after.timestamp(), names))
}

fn names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let Some(extension) = extension else {
        return Ok(Vec::new());
    };
    let names = extension.value.general_names.iter();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    Ok(names.collect())
}

fn contents(path: &Path) -> Result<Zeroizing<Vec<u8>>, Reason> {
    // Looked at first, because opening a named pipe waits for its writer.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(Reason::NotAFile);
    }
    if metadata.len() > FILE_MAX {
        return Err(Reason::TooLarge);
    }
    let capacity = usize::try_from(FILE_MAX.min(metadata.len()) + 1).unwrap_or(0);
    // With room for all of it the buffer never moves and leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a pair of files holds now.
pub(super) fn print(files: &Files) -> Print {
    [&files.chain, &files.key].map(|path| contents(path).ok().map(|pem| hash(&pem)))
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
