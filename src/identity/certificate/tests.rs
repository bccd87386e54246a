//! Certificates good and bad, shown in real handshakes between two rustls
//! connections in memory.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use libp2p_identity::Keypair;
use rcgen::{CertificateParams, CustomExtension, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{AlertDescription, ClientConnection, ServerConnection};

use super::*;
use crate::wire::hex;

const OID: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];

/// A certificate that `change` may spoil before it is signed.
fn spoiled(identity: &Keypair, change: impl FnOnce(&mut CertificateParams)) -> Presented {
    spoiled_on(&rcgen::PKCS_ECDSA_P256_SHA256, identity, change)
}

fn spoiled_on(
    kind: &'static rcgen::SignatureAlgorithm,
    identity: &Keypair,
    change: impl FnOnce(&mut CertificateParams),
) -> Presented {
    let key = KeyPair::generate_for(kind).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.custom_extensions.push(extension(identity, &key));
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = any_ecdsa_type(&key).unwrap();
    Presented(Arc::new(CertifiedKey::new(vec![certificate.into()], key)))
}

fn extension(identity: &Keypair, key: &KeyPair) -> CustomExtension {
    let message = [b"libp2p-tls-handshake:", &key.public_key_der()[..]].concat();
    let values = [
        identity.public().encode_protobuf(),
        identity.sign(&message).unwrap(),
    ];
    let mut body = Vec::new();
    for value in values {
        body.extend([4, u8::try_from(value.len()).unwrap()]);
        body.extend(value);
    }
    let mut content = vec![0x30, u8::try_from(body.len()).unwrap()];
    content.extend(body);
    CustomExtension::from_oid_content(&OID, content)
}

