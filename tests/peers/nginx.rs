//! Behind a reverse proxy: nginx as Debian has it, started by the test on the
//! loopback interface. Ignored by default, as few have it; `.ci/run tools
//! programs` installs it and runs them.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::identify;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use tempfile::TempDir;

use crate::authority::Files;
use crate::peer::{BehaviourEvent, Kind, Muxer, Peer};
use crate::server::Server;
use crate::{PROMPT, within};

const PROGRAM: &str = "/usr/sbin/nginx";
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const LISTEN: &str = r#"listen.addresses=["/ip4/127.0.0.1/tcp/0/ws"]"#;

/// Where the proxy connects from, which is not where its clients are.
const PROXY: &str = "127.0.0.9";

/// A running proxy that ends TLS.
struct Nginx {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Nginx {
    /// Starts it with `body`, in which PORT, CHAIN and KEY are replaced.
    async fn start(body: &str, files: &Files) -> Self {
        for needed in [PROGRAM, STREAM_MODULE] {
            assert!(
                Path::new(needed).exists(),
                "{needed} is missing: this test needs Debian's nginx and libnginx-mod-stream, \
                 which `.ci/run tools` installs"
            );
        }
        // Somebody else may take a port that was free a moment ago.
        for _ in 0..5 {
            if let Some(nginx) = Self::try_start(body, files).await {
                return nginx;
            }
        }
        panic!("nginx does not start on any port");
    }

    async fn try_start(body: &str, files: &Files) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path().display();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let body = body
            .replace("PORT", &port.to_string())
            .replace("CHAIN", &files.chain().display().to_string())
            .replace("KEY", &files.key().display().to_string())
            .replace("HERE", &here.to_string());
        let head = format!(
            "load_module {STREAM_MODULE};\ndaemon off;\nmaster_process off;\n\
             pid {here}/pid;\nerror_log {here}/error.log;\nevents {{}}\n"
        );
        let configuration = directory.path().join("nginx.conf");
        fs::write(&configuration, head + &body).unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("-p")
            .arg(directory.path())
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let listening = within(PROMPT, "nginx listens", async {
            loop {
                if child.try_wait().unwrap().is_some() {
                    return false;
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        listening.await.then_some(Self {
            child,
            port,
            _directory: directory,
        })
    }

    /// The server's address behind it.
    fn address(&self, server: &Server) -> Multiaddr {
        let host: Multiaddr = "/ip4/127.0.0.1".parse().unwrap();
        host.with(Protocol::Tcp(self.port))
            .with(Protocol::Tls)
            .with(Protocol::Ws("/".into()))
            .with(Protocol::P2p(server.peer_id()))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port_of(server: &Server) -> u16 {
    let port = server.address().iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    port.unwrap()
}

/// Where the server believes the peer to be.
async fn observed(peer: &mut Peer, server: &Server) -> Multiaddr {
    let id = server.peer_id();
    peer.until("identified", |event| match event {
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            peer_id,
            info,
            ..
        })) if *peer_id == id => Some(info.observed_addr.clone()),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx"]
async fn peers_come_through_an_http_proxy() {
    let server = Server::start(&[LISTEN]);
    let files = Files::issue(&["127.0.0.1"], 2040);
    let body = format!(
        "http {{ access_log off; client_body_temp_path HERE/body; proxy_temp_path HERE/proxy;
           fastcgi_temp_path HERE/fastcgi; uwsgi_temp_path HERE/uwsgi; scgi_temp_path HERE/scgi;
           server {{ listen 127.0.0.1:PORT ssl; ssl_certificate CHAIN; ssl_certificate_key KEY; ssl_protocols TLSv1.3;
             location / {{ proxy_pass http://127.0.0.1:{}; proxy_http_version 1.1;
               proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
               proxy_set_header Host $host; proxy_read_timeout 1h; }} }} }}",
        port_of(&server)
    );
    let nginx = Nginx::start(&body, &files).await;
    let mut peer = Peer::new(Kind::Client, Muxer::Yamux);
    peer.listen(nginx.address(&server).with(Protocol::P2pCircuit));
    peer.until_connected(server.peer_id()).await;
    peer.until_pinged(server.peer_id(), 3).await;
    server.until("waystation_relay_reservations", 1.0).await;

    let address = nginx.address(&server).to_string();
    let roots = files.authority().display().to_string();
    let arguments = [
        "probe",
        &address,
        "--reserve",
        "--certificate-roots",
        &roots,
    ];
    let found = tokio::task::block_in_place(|| server.operator(&arguments));
    assert!(found.unwrap().contains("secure websocket"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx"]
async fn a_proxy_that_is_believed_tells_where_peers_are() {
    let believed = format!("listen.proxy_protocol_from={PROXY}/32");
    let server = Server::start(&[LISTEN, &believed]);
    let files = Files::issue(&["127.0.0.1"], 2040);
    let body = format!(
        "stream {{ server {{ listen 127.0.0.1:PORT ssl; ssl_certificate CHAIN;
           ssl_certificate_key KEY; ssl_protocols TLSv1.3; proxy_pass 127.0.0.1:{}; proxy_bind {PROXY};
           proxy_protocol on; proxy_timeout 1h; }} }}",
        port_of(&server)
    );
    let nginx = Nginx::start(&body, &files).await;
    let mut peer = Peer::new(Kind::Client, Muxer::Yamux);
    peer.dial(nginx.address(&server));
    peer.until_connected(server.peer_id()).await;
    let seen = observed(&mut peer, &server).await.to_string();
    assert!(seen.starts_with("/ip4/127.0.0.1/"), "{seen}");
    peer.until_pinged(server.peer_id(), 2).await;
}
