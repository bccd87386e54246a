//! Upgrades over TLS: the muxer by ALPN or in records, and what a peer with a
//! bad hello or certificate is told.

use rustls::{ClientConfig, ClientConnection, Error};

use super::*;
use crate::identity::Identity;

fn with_tls(identity: &Identity, muxers: &[Muxer], security: &[Security]) -> Local {
    let certificate = identity.certificate().unwrap();
    let tls = TlsLocal {
        server: certificate.server(&[]),
        client: certificate.client(&[]),
    };
    local(identity.keypair(), muxers).with_tls(tls, security)
}

fn offering(security: &[Security], muxers: &[Muxer]) -> Local {
    with_tls(&Identity::generate(), muxers, security)
}

fn up(theirs: &Local, ours: &Local, piece: usize) -> (Box<Established>, Box<Established>) {
    let (mut a, mut b) = (End::initiator(theirs), End::responder(ours));
    join(&mut a, &mut b, piece);
    both_up(a, b)
}

fn assert_talk(from: &mut Established, to: &mut Established) {
    let framing = from.seal.framing();
    let mut record = vec![0; framing.header()];
    record.extend(b"muxed");
    record.resize(record.len() + framing.trailer(), 0);
    from.seal.seal(&mut record).unwrap();
    let opened = to.open.open(&mut record[framing.header()..]);
    assert_eq!(opened.unwrap(), b"muxed");
}

#[test]
fn the_muxer_comes_with_the_handshake() {
    let identities = [(); 2].map(|()| Identity::generate());
    let ours = with_tls(&identities[0], &BOTH, &Security::ALL);
    let theirs = with_tls(&identities[1], &BOTH, &[Security::Tls]);
    for piece in [GLUED, TRICKLED, 100] {
        let (mut a, mut b) = up(&theirs, &ours, piece);
        assert!(a.early_muxer && b.early_muxer);
        assert_eq!((a.muxer, b.muxer), (Muxer::Yamux, Muxer::Yamux));
        assert_eq!((a.security, b.security), (Security::Tls, Security::Tls));
        assert_eq!(a.peer_id, identities[0].peer_id());
        assert_eq!(b.peer_id, identities[1].peer_id());
        assert_eq!(b.public_key, *identities[1].public_key());
        assert_talk(&mut a, &mut b);
        assert_talk(&mut b, &mut a);
    }
}

#[test]
fn the_clients_order_of_muxers_counts() {
    let ours = offering(&Security::ALL, &[Muxer::Yamux, Muxer::Mplex]);
    let theirs = offering(&[Security::Tls], &[Muxer::Mplex, Muxer::Yamux]);
    let (a, b) = up(&theirs, &ours, GLUED);
    assert!(a.early_muxer && b.early_muxer);
    assert_eq!((a.muxer, b.muxer), (Muxer::Mplex, Muxer::Mplex));
}

/// TLS-6 of the reference, with us as the server that knows no muxer by ALPN,
/// and as the client of one.
#[test]
fn without_a_muxer_in_common_it_is_agreed_on_in_records() {
    for (theirs, ours) in [
        (&[Muxer::Mplex][..], &[Muxer::Yamux, Muxer::Mplex][..]),
        (&[Muxer::Yamux], &[Muxer::Yamux]),
    ] {
        let mut theirs = offering(&[Security::Tls], theirs);
        // Like rust-libp2p, which lists nothing but itself.
        let tls = theirs.tls.as_mut().unwrap();
        tls.client.alpn_protocols = vec![b"libp2p".to_vec()];
        let ours = offering(&Security::ALL, ours);
        for piece in [GLUED, TRICKLED] {
            let (mut a, mut b) = up(&theirs, &ours, piece);
            assert!(!a.early_muxer && !b.early_muxer);
            assert_eq!(a.muxer, theirs.muxers[0]);
            assert_eq!(b.muxer, a.muxer);
            assert_talk(&mut a, &mut b);
            assert_talk(&mut b, &mut a);
        }
    }
}

#[test]
fn what_is_not_offered_is_not_spoken() {
    let theirs = offering(&[Security::Tls], &BOTH);
    let ours = offering(&[Security::Noise], &BOTH);
    let (mut a, mut b) = (End::initiator(&theirs), End::responder(&ours));
    join(&mut a, &mut b, GLUED);
    let refused = HandshakeError::Security(NegotiateError::NoAgreement);
    assert!(a.outcome.is_none());
    assert_eq!(failure(b), refused);
}

/// What our responder makes of a client of rustls's own, and what that client
/// hears.
fn refused(config: ClientConfig) -> (HandshakeError, Error) {
    let ours = offering(&Security::ALL, &BOTH);
    let mut responder = Handshake::responder(&ours);
    let mut client =
        ClientConnection::new(config.into(), "peer.invalid".try_into().unwrap()).unwrap();
    let protocol = Message::Protocol(Security::Tls.protocol());
    let mut flight = tokens(&[Message::Header, protocol]);
    let echoed = flight.len();
    let mut heard = Vec::new();
    loop {
        client.write_tls(&mut flight).unwrap();
        let outcome = responder.handle_input(&mut flight, &mut heard);
        flight.clear();
        let error = outcome.map(|_| ()).err();
        let mut answer = &heard[if client.is_handshaking() { echoed } else { 0 }..];
        let mut verdict = Ok(());
        while !answer.is_empty() && verdict.is_ok() {
            client.read_tls(&mut answer).unwrap();
            verdict = client.process_new_packets().map(|_| ());
        }
        heard.clear();
        if let Some(error) = error {
            assert!(error.leaves_alert());
            return (error, verdict.unwrap_err());
        }
        verdict.unwrap();
    }
}

#[test]
fn a_client_is_told_why_it_is_refused() {
    use rustls::AlertDescription as Alert;

    let good = || Identity::generate().certificate().unwrap().client(&["h2"]);
    let (error, heard) = refused(good());
    assert_eq!(
        error,
        HandshakeError::Tls(Error::NoApplicationProtocol.into())
    );
    assert_eq!(heard, Error::AlertReceived(Alert::NoApplicationProtocol));

    let mut bare = good();
    bare.alpn_protocols = vec![b"libp2p".to_vec()];
    bare.client_auth_cert_resolver = std::sync::Arc::new(Nobody);
    let (error, heard) = refused(bare);
    assert_eq!(
        error,
        HandshakeError::Tls(Error::NoCertificatesPresented.into())
    );
    assert_eq!(heard, Error::AlertReceived(Alert::CertificateRequired));
}

#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
