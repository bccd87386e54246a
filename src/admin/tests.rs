//! The admin server over loopback sockets, as scrapers and slow clients see it.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use libp2p_identity::PeerId;

use crate::clock;
use crate::config::{AccessLists, Config};
use crate::state::access::Access;
use crate::store::Store;

mod api;

/// The only one that the server has.
const ADDRESS: &str = "/ip4/8.8.8.8/tcp/4001";

struct Running {
    address: SocketAddr,
    state: AdminState,
    _directory: tempfile::TempDir,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

impl Running {
    async fn start(bounds: Bounds) -> Self {
        Self::start_on([127, 0, 0, 1], None, bounds).await
    }

    async fn start_on(host: [u8; 4], token: Option<&str>, bounds: Bounds) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Metrics::new();
        let store = Store::open(directory.path(), Arc::clone(&metrics.store)).unwrap();
        let config = Config::default();
        let access = Access::new(&config, &AccessLists::default(), &metrics.access);
        let rulebook = Rulebook::load(Arc::new(access), Arc::new(store.store), 0, |_| 2);
        let state = AdminState {
            metrics,
            health: Health::new(1, clock::now()),
            rulebook: Arc::new(rulebook.unwrap()),
            addresses: Addresses::new(&[], &[ADDRESS.parse().unwrap()], PeerId::random()),
        };
        let token = token.map(str::to_owned);
        let address = SocketAddr::from((host, 0));
        let mut server = AdminServer::bind(address, state.clone(), token)
            .await
            .unwrap();
        server.bounds = bounds;
        let shutdown = CancellationToken::new();
        Self {
            address: server.address(),
            state,
            _directory: directory,
            shutdown: shutdown.clone(),
            server: start(server.serve(shutdown)),
        }
    }

    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n"))
            .await
    }
}

#[expect(clippy::disallowed_methods, reason = "a test supervises by awaiting")]
fn start<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

