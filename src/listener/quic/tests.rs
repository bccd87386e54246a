//! One worker's loop, given datagrams from where no test could send them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Wake, Waker};
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};

use super::*;
use crate::clock;
use crate::config::Config;
use crate::connection;
use crate::identity::{Identity, certificate::ALPN};
use crate::metrics::Metrics;

use handover::Datagram;

/// A loop on one socket, whose time is the test's.
struct Worker {
    inner: Loop,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    client: Identity,
    now: Instant,
}

impl Worker {
    fn new(change: impl Fn(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let context = connection::tests::context(&change);
        let limits = Limits::new(&config.connections);
        let metrics = Arc::clone(&context.metrics);
        let identity = Identity::generate();
        let tls = identity.certificate().unwrap().server(&[ALPN]);
        let server = Server::new(
            context,
            Arc::clone(&limits),
            tls,
            &Secret::generate(),
            1,
            Duration::from_secs(15),
            CancellationToken::new(),
        );
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            inner: Loop::new(server.unwrap(), 0, vec![socket]).unwrap(),
            metrics,
            limits,
            client: Identity::generate(),
            now: clock::now(),
        }
    }

    /// A handshake begins from this address.
    fn begins(&mut self, ip: impl Into<IpAddr>) {
        let crypto = self.client.certificate().unwrap().client(&[ALPN]);
        let crypto = QuicClientConfig::try_from(crypto).unwrap();
        let config = ClientConfig::new(Arc::new(crypto));
        let mut endpoint = Endpoint::new(Arc::default(), None, true, None);
        let to = ([127, 0, 0, 1], 1).into();
        let (_, mut client) = endpoint.connect(self.now, config, to, "l").unwrap();
        let mut bytes = Vec::new();
        let sent = client.poll_transmit(self.now, 1, &mut bytes).unwrap();
        self.inner.on_datagram(
            Datagram {
                bytes: BytesMut::from(&bytes[..sent.size]),
                ..datagram(SocketAddr::new(ip.into(), 4001))
            },
            self.now,
        );
    }

    /// Handshakes that were told to show their address first.
    fn retries(&self) -> u64 {
        let rendered = self.metrics.render();
        let mut lines = rendered.lines();
        let value = lines.find_map(|line| line.strip_prefix("waystation_quic_retries_total "));
        value.unwrap().parse().unwrap()
    }
}

fn datagram(remote: SocketAddr) -> Datagram {
    Datagram {
        socket: 0,
        remote,
        local: None,
        ecn: None,
        bytes: BytesMut::from(&[0][..]),
    }
}

/// So many that their number says nothing.
fn many(config: &mut Config) {
    config.connections.max = 100_000;
    config.connections.transient_max = 100_000;
}

/// A place that has all it may is asked to show that it is there, so that
/// nobody can keep its peers out, or come in, in its name.
#[tokio::test]
async fn a_place_that_has_all_it_may_is_asked_for_its_address() {
    let mut worker = Worker::new(|config| {
        many(config);
        config.connections.per_ip_max = 1;
    });
    let full = Ipv4Addr::new(198, 51, 100, 1);
    let held = worker
        .limits
        .admit_shared((full, 1).into(), false, worker.now);
    worker.begins(Ipv4Addr::new(198, 51, 100, 2));
    assert_eq!(worker.retries(), 0);
    worker.begins(full);
    assert_eq!(worker.retries(), 1);
    assert_eq!(worker.limits.transient().taken, 2, "one held, one begun");
    drop(held.unwrap());
    worker.begins(full);
    assert_eq!(worker.retries(), 1);
}

/// Handshakes whose addresses may be forged, and which their senders end at
/// once, are held to a rate; peers on this host are not.
#[tokio::test]
async fn unshown_addresses_are_held_to_a_rate() {
    let mut worker = Worker::new(many);
    let address = |number: u16| {
        let [a, b] = number.to_be_bytes();
        Ipv4Addr::new(11, a, b, 1)
    };
    for number in 0..400 {
        worker.begins(address(number));
    }
    assert_eq!(worker.retries(), 0);
    worker.begins(address(400));
    assert_eq!(worker.retries(), 1);
    for _ in 0..10 {
        worker.begins(Ipv4Addr::LOCALHOST);
    }
    assert_eq!(worker.retries(), 1);
    // 200 a second come back.
    worker.now += Duration::from_secs(1);
    for number in 500..700 {
        worker.begins(address(number));
    }
    assert_eq!(worker.retries(), 1);
    worker.begins(address(700));
    assert_eq!(worker.retries(), 2);
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Others wake a loop for the first datagram in its inbox only; more than one
/// turn takes are not forgotten.
#[tokio::test]
async fn of_many_datagrams_from_other_workers_none_is_left_behind() {
    let mut worker = Worker::new(many);
    let server = Arc::clone(&worker.inner.server);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut task = task::Context::from_waker(&waker);
    let mut sleep = pin!(tokio::time::sleep(Duration::from_secs(60)));
    let mut turn = || {
        let before = count.0.load(Ordering::Relaxed);
        assert!(worker.inner.poll(&mut task, sleep.as_mut()).is_pending());
        count.0.load(Ordering::Relaxed) > before
    };
    assert!(!turn(), "there is nothing to do");
    for _ in 0..600 {
        let remote = ([192, 0, 2, 1], 4001).into();
        assert!(server.inboxes[0].hand_over(datagram(remote)));
    }
    assert!(turn(), "there are more");
    assert!(turn(), "there are more");
    assert!(!turn(), "that was the last of them");
    assert!(server.inboxes[0].take().is_none());
}
