//! What `waystation probe` promises an operator: the truth about a server, in
//! lines that scripts can read, or one line about what is wrong with it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stderr, reason = "a failed test shows the server's log")]
#![expect(clippy::disallowed_methods, reason = "a test reads its own clock")]

use std::fs::Permissions;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{SwarmBuilder, identify, noise, ping, relay, tcp, yamux};
use rcgen::{CertificateParams, DnType, KeyPair};
use tempfile::TempDir;

use crate::authority::Files;

#[path = "peers/authority.rs"]
#[allow(dead_code, reason = "the peers need more of it")]
mod authority;

/// Somebody, but none of the servers here.
const STRANGER: &str = "12D3KooWE3yrnArMc62ofC6SeJE4ozeVmiDqPv6YMKTLhH7YSv3p";

/// A running server.
struct Server {
    child: Child,
    directory: TempDir,
    peer_id: String,
    /// With its peer id.
    address: String,
}

impl Server {
    fn start(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("waystation.toml");
        fs::write(&configuration, "").unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waystation"));
        command
            .env_clear()
            .env("STATE_DIRECTORY", directory.path().join("state"))
            .arg("--config")
            .arg(configuration)
            .args(["--set", r#"listen.addresses=["/ip4/127.0.0.1/tcp/0"]"#])
            .args(["--set", "admin.address=127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        // The line about the admin server is the last.
        for line in stdout.lines() {
            let line = line.unwrap();
            banner.push_str(&line);
            banner.push('\n');
            if line.starts_with("admin") {
                break;
            }
        }
        Self {
            child,
            peer_id: one(&banner, "peer id").to_owned(),
            address: one(&banner, "listening").to_owned(),
            directory,
        }
    }

    /// Its address without its peer id.
    fn bare_address(&self) -> &str {
        self.address.split_once("/p2p/").unwrap().0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            eprintln!("what the server logged:\n{}", log.unwrap_or_default());
        }
    }
}

/// A server that does this with every connection.
fn impostor(answer: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            answer(socket.unwrap());
        }
    });
    format!("/ip4/127.0.0.1/tcp/{port}")
}

fn probe(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waystation"))
        .env_clear()
        .arg("probe")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a successful probe prints.
fn answered(arguments: &[&str]) -> String {
    let output = probe(arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a probe prints that failed: its findings so far, and the one line
/// about what is wrong, without the address in front of it.
fn failed(arguments: &[&str]) -> (String, String) {
    let output = probe(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let [line] = stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("not one line: {stderr}");
    };
    let prefix = format!("error: {}: ", arguments[0]);
    let wrong = line
        .strip_prefix(&prefix)
        .unwrap_or_else(|| panic!("{line}"));
    (String::from_utf8(output.stdout).unwrap(), wrong.to_owned())
}

/// The values behind a label, which fills the first ten columns.
fn all<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.strip_prefix(&format!("{label:<10} ")))
        .collect()
}

fn one<'a>(text: &'a str, label: &str) -> &'a str {
    match all(text, label)[..] {
        [value] => value,
        _ => panic!("not one line of {label:?} in:\n{text}"),
    }
}

#[test]
fn a_server_is_described_over_either_muxer() {
    let server = Server::start(&[]);
    for muxer in ["yamux", "mplex"] {
        let text = answered(&[&server.address, "--muxer", muxer]);
        assert_eq!(one(&text, "peer id"), server.peer_id);
        assert_eq!(one(&text, "muxer"), format!("{muxer}, negotiated early"));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(one(&text, "agent"), format!("waystation/{version}"));
        assert_eq!(one(&text, "relay"), "offered");
        for protocol in [
            "/ipfs/ping/1.0.0",
            "/ipfs/id/1.0.0",
            "/libp2p/circuit/relay/0.2.0/hop",
        ] {
            assert!(all(&text, "protocol").contains(&protocol), "{text}");
        }
        assert_eq!(one(&text, "listening"), server.bare_address());
        assert!(one(&text, "observed").starts_with("/ip4/127.0.0.1/tcp/"));
        for label in ["handshake", "ping"] {
            let time: f64 = one(&text, label)
                .strip_suffix(" ms")
                .unwrap()
                .parse()
                .unwrap();
            assert!(time > 0.0, "{text}");
        }
        assert_eq!(all(&text, "status"), [""; 0], "nobody asked for it");
    }
}

