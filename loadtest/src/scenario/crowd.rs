//! Many peers that do nothing once they have met the server.
//!
//! Each identifies itself, asks the server to, reserves when it is to, then sleeps until
//! all are told to leave or the server sends it away. Bounded by both processes'
//! descriptor limits, which are checked before the first dial.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use super::Bench;
use crate::{
    connection::{Connection, DEADLINE, Ending, Peer},
    procfs,
    responder::Responder,
};

/// Descriptors either process needs besides the connections.
const DESCRIPTORS_SPARE: u64 = 200;

/// Who gathers, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) count: u32,
    /// Being set up at a time.
    pub(crate) concurrency: u16,
    pub(crate) reserve: bool,
}

/// # Errors
/// When this process or the server cannot hold `count` connections.
pub(crate) fn check_descriptors(bench: Bench, count: u64) -> anyhow::Result<()> {
    if !bench.stack.takes_descriptors() {
        return Ok(());
    }
    let own = procfs::own_descriptors_max()?;
    if own < count + DESCRIPTORS_SPARE {
        bail!("{count} connections need more than the {own} descriptors this process may hold");
    }
    if let Some(server) = bench.server {
        let servers = server.descriptors_max()?;
        if servers < count + DESCRIPTORS_SPARE {
            bail!(
                "{count} connections need more than the {servers} descriptors the server may hold"
            );
        }
    }
    Ok(())
}

/// Peers that stay until told to leave.
pub(crate) struct Crowd {
    leave: watch::Sender<bool>,
    peers: JoinSet<anyhow::Result<Ending>>,
}

impl Crowd {
    /// Returns once every peer is up, identified and, if wanted, has its reservation.
    ///
    /// # Errors
    /// When one is refused or leaves, or the server has not met all in time.
    pub(crate) async fn gather(
        bench: Bench,
        size: Size,
        what: &'static str,
    ) -> anyhow::Result<Self> {
        let bar = bench.bar(usize::try_from(size.count)?, what);
        let setting_up = Arc::new(Semaphore::new(usize::from(size.concurrency)));
        let identified = Arc::new(AtomicU64::new(0));
        let arrived = Arc::new(AtomicU64::new(0));
        let (leave, stay) = watch::channel(false);
        let mut crowd = Self {
            leave,
            peers: JoinSet::new(),
        };
        for index in 0..usize::try_from(size.count)? {
            let permit = Arc::clone(&setting_up).acquire_owned().await?;
            crowd.nobody_left()?;
            let (identified, arrived) = (Arc::clone(&identified), Arc::clone(&arrived));
            let (mut stay, bar) = (stay.clone(), bar.clone());
            crowd.peers.spawn(async move {
                let peer = Peer::generate(bench.stack)?;
                let connection = Connection::dial(bench.target, bench.stack, &peer, index)
                    .await
                    .with_context(|| format!("connection {index}"))?;
                let witness = connection.witness();
                let responder = Responder::new(&peer).counting(&identified);
                let mut settled = false;
                let stayed = connection
                    .run(responder, |mut streams| {
                        let settled = &mut settled;
                        async move {
                            streams.identify().await?;
                            if size.reserve {
                                streams.reserve().await?;
                            }
                            arrived.fetch_add(1, Ordering::Relaxed);
                            drop(permit);
                            bar.inc(1);
                            *settled = true;
                            stay.wait_for(|left| *left).await?;
                            Ok(())
                        }
                    })
                    .await;
                match stayed {
                    Ok(()) => Ok(Ending::Ours),
                    // The muxer is gone, and with it the tap, so this is known.
                    Err(_) if settled => Ok(witness.get().copied().unwrap_or(Ending::Reset)),
                    Err(error) => Err(error),
                }
            });
        }
        let all = u64::from(size.count);
        let complete =
            || arrived.load(Ordering::Relaxed) == all && identified.load(Ordering::Relaxed) >= all;
        crowd.wait_until(complete).await.with_context(|| {
            format!(
                "{} of {all} peers up, {} asked to identify themselves",
                arrived.load(Ordering::Relaxed),
                identified.load(Ordering::Relaxed)
            )
        })?;
        bar.finish_and_clear();
        Ok(crowd)
    }

    async fn wait_until(&mut self, complete: impl Fn() -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !complete() {
            self.nobody_left()?;
            if started.elapsed() > DEADLINE {
                bail!("the server has not met everybody in time");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn nobody_left(&mut self) -> anyhow::Result<()> {
        match self.peers.try_join_next() {
            Some(gone) => bail!("a peer left early: {}", gone??),
            None => Ok(()),
        }
    }

    /// Tells everybody to leave; how many did so and whom the server had sent away, how.
    ///
    /// # Errors
    /// When a peer failed on this side.
    pub(crate) async fn leave(mut self) -> anyhow::Result<BTreeMap<Ending, u64>> {
        self.leave.send_replace(true);
        let mut endings = BTreeMap::new();
        while let Some(peer) = self.peers.join_next().await {
            *endings.entry(peer??).or_default() += 1;
        }
        Ok(endings)
    }

    /// [`Self::leave`] for a crowd that the server was to leave alone.
    ///
    /// # Errors
    /// When it has not.
    pub(crate) async fn leave_complete(self) -> anyhow::Result<()> {
        match self
            .leave()
            .await?
            .keys()
            .find(|&&ending| ending != Ending::Ours)
        {
            Some(ending) => bail!("an idle peer lost its connection: {ending}"),
            None => Ok(()),
        }
    }
}
