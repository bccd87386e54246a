//! What a peer hears when it has to go, and what becomes of what it held.

use std::time::Duration;

use super::ear::Session;
use super::peer::{MUXERS, Server};
use crate::clock;
use crate::connection::Closed;
use crate::engine::muxer::Muxer;
use crate::state::connections::{Cause, Class, Plan, Reason};
use crate::state::leg::Ending;

/// Has the server send this many away, whoever they are up to `reach`.
fn dismiss(server: &Server, close: usize, reach: Class, ending: Ending) {
    let connections = &server.context.connections;
    let now = clock::now();
    let mut snapshot = connections.snapshot(reach);
    for stripe in 0..connections.stripes() {
        connections.collect(stripe, now, |_| false, &mut snapshot);
    }
    let plan = Plan {
        cause: Cause::HighWater,
        close,
        floor: 0,
        reach,
    };
    for victim in snapshot.select(close) {
        connections.dismiss(&victim, &plan, ending, now);
    }
}

#[tokio::test]
async fn the_reason_is_on_the_wire() {
    for muxer in MUXERS {
        for (ending, code, label) in [
            (Ending::Trimmed, 0x1005, "trimmed"),
            (Ending::MemoryShort, 0x1001, "memory_short"),
        ] {
            let server = Server::with(|config| config.connections.grace_period = Duration::ZERO);
            let mut peer = server.connect(muxer).await;
            peer.assert_alive().await;
            dismiss(&server, 1, Class::Ordinary, ending);
            assert_eq!(peer.until_closed().await, Closed::Ending(ending));
            let told = match muxer {
                Muxer::Yamux => vec![Session::GoAway(code)],
                // It has no word for it.
                Muxer::Mplex => vec![],
            };
            assert_eq!(peer.ear.session, told);
            let closings = server.context.metrics.connections.closings();
            assert_eq!(closings.get(label), 1);
            server.assert_clear();
        }
    }
}

#[tokio::test]
async fn what_protects_a_peer_ends_with_its_cause() {
    let server = Server::with(|config| config.connections.grace_period = Duration::ZERO);
    let protected = |reason| server.context.connections.protected(reason);
    let circuit = server.circuit([Muxer::Yamux; 2]).await;
    assert_eq!(protected(Reason::Circuit), 2);
    assert_eq!(protected(Reason::Reservation), 1);
    // Nobody is there who may go.
    dismiss(&server, 2, Class::New, Ending::Trimmed);
    assert_eq!(server.context.connections.staying(), 2);
    let [mut source, mut target] = circuit.peers;
    source.reset(circuit.streams[0]);
    source.send().await;
    target.until_reset(circuit.streams[1]).await;
    source.assert_alive().await;
    target.assert_alive().await;
    assert_eq!(protected(Reason::Circuit), 0);
    // Now the source may, and the target still may not.
    dismiss(&server, 2, Class::New, Ending::Trimmed);
    let ended = source.until_closed().await;
    assert_eq!(ended, Closed::Ending(Ending::Trimmed));
    target.assert_alive().await;
    target.leave().await;
    server.assert_clear();
}
