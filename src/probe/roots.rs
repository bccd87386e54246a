//! Whose certificates a probe believes on secure WebSocket: those that the system
//! believes, as browsers, go and js do, or those in a file.
//!
//! Bounds the file. Who the server is is proven inside, by its peer id; but with a
//! certificate that browsers refuse it is not reached by them, and a probe is to
//! tell that.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// Certificates of all authorities are some 220 KiB.
const FILE_MAX: u64 = 4 << 20;

/// Where the system's stand: Debian and its like, Fedora and its like, openSUSE,
/// Alpine.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Those that the system believes.
///
/// # Errors
/// One line, if it has none or they cannot be read.
pub fn of_system() -> Result<Arc<RootCertStore>, String> {
    let found = SYSTEM.iter().map(Path::new).find(|path| path.is_file());
    let Some(path) = found else {
        return Err(
            "this host has no certificates of authorities (Debian: ca-certificates); \
             --certificate-roots names a file of them"
                .to_owned(),
        );
    };
    read(path).map_err(|reason| format!("{}: {reason}", path.display()))
}

/// Those in a file of certificates in PEM.
///
/// # Errors
/// What is wrong with the file.
pub fn read(path: &Path) -> Result<Arc<RootCertStore>, String> {
    let fault = |error: std::io::Error| format!("cannot be read: {error}");
    if !path.metadata().map_err(fault)?.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut text))
        .map_err(fault)?;
    if text.len() as u64 > FILE_MAX {
        return Err(format!("is larger than {FILE_MAX} bytes"));
    }
    let mut roots = RootCertStore::empty();
    // Authorities with odd certificates are in every system's list.
    let readable = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    let (added, _) = roots.add_parsable_certificates(readable);
    if added == 0 {
        return Err("holds no certificate in PEM".to_owned());
    }
    Ok(Arc::new(roots))
}

/// How such a server is dialed: with TLS 1.3, the only one that our record layer
/// has. One that has nothing newer than 1.2 browsers would still reach.
pub(super) fn client_config(roots: Arc<RootCertStore>) -> ClientConfig {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has the suites of TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}
