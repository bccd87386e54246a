//! Handshakes with rustls's own buffered connections, and records exchanged
//! with them afterwards.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};

use proptest::prelude::*;
use proptest::sample::Index;
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use rustls::version::TLS13;
use rustls::{ClientConnection, ConnectionCommon, Error, ServerConnection, SideData};

use super::*;
use crate::engine::record::{Alert, Framing, Opened, RecordError};
use crate::identity::Identity;

fn server_config() -> ServerConfig {
    Identity::generate()
        .certificate()
        .unwrap()
        .server(&["libp2p"])
}

fn client_config() -> ClientConfig {
    Identity::generate()
        .certificate()
        .unwrap()
        .client(&["libp2p"])
}

fn client(config: ClientConfig) -> ClientConnection {
    let name = ServerName::try_from("peer.invalid").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// What a rustls connection has to send.
fn sent<Data: SideData>(peer: &mut ConnectionCommon<Data>) -> Vec<u8> {
    let mut flight = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut flight).unwrap();
    }
    flight
}

/// Hands bytes to a rustls connection; what it makes of them.
fn heard<Data: SideData>(
    peer: &mut ConnectionCommon<Data>,
    mut bytes: &[u8],
) -> Result<Vec<u8>, Error> {
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).unwrap();
        peer.process_new_packets()?;
    }
    let mut plaintext = Vec::new();
    let _ = peer.reader().read_to_end(&mut plaintext);
    Ok(plaintext)
}

/// Runs a handshake of ours against a rustls connection, in pieces of that
/// size; tells what it left, and what came behind it.
fn shake<Data: SideData>(
    ours: &mut TlsHandshake,
    peer: &mut ConnectionCommon<Data>,
    mut output: Vec<u8>,
    piece: usize,
) -> Result<(Finished, Vec<u8>), TlsError> {
    let mut pending = Vec::new();
    for _ in 0..8 {
        heard(peer, &output).unwrap();
        output.clear();
        let flight = sent(peer);
        let mut finished = None;
        for bytes in flight.chunks(piece) {
            pending.extend_from_slice(bytes);
            if finished.is_none() {
                let (used, done) = ours.handle_input(&mut pending, &mut output)?;
                pending.drain(..used);
                finished = done;
            }
        }
        if let Some(finished) = finished {
            heard(peer, &output).unwrap();
            return Ok((finished, pending));
        }
    }
    panic!("no end of the handshake");
}

/// What the first record in `bytes` is to our key.
fn opened(key: &mut OpenKey, bytes: &mut [u8]) -> Result<Vec<u8>, RecordError> {
    let length = Framing::TLS.announced(bytes)?.unwrap();
    assert_eq!(length, bytes.len(), "one record");
    let mut opener = key.expand()?;
    Ok(match opener.open(&mut bytes[5..])? {
        Opened::Plaintext(plaintext) => plaintext.to_vec(),
        Opened::Nothing => b"nothing".to_vec(),
        Opened::Renew => b"renew".to_vec(),
        Opened::Closed => b"closed".to_vec(),
    })
}

fn sealed(key: &mut SealKey, plaintext: &[u8]) -> Vec<u8> {
    let mut frame = [&[0; 5], plaintext, &[0; 17]].concat();
    key.seal(&mut frame).unwrap();
    frame
}

/// Everything that both sides may do once they are connected.
fn converse<Data: SideData>(finished: Finished, peer: &mut ConnectionCommon<Data>)
where
    ConnectionCommon<Data>: Sized,
{
    let Finished {
        mut seal, mut open, ..
    } = finished;
    for round in 0..3 {
        peer.writer().write_all(b"from the peer").unwrap();
        assert_eq!(
            opened(&mut open, &mut sent(peer)).unwrap(),
            b"from the peer"
        );
        let record = sealed(&mut seal, b"from us");
        assert_eq!(heard(peer, &record).unwrap(), b"from us");
        if round == 0 {
            peer.refresh_traffic_keys().unwrap();
            assert_eq!(opened(&mut open, &mut sent(peer)).unwrap(), b"renew");
        }
        let mut news = Vec::new();
        seal.renew(&mut news).unwrap();
        assert_eq!(heard(peer, &news).unwrap(), b"");
    }
    let mut bye = Vec::new();
    seal.close(Alert::CLOSE_NOTIFY, &mut bye).unwrap();
    peer.read_tls(&mut &bye[..]).unwrap();
    assert!(peer.process_new_packets().unwrap().peer_has_closed());
    peer.send_close_notify();
    assert_eq!(opened(&mut open, &mut sent(peer)).unwrap(), b"closed");
}

