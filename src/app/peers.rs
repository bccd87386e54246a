//! The peerstore between starts: permanent peers from the configuration, the
//! others from the store, and what changes written behind.
//!
//! Bounds a batch to a thousand peers, which is one transaction, and what a
//! crash loses to one interval. Nothing here runs on a worker, and a store that
//! fails only delays: what could not be written stays marked as changed.

use std::sync::Arc;
use std::time::Duration;

use multiaddr::{Multiaddr, Protocol};
use tokio::{task::spawn_blocking, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    config::PeerstoreConfig,
    connection::Context,
    metrics::Metrics,
    state::{
        peer_key::PeerKey,
        peerstore::{Changes, Class, LoadError, Peerstore, Source, Wall},
    },
    store::{Change, Store, StoreError, Table},
};

/// Changes in one transaction: some 20 ms (see `store`).
const BATCH: usize = 1000;

/// A peerstore that knows the permanent peers and those of the store.
pub(super) fn open(config: &PeerstoreConfig, metrics: &Metrics, store: &Store) -> Peerstore {
    let started = clock::now();
    let peerstore = Peerstore::new(config, Arc::clone(&metrics.peerstore), started);
    match load(&peerstore, metrics, store) {
        Ok(peers) => {
            let took = clock::now().saturating_duration_since(started);
            tracing::info!(peers, ?took, "peers loaded");
        }
        Err(error) => tracing::warn!(%error, "cannot load all peers; going on without the rest"),
    }
    // Behind what was saved, which is taken back only for those that are not
    // known yet.
    for address in &config.permanent_peers {
        let mut bare: Multiaddr = address.clone();
        if let Some(Protocol::P2p(peer)) = bare.pop() {
            let (class, source) = (Class::Permanent, Source::Operator);
            peerstore.heard_of(&peer, class, source, [bare.as_ref()], started);
        }
    }
    peerstore
}

/// Takes peers back from the store, and out of it those that do not count any
/// more. Returns how many were taken.
fn load(peerstore: &Peerstore, metrics: &Metrics, store: &Store) -> Result<usize, StoreError> {
    let wall = wall();
    let (mut taken, mut stale) = (0, Vec::new());
    store.for_each(Table::Peers, |key, value| {
        let result = match peerstore.load(key, value, wall) {
            Ok(()) => {
                taken += 1;
                return metrics.peerstore.loaded("taken");
            }
            Err(LoadError::Malformed) => "malformed",
            Err(LoadError::Expired) => "expired",
            Err(LoadError::Full) => "full",
        };
        metrics.peerstore.loaded(result);
        stale.push(Change::Delete { key: key.to_vec() });
    })?;
    for batch in stale.chunks(BATCH) {
        store.apply(Table::Peers, batch)?;
        metrics.peerstore.written(0, batch.len());
    }
    Ok(taken)
}

/// Writes what has changed at each interval, and once more at the end.
pub(super) async fn write_behind(
    context: Arc<Context>,
    store: Arc<Store>,
    interval: Duration,
    until: CancellationToken,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut renewals = store.renewals();
    loop {
        let ended = tokio::select! {
            // Both are cancel-safe: a tick that is missed is made up for.
            () = until.cancelled() => true,
            _ = ticks.tick() => false,
        };
        if store.renewals() != renewals {
            renewals = store.renewals();
            mark_all(&context.peerstore);
        }
        let (context, store) = (Arc::clone(&context), Arc::clone(&store));
        let round = spawn_blocking(move || write(&context.peerstore, &context.metrics, &store));
        // What went wrong the store has told; it is tried again.
        if round.await.is_err() {
            tracing::error!("writing peers panicked; this is a bug");
        }
        if ended {
            return;
        }
    }
}

/// Has everything written again, to a store that has begun anew.
fn mark_all(peerstore: &Peerstore) {
    for stripe in 0..peerstore.stripes() {
        peerstore.put_back(stripe, Changes::All);
    }
}

/// Writes what has changed. What could not be written counts as changed still.
fn write(peerstore: &Peerstore, metrics: &Metrics, store: &Store) -> Result<(), StoreError> {
    let mut round = Round {
        peerstore,
        metrics,
        store,
        wall: wall(),
        batch: Vec::new(),
        whole: Vec::new(),
    };
    for stripe in 0..peerstore.stripes() {
        let peers = match peerstore.take_changes(stripe) {
            Changes::Peers(peers) => peers,
            Changes::All => {
                round.whole.push(stripe);
                peerstore.peers_in(stripe)
            }
        };
        let mut peers = peers.into_iter();
        while let Some(peer) = peers.next() {
            round.batch.push((stripe, peer));
            if round.batch.len() == BATCH
                && let Err(error) = round.apply()
            {
                peerstore.put_back(stripe, Changes::Peers(peers.collect()));
                return Err(error);
            }
        }
    }
    round.apply()?;
    round.prune()?;
    metrics.peerstore.round_written();
    Ok(())
}

/// One round of writing.
struct Round<'a> {
    peerstore: &'a Peerstore,
    metrics: &'a Metrics,
    store: &'a Store,
    wall: Wall,
    batch: Vec<(usize, PeerKey)>,
    /// Stripes of which more had changed than was named.
    whole: Vec<usize>,
}

impl Round<'_> {
    /// Writes one batch as its peers are now: gone ones are taken out.
    fn apply(&mut self) -> Result<(), StoreError> {
        let mut put = 0;
        let changes: Vec<Change> = self
            .batch
            .iter()
            .map(|(_, peer)| {
                let key = peer.to_bytes();
                match self.peerstore.save(peer, self.wall) {
                    Some(value) => {
                        put += 1;
                        Change::Put { key, value }
                    }
                    None => Change::Delete { key },
                }
            })
            .collect();
        if let Err(error) = self.store.apply(Table::Peers, &changes) {
            self.fail();
            return Err(error);
        }
        self.metrics.peerstore.written(put, changes.len() - put);
        self.batch.clear();
        Ok(())
    }

    /// Which peers went from a stripe whose changes were too many to name,
    /// only the store can tell.
    fn prune(&mut self) -> Result<(), StoreError> {
        if self.whole.is_empty() {
            return Ok(());
        }
        let mut stale = Vec::new();
        let read = self.store.for_each(Table::Peers, |key, _| {
            if !self.peerstore.is_known(key) {
                stale.push(Change::Delete { key: key.to_vec() });
            }
        });
        let pruned = read.and_then(|()| {
            for batch in stale.chunks(BATCH) {
                self.store.apply(Table::Peers, batch)?;
                self.metrics.peerstore.written(0, batch.len());
            }
            Ok(())
        });
        if pruned.is_err() {
            self.fail();
        }
        pruned
    }

    /// Marks what was not written as changed again.
    fn fail(&mut self) {
        for (stripe, peer) in self.batch.drain(..) {
            self.peerstore.put_back(stripe, Changes::Peers(vec![peer]));
        }
        for stripe in self.whole.drain(..) {
            self.peerstore.put_back(stripe, Changes::All);
        }
    }
}

fn wall() -> Wall {
    Wall {
        now: clock::now(),
        unix_seconds: clock::unix_seconds(),
    }
}
