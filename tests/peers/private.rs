//! A private network: its members reserve and meet through the relay, over TCP
//! and over WebSocket, and nobody else gets in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use libp2p::pnet::PreSharedKey;
use libp2p::swarm::SwarmEvent;
use tempfile::TempDir;

use crate::peer::{Kind, Muxer, Peer, Security, Way, meet};
use crate::server::Server;

over_both_muxers! {
    members_reserve_and_meet_through_the_relay
}

const WEB: &str = r#"listen.addresses=["/ip4/127.0.0.1/tcp/0/ws"]"#;

/// A key, and the file that has it.
fn network(byte: u8) -> (PreSharedKey, TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("swarm.key");
    let key = PreSharedKey::new([byte; 32]);
    fs::write(&path, key.to_key_file()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let setting = format!("private_network.key_file={}", path.display());
    (key, directory, setting)
}

async fn members_reserve_and_meet_through_the_relay(muxer: Muxer) {
    let (key, _directory, setting) = network(7);
    for listen in [&[][..], &[WEB]] {
        let server = Server::start(&[listen, &[&setting]].concat());
        for security in [Security::Noise, Security::Tls] {
            let member = Way {
                security,
                muxer,
                network: Some(key),
            };
            let (mut source, mut target) = meet(&server, member).await;
            source.until_pinged(target.id(), 3).await;
            target.until_pinged(source.id(), 3).await;
        }
        server.until_nothing_is_held().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_key_or_another_one_does_not_get_in() {
    let (_, _directory, setting) = network(7);
    let other = PreSharedKey::new([8; 32]);
    for listen in [&[][..], &[WEB]] {
        let server = Server::start(&[listen, &[&setting]].concat());
        for (network, failed) in [(None, 1.0), (Some(other), 2.0)] {
            let stranger = Way {
                network,
                ..Way::from(Muxer::Yamux)
            };
            let mut stranger = Peer::new(Kind::Bare, stranger);
            stranger.dial(server.address());
            stranger
                .until("refused", |event| match event {
                    SwarmEvent::ConnectionEstablished { .. } => panic!("a stranger is in"),
                    SwarmEvent::OutgoingConnectionError { .. } => Some(()),
                    _ => None,
                })
                .await;
            // Of whatever cause: what it says means anything with another key.
            let failures = "waystation_upgrade_failure_latency_seconds_count";
            server.until(failures, failed).await;
        }
        assert_eq!(server.metrics().await.value("waystation_connections"), 0.0);
    }
}