#[test]
fn every_suite_talks_with_rustls_in_both_roles_and_any_pieces() {
    for suite in default_provider().cipher_suites {
        let Some(_) = suite_of(suite.suite()) else {
            continue;
        };
        for piece in [1, 100, usize::MAX] {
            let mut config = server_config();
            config.ignore_client_order = false;
            let mut peer = client(only(suite, client_config()));
            let mut ours = TlsHandshake::server(config).unwrap();
            let (finished, rest) = shake(&mut ours, &mut peer, Vec::new(), piece).unwrap();
            assert!(rest.is_empty());
            assert_eq!(finished.protocol.as_deref(), Some(&b"libp2p"[..]));
            assert_eq!(finished.chain.len(), 1);
            converse(finished, &mut peer);

            let mut peer = ServerConnection::new(Arc::new(server_config())).unwrap();
            let mut output = Vec::new();
            let mut ours = TlsHandshake::client(only(suite, client_config()), &mut output).unwrap();
            let (finished, rest) = shake(&mut ours, &mut peer, output, piece).unwrap();
            assert!(rest.is_empty());
            assert_eq!(finished.chain.len(), 1);
            converse(finished, &mut peer);
        }
    }
}

/// The same client, with nothing but one suite.
fn only(suite: rustls::SupportedCipherSuite, config: ClientConfig) -> ClientConfig {
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..config.crypto_provider().as_ref().clone()
    };
    let mut narrow = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_cert_resolver(Arc::clone(&config.client_auth_cert_resolver));
    narrow.alpn_protocols = config.alpn_protocols;
    narrow
        .dangerous()
        .set_certificate_verifier(Arc::new(anyone::Anyone));
    narrow
}

