//! Peers that come over secure WebSocket, with a certificate of the operator's
//! that changes under them.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use rustix::process::Signal;

use crate::authority::Files;
use crate::peer::{Kind, Muxer, Peer, meet};
use crate::server::Server;

const LISTEN: &str = r#"listen.addresses=["/ip4/127.0.0.1/tcp/0/tls/ws"]"#;
const EXPIRY: &str = "waystation_certificate_expiry_timestamp_seconds";
const RELOADS: &str = "waystation_certificate_reloads_total";
const FAILURES: &str = "waystation_certificate_reload_failures_total";
/// The last of December, at midnight.
const END_OF_2040: f64 = 2_240_524_800.0;
const END_OF_2041: f64 = 2_272_060_800.0;

over_both_muxers! {
    two_peers_meet_over_secure_websocket
}

fn start(listen: &str, files: &Files) -> Server {
    let [chain, key] = files.settings();
    Server::start(&[listen, &chain, &key])
}

async fn two_peers_meet_over_secure_websocket(muxer: Muxer) {
    let files = Files::issue(&["127.0.0.1"], 2040);
    let server = start(LISTEN, &files);
    let (mut source, mut target) = meet(&server, muxer).await;
    source.until_pinged(target.id(), 3).await;
    target.until_pinged(source.id(), 3).await;
    drop(source);
    drop(target);
    server.until_nothing_is_held().await;
}

/// A socket that nobody else has: the address is made of the number of this
/// process.
fn own_socket() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let free = TcpListener::bind(SocketAddr::from(([127, 77, high, low], 0))).unwrap();
    free.local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_over_tcp_shares_a_port() {
    let socket = own_socket();
    let files = Files::issue(&[&socket.ip().to_string()], 2040);
    let at = format!("/ip4/{}/tcp/{}", socket.ip(), socket.port());
    let listen = format!(r#"listen.addresses=["{at}","{at}/ws","{at}/tls/ws"]"#);
    let server = start(&listen, &files);
    let plain: &[&str] = &["ip4", "tcp", "p2p"];
    for stack in [
        plain,
        &["ip4", "tcp", "ws", "p2p"],
        &["ip4", "tcp", "tls", "ws", "p2p"],
    ] {
        for muxer in [Muxer::Yamux, Muxer::Mplex] {
            let mut peer = Peer::new(Kind::Bare, muxer);
            peer.dial(server.address_over(stack));
            peer.until_connected(server.peer_id()).await;
            peer.until_pinged(server.peer_id(), 1).await;
        }
    }
    server.until_nothing_is_held().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_spellings_and_names_lead_to_the_same_listener() {
    let files = Files::issue(&["relay.example"], 2040);
    let other = Files::issue(&["127.0.0.1"], 2040);
    let listen = r#"listen.addresses=["/ip4/127.0.0.1/tcp/0/tls/sni/relay.example/ws"]"#;
    let settings = [&other, &files].map(|files| (files.chain(), files.key()));
    let list = |name: &str, paths: [&std::path::PathBuf; 2]| {
        let paths = paths.map(|path| path.display().to_string());
        format!("tls.{name}={}", paths.join(","))
    };
    let [(chain_0, key_0), (chain_1, key_1)] = &settings;
    let server = Server::start(&[
        listen,
        &list("certificate_files", [chain_0, chain_1]),
        &list("key_files", [key_0, key_1]),
    ]);
    // By its name as it is announced, and without one by its IP address.
    let announced = server.address();
    assert!(announced.to_string().contains("/tls/sni/relay.example/ws/"));
    let bare: Multiaddr = announced
        .iter()
        .filter(|part| !matches!(part, Protocol::Sni(_)))
        .collect();
    let deprecated: Multiaddr = bare
        .iter()
        .filter(|part| *part != Protocol::Tls)
        .map(|part| match part {
            Protocol::Ws(path) => Protocol::Wss(path),
            part => part,
        })
        .collect();
    for address in [announced, bare, deprecated] {
        let mut peer = Peer::new(Kind::Bare, Muxer::Yamux);
        peer.dial(address);
        peer.until_connected(server.peer_id()).await;
        peer.until_pinged(server.peer_id(), 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_drops_nobody_and_a_broken_one_changes_nothing() {
    let files = Files::issue(&["127.0.0.1"], 2040);
    let server = start(LISTEN, &files);
    let mut before = Peer::new(Kind::Client, Muxer::Yamux);
    before.reserve(&server).await;
    server.until(EXPIRY, END_OF_2040).await;

    files.renew(&["127.0.0.1"], 2041);
    server.signal(Signal::HUP);
    server.until(RELOADS, 1.0).await;
    server.until(EXPIRY, END_OF_2041).await;
    let mut after = Peer::new(Kind::Client, Muxer::Yamux);
    after.connect(&server).await;

    fs::write(files.key(), "no key").unwrap();
    server.signal(Signal::HUP);
    server.until(FAILURES, 1.0).await;
    let told = server.log_lines("certificates not taken over");
    assert!(told[0].contains("tls.key_files"), "{told:?}");
    let mut later = Peer::new(Kind::Client, Muxer::Yamux);
    later.connect(&server).await;
    for peer in [&mut before, &mut after, &mut later] {
        peer.until_pinged(server.peer_id(), 2).await;
    }
    server.until("waystation_relay_reservations", 1.0).await;
}
