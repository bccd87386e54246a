//! Getting in: deadlines, limits by address, proxies, private networks.

use std::net::SocketAddr;
use std::time::Duration;

use libp2p::pnet::PreSharedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use crate::assert_passed;
use crate::peer::{Peer, Way};
use crate::server::Server;

const CONNECTIONS: &str = "waystation_connections";
const PROXY: [u8; 4] = [10, 0, 0, 7];

#[tokio::test(start_paused = true)]
async fn who_is_slow_to_say_who_it_is_is_closed_at_the_deadline() {
    let server = Server::start(&["connections.upgrade_timeout=20s"]).await;
    for pause in [Duration::from_secs(1), Duration::from_secs(60)] {
        let begun = Instant::now();
        let mut slow = server
            .dialer()
            .dial(SocketAddr::from(([81, 0, 0, 1], 0)))
            .unwrap();
        for byte in b"\x13/multistream/1.0.0\n\x07/noise\n" {
            sleep(pause).await;
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        let _ = slow.read_to_end(&mut Vec::new()).await;
        let late = begun.elapsed() - Duration::from_secs(20);
        assert!(late <= pause.max(crate::SLACK), "{late:?}");
    }
    let late = r#"waystation_upgrades_failed_total{cause="timeout"}"#;
    assert_eq!(server.value(late), 2.0);
}

#[tokio::test(start_paused = true)]
async fn an_address_has_its_share_and_gets_a_new_one_with_time() {
    let server = Server::start(&[
        "connections.per_ip_max=2",
        "connections.burst_per_ip=2",
        "connections.rate_per_ip=0.1",
    ])
    .await;
    let from = Way::from([81, 0, 0, 1]);
    let mut peers = Vec::new();
    for _ in 0..2 {
        peers.push(connected(&server, &from).await);
    }
    refused(&server, &from).await;
    drop(peers.pop());
    server.until(CONNECTIONS, 1.0).await;
    refused(&server, &from).await;
    let begun = Instant::now();
    sleep(Duration::from_secs(10)).await;
    peers.push(connected(&server, &from).await);
    assert_passed(begun, Duration::from_secs(10));
    connected(&server, &Way::from([81, 0, 0, 2])).await;
}

#[tokio::test(start_paused = true)]
async fn whom_a_proxy_forwards_counts_and_is_seen_as_if_it_had_come_itself() {
    let server = Server::start(&[
        "listen.proxy_protocol_from=10.0.0.0/24",
        "connections.per_ip_max=1",
        "access.deny=81.0.9.0/24",
    ])
    .await;
    let mut held = Vec::new();
    for (host, header) in [
        (
            1,
            "PROXY TCP4 81.0.0.1 93.184.216.34 40000 4001\r\n".as_bytes(),
        ),
        (
            2,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x51\0\0\x02\x5d\xb8\xd8\x22\x9c\x40\x0f\xa1",
        ),
    ] {
        let way = forwarded(header);
        let mut peer = connected(&server, &way).await;
        let seen = peer.observed(server.peer_id()).await;
        assert_eq!(seen.to_string(), format!("/ip4/81.0.0.{host}/tcp/40000"));
        held.push(peer);
        // Its one place is taken, by whichever way it comes.
        refused(&server, &way).await;
        refused(&server, &Way::from([81, 0, 0, host])).await;
    }
    let per_ip = r#"waystation_sockets_refused_total{reason="per_ip"}"#;
    assert_eq!(server.value(per_ip), 4.0);
    // The operator's rules are about whom the proxy forwards.
    let denied = b"PROXY TCP4 81.0.9.1 93.184.216.34 40000 4001\r\n";
    refused(&server, &forwarded(denied)).await;
    // The proxy may look by itself, and is somebody then.
    held.push(connected(&server, &forwarded(b"PROXY UNKNOWN\r\n")).await);
    refused(&server, &forwarded(b"PROXY UNKNOWN\r\n")).await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_about_the_range_of_a_proxy_is_not_about_whom_it_forwards() {
    let server = Server::start(&[
        "listen.proxy_protocol_from=10.0.0.0/24",
        "access.deny=10.0.0.0/8",
    ])
    .await;
    let header = b"PROXY TCP4 81.0.0.1 93.184.216.34 40000 4001\r\n";
    connected(&server, &forwarded(header)).await;
    // It is about the proxy itself, and about who is forwarded from there.
    refused(&server, &forwarded(b"PROXY UNKNOWN\r\n")).await;
    let inside = b"PROXY TCP4 10.1.0.1 93.184.216.34 40000 4001\r\n";
    refused(&server, &forwarded(inside)).await;
}

#[tokio::test(start_paused = true)]
async fn only_a_proxy_may_say_whom_it_forwards_and_it_has_to() {
    let server = Server::start(&["listen.proxy_protocol_from=10.0.0.0/24"]).await;
    let header = b"PROXY TCP4 81.0.0.1 93.184.216.34 40000 4001\r\n".to_vec();
    let stranger = Way {
        preface: header,
        ..Way::from([81, 0, 0, 5])
    };
    refused(&server, &stranger).await;
    refused(&server, &forwarded(b"")).await;
    refused(&server, &forwarded(b"PROXY TCP4 nonsense\r\n")).await;
    let wrong = r#"waystation_upgrades_failed_total{cause="proxy"}"#;
    assert_eq!(server.value(wrong), 2.0);
    connected(&server, &Way::from([81, 0, 0, 5])).await;
}

#[tokio::test(start_paused = true)]
async fn only_members_of_the_private_network_get_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("swarm.key");
    let [ours, other] = [7, 8].map(|byte| PreSharedKey::new([byte; 32]));
    std::fs::write(&path, ours.to_key_file()).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, permissions).unwrap();
    let setting = format!("private_network.key_file={}", path.display());
    let server = Server::start(&[&setting, "listen.proxy_protocol_from=10.0.0.0/24"]).await;
    let member = |way| Way {
        network: Some(ours),
        ..way
    };
    // Two members meet through it.
    let mut target = connected(&server, &member(Way::from([81, 0, 0, 1]))).await;
    target.reserve(&server).await;
    let header = b"PROXY TCP4 81.0.0.2 93.184.216.34 40000 4001\r\n";
    let mut source = Peer::by(&server, member(forwarded(header)));
    source.dial(server.address_of(target.id()));
    source.until_connected(target.id()).await;
    let stranger = Way {
        network: Some(other),
        ..Way::from([81, 0, 0, 3])
    };
    refused(&server, &stranger).await;
    refused(&server, &Way::from([81, 0, 0, 4])).await;
}

fn forwarded(header: &[u8]) -> Way {
    Way {
        preface: header.to_vec(),
        ..Way::from(PROXY)
    }
}

async fn connected(server: &Server, way: &Way) -> Peer {
    let mut peer = Peer::by(server, way.clone());
    peer.dial(server.address());
    peer.until_connected(server.peer_id()).await;
    peer
}

async fn refused(server: &Server, way: &Way) {
    let mut peer = Peer::by(server, way.clone());
    peer.dial(server.address());
    peer.until_failed(server.peer_id()).await;
}