/// Nobody does, but everybody may: messages cut over many records.
#[test]
fn a_hello_in_many_records_is_one_hello() {
    for piece in [1, usize::MAX] {
        let mut peer = client(client_config());
        let hello = sent(&mut peer);
        let mut cut = Vec::new();
        for part in hello[5..].chunks(40) {
            cut.extend([22, 3, 1, 0, u8::try_from(part.len()).unwrap()]);
            cut.extend(part);
        }
        let mut ours = TlsHandshake::server(server_config()).unwrap();
        let (mut pending, mut output) = (Vec::new(), Vec::new());
        for bytes in cut.chunks(piece) {
            pending.extend_from_slice(bytes);
            let (used, _) = ours.handle_input(&mut pending, &mut output).unwrap();
            pending.drain(..used);
        }
        assert!(pending.is_empty());
        let (finished, _) = shake(&mut ours, &mut peer, output, piece).unwrap();
        converse(finished, &mut peer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a client says in place of a flight, nothing of ours gives way.
    #[test]
    fn any_change_of_a_flight_is_survived(
        first in any::<bool>(),
        at in any::<Index>(),
        byte in any::<u8>(),
        more in 0usize..3,
    ) {
        let mut peer = client(client_config());
        let mut ours = TlsHandshake::server(server_config()).unwrap();
        let (mut flight, mut output) = (sent(&mut peer), Vec::new());
        if !first {
            ours.handle_input(&mut flight, &mut output).unwrap();
            heard(&mut peer, &output).unwrap();
            flight = sent(&mut peer);
        }
        let at = at.index(flight.len());
        flight[at] = byte;
        flight.extend(vec![byte; more * 300]);
        let mut pending = Vec::new();
        for bytes in flight.chunks(97) {
            pending.extend_from_slice(bytes);
            match ours.handle_input(&mut pending, &mut output) {
                Ok((_, Some(_))) | Err(_) => break,
                Ok((used, None)) => drop(pending.drain(..used)),
            }
        }
    }
}

/// What a client has sent behind its last handshake message is the record
/// layer's, to the byte.
#[test]
fn data_behind_the_handshake_is_left_alone() {
    let mut peer = client(client_config());
    let mut ours = TlsHandshake::server(server_config()).unwrap();
    let mut output = Vec::new();
    let (used, none) = ours
        .handle_input(&mut sent(&mut peer), &mut output)
        .unwrap();
    assert!(used > 0 && none.is_none());
    heard(&mut peer, &output).unwrap();
    peer.writer().write_all(b"early").unwrap();
    let mut flight = sent(&mut peer);
    flight.extend(b"\x17\x03");
    let (used, finished) = ours.handle_input(&mut flight, &mut output).unwrap();
    let end = flight.len() - 2;
    let mut finished = finished.unwrap();
    assert_eq!(
        opened(&mut finished.open, &mut flight[used..end]).unwrap(),
        b"early"
    );
}

#[test]
fn what_is_no_tls_or_too_old_is_told_so() {
    let mut hello = sent(&mut client(client_config()));
    // Without the extension that speaks of TLS 1.3 it is a hello of TLS 1.2.
    let versions = hello
        .windows(4)
        .position(|bytes| bytes == [0, 43, 0, 3])
        .unwrap();
    hello[versions + 1] = 99;
    let alert: &[u8] = &[21, 3, 3, 0, 2, 2, 70];
    // rustls has no words for what is no TLS at all.
    let garbage = b"\x16\x03\x01\x00\x04GET ".to_vec();
    for (mut input, told) in [(hello, alert), (garbage, &[])] {
        let mut output = Vec::new();
        let mut ours = TlsHandshake::server(server_config()).unwrap();
        let error = ours.handle_input(&mut input, &mut output).err().unwrap();
        assert!(matches!(error, TlsError::Refused(_)), "{error}");
        assert_eq!(output, told);
    }
}

#[test]
fn a_hello_in_very_many_records_is_cut_off() {
    let mut ours = TlsHandshake::server(server_config()).unwrap();
    // A byte each of a message of 64 KiB.
    let message = [&[1, 0, 0xff, 0xff][..], &[0; 200]].concat();
    let mut input: Vec<u8> = message
        .iter()
        .flat_map(|byte| [22, 3, 3, 0, 1, *byte])
        .collect();
    let error = ours.handle_input(&mut input, &mut Vec::new());
    assert!(matches!(error, Err(TlsError::TooLarge(_))));
}

#[test]
fn a_handshake_without_end_is_cut_off() {
    let mut ours = TlsHandshake::server(server_config()).unwrap();
    // The beginning of a message of 64 KiB.
    let mut input = [&[22, 3, 3, 0x20, 0][..], &[1, 0, 0xff, 0xff], &[0; 0x1ffc]].concat();
    let mut sent = 0;
    let error = loop {
        let before = input.len();
        match ours.handle_input(&mut input, &mut Vec::new()) {
            Ok((used, _)) => {
                sent += before;
                assert!(sent <= 2 * HANDSHAKE_MAX);
                input.drain(..used);
                input.extend([&[22, 3, 3, 0x20, 0][..], &[0; 0x2000]].concat());
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TlsError::TooLarge(_)), "{error}");
    // Nor is a long record waited for.
    let mut ours = TlsHandshake::server(server_config()).unwrap();
    let error = ours.handle_input(&mut [22, 3, 3, 0xff, 0xff], &mut Vec::new());
    assert_eq!(error.err().unwrap(), TlsError::TooLarge(PEER));
}

/// A verifier that takes everybody: what certificates have to be is tested
/// where it is decided.
mod anyone {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}
