//! Listening over real loopback sockets.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream as StdStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use multiaddr::Protocol;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{AccessLists, Config, ConnectionsConfig};
use crate::connection::carrier;
use crate::metrics::Metrics;
use crate::state::access::Access;
use crate::state::limits::{Limits, Refusal, SocketPermit};

fn multiaddr(local: SocketAddr) -> Multiaddr {
    Multiaddr::from(local.ip()).with(Protocol::Tcp(local.port()))
}

fn open(addresses: &[&str], workers: usize) -> Result<Listeners, ListenError> {
    open_with(addresses, workers, Inherited::default())
}

fn open_with(
    addresses: &[&str],
    workers: usize,
    inherited: Inherited,
) -> Result<Listeners, ListenError> {
    let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Listeners::bind(&addresses, workers, inherited)
}

fn one_socket(address: &str) -> WorkerSocket {
    let mut workers = open(&[address], 1).unwrap().into_workers();
    workers.remove(0).remove(0)
}

/// Some containers come without.
fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn limits(max: usize) -> Arc<Limits> {
    Limits::new(&ConnectionsConfig {
        max,
        transient_max: max,
        ..ConnectionsConfig::default()
    })
}

fn no_rules() -> Arc<Access> {
    rules(&AccessLists::default())
}

fn rules(lists: &AccessLists) -> Arc<Access> {
    Arc::new(Access::new(
        &Config::default(),
        lists,
        &Metrics::new().access,
    ))
}

fn admission(limits: &Arc<Limits>, access: Arc<Access>) -> Arc<Admission> {
    Arc::new(Admission {
        limits: Arc::clone(limits),
        access,
        proxies: Vec::new(),
    })
}

fn parts(accepted: Accepted) -> (TcpStream, SocketAddr, SocketPermit) {
    let carrier::Socket::Tcp(socket) = accepted.socket else {
        panic!("a socket in memory");
    };
    (socket, accepted.remote, accepted.permit)
}

/// What a loop did: what it observed and what it handed on.
#[derive(Default)]
struct Seen {
    events: RefCell<Vec<AcceptEvent>>,
    sockets: RefCell<Vec<(TcpStream, SocketAddr, SocketPermit)>>,
}

/// Accepts until `enough` says so after an event.
async fn accept_until(
    socket: WorkerSocket,
    limits: &Arc<Limits>,
    enough: impl Fn(&[AcceptEvent]) -> bool,
) -> Seen {
    let seen = Seen::default();
    let shutdown = CancellationToken::new();
    accept_loop(
        socket,
        admission(limits, no_rules()),
        |event| {
            seen.events.borrow_mut().push(event);
            if enough(&seen.events.borrow()) {
                shutdown.cancel();
            }
        },
        |accepted| seen.sockets.borrow_mut().push(parts(accepted)),
        shutdown.clone(),
    )
    .await
    .unwrap();
    seen
}

#[test]
fn workers_share_a_port_that_the_first_one_picked() {
    let listeners = open(&["/ip4/127.0.0.1/tcp/0"], 3).unwrap();
    let addresses: Vec<_> = listeners.addresses().collect();
    let workers = listeners.into_workers();
    assert_eq!(workers.len(), 3);
    let locals: Vec<_> = workers.iter().flatten().map(WorkerSocket::local).collect();
    assert_ne!(locals[0].port(), 0);
    assert_eq!(locals, [locals[0]; 3]);
    assert_eq!(addresses, [multiaddr(locals[0])]);
}

#[tokio::test]
async fn the_kernel_spreads_connections_over_the_workers() {
    const CLIENTS: usize = 64;
    let workers = open(&["/ip4/127.0.0.1/tcp/0"], 2).unwrap().into_workers();
    let local = workers[0][0].local();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| StdStream::connect(local).unwrap())
        .collect();

    let limits = limits(CLIENTS);
    let shutdown = CancellationToken::new();
    let counts = [RefCell::new(Vec::new()), RefCell::new(Vec::new())];
    let loops = workers
        .into_iter()
        .flatten()
        .zip(&counts)
        .map(|(socket, held)| {
            let (counts, shutdown) = (&counts, &shutdown);
            accept_loop(
                socket,
                admission(&limits, no_rules()),
                |_| {},
                move |accepted| {
                    held.borrow_mut().push(accepted);
                    if counts.iter().map(|held| held.borrow().len()).sum::<usize>() == CLIENTS {
                        shutdown.cancel();
                    }
                },
                shutdown.clone(),
            )
        });
    for outcome in futures::future::join_all(loops).await {
        outcome.unwrap();
    }
    // All on one of two by chance: once in 2^63.
    assert!(counts.iter().all(|held| !held.borrow().is_empty()));
    assert_eq!(limits.usage().total.taken, CLIENTS);
    drop((clients, counts));
    assert_eq!(limits.usage().total.taken, 0);
}

