//! Stopping while peers are connected and circuits are open.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures::AsyncWriteExt as _;
use libp2p::multiaddr::Protocol;
use rustix::process::Signal;

use crate::hop;
use crate::peer::Muxer;
use crate::server::Server;
use crate::{PROMPT, within};

over_both_muxers! {
    open_circuits_may_finish_and_nothing_new_begins
    circuits_that_do_not_finish_end_at_the_deadline
    a_second_signal_ends_at_once
    without_circuits_it_stops_at_once
}

async fn open_circuits_may_finish_and_nothing_new_begins(muxer: Muxer) {
    let mut server = Server::start(&["shutdown.drain_timeout=60s"]);
    let (source, mut target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    server.signal(Signal::TERM);
    until_refused(&server).await;
    let reserving = hop::reserve(&source, &server).await;
    assert_eq!(reserving.status, hop::RESERVATION_REFUSED);
    let (connecting, _) = hop::connect(&source, &server, target.id()).await;
    assert_eq!(connecting.status, hop::RESOURCE_LIMIT_EXCEEDED);
    hop::carries(&mut near, &mut far, &[1; 50_000]).await;
    hop::carries(&mut far, &mut near, &[2; 50_000]).await;
    assert!(server.is_running());
    for stream in [&mut near, &mut far] {
        stream.close().await.unwrap();
    }
    assert_eq!(hop::drain(&mut near).await, []);
    assert_eq!(hop::drain(&mut far).await, []);
    assert_eq!(server.exit().await.code(), Some(0));
    target.until_disconnected(server.peer_id()).await;
}

async fn circuits_that_do_not_finish_end_at_the_deadline(muxer: Muxer) {
    let mut server = Server::start(&["shutdown.drain_timeout=1s"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    let begun = Instant::now();
    server.signal(Signal::TERM);
    futures::join!(hop::drain(&mut near), hop::drain(&mut far));
    assert!(begun.elapsed() >= Duration::from_secs(1), "too early");
    assert_eq!(server.exit().await.code(), Some(0));
}

async fn a_second_signal_ends_at_once(muxer: Muxer) {
    let mut server = Server::start(&["shutdown.drain_timeout=10m"]);
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, _far) = hop::circuit(&source, &server, &target, &mut offers).await;
    server.signal(Signal::TERM);
    until_refused(&server).await;
    assert!(server.is_running());
    server.signal(Signal::INT);
    assert_eq!(server.exit().await.code(), Some(0));
    hop::drain(&mut near).await;
}

async fn without_circuits_it_stops_at_once(muxer: Muxer) {
    let mut server = Server::start(&["shutdown.drain_timeout=10m"]);
    let (mut source, mut target, _offers) = hop::pair(&server, muxer).await;
    server.signal(Signal::INT);
    assert_eq!(server.exit().await.code(), Some(0));
    source.until_disconnected(server.peer_id()).await;
    target.until_disconnected(server.peer_id()).await;
}

/// Waits until the server lets nobody in any more.
async fn until_refused(server: &Server) {
    let port = server.address().iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let address = (std::net::Ipv4Addr::LOCALHOST, port.unwrap());
    within(PROMPT, "new connections are refused", async {
        while TcpStream::connect(address).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
