//! WebSocket in front of an upgrade, and ports that are shared.

use super::*;
use crate::engine::websocket::{Inbound, Role, wrap};

const WEB: Entrances = Entrances {
    plain: false,
    web_socket: true,
    secure: false,
};
const BOTH: Entrances = Entrances {
    plain: true,
    web_socket: true,
    secure: false,
};

pub(super) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn both_roles_meet_in_frames_even_through_the_narrowest_pipe() {
    let identities = [Identity::generate(), Identity::generate()];
    let [ours, theirs] = [0, 1].map(|side| context_of(&identities[side], &Muxer::ALL));
    for entrances in [WEB, BOTH] {
        for width in [1, 2, 50, 4096] {
            let (near, far) = duplex(width);
            let accepted = Incoming::new(near, &ours).upgrade(entrances);
            let dialled = dial_web_on(far, plain_web(), &theirs);
            let (a, b) = tokio::try_join!(accepted, dialled).unwrap();
            assert_eq!(a.peer_id, identities[1].peer_id());
            assert_eq!(b.peer_id, identities[0].peer_id());
            assert_eq!(a.entrance, Entrance::WebSocket);
            assert!(!a.layers.inbound.is_empty() && !a.layers.outbound.is_empty());
        }
    }
    let (near, far) = duplex(4096);
    let accepted = Incoming::new(near, &ours).upgrade(BOTH);
    let (a, _) = tokio::try_join!(accepted, dial_on(far, &theirs)).unwrap();
    assert_eq!(a.entrance, Entrance::Plain);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_dribbles_in_ends_at_the_deadline() {
    for entrances in [WEB, BOTH] {
        let context = context();
        let (near, mut far) = duplex(4096);
        let begun = clock::now();
        let dribble = async {
            for byte in REQUEST {
                far.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let outcome = tokio::select! {
            outcome = Incoming::new(near, &context).upgrade(entrances) => outcome,
            () = dribble => unreachable!("the request takes minutes"),
        };
        assert!(matches!(outcome, Err(UpgradeError::Timeout(_))));
        let late = clock::now() - begun - DEFAULT_TIMEOUT;
        assert!(late < Duration::from_millis(10), "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_something_else_is_told_so_and_closed() {
    for (said, status, entrances) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "426", BOTH),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", "405", WEB),
        (OPENING, "400", WEB),
    ] {
        let context = context();
        let (near, mut far) = duplex(4096);
        far.write_all(said).await.unwrap();
        let error = Incoming::new(near, &context).upgrade(entrances).await;
        assert_eq!(error.map(|_| ()).unwrap_err().label(), "http");
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

pub(super) fn plain_web() -> Web {
    Web {
        host: "relay.example".to_owned(),
        secure: None,
    }
}

/// A frame of a client, with an opcode and the bit of a last one in front.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    // A mask of zeros leaves everything as it is.
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// Whoever asks has to hear the answer before it says anything else.
#[tokio::test(start_paused = true)]
async fn a_lone_ping_is_answered() {
    let context = context();
    for glued in [true, false] {
        let (near, mut far) = duplex(4096);
        let peer = async {
            let mut ping = masked(0x89, b"there?");
            far.write_all(REQUEST).await.unwrap();
            if glued {
                far.write_all(&ping).await.unwrap();
            }
            let mut heard = Vec::new();
            while !heard.ends_with(b"\x8a\x06there?") {
                assert_ne!(far.read_buf(&mut heard).await.unwrap(), 0, "closed");
                if !glued && heard.ends_with(b"\r\n\r\n") {
                    far.write_all(&std::mem::take(&mut ping)).await.unwrap();
                }
            }
        };
        tokio::select! {
            () = peer => {}
            outcome = Incoming::new(near, &context).upgrade(WEB) => panic!("{:?}", outcome.err()),
        }
    }
}

/// A token may be cut by frames wherever they end, as browsers cut it.
#[tokio::test(start_paused = true)]
async fn a_frame_may_end_in_the_middle_of_a_token() {
    let context = context();
    let (near, mut far) = duplex(4096);
    let peer = async {
        far.write_all(REQUEST).await.unwrap();
        let mut answer = vec![0; 4096];
        let answered = far.read(&mut answer).await.unwrap();
        assert!(answer[..answered].ends_with(b"\r\n\r\n"));
        for part in OPENING.chunks(7) {
            let mut frame = part.to_vec();
            wrap(&mut frame, None, None, Some([1, 2, 3, 4]));
            far.write_all(&frame).await.unwrap();
        }
        let (mut inbound, mut said) = (Inbound::new(Role::Client), Vec::new());
        while said.len() < OPENING.len() {
            let count = far.read(&mut answer).await.unwrap();
            let end = inbound.decode(&mut answer, 0..count, 0).unwrap();
            said.extend_from_slice(&answer[..end]);
        }
        said
    };
    let said = tokio::select! {
        said = peer => said,
        outcome = Incoming::new(near, &context).upgrade(WEB) => panic!("{:?}", outcome.err()),
    };
    assert_eq!(said, OPENING);
}

/// The connection is told why it ends: an oversize frame is refused by its
/// header.
#[tokio::test(start_paused = true)]
async fn an_oversize_frame_ends_an_upgrade() {
    let context = context();
    let (near, mut far) = duplex(4096);
    far.write_all(REQUEST).await.unwrap();
    far.write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0])
        .await
        .unwrap();
    let error = Incoming::new(near, &context).upgrade(WEB).await;
    assert_eq!(error.map(|_| ()).unwrap_err().label(), "websocket");
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(&[0x88, 2, 3, 0xf1]), "{answer:?}");
}
