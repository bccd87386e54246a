//! A certificate authority that all peers of the tests trust, and certificates
//! of it in files, as an operator has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libp2p_websocket::tls;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

static AUTHORITY: LazyLock<(Certificate, KeyPair)> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap(), key)
});

/// What a peer needs to dial over secure WebSocket.
pub(crate) fn trusted() -> tls::Config {
    let mut config = tls::Config::builder();
    let certificate = tls::Certificate::new(AUTHORITY.0.der().to_vec());
    config.add_trust(&certificate).unwrap();
    config.finish()
}

/// A certificate with its key, in files.
pub(crate) struct Files {
    directory: TempDir,
}

impl Files {
    /// For these names, and until the end of this year.
    pub(crate) fn issue(names: &[&str], year: i32) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        replace(&files.authority(), &AUTHORITY.0.pem());
        files.renew(names, year);
        files
    }

    /// Puts another certificate and another key in their place.
    pub(crate) fn renew(&self, names: &[&str], year: i32) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &AUTHORITY.0, &AUTHORITY.1).unwrap();
        replace(&self.chain(), &certificate.pem());
        replace(&self.key(), &key.serialize_pem());
    }

    /// The certificate of who vouches for it.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    pub(crate) fn chain(&self) -> PathBuf {
        self.directory.path().join("chain.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// What names them to the server.
    pub(crate) fn settings(&self) -> [String; 2] {
        [
            format!("tls.certificate_files={}", self.chain().display()),
            format!("tls.key_files={}", self.key().display()),
        ]
    }
}

/// As renewals do it: never half a file.
fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).unwrap();
    fs::rename(&temporary, path).unwrap();
}
