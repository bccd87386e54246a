//! A worker's sockets against plain ones on loopback.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::poll_fn;
use std::time::Duration;

use crate::metrics::Metrics;

use super::*;

fn plain() -> StdSocket {
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    let patience = Duration::from_secs(30);
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// One socket, and where it is.
fn sockets(metrics: &Metrics) -> (Sockets, SocketAddr) {
    let socket = plain();
    socket.set_nonblocking(true).unwrap();
    let local = socket.local_addr().unwrap();
    let sockets = Sockets::new(vec![socket], Arc::clone(&metrics.quic)).unwrap();
    (sockets, local)
}

fn to(destination: SocketAddr, contents: &[u8]) -> quinn_proto::Transmit {
    quinn_proto::Transmit {
        destination,
        ecn: None,
        size: contents.len(),
        segment_size: None,
        src_ip: None,
    }
}

/// The next datagrams of one receiving call.
async fn received(sockets: &mut Sockets) -> Vec<Datagram> {
    let mut datagrams = Vec::new();
    while datagrams.is_empty() {
        poll_fn(|task| sockets.receive(0, task, |one| datagrams.push(one))).await;
    }
    datagrams
}

/// What a connection keeps of a datagram is that datagram, and not the buffer
/// into which the kernel joined it with others.
#[tokio::test]
async fn a_small_datagram_keeps_no_more_than_itself() {
    let metrics = Metrics::new();
    let (mut sockets, local) = sockets(&metrics);
    plain().send_to(&[7; 20], local).unwrap();
    let datagrams = received(&mut sockets).await;
    let mut bytes = datagrams.into_iter().next().unwrap().bytes;
    assert_eq!(bytes[..], [7; 20]);
    assert!(bytes.capacity() <= 64, "{}", bytes.capacity());
    // Nor is there anything before or behind it.
    assert!(!bytes.try_reclaim(64));
}

/// What a full socket does not take is kept, once; it leaves when there is room,
/// and nothing that comes later overtakes it.
#[tokio::test]
async fn what_a_full_socket_does_not_take_leaves_when_there_is_room() {
    let metrics = Metrics::new();
    let (mut sockets, local) = sockets(&metrics);
    let receiver = plain();
    let destination = receiver.local_addr().unwrap();
    // Loopback is never full: the runtime is told that it is, as it would be by
    // the kernel.
    sockets.sockets[0].io.writable().await.unwrap();
    let full = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    let told = sockets.sockets[0].io.try_io(Interest::WRITABLE, full);
    assert!(told.is_err());
    assert!(sockets.send(0, to(destination, b"first"), b"first") == Sent::Full);
    assert!(sockets.is_full(0));
    let waiting = poll_fn(|task| Poll::Ready(sockets.send_kept(0, task))).await;
    assert!(waiting == Sent::Full, "there is no room yet");
    assert!(
        metrics
            .render()
            .contains("waystation_quic_socket_full_total 1\n")
    );
    // The kernel tells of room whenever it tells of anything.
    receiver.send_to(b"anything", local).unwrap();
    poll_fn(|task| match sockets.send_kept(0, task) {
        Sent::Done => Poll::Ready(()),
        Sent::Full => Poll::Pending,
    })
    .await;
    assert!(!sockets.is_full(0));
    assert!(sockets.send(0, to(destination, b"second"), b"second") == Sent::Done);
    let mut buffer = [0; 100];
    for expected in [&b"first"[..], b"second"] {
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], expected);
    }
}

/// What the kernel refuses for good is lost, as on the way: it would be refused
/// again for ever.
#[tokio::test]
async fn what_cannot_be_sent_is_not_kept() {
    let metrics = Metrics::new();
    let (mut sockets, _) = sockets(&metrics);
    sockets.sockets[0].io.writable().await.unwrap();
    // A socket on loopback has no way to anywhere else.
    let nowhere = SocketAddr::from(([192, 0, 2, 1], 1));
    assert!(sockets.send(0, to(nowhere, b"lost"), b"lost") == Sent::Done);
    assert!(!sockets.is_full(0));
}
