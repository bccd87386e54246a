//! A Swarm in a task of its own, with what it reports kept until a test asks for
//! it. The tests over sockets and those in memory share it.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::mpsc;

type Event<B> = SwarmEvent<<B as NetworkBehaviour>::ToSwarm>;
type Command<B> = Box<dyn FnOnce(&mut Swarm<B>) + Send>;

pub(crate) struct Driven<B: NetworkBehaviour> {
    id: PeerId,
    commands: mpsc::Sender<Command<B>>,
    events: mpsc::Receiver<Event<B>>,
    /// What was reported before anybody asked for it.
    seen: Vec<Event<B>>,
    /// How long to wait for a report.
    patience: Duration,
}

impl<B> Driven<B>
where
    B: NetworkBehaviour<ToSwarm: Debug> + Send,
{
    pub(crate) fn start(swarm: Swarm<B>, patience: Duration) -> Self {
        let id = *swarm.local_peer_id();
        let (commands, inbox) = mpsc::channel(16);
        let (outbox, events) = mpsc::channel(4096);
        tokio::spawn(drive(swarm, inbox, outbox));
        Self {
            id,
            commands,
            events,
            seen: Vec::new(),
            patience,
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id
    }

    /// Has something done by the Swarm.
    pub(crate) fn tell(&self, command: impl FnOnce(&mut Swarm<B>) + Send + 'static) {
        self.commands
            .try_send(Box::new(command))
            .unwrap_or_else(|_| panic!("the peer is gone, or has too much to do"));
    }

    pub(crate) fn dial(&self, address: Multiaddr) {
        self.tell(move |swarm| swarm.dial(address).unwrap());
    }

    pub(crate) fn listen(&self, address: Multiaddr) {
        self.tell(move |swarm| {
            swarm.listen_on(address).unwrap();
        });
    }

    /// Waits for an event that `pick` takes; each event is taken once.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Event<B>) -> Option<T>,
    ) -> T {
        let mut index = 0;
        let found = tokio::time::timeout(self.patience, async {
            loop {
                while let Some(event) = self.so_far().get(index) {
                    if let Some(found) = pick(event) {
                        self.seen.remove(index);
                        return found;
                    }
                    index += 1;
                }
                let event = self.events.recv().await;
                self.seen.push(event.expect("the peer's task runs"));
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!(
                "{what}: not within {:?}, but {:#?}",
                self.patience, self.seen
            ),
        }
    }

    /// Everything that was reported and nobody has taken.
    pub(crate) fn so_far(&mut self) -> &mut Vec<Event<B>> {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        &mut self.seen
    }

    /// Waits for a connection with `peer`; whether it is relayed.
    pub(crate) async fn until_connected(&mut self, peer: PeerId) -> bool {
        self.until("connected", |event| match event {
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } if *peer_id == peer => Some(endpoint.is_relayed()),
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("not connected: {error}"),
            _ => None,
        })
        .await
    }

    /// Waits for the end of a connection with `peer`.
    pub(crate) async fn until_disconnected(&mut self, peer: PeerId) {
        self.until("disconnected", |event| match event {
            SwarmEvent::ConnectionClosed { peer_id, .. } if *peer_id == peer => Some(()),
            _ => None,
        })
        .await;
    }
}

async fn drive<B>(
    mut swarm: Swarm<B>,
    mut inbox: mpsc::Receiver<Command<B>>,
    outbox: mpsc::Sender<Event<B>>,
) where
    B: NetworkBehaviour + Send,
{
    loop {
        tokio::select! {
            // Both are cancel-safe.
            command = inbox.recv() => match command {
                Some(command) => command(&mut swarm),
                None => break,
            },
            event = swarm.select_next_some() => {
                // A test that has ended, or does not look, misses nothing.
                let _ = outbox.try_send(event);
            }
        }
    }
}