#[tokio::test]
async fn denied_addresses_are_reset_and_trusted_ones_spared_all_but_the_totals() {
    // From a network that limits by address would let in once.
    let limits = Limits::new(&ConnectionsConfig {
        max: 3,
        transient_max: 3,
        per_ip_max: 1,
        per_prefix_max: 1,
        ..ConnectionsConfig::default()
    });
    for (list, events) in [
        ("deny", [AcceptEvent::Denied; 4]),
        (
            "allow",
            [
                AcceptEvent::Admitted,
                AcceptEvent::Admitted,
                AcceptEvent::Admitted,
                AcceptEvent::Refused(Refusal::Total),
            ],
        ),
    ] {
        let range = "127.0.0.0/8".parse().unwrap();
        let mut lists = AccessLists::default();
        match list {
            "deny" => lists.deny.insert(range),
            _ => lists.allow.insert(range),
        };
        let socket = one_socket("/ip4/127.0.0.1/tcp/0");
        let local = socket.local();
        let _clients: Vec<_> = (0..4).map(|_| StdStream::connect(local).unwrap()).collect();
        let seen = Seen::default();
        let shutdown = CancellationToken::new();
        let accepting = accept_loop(
            socket,
            admission(&limits, rules(&lists)),
            |event| {
                seen.events.borrow_mut().push(event);
                if seen.events.borrow().len() == 4 {
                    shutdown.cancel();
                }
            },
            |accepted| seen.sockets.borrow_mut().push(parts(accepted)),
            shutdown.clone(),
        );
        accepting.await.unwrap();
        assert_eq!(*seen.events.borrow(), events, "{list}");
    }
}