#[tokio::test]
async fn readiness_follows_the_phase_and_tells_what_still_fits() {
    let running = Running::start(Bounds::default()).await;
    running.state.metrics.relay.set_max(5);
    let _held = running.state.metrics.relay.reservation_opened();

    let starting = running.get("/readyz").await;
    assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
    assert!(starting.contains(r#""reason":"starting""#), "{starting}");

    running.state.health.set_phase(Phase::Serving);
    let serving = running.get("/readyz").await;
    assert!(serving.starts_with("HTTP/1.1 200"), "{serving}");
    assert!(
        serving.contains(r#""reservations":{"used":1,"max":5,"free":4}"#),
        "{serving}"
    );
    assert!(!serving.contains("reason"), "{serving}");

    running.state.health.set_phase(Phase::Draining);
    let draining = running.get("/readyz").await;
    assert!(draining.starts_with("HTTP/1.1 503"), "{draining}");
    assert!(draining.contains(r#""reason":"draining""#), "{draining}");
    let live = running.get("/livez").await;
    assert!(
        live.starts_with("HTTP/1.1 200"),
        "draining is alive: {live}"
    );
}

#[tokio::test]
async fn a_stalled_worker_makes_the_server_not_live() {
    let running = Running::start(Bounds::default()).await;
    let long_ago = clock::now() - STALLED_AFTER - HEARTBEAT_EVERY;
    let state = AdminState {
        health: Health::new(2, long_ago),
        ..running.state.clone()
    };
    state.health.heartbeat(0).beat(clock::now());
    let server = AdminServer::bind(SocketAddr::from(([127, 0, 0, 1], 0)), state, None)
        .await
        .unwrap();
    let stalled = Running {
        address: server.address(),
        server: start(server.serve(running.shutdown.clone())),
        ..running
    };
    let live = stalled.get("/livez").await;
    assert!(live.starts_with("HTTP/1.1 503"), "{live}");
    assert!(live.ends_with("stalled workers: 1\n"), "{live}");
}

#[tokio::test]
async fn a_worker_that_is_not_whole_makes_the_server_neither_live_nor_ready() {
    let running = Running::start(Bounds::default()).await;
    running.state.health.set_phase(Phase::Serving);
    let part = running.state.health.heartbeat(0).part();
    assert!(running.get("/livez").await.starts_with("HTTP/1.1 200"));
    drop(part);
    let live = running.get("/livez").await;
    assert!(live.starts_with("HTTP/1.1 503"), "{live}");
    assert!(live.ends_with("broken workers: 0\n"), "{live}");
    let ready = running.get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains(r#""reason":"broken""#), "{ready}");
}

#[tokio::test]
async fn answers_are_typed_never_stored_and_given_to_reading_methods_only() {
    let running = Running::start(Bounds::default()).await;
    let scrape = running.get("/metrics").await;
    let (head, body) = scrape.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4"));
    assert!(body.contains("\nwaystation_connections 0\n"));

    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: here\r\n\r\n", 200),
        ("GET /elsewhere HTTP/1.1\r\nHost: here\r\n\r\n", 404),
        ("DELETE /metrics HTTP/1.1\r\nHost: here\r\n\r\n", 405),
        (
            "POST /livez HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbody",
            405,
        ),
    ] {
        let answer = running.ask(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
        assert!(answer.contains("cache-control: no-store"), "{answer}");
    }
    let head = running
        .ask("HEAD /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        .await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"));
}

#[tokio::test]
async fn clients_that_dribble_hold_no_more_than_the_cap_and_not_for_long() {
    let cap = 2;
    let running = Running::start(Bounds {
        connections: NonZeroUsize::new(cap).unwrap(),
        head: Duration::from_millis(300),
        whole: Duration::from_secs(10),
    })
    .await;

    let ended = Arc::new(AtomicUsize::new(0));
    let mut dribblers = JoinSet::new();
    for _ in 0..3 * cap {
        let stream = TcpStream::connect(running.address).await.unwrap();
        dribblers.spawn(dribble(stream, Arc::clone(&ended)));
    }
    // Accepted in order of arrival: an answer to the last in the queue means
    // that all but `cap` of the others have been put out.
    let answer = running.get("/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(ended.load(Ordering::SeqCst) >= 2 * cap);
    dribblers.join_all().await;
}

/// Sends a request byte by byte, never finishing it, until the server hangs up.
async fn dribble(mut stream: TcpStream, ended: Arc<AtomicUsize>) {
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let mut sink = [0; 256];
    let mut sent = 0_usize;
    loop {
        tokio::select! {
            read = stream.read(&mut sink) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            },
            _ = pause.tick() => {
                let byte = b"GET /livez HTTP/1.1\r\nX: ".get(sent).unwrap_or(&b'x');
                sent += 1;
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        }
    }
    ended.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test]
async fn a_body_that_never_comes_and_a_silent_client_hold_no_slot() {
    let running = Running::start(Bounds {
        connections: NonZeroUsize::MIN,
        head: Duration::from_secs(600),
        whole: Duration::from_millis(300),
    })
    .await;
    let mut owing = TcpStream::connect(running.address).await.unwrap();
    owing
        .write_all(b"POST /livez HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        .await
        .unwrap();
    let _silent = TcpStream::connect(running.address).await.unwrap();
    // The only slot frees itself twice before this is answered.
    let answer = running.get("/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let running = Running::start(Bounds::default()).await;
    let answer = running
        .ask(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_MAX)))
        .await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn shutdown_ends_the_server_and_frees_its_port() {
    let running = Running::start(Bounds::default()).await;
    let _waiting = TcpStream::connect(running.address).await.unwrap();
    running.shutdown.cancel();
    running.server.await.unwrap();
    AdminServer::bind(running.address, running.state, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_key() {
    let running = Running::start(Bounds::default()).await;
    let error = AdminServer::bind(running.address, running.state.clone(), None)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("admin.address") && error.contains(&running.address.to_string()),
        "{error}"
    );
}