fn unknown_extension(critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

fn ours() -> Certificate {
    Certificate::generate(&Identity::generate()).unwrap()
}

/// One that shows something else than what `ours` would.
fn showing(presented: Presented) -> Certificate {
    Certificate {
        presented: Arc::new(presented),
        ..ours()
    }
}

/// How a handshake ends for both sides: for the server, and then for the
/// client, which has heard of it.
fn handshake(
    server: ServerConfig,
    client: ClientConfig,
) -> (
    Result<ServerConnection, Error>,
    Result<ClientConnection, Error>,
) {
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = ServerName::try_from("libp2p").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut verdict = Ok(());
    while verdict.is_ok() && (server.is_handshaking() || client.is_handshaking()) {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        while verdict.is_ok() && !flight.is_empty() {
            let taken = server.read_tls(&mut &flight[..]).unwrap();
            flight.drain(..taken);
            verdict = server.process_new_packets().map(|_| ());
        }
        server.write_tls(&mut flight).unwrap();
        if flight.is_empty() {
            break;
        }
        client.read_tls(&mut &flight[..]).unwrap();
        if let Err(error) = client.process_new_packets() {
            return (verdict.map(|()| server), Err(error));
        }
    }
    // What the server said last, or why it does not speak.
    let mut flight = Vec::new();
    server.write_tls(&mut flight).unwrap();
    client.read_tls(&mut &flight[..]).unwrap();
    let heard = client.process_new_packets().map(|_| ());
    (verdict.map(|()| server), heard.map(|()| client))
}

/// Whether a server of ours takes a client that shows this.
fn taken(presented: Presented) -> Result<(), Error> {
    let client = showing(presented).client(&[ALPN]);
    let (server, heard) = handshake(ours().server(&[ALPN]), client);
    // A client believes itself connected before it hears of a refusal.
    assert_eq!(server.is_ok(), heard.is_ok());
    server.map(|_| ())
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let identities = [(); 2].map(|()| Identity::generate());
    let [server, client] = identities.each_ref().map(|one| one.certificate().unwrap());
    let (server, client) = handshake(server.server(&[ALPN]), client.client(&[ALPN]));
    let (server, client) = (server.unwrap(), client.unwrap());
    let seen = [client.peer_certificates(), server.peer_certificates()]
        .map(|chain| peer_key(chain.unwrap()).unwrap());
    assert_eq!(
        seen.each_ref(),
        identities.each_ref().map(Identity::public_key)
    );
    assert_eq!(server.alpn_protocol(), Some(ALPN.as_bytes()));
}

#[test]
fn one_process_shows_one_certificate() {
    let identity = Identity::generate();
    let shown = |certificate: &Certificate| certificate.presented.0.cert.clone();
    let first = shown(identity.certificate().unwrap());
    assert_eq!(shown(identity.clone().certificate().unwrap()), first);
}

/// The certificates that the specification gives as examples.
#[test]
fn the_examples_of_the_specification() {
    let read = |name: &str| {
        let path = format!(
            "{}/tests/fixtures/tls/{name}.hex",
            env!("CARGO_MANIFEST_DIR")
        );
        CertificateDer::from(hex(&std::fs::read_to_string(path).unwrap()))
    };
    for (name, peer) in [
        (
            "ed25519",
            "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv",
        ),
        ("ecdsa", "QmfXbAwNjJLXfesgztEHe8HwgVDCMMpZ9Eax1HYq6hn9uE"),
        (
            "secp256k1",
            "16Uiu2HAkutTMoTzDw1tCvSRtu6YoixJwS46S1ZFxW8hSx9fWHiPs",
        ),
    ] {
        let certificate = read(name);
        Verifier::certificate(&certificate, &[]).unwrap();
        let key = peer_key(&[certificate]).unwrap();
        assert_eq!(key.to_peer_id().to_string(), peer);
    }
    assert!(Verifier::certificate(&read("mismatch"), &[]).is_err());
}

#[test]
fn a_client_without_certificate_is_refused_with_an_alert() {
    let client = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(ours().verifier)
        .with_no_client_auth();
    let (server, heard) = handshake(ours().server(&[ALPN]), client);
    assert_eq!(server.unwrap_err(), Error::NoCertificatesPresented);
    assert_eq!(
        heard.unwrap_err(),
        Error::AlertReceived(AlertDescription::CertificateRequired)
    );
}

#[test]
fn two_certificates_are_one_too_many() {
    let identity = Keypair::generate_ed25519();
    let mut presented = spoiled(&identity, |_| {});
    let key = Arc::make_mut(&mut presented.0);
    key.cert.push(key.cert[0].clone());
    assert!(taken(presented).is_err());
}

#[test]
fn validity_is_now() {
    let identity = Keypair::generate_ed25519();
    let expired = spoiled(&identity, |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let early = spoiled(&identity, |params| {
        params.not_before = date_time_ymd(4000, 1, 1);
    });
    assert!(taken(expired).is_err());
    assert!(taken(early).is_err());
}

#[test]
fn unknown_extensions_are_ignored_unless_they_are_critical() {
    let identity = Keypair::generate_ed25519();
    for critical in [false, true] {
        let presented = spoiled(&identity, |params| {
            params.custom_extensions.push(unknown_extension(critical));
        });
        assert_eq!(taken(presented).is_err(), critical);
    }
}

#[test]
fn the_extension_is_there_once_and_may_be_critical() {
    let identity = Keypair::generate_ed25519();
    let critical = spoiled(&identity, |params| {
        params.custom_extensions[0].set_criticality(true);
    });
    taken(critical).unwrap();
    assert!(
        taken(spoiled(&identity, |params| params
            .custom_extensions
            .clear()))
        .is_err()
    );
    let twice = spoiled(&identity, |params| {
        let again = params.custom_extensions[0].clone();
        params.custom_extensions.push(again);
    });
    assert!(taken(twice).is_err());
}

#[test]
fn an_identity_that_did_not_sign_is_no_identity() {
    let identity = Keypair::generate_ed25519();
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let stolen = spoiled(&identity, |params| {
        params.custom_extensions[0] = extension(&identity, &other);
    });
    assert!(taken(stolen).is_err());
}

#[test]
fn keys_on_p384_are_taken_and_on_p521_are_not() {
    let identity = Keypair::generate_ed25519();
    taken(spoiled_on(
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &identity,
        |_| {},
    ))
    .unwrap();
    assert!(
        taken(spoiled_on(
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &identity,
            |_| {}
        ))
        .is_err()
    );
}

/// A dialer is as careful as a listener.
#[test]
fn a_server_with_a_bad_certificate_is_refused() {
    let identity = Keypair::generate_ed25519();
    let expired = spoiled(&identity, |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let (_, client) = handshake(showing(expired).server(&[ALPN]), ours().client(&[ALPN]));
    assert!(client.is_err());
}

#[test]
fn no_common_protocol_ends_the_handshake() {
    let (server, client) = handshake(ours().server(&[ALPN]), ours().client(&["h2"]));
    assert_eq!(server.unwrap_err(), Error::NoApplicationProtocol);
    assert_eq!(
        client.unwrap_err(),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol)
    );
}

#[test]
fn ciphers_are_chosen_by_what_we_can_do_fast() {
    if !has_aes() {
        return;
    }
    let mut client = ours().client(&[ALPN]);
    let mut provider = provider();
    provider.cipher_suites.reverse();
    client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(ours().verifier)
        .with_client_cert_resolver(Arc::clone(&client.client_auth_cert_resolver));
    let (server, _) = handshake(ours().server(&[ALPN]), client);
    assert_eq!(
        server.unwrap().negotiated_cipher_suite(),
        Some(cipher_suite::TLS13_AES_128_GCM_SHA256)
    );
}

/// A DER value with a length of at most two bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82][..], &length, content].concat()
}

/// A lenient reader takes the serial number below for an integer whatever is in
/// it, and a careless one for the first fields of another certificate.
#[test]
fn no_certificate_shows_another_identity_than_the_one_verified() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

    let (identity, victim) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (honest, key) = libp2p_tls::certificate::generate(&identity).unwrap();
    let fields = Fields::decode(&honest).unwrap();
    // Certificate and body have lengths of two bytes each.
    let body_length = usize::from(u16::from_be_bytes([honest[6], honest[7]]));
    let (body, algorithm_and_signature) = honest[8..].split_at(body_length);
    let version = &body[..5];
    assert_eq!(version, [0xa0, 3, 2, 1, 2]);
    assert_eq!(body[5], 2, "the serial number");
    let rest = &body[7 + usize::from(body[6])..];

    let id = der(6, &[0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 1, 1]);
    let named = der(4, &victim.public().encode_protobuf());
    let extension = [id, der(4, &der(0x30, &named))].concat();
    let extensions = der(0xa3, &der(0x30, &der(0x30, &extension)));
    let mut content = vec![0, 5, 0, 5, 0, 5, 0];
    content.extend([fields.key_info, &extensions].concat());
    let length = u8::try_from(content.len()).unwrap();
    let serial = [&[0x1f, 2, 0x82, 0, length][..], &content].concat();
    let body = der(0x30, &[version, &serial, rest].concat());

    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der());
    let random = aws_lc_rs::rand::SystemRandom::new();
    let signature = pair.unwrap().sign(&random, &body).unwrap();
    let algorithm_length = 2 + usize::from(algorithm_and_signature[1]);
    let algorithm = &algorithm_and_signature[..algorithm_length];
    let signature = der(3, &[&[0], signature.as_ref()].concat());
    let forged = der(0x30, &[&body, algorithm, &signature].concat());

    let forged = CertificateDer::from(forged);
    assert!(Verifier::certificate(&forged, &[]).is_err());
    assert!(peer_key(&[forged]).is_err());
    assert!(Verifier::certificate(&honest, &[]).is_ok());
}