#[tokio::test]
async fn a_refused_socket_is_reset_at_once_and_counts_nowhere() {
    let socket = one_socket("/ip4/127.0.0.1/tcp/0");
    let local = socket.local();
    let mut clients: Vec<_> = (0..3).map(|_| StdStream::connect(local).unwrap()).collect();
    let limits = limits(1);
    let seen = accept_until(socket, &limits, |events| events.len() == 3).await;

    let refused = AcceptEvent::Refused(Refusal::Total);
    assert_eq!(
        *seen.events.borrow(),
        [AcceptEvent::Admitted, refused, refused]
    );
    for client in &mut clients[1..] {
        assert_eq!(
            client.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    }
    let (_, remote, _) = &seen.sockets.borrow()[0];
    assert_eq!(*remote, clients[0].local_addr().unwrap());
    assert_eq!(limits.usage().total.taken, 1);
    assert_eq!(limits.usage().transient.taken, 1);
}

#[tokio::test]
async fn accepted_sockets_have_all_options() {
    let addresses = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"];
    for address in &addresses[..1 + usize::from(has_ipv6())] {
        let socket = one_socket(address);
        let _client = StdStream::connect(socket.local()).unwrap();
        let seen = accept_until(socket, &limits(1), |_| true).await;
        let sockets = seen.sockets.borrow();
        let accepted = SockRef::from(&sockets[0].0);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(
            accepted.tcp_keepalive_time().unwrap(),
            options::KEEPALIVE_IDLE
        );
        assert_eq!(
            accepted.tcp_keepalive_interval().unwrap(),
            options::KEEPALIVE_INTERVAL
        );
        assert_eq!(
            accepted.tcp_keepalive_retries().unwrap(),
            options::KEEPALIVE_PROBES
        );
        #[cfg(target_os = "linux")]
        {
            assert_eq!(
                accepted.tcp_user_timeout().unwrap(),
                Some(options::USER_TIMEOUT)
            );
            assert_eq!(
                accepted.tcp_notsent_lowat().unwrap(),
                options::NOTSENT_LOWAT_BYTES
            );
        }
    }
}

/// Connections of the same worker get their turn within one batch of accepts.
#[tokio::test]
async fn a_flood_of_sockets_does_not_starve_the_worker() {
    const CLIENTS: usize = 300;
    let socket = one_socket("/ip4/127.0.0.1/tcp/0");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| StdStream::connect(socket.local()).unwrap())
        .collect();
    let limits = Limits::new(&ConnectionsConfig {
        max: CLIENTS,
        ..ConnectionsConfig::default()
    });
    let turn = RefCell::new(0_usize);
    let longest = RefCell::new(0_usize);
    let accepting = accept_until(socket, &limits, |events| {
        *turn.borrow_mut() += 1;
        let mut longest = longest.borrow_mut();
        *longest = (*longest).max(*turn.borrow());
        events.len() == CLIENTS
    });
    let neighbour = async {
        loop {
            *turn.borrow_mut() = 0;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased; // in turns, as tasks of one worker
        _ = accepting => {}
        () = neighbour => {}
    }
    assert!((1..=32).contains(&*longest.borrow()), "{longest:?}");
    drop(clients);
}

#[tokio::test]
async fn shutdown_closes_the_port() {
    let socket = one_socket("/ip4/127.0.0.1/tcp/0");
    let local = socket.local();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    accept_loop(
        socket,
        admission(&limits(1), no_rules()),
        |_| {},
        |_| {},
        shutdown,
    )
    .await
    .unwrap();
    assert_eq!(
        StdStream::connect(local).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn a_port_in_use_is_named_also_when_another_server_would_share_it() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = multiaddr(plain.local_addr().unwrap()).to_string();
    let error = open(&[&taken], 2).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot listen on {taken}: the port is in use by another process")
    );

    let first = open(&["/ip4/127.0.0.1/tcp/0"], 2).unwrap();
    let shared = first.addresses().next().unwrap().to_string();
    let error = open(&["/ip4/127.0.0.1/tcp/0", &shared], 2).unwrap_err();
    assert!(
        matches!(error, ListenError::Bind { ref address, reason: BindFailure::InUse } if address.to_string() == shared)
    );
    drop(first);
    open(&[&shared], 2).unwrap();
}

#[test]
fn a_restart_gets_its_port_back_while_old_connections_linger() {
    let first = open(&["/ip4/127.0.0.1/tcp/0"], 1).unwrap();
    let address = first.addresses().next().unwrap().to_string();
    let socket = first.into_workers().remove(0).remove(0);
    let client = StdStream::connect(socket.local()).unwrap();
    let Source::Tcp(listening) = &socket.source else {
        panic!("a listener in memory");
    };
    listening.set_nonblocking(false).unwrap();
    // Our side closes first and so keeps the connection in TIME_WAIT.
    drop(listening.accept().unwrap());
    drop((client, socket));
    open(&[&address], 2).unwrap();
}

#[test]
fn overlapping_addresses_do_not_meet_each_other() {
    let port = {
        let free = open(&["/ip4/0.0.0.0/tcp/0"], 1).unwrap();
        free.into_workers()[0][0].local().port()
    };
    let any = format!("/ip4/0.0.0.0/tcp/{port}");
    let loopback = format!("/ip4/127.0.0.1/tcp/{port}");
    let v6 = format!("/ip6/::/tcp/{port}");
    let addresses = [any.as_str(), &loopback, &v6];
    let addresses = &addresses[..2 + usize::from(has_ipv6())];
    let listeners = open(addresses, 2).unwrap();
    assert_eq!(listeners.addresses().count(), addresses.len());
    assert!(
        listeners
            .into_workers()
            .iter()
            .all(|sockets| sockets.len() == addresses.len())
    );
}

#[test]
fn an_address_that_is_not_ours_or_not_tcp_is_named() {
    let error = open(&["/ip4/192.0.2.1/tcp/0"], 1).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot listen on /ip4/192.0.2.1/tcp/0: this host does not have that address"
    );
    for address in [
        "/ip4/127.0.0.1/udp/1",
        "/dns4/example.org/tcp/1",
        "/ip4/127.0.0.1",
        "/tcp/1",
    ] {
        let error = open(&[address], 1).unwrap_err();
        assert!(matches!(error, ListenError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(address), "{error}");
    }
}

#[tokio::test]
async fn a_passed_socket_replaces_binding_and_is_shared_by_the_workers() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = passed.local_addr().unwrap();
    let unused = other.local_addr().unwrap();
    let address = multiaddr(local).to_string();
    let inherited = Inherited::new(vec![other, passed]);
    let listeners = open_with(&[&address], 2, inherited).unwrap();
    assert_eq!(listeners.unused(), [unused]);
    assert_eq!(
        listeners.addresses().collect::<Vec<_>>(),
        [multiaddr(local)]
    );

    for sockets in listeners.into_workers() {
        let [socket] = <[WorkerSocket; 1]>::try_from(sockets).unwrap();
        let _client = StdStream::connect(local).unwrap();
        let seen = accept_until(socket, &limits(1), |_| true).await;
        assert!(
            SockRef::from(&seen.sockets.borrow()[0].0)
                .tcp_nodelay()
                .unwrap()
        );
    }
}

