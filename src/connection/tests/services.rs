//! Services over a whole connection: what they promise, and what they refuse.

use super::peer::{MUXERS, Server};
use crate::connection::Closed;
use crate::service::ping;

#[tokio::test]
async fn pings_come_back_on_one_stream() {
    for muxer in MUXERS {
        let server = Server::new();
        let mut peer = server.connect(muxer).await;
        let stream = peer.propose(ping::PROTOCOL);
        peer.until_agreed(stream, ping::PROTOCOL).await;
        for round in 0..3 {
            peer.write(stream, &[round; 32]);
            assert_eq!(peer.until_bytes(stream, 32).await, [round; 32]);
        }
        peer.assert_alive().await;
        assert_eq!(peer.leave().await, Closed::Peer);
        server.assert_clear();
    }
}
