//! Upgrades over in-memory pipes with paused time, and against rust-libp2p
//! over loopback.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod secure;
mod websocket;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::{Transport, noise, tcp, tls, yamux};
use libp2p_identity::Keypair;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;

use super::*;
use crate::clock;
use crate::connection::carrier::layer::LayerError;
use crate::engine::handshake::HandshakeError;
use crate::engine::private_network::NONCE_LEN;
use crate::engine::record::Opened;

async fn accept_on<S>(socket: S, context: &UpgradeContext) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Incoming::new(socket, context)
        .upgrade(Entrances::PLAIN)
        .await
}

fn context() -> UpgradeContext {
    context_of(&Identity::generate(), &Muxer::ALL)
}

fn context_of(identity: &Identity, muxers: &[Muxer]) -> UpgradeContext {
    UpgradeContext::new(identity, muxers).unwrap()
}

// Paused, so that a busy host does not run into the deadline.
#[tokio::test(start_paused = true)]
async fn both_roles_meet_even_through_the_narrowest_pipe() {
    let identities = [Identity::generate(), Identity::generate()];
    let ours = context_of(&identities[0], &Muxer::ALL);
    for security in Security::ALL {
        for width in [1, 2, 50, 4096] {
            let theirs = UpgradeContext::offering(&identities[1], &[security], &Muxer::ALL);
            let (theirs, (near, far)) = (theirs.unwrap(), duplex(width));
            let (a, b) = tokio::try_join!(accept_on(near, &ours), dial_on(far, &theirs)).unwrap();
            assert_eq!(a.peer_id, identities[1].peer_id());
            assert_eq!(b.peer_id, identities[0].peer_id());
            assert_eq!((a.security, b.security), (security, security));
            assert_eq!((a.muxer, b.muxer), (Muxer::Yamux, Muxer::Yamux));
            assert!(a.early_muxer && b.early_muxer);
        }
    }
}

/// How an upgrade by `accept` ends, and after how much (virtual) time, when
/// this is what the peer does with its end.
async fn ends<F: Future<Output = ()>>(
    peer: impl FnOnce(DuplexStream) -> F,
) -> (&'static str, Duration) {
    let context = context();
    let (near, far) = duplex(64 * 1024);
    let start = clock::now();
    let (outcome, ()) = tokio::join!(accept_on(near, &context), async {
        // The far end lives as long as the upgrade, unless the peer drops it.
        tokio::time::timeout(2 * DEFAULT_TIMEOUT, peer(far))
            .await
            .unwrap_or_default();
    });
    let elapsed = match &outcome {
        Err(UpgradeError::Timeout(after)) => *after,
        Ok(_) | Err(_) => clock::now() - start,
    };
    (outcome.map(|_| ()).unwrap_err().label(), elapsed)
}