#[test]
fn a_server_is_described_over_tls() {
    let server = Server::start(&[]);
    for muxer in ["yamux", "mplex"] {
        let text = answered(&[&server.address, "--security", "tls", "--muxer", muxer]);
        assert_eq!(one(&text, "peer id"), server.peer_id);
        assert_eq!(one(&text, "security"), "tls");
        assert_eq!(one(&text, "muxer"), format!("{muxer}, negotiated early"));
    }
    let noise_only = Server::start(&[r#"listen.security=["noise"]"#]);
    let (_, wrong) = failed(&[noise_only.bare_address(), "--security", "tls"]);
    assert!(wrong.starts_with("handshake: "), "{wrong}");
}

#[test]
fn each_kind_of_websocket_is_a_way_in() {
    let web = Server::start(&[r#"listen.addresses=["/ip4/127.0.0.1/tcp/0/ws"]"#]);
    let text = answered(&[&web.address, "--reserve"]);
    assert_eq!(one(&text, "peer id"), web.peer_id);
    assert_eq!(one(&text, "transport"), "websocket");
    assert_eq!(one(&text, "status"), "OK (100)");

    let files = Files::issue(&["relay.example"], 2040);
    let roots = files.authority().display().to_string();
    let [chain, key] = files.settings();
    let listen = r#"listen.addresses=["/ip4/127.0.0.1/tcp/0/tls/sni/relay.example/ws"]"#;
    let secure = Server::start(&[listen, &chain, &key]);
    for security in ["noise", "tls"] {
        let text = answered(&[
            &secure.address,
            "--security",
            security,
            "--reserve",
            "--certificate-roots",
            &roots,
        ]);
        let transport = "secure websocket, with a valid certificate for relay.example";
        assert_eq!(one(&text, "transport"), transport);
        assert_eq!(one(&text, "status"), "OK (100)");
    }

    // As a browser would: who goes by another name is not believed.
    let other = secure.address.replace("relay.example", "other.example");
    let (_, wrong) = failed(&[&other, "--certificate-roots", &roots]);
    assert!(wrong.starts_with("certificate: invalid peer"), "{wrong}");
    assert!(!wrong.contains("--certificate-roots"), "{wrong}");
    // Nor is one whom nobody vouches for who is believed here.
    let (_, wrong) = failed(&[&secure.address, "--certificate-roots", chain_of(&chain)]);
    assert!(wrong.starts_with("certificate: invalid peer"), "{wrong}");
    let directory = tempfile::tempdir().unwrap();
    let others = directory.path().join("others.pem");
    fs::write(&others, root_of("somebody else")).unwrap();
    let others = others.display().to_string();
    let (_, wrong) = failed(&[&secure.address, "--certificate-roots", &others]);
    assert!(wrong.starts_with("certificate: invalid peer"), "{wrong}");
    assert!(wrong.contains("--certificate-roots"), "{wrong}");
    let (_, wrong) = failed(&[
        &web.bare_address().replace("/ws", "/tls/ws"),
        "--certificate-roots",
        &roots,
    ]);
    assert!(wrong.starts_with("handshake: "), "{wrong}");
}

/// The certificate of an authority of this name.
fn root_of(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

/// The file in a setting.
fn chain_of(setting: &str) -> &str {
    setting.split_once('=').unwrap().1
}

#[test]
fn a_member_of_a_private_network_is_asked_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["6a", "6b"].map(|byte| {
        let file = directory.path().join(byte);
        let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", byte.repeat(32));
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    });
    let network = format!("private_network.key_file={ours}");
    for what in ["", "/ws"] {
        let listen = format!(r#"listen.addresses=["/ip4/127.0.0.1/tcp/0{what}"]"#);
        let server = Server::start(&[&listen, &network]);
        let text = answered(&[&server.address, "--reserve", "--private-network", &ours]);
        assert_eq!(one(&text, "peer id"), server.peer_id);
        assert!(one(&text, "network").starts_with("private, "));
        assert_eq!(one(&text, "status"), "OK (100)");
        let quickly = ["--timeout", "3s"];
        let others: [&[&str]; 2] = [&[], &["--private-network", &theirs]];
        for other in others {
            let arguments = [&[&*server.address], &quickly[..], other].concat();
            let (found, _) = failed(&arguments);
            assert_eq!(found, "");
        }
    }
    fs::set_permissions(&ours, Permissions::from_mode(0o644)).unwrap();
    let output = probe(&["/ip4/127.0.0.1/tcp/1", "--private-network", &ours]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is open to everybody: chmod o= it"), "{said}");
}

#[test]
fn both_muxers_are_offered_and_a_name_is_resolved() {
    let server = Server::start(&[r#"listen.muxers=["mplex"]"#]);
    let named = server.address.replace("/ip4/127.0.0.1", "/dns4/localhost");
    let text = answered(&[&named]);
    assert_eq!(one(&text, "peer id"), server.peer_id);
    assert!(one(&text, "muxer").starts_with("mplex"));

    let (_, wrong) = failed(&[server.bare_address(), "--muxer", "yamux"]);
    assert_eq!(wrong, "handshake: muxer negotiation: no protocol agreed on");
}

#[test]
fn a_reservation_is_made_over_either_muxer() {
    let server = Server::start(&["relay.reservation_ttl=30m"]);
    for muxer in ["yamux", "mplex"] {
        let text = answered(&[server.bare_address(), "--reserve", "--muxer", muxer]);
        assert_eq!(one(&text, "status"), "OK (100)");
        let (_, expires) = one(&text, "expires").split_once("unix time ").unwrap();
        let expires: u64 = expires.strip_suffix(')').unwrap().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let left = expires - now.as_secs();
        assert!((29 * 60..=30 * 60).contains(&left), "{text}");
        assert_eq!(one(&text, "reachable"), server.address);
        assert_eq!(one(&text, "limit"), "2m, 128KiB in each direction");
        assert_eq!(one(&text, "voucher"), "signed by the relay");
    }
}

#[test]
fn limits_that_are_off_are_said_to_be() {
    for (settings, limit) in [
        (
            ["relay.circuit_bytes_max=0", "relay.circuit_duration_max=0"],
            "none",
        ),
        (
            [
                "relay.circuit_bytes_max=1MiB",
                "relay.circuit_duration_max=0",
            ],
            "1MiB in each direction",
        ),
    ] {
        let server = Server::start(&settings);
        let text = answered(&[&server.address, "--reserve"]);
        assert_eq!(one(&text, "limit"), limit);
    }
}

#[test]
fn a_refused_reservation_is_told_after_what_was_found() {
    let server = Server::start(&[
        &format!("access.allow={STRANGER}"),
        "relay.allowed_only=true",
    ]);
    let (text, wrong) = failed(&[&server.address, "--reserve"]);
    assert_eq!(one(&text, "peer id"), server.peer_id);
    assert_eq!(one(&text, "status"), "PERMISSION_DENIED (202)");
    assert_eq!(wrong, "reservation refused: PERMISSION_DENIED (202)");

    let server = Server::start(&["relay.enabled=false"]);
    let text = answered(&[&server.address]);
    assert_eq!(one(&text, "relay"), "not offered");
    let (_, wrong) = failed(&[&server.address, "--reserve"]);
    assert_eq!(
        wrong,
        "the server does not offer /libp2p/circuit/relay/0.2.0/hop"
    );
}

#[test]
fn another_peer_than_the_one_named_is_not_taken_for_it() {
    let server = Server::start(&[]);
    let address = format!("{}/p2p/{STRANGER}", server.bare_address());
    let (text, wrong) = failed(&[&address, "--reserve"]);
    assert_eq!(text, "");
    assert_eq!(
        wrong,
        format!("another peer answers there: {}", server.peer_id)
    );
}

#[test]
fn a_port_that_nobody_listens_on_is_one_line() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (text, wrong) = failed(&[&format!("/ip4/127.0.0.1/tcp/{port}")]);
    assert_eq!(text, "");
    let expected = format!("cannot connect to 127.0.0.1:{port}: Connection refused");
    assert!(wrong.starts_with(&expected), "{wrong}");
}

#[test]
fn what_is_no_server_is_one_line() {
    let closes = impostor(drop);
    let (_, wrong) = failed(&[&closes]);
    assert!(
        [
            "handshake: connection closed",
            "handshake: upgrade: Connection reset"
        ]
        .iter()
        .any(|start| wrong.starts_with(start)),
        "{wrong}"
    );

    let web = impostor(|mut socket| {
        let answer = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 26\r\n\r\n\
                      this server speaks http/1\n";
        let _ = socket.write_all(answer.as_bytes());
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let (_, wrong) = failed(&[&web]);
    assert!(
        wrong.starts_with("handshake: security negotiation: "),
        "{wrong}"
    );

    let silent = impostor(|mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let (_, wrong) = failed(&[&silent, "--timeout", "200ms"]);
    assert_eq!(wrong, "no answer within 200ms (handshake)");
}

#[test]
fn a_request_that_makes_no_sense_is_an_operator_error() {
    for arguments in [
        ["127.0.0.1:4001"].as_slice(),
        &["/ip4/127.0.0.1/udp/4001/quic-v1"],
        &["/ip4/127.0.0.1/tcp/1", "--timeout", "soon"],
        &["/ip4/127.0.0.1/tcp/1", "--timeout", "0s"],
        &["/ip4/127.0.0.1/tcp/1", "--muxer", "spdy"],
        &[],
    ] {
        let output = probe(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(output.stderr.starts_with(b"error: "), "{output:?}");
    }
}

#[derive(NetworkBehaviour)]
struct ForeignRelay {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// A server of another making gets the same questions and is understood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_relay_is_described_too() {
    let mut swarm = SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key| ForeignRelay {
            relay: relay::Behaviour::new(key.public().to_peer_id(), relay::Config::default()),
            identify: identify::Behaviour::new(
                identify::Config::new("ipfs/0.1.0".to_owned(), key.public())
                    .with_agent_version("foreign/1".to_owned()),
            ),
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    swarm
        .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .unwrap();
    let peer_id = swarm.local_peer_id().to_string();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    swarm.add_external_address(address.clone());
    let target = format!("{address}/p2p/{peer_id}");
    let asked = tokio::task::spawn_blocking(move || answered(&[&target, "--reserve"]));
    let text = tokio::select! {
        text = asked => text.unwrap(),
        () = async { loop { swarm.select_next_some().await; } } => unreachable!(),
    };
    assert_eq!(one(&text, "peer id"), peer_id);
    assert_eq!(one(&text, "agent"), "foreign/1");
    assert_eq!(one(&text, "relay"), "offered");
    assert_eq!(one(&text, "status"), "OK (100)");
    assert_eq!(one(&text, "reachable"), format!("{address}/p2p/{peer_id}"));
    // It grants reservations without one.
    assert_eq!(one(&text, "voucher"), "none");
}
