//! The certificate of this process for TLS 1.3 and QUIC, and the check of a
//! peer's: one certificate, self-signed, that an identity key has signed
//! (protocols.md §3).
//!
//! What a certificate has to be is libp2p-tls's to say; everything is verified
//! once for each handshake. Bounds a chain to one certificate of 8 KiB
//! (`wire/certificate.rs`). The handshake itself is left to `engine` and to
//! QUIC.

use std::fmt;
use std::sync::Arc;

use libp2p_identity::PublicKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group, sign::any_ecdsa_type};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme, version::TLS13,
};

use super::Identity;
use crate::wire::DecodeError;
use crate::wire::certificate::Certificate as Fields;

/// The protocol name of libp2p itself, behind the muxers in a list.
pub const ALPN: &str = "libp2p";

/// No certificate could be made; the system's random source failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no certificate could be made: {0}")]
pub struct CertificateFault(String);

/// Our certificate, its key, and what we accept of peers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificate {
    provider: Arc<CryptoProvider>,
    presented: Arc<Presented>,
    verifier: Arc<Verifier>,
}

impl Certificate {
    /// A fresh key, with a certificate that says that it is `identity`'s.
    ///
    /// # Errors
    /// [`CertificateFault`] if there is no randomness or no signature.
    pub fn generate(identity: &Identity) -> Result<Self, CertificateFault> {
        let (certificate, key) = libp2p_tls::certificate::generate(identity.keypair())
            .map_err(|error| CertificateFault(error.to_string()))?;
        let key = any_ecdsa_type(&key).map_err(|error| CertificateFault(error.to_string()))?;
        let provider = Arc::new(provider());
        Ok(Self {
            presented: Arc::new(Presented(Arc::new(CertifiedKey::new(
                vec![certificate],
                key,
            )))),
            verifier: Arc::new(Verifier(provider.signature_verification_algorithms)),
            provider,
        })
    }

    /// For peers that come to us. They must show a certificate; nothing is
    /// remembered of them for a later connection.
    ///
    /// # Panics
    /// Never: the provider has TLS 1.3.
    #[must_use]
    pub fn server(&self, protocols: &[&str]) -> ServerConfig {
        let verifier = Arc::clone(&self.verifier) as Arc<dyn ClientCertVerifier>;
        let resolver = Arc::clone(&self.presented) as Arc<dyn ResolvesServerCert>;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        config.alpn_protocols = names(protocols);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // rust-libp2p lists ChaCha20 first whatever its host can do. We carry
        // for thousands and choose what costs us an eighth.
        config.ignore_client_order = has_aes();
        config
    }

    /// For peers that we go to. Who they are is the caller's to compare.
    ///
    /// # Panics
    /// Never: the provider has TLS 1.3.
    #[must_use]
    pub fn client(&self, protocols: &[&str]) -> ClientConfig {
        let verifier = Arc::clone(&self.verifier) as Arc<dyn ServerCertVerifier>;
        let resolver = Arc::clone(&self.presented) as Arc<dyn ResolvesClientCert>;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(resolver);
        config.alpn_protocols = names(protocols);
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config
    }
}

/// The identity behind the certificate of a peer whose handshake has succeeded,
/// which means that the verifier of this file has seen it.
///
/// # Errors
/// [`DecodeError`] if there is not exactly one certificate, or no key in it.
pub fn peer_key(chain: &[CertificateDer<'_>]) -> Result<PublicKey, DecodeError> {
    let [certificate] = chain else {
        return Err(DecodeError::Malformed("not exactly one certificate"));
    };
    let fields = Fields::decode(certificate)?;
    PublicKey::try_decode_protobuf(fields.identity_key)
        .map_err(|_| DecodeError::Malformed("identity key in a certificate"))
}

/// aws-lc with what we take of it. Key exchange after quantum computers is left
/// out: what is relayed is encrypted end to end by peers that do without it, and
/// it would double the bytes of each hello.
fn provider() -> CryptoProvider {
    let mut cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !has_aes() {
        cipher_suites.rotate_right(1);
    }
    CryptoProvider {
        cipher_suites,
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..default_provider()
    }
}

/// Whether this host has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn names(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect()
}

/// The one certificate that we show, whoever asks and whatever for.
struct Presented(Arc<CertifiedKey>);

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented")
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a peer may sign its handshake with: SHA-256 at least, and nothing on
/// P-521, which libp2p-tls cannot verify in certificates.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Verifies the certificate of a peer, and that the peer has its key.
#[derive(Debug)]
struct Verifier(WebPkiSupportedAlgorithms);

impl Verifier {
    /// Validity now, self-signature, extension there once and signed by the
    /// identity, no critical extension that we do not know.
    fn certificate(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(refused(DecodeError::Malformed("more than one certificate")));
        }
        let fields = Fields::decode(leaf).map_err(refused)?;
        let Ok(identity) = PublicKey::try_decode_protobuf(fields.identity_key) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let verified = libp2p_tls::certificate::parse(leaf).map_err(refused)?;
        // Who the peer is will be read again, by another reader than the one
        // that has verified it: both have to see the same.
        if verified.peer_id() != identity.to_peer_id() {
            return Err(CertificateError::BadEncoding.into());
        }
        Ok(())
    }

    /// That whoever speaks has the key of the certificate. The certificate was
    /// verified a moment ago and is not verified again.
    fn signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let fields = Fields::decode(leaf).map_err(refused)?;
        let key = SubjectPublicKeyInfoDer::from(fields.key_info);
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, &self.0)
    }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// TLS 1.2 is not spoken here.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("tls 1.2".to_owned()))
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::certificate(leaf, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::certificate(leaf, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

#[cfg(test)]
mod tests;
