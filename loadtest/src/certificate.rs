//! The certificate under which servers started here serve secure WebSocket, and whom
//! the peers of this process trust there.
//!
//! One certificate for each process, made when it is first needed; whoever is to trust
//! it in another process is given its file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, anyhow};
use libp2p_websocket::tls;
use quinn::rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::namespace;

/// In the directory of the server that was started with them.
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// Serves every server started here.
static OWN: OnceLock<CertifiedKey> = OnceLock::new();
/// With what secure WebSocket is dialled once somebody of our own is trusted.
static CLIENT: OnceLock<tls::Config> = OnceLock::new();

/// Where a server finds its certificate and key.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            certificate: directory.join(CERTIFICATE),
            key: directory.join(KEY),
        }
    }

    /// Writes both, and trusts the certificate.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let own = own()?;
        fs::write(&self.certificate, own.cert.pem())?;
        fs::write(&self.key, own.key_pair.serialize_pem())?;
        trust_only(own.cert.der().to_vec())
    }
}

fn own() -> anyhow::Result<&'static CertifiedKey> {
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let names = [
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        namespace::SERVER.to_string(),
    ];
    let made = generate_simple_self_signed(names).context("cannot make a certificate")?;
    Ok(OWN.get_or_init(|| made))
}

/// The certificate of servers started here, if there is one, for children to trust.
pub(crate) fn own_pem() -> Option<String> {
    OWN.get().map(|own| own.cert.pem())
}

/// Trusts the certificate in this file, in PEM.
///
/// # Errors
/// When there is none in it.
pub(crate) fn trust(file: &Path) -> anyhow::Result<()> {
    let pem = fs::read_to_string(file);
    let trusted = pem
        .map_err(anyhow::Error::from)
        .and_then(|pem| trust_pem(&pem));
    trusted.with_context(|| format!("cannot trust {}", file.display()))
}

/// Trusts the first certificate in this text.
///
/// # Errors
/// When there is none.
pub(crate) fn trust_pem(pem: &str) -> anyhow::Result<()> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| anyhow!("no certificate in PEM: {error}"))?;
    trust_only(certificate.to_vec())
}

fn trust_only(certificate: Vec<u8>) -> anyhow::Result<()> {
    let mut builder = tls::Config::builder();
    builder
        .add_trust(&tls::Certificate::new(certificate))
        .context("certificate cannot be trusted")?;
    // The first one stays, which is the only one of this process.
    CLIENT.get_or_init(|| builder.finish());
    Ok(())
}

/// With what a server on secure WebSocket is dialled: whom `trust` names, and whoever
/// the public authorities vouch for.
pub(crate) fn client() -> tls::Config {
    CLIENT.get().cloned().unwrap_or_else(tls::Config::client)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::of(directory.path());
        files.write().unwrap();
        trust(&files.certificate).unwrap();
        assert!(trust(&files.key).is_err(), "a key is no certificate");
    }
}
