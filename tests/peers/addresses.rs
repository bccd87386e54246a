//! Where the server says that it is: shown to its operator, published, and told
//! to peers when it changes.
//!
//! A change needs an interface to change, so that test runs itself again in a
//! network namespace of its own. It is ignored by default: `unshare` and `ip` have
//! to be there, and the right to make a namespace.

use std::process::{Command, Stdio};

use libp2p::Multiaddr;
use libp2p::identify;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;

use crate::hop;
use crate::peer::{BehaviourEvent, Muxer, Peer};
use crate::server::Server;

/// Tells the test that it has been started inside.
const INSIDE: &str = "WAYSTATION_TEST_INSIDE_NAMESPACE";

#[tokio::test]
async fn an_operator_sees_each_address_and_why_it_is_announced() {
    let server = Server::start(&[]);
    let bare = bare(&server.address());
    let shown = server.operator(&["addresses"]).unwrap();
    let line = shown.lines().find(|line| line.starts_with(&bare)).unwrap();
    assert!(line.contains("listen"), "{line}");
    assert!(
        line.ends_with("everybody: no address reaches further"),
        "{line}"
    );
    let json = server.operator(&["addresses", "--json"]).unwrap();
    assert!(json.contains(&format!("\"address\": \"{bare}\"")), "{json}");
    let refused = server.operator(&["dnsaddr", "relay.example.net"]);
    let refused = refused.unwrap_err();
    assert!(
        refused.starts_with("error: no public address to publish"),
        "{refused}"
    );
}

#[tokio::test]
async fn configured_addresses_are_published_under_a_name() {
    let configured = r#"announce.addresses=["/dns4/relay.example.net/tcp/4001","/ip4/8.8.8.8/tcp/443/tls/sni/relay.example.net/ws"]"#;
    let server = Server::start(&[configured]);
    let records = server.operator(&["dnsaddr", "example.net"]).unwrap();
    let us = server.peer_id();
    let expected = [
        "/dns4/relay.example.net/tcp/4001",
        "/ip4/8.8.8.8/tcp/443/tls/sni/relay.example.net/ws",
    ]
    .map(|address| format!("_dnsaddr.example.net. IN TXT \"dnsaddr={address}/p2p/{us}\"\n"));
    assert_eq!(records, expected.concat());
}

#[test]
#[ignore = "needs unshare and ip, and a network namespace"]
fn a_change_reaches_connected_peers_and_later_reservations() {
    if std::env::var_os(INSIDE).is_none() {
        return in_a_namespace(
            "addresses::a_change_reaches_connected_peers_and_later_reservations",
        );
    }
    ip(&["link", "set", "lo", "up"]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for muxer in [Muxer::Yamux, Muxer::Mplex] {
            Box::pin(a_change_is_told(muxer)).await;
        }
    });
}

/// Runs this test again where changing an interface harms nobody: as root, or as
/// a user who may be root of a namespace.
fn in_a_namespace(test: &str) {
    let attempts: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    let works = |options: &&&[&str]| {
        let tried = Command::new("unshare")
            .args(**options)
            .args(["--", "ip", "link", "set", "lo", "up"])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    };
    let options = attempts.iter().find(works).expect(
        "this test needs util-linux's unshare, iproute2's ip, and a host where one of \
         `unshare --net` and `unshare --user --map-root-user --net` is allowed",
    );
    let output = Command::new("unshare")
        .args(*options)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", test])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{failed}"
    );
}

async fn a_change_is_told(muxer: Muxer) {
    const NEW: &str = "8.8.8.8";
    let server = Server::start(&[r#"listen.addresses=["/ip4/0.0.0.0/tcp/0"]"#]);
    let old = bare(&server.address());
    let new = old.replace("127.0.0.1", NEW);
    let mut peer = hop::connected(&server, muxer).await;
    assert_eq!(identified(&mut peer).await, [&*old]);
    let before = hop::reserve(&peer, &server).await.reservation.unwrap();
    assert_eq!(before.addresses, [server.address()]);

    ip(&["address", "add", &format!("{NEW}/32"), "dev", "lo"]);
    assert_eq!(identified(&mut peer).await, [new.clone(), old.clone()]);
    let pushed = r#"libp2p_identify_identify_push_total{dir="outbound"}"#;
    server.until(pushed, 1.0).await;
    let after = hop::reserve(&peer, &server).await.reservation.unwrap();
    let told: Vec<String> = after.addresses.iter().map(bare).collect();
    assert_eq!(told, [new.clone(), old.clone()]);
    let shown = server.operator(&["addresses"]).unwrap();
    let line = shown.lines().find(|line| line.starts_with(&new)).unwrap();
    assert!(line.ends_with("interface lo  everybody"), "{line}");
    let records = server.operator(&["dnsaddr", "relay.example.net"]).unwrap();
    assert!(
        records.contains(&format!("dnsaddr={new}/p2p/")),
        "{records}"
    );

    ip(&["address", "del", &format!("{NEW}/32"), "dev", "lo"]);
    assert_eq!(identified(&mut peer).await, [old]);
}

/// The addresses that the server tells next.
async fn identified(peer: &mut Peer) -> Vec<String> {
    peer.until("the server's addresses", |event| match event {
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            info, ..
        })) => Some(info.listen_addrs.iter().map(bare).collect()),
        _ => None,
    })
    .await
}

/// An address as text, without the peer id at its end.
fn bare(address: &Multiaddr) -> String {
    let parts = address.iter();
    parts
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .collect::<Multiaddr>()
        .to_string()
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}
