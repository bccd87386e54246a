//! Keeps what peers are told of our addresses up to date, and tells those who
//! are connected.
//!
//! Three loops in one task: one watches the sources, one makes the answer anew when they
//! come to something else, one walks over the connections and has each push it.
//! Bounded: changes are gathered, the walk is paced and yields, and two walks are
//! apart. The kernel is asked off this thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, sleep};

use crate::clock;
use crate::connection::Context;
use crate::service::identify::PUSH_PROTOCOL;
use crate::state::addresses::{Addresses, InterfaceAddress, LeftOut, Reach, Told};
use crate::state::leg::Command;

use super::interfaces::{self, Watch};

/// How long changes are gathered: an interface that comes up has several
/// addresses (js-libp2p waits as long before it pushes).
const SETTLE: Duration = Duration::from_secs(1);

/// How often votes are counted.
const REVIEW_EVERY: Duration = Duration::from_secs(5);

/// Peers looked at in a walk before others on this thread get their turn.
const LOOK_MAX: usize = 256;

/// Every so many reviews the interfaces are listed, should a change have been
/// missed.
const LIST_EVERY: u32 = 12;

/// Pushes at once, and the time between such lots: 500 a second, so that 50,000
/// peers take 100 seconds and some 3 % of a core.
const LOT: usize = 25;
const BETWEEN_LOTS: Duration = Duration::from_millis(50);

/// Least time between the end of a walk and the next. go-libp2p takes a push
/// each five seconds from a network.
const BETWEEN_WALKS: Duration = Duration::from_secs(10);

/// Reads the interfaces for the first time.
pub(super) fn read_interfaces(addresses: &Addresses) {
    if !addresses.needs_interfaces() {
        return;
    }
    match interfaces::list() {
        Ok(listed) => {
            addresses.set_interfaces(listed);
        }
        Err(error) => {
            tracing::warn!(%error, "cannot list this host's addresses; set announce.addresses");
        }
    }
}

/// Says once that there are more addresses than peers are told; again only after
/// there was room for all.
fn tell_left_out(left_out: LeftOut, told: &mut bool) {
    let LeftOut {
        no_room,
        not_looked_at,
    } = left_out;
    let any = left_out != LeftOut::default();
    if any && !*told {
        tracing::warn!(
            no_room,
            not_looked_at,
            "peers are not told all addresses of this host: `waystation addresses` shows which, announce.addresses chooses"
        );
    }
    *told = any;
}

/// Keeps peers up to date, of whom those that ask were `told` this so far, until
/// it is dropped.
pub(super) async fn keep(context: Arc<Context>, told: Arc<Told>) {
    let (to_walk, walk) = watch::channel(told);
    let sources = watch_sources(&context.relay.addresses);
    tokio::join!(sources, renew(&context, to_walk), push(&context, walk));
}

/// Watches the interfaces and counts votes.
async fn watch_sources(addresses: &Addresses) {
    let mut watch = begin_to_watch(addresses);
    let mut ticks = tokio::time::interval(REVIEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until_listed = LIST_EVERY;
    let mut left_out_told = false;
    loop {
        tell_left_out(addresses.left_out(), &mut left_out_told);
        tokio::select! {
            // Both are cancel-safe.
            changed = next_change(watch.as_ref()) => {
                if let Err(error) = changed {
                    tracing::warn!(%error, "cannot watch this host's addresses any more; they are looked at once a minute");
                    watch = None;
                }
                sleep(SETTLE).await;
                list_again(addresses).await;
            }
            _ = ticks.tick() => {
                addresses.review(clock::now());
                until_listed = until_listed.saturating_sub(1);
                if until_listed == 0 && addresses.needs_interfaces() {
                    until_listed = LIST_EVERY;
                    list_again(addresses).await;
                }
            }
        }
    }
}

/// Nothing is watched where nothing depends on it.
fn begin_to_watch(addresses: &Addresses) -> Option<Watch> {
    if !addresses.needs_interfaces() {
        return None;
    }
    Watch::new()
        .inspect_err(|error| {
            tracing::warn!(%error, "cannot watch this host's addresses; they are looked at once a minute");
        })
        .ok()
}

async fn next_change(watch: Option<&Watch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn list_again(addresses: &Addresses) {
    match list_elsewhere().await {
        Ok(listed) => {
            addresses.set_interfaces(listed);
        }
        // What was listed last stays.
        Err(error) => tracing::warn!(%error, "cannot list this host's addresses"),
    }
}

/// The kernel may take its time, which signals and others here have not.
async fn list_elsewhere() -> io::Result<Vec<InterfaceAddress>> {
    tokio::task::spawn_blocking(interfaces::list)
        .await
        .map_err(io::Error::other)?
}

/// Makes identify's answer anew whenever our addresses have changed, and tells
/// the walk.
async fn renew(context: &Context, walk: watch::Sender<Arc<Told>>) {
    let addresses = &context.relay.addresses;
    // What was told until the tasks ran is what the answer was made from.
    let mut last = Arc::clone(&walk.borrow());
    loop {
        let told = addresses.told();
        if *told == *last {
            addresses.changed().await;
            sleep(SETTLE).await;
            continue;
        }
        context.answer.renew(&told, clock::unix_nanos());
        log_changes(&last, &told);
        last = Arc::clone(&told);
        walk.send_replace(told);
    }
}

fn log_changes(before: &Told, after: &Told) {
    let (before, after) = (before.all(), after.all());
    for address in after.iter().filter(|address| !before.contains(address)) {
        tracing::info!(%address, "peers are told a new address");
    }
    for address in before.iter().filter(|address| !after.contains(address)) {
        tracing::info!(%address, "peers are not told this address any more");
    }
}

/// Has every connected peer told that is told something else than before, one
/// walk over all of them for each change.
async fn push(context: &Context, mut walk: watch::Receiver<Arc<Told>>) {
    let mut last = Arc::clone(&walk.borrow_and_update());
    while walk.changed().await.is_ok() {
        let told = Arc::clone(&walk.borrow_and_update());
        let stale = Reach::ALL.map(|reach| last.list(reach) != told.list(reach));
        last = told;
        let pushed = walk_once(context, stale).await;
        tracing::debug!(pushed, "connected peers have been told our addresses");
        sleep(BETWEEN_WALKS).await;
    }
}

/// Asks the newest connection of each peer whose reach is `stale` and that
/// takes pushes. Who connects meanwhile asks, and hears the new.
async fn walk_once(context: &Context, stale: [bool; 3]) -> usize {
    let (mut told, mut looked_at) = (0, 0);
    for stripe in 0..context.connections.stripes() {
        let links = context
            .connections
            .newest_in(stripe, |address| stale[Reach::of(address) as usize]);
        for (peer, link) in links {
            looked_at += 1;
            if looked_at % LOOK_MAX == 0 {
                yield_now().await;
            }
            let takes = context.peerstore.speaks(&peer, PUSH_PROTOCOL);
            // One that has ended, or has all the commands it holds, is left out.
            if !takes || link.deliver(Command::Push).is_err() {
                continue;
            }
            told += 1;
            if told % LOT == 0 {
                sleep(BETWEEN_LOTS).await;
            }
        }
        // A stripe may have nobody who is picked, and costs as much.
        yield_now().await;
    }
    told
}