const OPENING: &[u8] = b"\x13/multistream/1.0.0\n\x07/noise\n";

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_cut_off_at_the_deadline() {
    let silent = |far: DuplexStream| async move {
        std::future::pending::<()>().await;
        drop(far);
    };
    let context = context();
    let (near, _far) = duplex(64);
    let start = clock::now();
    let outcome = accept_on(near, &context).await;
    assert!(matches!(outcome, Err(UpgradeError::Timeout(_))));
    let late = clock::now() - start - DEFAULT_TIMEOUT;
    assert!(late < Duration::from_millis(10), "{late:?}");
    assert_eq!(ends(silent).await, ("timeout", DEFAULT_TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_dribble_in_do_not_move_the_deadline() {
    let dribble = |mut far: DuplexStream| async move {
        for byte in OPENING.iter().cycle() {
            if far.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    assert_eq!(ends(dribble).await, ("timeout", DEFAULT_TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_after_message_1_is_cut_off() {
    let stop = |mut far: DuplexStream| async move {
        far.write_all(OPENING).await.unwrap();
        far.write_all(&[&[0, 32][..], &[9; 32]].concat())
            .await
            .unwrap();
        let mut answer = Vec::new();
        far.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(OPENING) && answer.len() > OPENING.len() + 100);
    };
    assert_eq!(ends(stop).await, ("timeout", DEFAULT_TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_apart_and_end_at_once() {
    let send = |bytes: Vec<u8>| {
        move |mut far: DuplexStream| async move {
            far.write_all(&bytes).await.unwrap();
            far.read_to_end(&mut Vec::new()).await.unwrap();
        }
    };
    let leave = |bytes: Vec<u8>| {
        move |mut far: DuplexStream| async move {
            far.write_all(&bytes).await.unwrap();
        }
    };
    let at_once = |label| (label, Duration::ZERO);
    assert_eq!(ends(leave(Vec::new())).await, at_once("eof"));
    assert_eq!(ends(leave(OPENING[..9].to_vec())).await, at_once("eof"));
    assert_eq!(ends(send(vec![0])).await, at_once("multistream"));
    assert_eq!(
        ends(send([OPENING, &[0, 3, 1, 2, 3]].concat())).await,
        at_once("noise")
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_peer_gets_no_further_byte() {
    let context = context();
    let (near, mut far) = duplex(4096);
    far.write_all(&[OPENING, &[0, 3, 1, 2, 3]].concat())
        .await
        .unwrap();
    assert!(accept_on(near, &context).await.is_err());
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"");
}

#[test]
fn every_failure_has_a_listed_label() {
    use crate::engine::negotiate::NegotiateError;
    use crate::engine::private_network::Spent;
    use crate::engine::record::RecordError;
    use crate::engine::tls::TlsError;
    use crate::engine::websocket::WebSocketError;
    use crate::engine::websocket::upgrade::UpgradeError as HttpError;
    let negotiation = NegotiateError::NoAgreement;
    let failures = [
        UpgradeError::Timeout(DEFAULT_TIMEOUT),
        UpgradeError::Eof,
        UpgradeError::Io(io::ErrorKind::ConnectionReset.into()),
        UpgradeError::Proxy(DecodeError::Malformed("no header")),
        UpgradeError::NoCertificate,
        HttpError::NoUpgrade.into(),
        LayerError::WebSocket(WebSocketError::Masking).into(),
        UpgradeError::Layer(LayerError::Private(Spent)),
        UpgradeError::Unread,
        HandshakeError::Security(negotiation).into(),
        HandshakeError::Over.into(),
        HandshakeError::Tls(TlsError::Ended).into(),
        HandshakeError::Tls(rustls::Error::NoCertificatesPresented.into()).into(),
        HandshakeError::IdentityKey.into(),
        HandshakeError::Signature.into(),
        HandshakeError::Record(RecordError::Authentication).into(),
        HandshakeError::Muxer(negotiation).into(),
    ];
    assert_eq!(failures.map(|f| f.label()), UpgradeError::LABELS);
}

// ---- rust-libp2p ----

type Foreign = Boxed<(PeerId, StreamMuxerBox)>;
type Kind = (Version, Security, Muxer);

fn foreign(key: &Keypair, (version, security, muxer): Kind) -> Foreign {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default()).upgrade(version);
    let (yamux, mplex) = (yamux::Config::default(), libp2p_mplex::Config::new());
    match (security, muxer) {
        (Security::Noise, _) => {
            let secured = tcp.authenticate(noise::Config::new(key).unwrap());
            match muxer {
                Muxer::Yamux => secured.multiplex(yamux).boxed(),
                Muxer::Mplex => secured.multiplex(mplex).boxed(),
            }
        }
        (Security::Tls, _) => {
            let secured = tcp.authenticate(tls::Config::new(key).unwrap());
            match muxer {
                Muxer::Yamux => secured.multiplex(yamux).boxed(),
                Muxer::Mplex => secured.multiplex(mplex).boxed(),
            }
        }
    }
}

/// Answers the first two bytes of the first stream with `pong`.
async fn serve_one_stream(mut muxer: StreamMuxerBox) {
    let mut serving: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    poll_fn(|cx| {
        while muxer.poll_unpin(cx).is_ready() {}
        if serving.is_none()
            && let Poll::Ready(stream) = muxer.poll_inbound_unpin(cx)
        {
            let mut stream = stream.unwrap();
            serving = Some(Box::pin(async move {
                let mut ping = [0; 2];
                stream.read_exact(&mut ping).await.unwrap();
                assert_eq!(&ping, b"hi");
                stream.write_all(b"pong").await.unwrap();
                stream.flush().await.unwrap();
                std::future::pending::<()>().await;
            }));
        }
        match &mut serving {
            Some(serving) => serving.as_mut().poll(cx),
            None => Poll::Pending,
        }
    })
    .await;
}

/// Opens a stream by hand, says `hi` on it and awaits `pong`.
async fn open_one_stream(mut up: Upgraded<TcpStream>, stream: u8) {
    let frames = match up.muxer {
        Muxer::Yamux => vec![0, 0, 0, 1, 0, 0, 0, stream, 0, 0, 0, 2, b'h', b'i'],
        Muxer::Mplex => vec![0, 0, 2, 2, b'h', b'i'],
    };
    let framing = up.seal.framing();
    let mut record = vec![0; framing.header()];
    record.extend(frames);
    record.resize(record.len() + framing.trailer(), 0);
    up.seal.seal(&mut record).unwrap();
    up.socket.write_all(&record).await.unwrap();

    let mut heard = up.plaintext;
    let mut pending = up.ciphertext;
    while !heard.windows(4).any(|window| window == b"pong") {
        if let Some(length) = framing.announced(&pending).unwrap()
            && let Some(record) = pending.get_mut(framing.header()..length)
        {
            let mut key = up.open.expand().unwrap();
            match key.open(record).unwrap() {
                Opened::Plaintext(plaintext) => heard.extend_from_slice(plaintext),
                // rustls sends tickets to whoever comes to it.
                other => assert_eq!(other, Opened::Nothing),
            }
            pending.drain(..length);
        } else {
            assert_ne!(up.socket.read_buf(&mut pending).await.unwrap(), 0);
        }
    }
}

/// Runs both until ours is through; the peer serves for ever.
async fn until_heard(ours: impl Future<Output = ()>, peer: impl Future<Output = ()>) {
    tokio::select! {
        () = ours => {}
        () = peer => panic!("the peer gave up"),
    }
}

/// Every way in which rust-libp2p can agree on a connection over TCP.
fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for version in [Version::V1, Version::V1Lazy] {
        for security in Security::ALL {
            kinds.extend(Muxer::ALL.map(|muxer| (version, security, muxer)));
        }
    }
    kinds
}

#[tokio::test]
async fn rust_libp2p_dials_us() {
    for kind in kinds() {
        let (_, security, muxer) = kind;
        let identity = Identity::generate();
        let context = context_of(&identity, &Muxer::ALL);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = Keypair::generate_ed25519();
        let dial = foreign(&key, kind).dial(
            format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap(),
            DialOpts {
                role: Endpoint::Dialer,
                port_use: PortUse::New,
            },
        );
        let peer = async move {
            let (peer_id, muxer) = dial.unwrap().await.unwrap();
            assert_eq!(peer_id, identity.peer_id());
            serve_one_stream(muxer).await;
        };
        let us = async {
            let (socket, _) = listener.accept().await.unwrap();
            let up = accept_on(socket, &context).await.unwrap();
            assert_eq!(up.peer_id, key.public().to_peer_id());
            assert_eq!(
                (up.security, up.muxer, up.early_muxer),
                (security, muxer, false)
            );
            open_one_stream(up, 2).await;
        };
        until_heard(us, peer).await;
    }
}

#[tokio::test]
async fn we_dial_rust_libp2p() {
    for kind in kinds() {
        let (_, security, muxer) = kind;
        let identity = Identity::generate();
        let context = UpgradeContext::offering(&identity, &[security], &Muxer::ALL).unwrap();
        let key = Keypair::generate_ed25519();
        let mut transport = foreign(&key, kind);
        transport
            .listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap())
            .unwrap();
        let Some(TransportEvent::NewAddress { listen_addr, .. }) = transport.next().await else {
            panic!("no address");
        };
        let port = listen_addr
            .to_string()
            .rsplit('/')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let us = identity.peer_id();
        let peer = async move {
            let Some(TransportEvent::Incoming { upgrade, .. }) = transport.next().await else {
                panic!("no connection");
            };
            let (peer_id, muxer) = upgrade.await.unwrap();
            assert_eq!(peer_id, us);
            serve_one_stream(muxer).await;
        };
        let talk = async {
            let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let up = dial(socket, &context).await.unwrap();
            assert_eq!(up.peer_id, key.public().to_peer_id());
            assert_eq!(
                (up.security, up.muxer, up.early_muxer),
                (security, muxer, false)
            );
            open_one_stream(up, 1).await;
        };
        until_heard(talk, peer).await;
    }
}

// ---- In front of the handshake ----

fn in_network(key: u8) -> UpgradeContext {
    let mut context = context();
    context.private = Some(PrivateKey::new([key; 32]));
    context
}

#[tokio::test(start_paused = true)]
async fn members_of_a_private_network_meet_however_their_nonces_arrive() {
    let (ours, theirs) = (in_network(1), in_network(1));
    for width in [1, 23, 24, 25, 4096] {
        let (near, far) = duplex(width);
        let (a, b) = tokio::try_join!(accept_on(near, &ours), dial_on(far, &theirs)).unwrap();
        assert!(!a.layers.inbound.is_empty() && !b.layers.outbound.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_to_the_network_is_closed_and_hears_nothing_it_can_read() {
    let (ours, theirs) = (in_network(1), in_network(2));
    let (near, far) = duplex(4096);
    let (a, b) = tokio::join!(accept_on(near, &ours), dial_on(far, &theirs));
    assert_eq!(a.map(|_| ()).unwrap_err().label(), "multistream");
    assert_eq!(b.map(|_| ()).unwrap_err().label(), "eof");

    // One that knows nothing of networks, and one that says nothing.
    let (near, mut far) = duplex(4096);
    far.write_all(&OPENING.repeat(2)).await.unwrap();
    assert!(accept_on(near, &ours).await.is_err());
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), NONCE_LEN);
    let (near, mut far) = duplex(4096);
    let silent = accept_on(near, &ours).await;
    assert_eq!(silent.map(|_| ()).unwrap_err().label(), "timeout");
    assert_eq!(far.read_to_end(&mut heard).await.unwrap(), 0);
}

const HEADERS: [&[u8]; 2] = [
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 4001\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x9c\x40\x0f\xa1",
];

#[tokio::test(start_paused = true)]
async fn a_proxy_tells_whom_it_forwards_and_the_rest_is_theirs() {
    let (ours, theirs) = (in_network(1), in_network(1));
    let (open, anybody) = (context(), context());
    for header in HEADERS {
        for (ours, theirs) in [(&ours, &theirs), (&open, &anybody)] {
            for width in [1, 30, 4096] {
                let (near, mut far) = duplex(width);
                let us = async {
                    let mut incoming = Incoming::new(near, ours);
                    let source = incoming.source().await?;
                    assert_eq!(source, Source::Host("192.0.2.7:40000".parse().unwrap()));
                    incoming.upgrade(Entrances::PLAIN).await
                };
                let peer = async {
                    far.write_all(header).await.unwrap();
                    dial_on(far, theirs).await
                };
                tokio::try_join!(us, peer).unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_says_something_else_or_nothing_is_closed() {
    let context = context();
    for (said, label) in [
        (OPENING, "proxy"),
        (&HEADERS[0][..20], "timeout"),
        (b"", "timeout"),
        (b"PROXY TCP4 nobody\r\n", "proxy"),
    ] {
        let (near, mut far) = duplex(4096);
        far.write_all(said).await.unwrap();
        let begun = clock::now();
        let error = Incoming::new(near, &context).source().await.unwrap_err();
        assert_eq!(error.label(), label);
        assert!(clock::now() - begun <= DEFAULT_TIMEOUT + Duration::from_millis(10));
    }
    // Where none is expected, a header is no beginning, and closed at once.
    for header in HEADERS {
        let (near, mut far) = duplex(4096);
        far.write_all(header).await.unwrap();
        let error = accept_on(near, &context).await.map(|_| ()).unwrap_err();
        assert_eq!(error.label(), "multistream");
    }
}

#[tokio::test(start_paused = true)]
async fn one_deadline_holds_over_all_steps() {
    let context = context();
    let (near, mut far) = duplex(4096);
    let begun = clock::now();
    let us = async {
        let mut incoming = Incoming::new(near, &context);
        incoming.source().await?;
        incoming.upgrade(Entrances::PLAIN).await
    };
    let peer = async {
        tokio::time::sleep(DEFAULT_TIMEOUT - Duration::from_secs(1)).await;
        far.write_all(HEADERS[0]).await.unwrap();
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = us => outcome,
        () = peer => unreachable!(),
    };
    assert!(matches!(outcome, Err(UpgradeError::Timeout(_))));
    let late = clock::now() - begun - DEFAULT_TIMEOUT;
    assert!(late < Duration::from_millis(10), "{late:?}");
}