#[tokio::test]
async fn a_passed_dual_stack_socket_serves_both_families() {
    if !has_ipv6() {
        return;
    }
    let passed = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    passed.set_only_v6(false).unwrap();
    passed
        .bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())
        .unwrap();
    passed.listen(8).unwrap();
    let passed: TcpListener = passed.into();
    let port = passed.local_addr().unwrap().port();
    let (v4, v6) = (
        format!("/ip4/0.0.0.0/tcp/{port}"),
        format!("/ip6/::/tcp/{port}"),
    );
    let listeners = open_with(&[&v4, &v6], 1, Inherited::new(vec![passed])).unwrap();
    assert!(listeners.unused().is_empty());

    let socket = listeners.into_workers().remove(0).remove(0);
    let client = StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let seen = accept_until(socket, &limits(1), |_| true).await;
    assert_eq!(seen.sockets.borrow()[0].1, client.local_addr().unwrap());
}

/// Runs itself in a process with few descriptors, uses them all up, and gives
/// them back after the first failure.
#[test]
fn without_descriptors_accepting_waits_and_goes_on() {
    const CHILD: &str = "WAYSTATION_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let outcome = Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "listener::tests::without_descriptors_accepting_waits_and_goes_on",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(outcome.status.success(), "{outcome:?}");
        assert!(
            String::from_utf8_lossy(&outcome.stdout).contains("1 passed"),
            "{outcome:?}"
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let socket = one_socket("/ip4/127.0.0.1/tcp/0");
    let _client = StdStream::connect(socket.local()).unwrap();
    let hoard: RefCell<Vec<File>> = RefCell::default();
    hoard
        .borrow_mut()
        .extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
    let limits = limits(1);
    let seen = runtime.block_on(async {
        let accepting = accept_until(socket, &limits, |events| {
            hoard.borrow_mut().clear();
            events.contains(&AcceptEvent::Admitted)
        });
        tokio::time::timeout(Duration::from_secs(10), accepting)
            .await
            .unwrap()
    });
    assert_eq!(
        *seen.events.borrow(),
        [AcceptEvent::Exhausted, AcceptEvent::Admitted]
    );
}

#[test]
fn what_shares_a_port_shares_its_sockets() {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let [plain, web] = ["", "/ws"].map(|what| format!("/ip4/127.0.0.1/tcp/{port}{what}"));
    let listeners = open(&[&plain, "/ip4/127.0.0.1/tcp/0/wss", &web], 2).unwrap();
    let told: Vec<_> = listeners.addresses().map(|told| told.to_string()).collect();
    assert_eq!(told[..2], [plain, web]);
    assert!(told[2].ends_with("/tls/ws"), "{told:?}");
    for sockets in listeners.into_workers() {
        let entrances: Vec<_> = sockets.iter().map(WorkerSocket::entrances).collect();
        let shared = Entrances {
            web_socket: true,
            ..Entrances::PLAIN
        };
        let secure = Entrances {
            secure: true,
            ..Entrances::default()
        };
        assert_eq!(entrances, [shared, secure]);
    }
}
