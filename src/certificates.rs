//! The operator's certificates, which secure WebSocket shows to its clients.
//!
//! Owns reading them and their keys, and the choice by the name that a client
//! asks for. All of them are exchanged at once or not at all, so that a renewal
//! gone wrong leaves the old ones serving. Bounds the files. When to read them
//! again is left to `app`, the handshake to `upgrade`.

mod read;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::version::TLS13;
use rustls::{ServerConfig, SignatureScheme};

pub use read::{CHAIN_MAX, CertificateFault, Part, Reason};

use read::Pair;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// PEM, the server's own certificate first, those that vouch for it behind.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What shows that a pair of files holds something else: a hash of each; none of
/// one that cannot be read. Sizes and times would miss what is written within one
/// tick of the clock.
pub type Print = [Option<[u8; 32]>; 2];

/// Certificates that are served, and where they come from.
pub struct Certificates {
    files: Vec<Files>,
    /// Names that listen addresses promise.
    promised: Vec<String>,
    provider: Arc<CryptoProvider>,
    served: RwLock<Arc<[Pair]>>,
}

impl Certificates {
    /// Reads all of `files`, of which there is at least one. Each of `promised`
    /// has to be a name in one of them. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// The first file that cannot be served, and why.
    pub fn load(
        files: Vec<Files>,
        promised: Vec<String>,
        now: u64,
    ) -> Result<Self, CertificateFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let served = read::pairs(&files, &promised, &provider, now)?;
        Ok(Self {
            files,
            promised,
            provider,
            served: RwLock::new(served),
        })
    }

    /// Reads all files again. New connections are shown what they hold; who is
    /// connected notices nothing.
    ///
    /// # Errors
    /// As [`Self::load`]; what was served before is served on.
    pub fn reload(&self, now: u64) -> Result<(), CertificateFault> {
        let served = read::pairs(&self.files, &self.promised, &self.provider, now)?;
        *self.served.write() = served;
        Ok(())
    }

    /// What the files hold now.
    #[must_use]
    pub fn prints(&self) -> Vec<Print> {
        self.files.iter().map(read::print).collect()
    }

    /// Whether this is what is served.
    #[must_use]
    pub fn serves(&self, prints: &[Print]) -> bool {
        let served = self.served.read();
        served.iter().map(|pair| &pair.print).eq(prints)
    }

    /// When the first of them expires, in seconds since 1970.
    #[must_use]
    pub fn expiry(&self) -> i64 {
        let served = self.served.read();
        served.iter().map(|pair| pair.expiry).min().unwrap_or(0)
    }

    /// For clients of secure WebSocket: TLS 1.3 only, which every browser that
    /// can run libp2p speaks, so that one record layer is enough. Nothing is
    /// kept of a client for a later connection.
    ///
    /// # Panics
    /// Never: the provider has TLS 1.3.
    #[must_use]
    pub fn server_config(self: &Arc<Self>) -> ServerConfig {
        let resolver = Arc::clone(self) as Arc<dyn ResolvesServerCert>;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }

    /// The pair to show: among those that the client can verify the one for its
    /// name, else the first. A client that asks for no name, or for one that a
    /// proxy has made up, is better served than turned away.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Pair> {
        let served = Arc::clone(&self.served.read());
        let mut usable = served
            .iter()
            .filter(|pair| pair.key.key.choose_scheme(schemes).is_some());
        let first = usable.clone().next();
        let named = name.and_then(|name| usable.find(|pair| pair.is_for(name)));
        named.or(first).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let pair = self.choose(hello.server_name(), hello.signature_schemes());
        pair.map(|pair| pair.key)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
