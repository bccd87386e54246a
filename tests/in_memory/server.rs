//! The server under test, in this process and on this thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use waystation::app::{Hosted, Stop};
use waystation::config::{Loaded, Sources};
use waystation::identity::Identity;
use waystation::listener::memory::{Dialer, listen};
use waystation::metrics::Metrics;

use crate::FOREVER;

/// Where it believes to be.
const ADDRESS: &str = "/ip4/93.184.216.34/tcp/4001";

pub(crate) struct Server {
    peer_id: PeerId,
    dialer: Dialer,
    metrics: Arc<Metrics>,
    stop: Stop,
    running: JoinHandle<()>,
    _directory: TempDir,
}

impl Server {
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let given = ["admin.address="].iter().chain(settings);
        let loaded = Loaded::load(&Sources {
            file: None,
            environment: [("STATE_DIRECTORY", directory.path())]
                .into_iter()
                .collect(),
            flags: given.map(|&setting| setting.to_owned()).collect(),
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let (socket, dialer) = listen(SocketAddr::from(([93, 184, 216, 34], 4001)));
        let bound: [Multiaddr; 1] = [ADDRESS.parse().unwrap()];
        let hosted = Hosted::new(&loaded, Identity::generate(), &bound, vec![socket]);
        let hosted = hosted.await.unwrap();
        Self {
            peer_id: hosted.peer_id().to_string().parse().unwrap(),
            dialer,
            metrics: hosted.metrics(),
            stop: hosted.stop(),
            running: tokio::spawn(hosted.run()),
            _directory: directory,
        }
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub(crate) fn dialer(&self) -> Dialer {
        self.dialer.clone()
    }

    pub(crate) fn address(&self) -> Multiaddr {
        let address: Multiaddr = ADDRESS.parse().unwrap();
        address.with(Protocol::P2p(self.peer_id))
    }

    /// The address at which `peer` is reached through it.
    pub(crate) fn address_of(&self, peer: PeerId) -> Multiaddr {
        self.address()
            .with(Protocol::P2pCircuit)
            .with(Protocol::P2p(peer))
    }

    /// The value of a series, written as it stands in the exposition.
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.metrics
            .render()
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no series {series}"))
            .parse()
            .unwrap()
    }

    /// Lets time pass until a series has this value.
    pub(crate) async fn until(&self, series: &str, value: f64) {
        let reached = timeout(FOREVER, async {
            // Hours pass in a few looks, each of which renders everything.
            let mut pause = Duration::from_millis(50);
            while (self.value(series) - value).abs() > f64::EPSILON {
                sleep(pause).await;
                pause = (2 * pause).min(Duration::from_secs(60));
            }
        });
        if reached.await.is_err() {
            panic!("{series} is {} and never {value}", self.value(series));
        }
    }

    /// As the first or a second signal does.
    pub(crate) fn signal(&self) {
        self.stop.signal();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) {
        let running = timeout(FOREVER, &mut self.running);
        running.await.expect("it never ends").unwrap();
    }
}
