//! Commands that come too late: whoever waits for an answer gets one.

use std::sync::Arc;

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use crate::clock;
use crate::connection::Closed;
use crate::engine::{demux::StreamId, muxer::Muxer};
use crate::state::leg::{Command, Effects, Ending, Gone, Leg, Link, StreamKey, Untaken};

use super::peer::Server;

/// The other connection, of which only what reaches it matters. Takes commands,
/// and no bytes.
#[derive(Default)]
struct Other {
    refused: Mutex<Vec<StreamKey>>,
    reset: Mutex<Vec<StreamKey>>,
}

impl Link for Other {
    fn carry(&self, _: StreamKey, _: &[u8], _: &mut Effects) -> Result<(), Untaken> {
        Ok(())
    }

    fn grant(&self, _: StreamKey, _: u32, _: &mut Effects) {}

    fn join(&self, _: StreamKey, _: &[u8], _: Leg, _: &mut Effects) -> Result<(), Gone> {
        Err(Gone)
    }

    fn finish(&self, _: StreamKey, _: &mut Effects) {}

    fn reset(&self, stream: StreamKey, _: u32, _: bool, _: &mut Effects) {
        self.reset.lock().push(stream);
    }

    fn flush(&self, _: &mut Effects) {}

    fn deliver(&self, command: Command) -> Result<(), Command> {
        match command {
            Command::Refused { stream, .. } => {
                self.refused.lock().push(stream);
                Ok(())
            }
            Command::Joined { .. } => Ok(()),
            other => Err(other),
        }
    }
}

const STREAM: StreamKey = StreamKey {
    id: StreamId::yamux(7),
    generation: 1,
};

fn leg(other: &Arc<Other>) -> Leg {
    Leg {
        link: Arc::clone(other) as Arc<dyn Link>,
        stream: STREAM,
    }
}

#[tokio::test]
async fn what_is_asked_behind_a_close_is_told_no() {
    for muxer in Muxer::ALL {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        peer.assert_alive().await;
        let link = server
            .context
            .connections
            .find(&peer.id)
            .expect("connected");
        let circuits = &server.context.relay.circuits;
        let circuit = circuits
            .open(PeerId::random(), peer.id, Default::default(), clock::now())
            .expect("room");
        let other = Arc::new(Other::default());
        // One poll of the connection's task finds all three.
        for command in [
            Command::Close(Ending::Denied),
            Command::Offer {
                circuit,
                source: leg(&other),
            },
            Command::Joined {
                stream: STREAM,
                destination: leg(&other),
            },
        ] {
            assert!(link.deliver(command).is_ok());
        }
        assert_eq!(peer.until_closed().await, Closed::Ending(Ending::Denied));
        assert_eq!(*other.refused.lock(), [STREAM]);
        assert_eq!(*other.reset.lock(), [STREAM]);
        assert!(circuits.is_clear());
        server.assert_clear();
    }
}

#[tokio::test]
async fn a_target_that_joins_too_late_is_reset() {
    let server = Server::new();
    let mut peer = server.connect(Muxer::Yamux).await;
    peer.assert_alive().await;
    // A stream that runs something else by now, and one that is gone.
    let identity = peer.ear.streams.keys().next().copied();
    let link = server
        .context
        .connections
        .find(&peer.id)
        .expect("connected");
    let other = Arc::new(Other::default());
    let running = StreamKey {
        id: identity.expect("the server asks who it is"),
        generation: 1,
    };
    for stream in [running, STREAM] {
        let joined = Command::Joined {
            stream,
            destination: leg(&other),
        };
        assert!(link.deliver(joined).is_ok());
    }
    peer.assert_alive().await;
    assert_eq!(*other.reset.lock(), [STREAM, STREAM]);
    drop(link);
    peer.leave().await;
    server.assert_clear();
}

/// It has been told that it is joined, and its answer found no memory.
#[tokio::test]
async fn a_source_that_cannot_be_answered_is_reset() {
    for muxer in Muxer::ALL {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        peer.assert_alive().await;
        let connections = &server.context.connections;
        let link = connections.find(&peer.id).expect("connected");
        let circuits = &server.context.relay.circuits;
        let circuit = circuits.open(PeerId::random(), peer.id, Default::default(), clock::now());
        let other = Arc::new(Other::default());
        let offer = Command::Offer {
            circuit: circuit.expect("room"),
            source: leg(&other),
        };
        assert!(link.deliver(offer).is_ok());
        let offered = peer.until_offered().await;
        peer.accept(offered);
        peer.until_reset(offered).await;
        assert_eq!(*other.reset.lock(), [STREAM]);
        assert!(circuits.is_clear());
        peer.leave().await;
        server.assert_clear();
    }
}
