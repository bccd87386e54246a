//! What the task does over time, with time that moves only when told.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Weak, atomic::AtomicUsize, atomic::Ordering},
};

use parking_lot::Mutex;

use super::*;
use crate::{
    metrics::Metrics,
    state::{
        connections::{ConnectionId, Marks, Reason},
        leg::{Command, Effects, Gone, Leg, Link, StreamKey, Untaken},
    },
};

const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const BUDGET: u64 = 1 << 30;

/// A connection that ends when it is told to.
struct Fake {
    peer: PeerId,
    id: Mutex<ConnectionId>,
    table: Weak<Connections>,
    ended: Arc<Mutex<Vec<(PeerId, Ending)>>>,
}

impl Link for Fake {
    fn carry(&self, _: StreamKey, _: &[u8], _: &mut Effects) -> Result<(), Untaken> {
        Ok(())
    }

    fn grant(&self, _: StreamKey, _: u32, _: &mut Effects) {}

    fn join(&self, _: StreamKey, _: &[u8], _: Leg, _: &mut Effects) -> Result<(), Gone> {
        Ok(())
    }

    fn finish(&self, _: StreamKey, _: &mut Effects) {}

    fn reset(&self, _: StreamKey, _: u32, _: bool, _: &mut Effects) {}

    fn flush(&self, _: &mut Effects) {}

    fn deliver(&self, command: Command) -> Result<(), Command> {
        let Command::Close(ending) = command else {
            return Err(command);
        };
        self.ended.lock().push((self.peer, ending));
        if let Some(table) = self.table.upgrade() {
            table.unregister(&self.peer, *self.id.lock());
        }
        Ok(())
    }
}

type Max = Box<dyn Fn() -> usize>;
type Listed = Box<dyn Fn(&PeerId) -> bool>;

/// A table of fakes, and the trimmer that sees to it.
struct Scene {
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    ended: Arc<Mutex<Vec<(PeerId, Ending)>>>,
    max: Arc<AtomicUsize>,
    listed: Arc<Mutex<Vec<PeerId>>>,
    trimmer: Trimmer<Max, Listed>,
}

impl Scene {
    /// Low water 80, high water 90, maximum 100, a minute of grace.
    fn new() -> Self {
        let marks = Marks {
            low: 80,
            high: 90,
            grace: Duration::from_secs(60),
        };
        let connections = Connections::new(marks, clock::now());
        let metrics = Metrics::new();
        let max = Arc::new(AtomicUsize::new(100));
        let listed: Arc<Mutex<Vec<PeerId>>> = Arc::default();
        let (max_, listed_) = (Arc::clone(&max), Arc::clone(&listed));
        let trimmer = Trimmer {
            connections: Arc::clone(&connections),
            metrics: Arc::clone(&metrics.trimming),
            pressure: Pressure::new(BUDGET),
            max: Box::new(move || max_.load(Ordering::Relaxed)) as Max,
            listed: Box::new(move |peer: &PeerId| listed_.lock().contains(peer)) as Listed,
            rest_until: None,
        };
        Self {
            connections,
            metrics,
            ended: Arc::default(),
            max,
            listed,
            trimmer,
        }
    }

    fn open(&self, count: usize) -> Vec<PeerId> {
        let peers: Vec<PeerId> = (0..count).map(|_| PeerId::random()).collect();
        for peer in &peers {
            let fake = Arc::new(Fake {
                peer: *peer,
                id: Mutex::default(),
                table: Arc::downgrade(&self.connections),
                ended: Arc::clone(&self.ended),
            });
            let link = Arc::clone(&fake) as Arc<dyn Link>;
            let id = self.connections.register(*peer, REMOTE, link, clock::now());
            *fake.id.lock() = id;
        }
        peers
    }

    async fn look(&mut self) {
        self.trimmer.look(Reading::default()).await;
    }

    async fn look_at(&mut self, resident_bytes: u64) {
        let reading = Reading {
            resident_bytes: Some(resident_bytes),
            stalled: None,
        };
        self.trimmer.look(reading).await;
    }

    async fn wait(&self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    fn open_now(&self) -> usize {
        self.connections.open()
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_below_high_water_nor_in_grace() {
    let mut scene = Scene::new();
    scene.open(89);
    scene.wait(61).await;
    scene.look().await;
    assert_eq!(scene.open_now(), 89);
    scene.open(1);
    scene.look().await;
    assert_eq!(scene.open_now(), 80, "down to low water at once");
    let mut scene = Scene::new();
    scene.open(95);
    scene.wait(59).await;
    scene.look().await;
    assert_eq!(scene.open_now(), 95, "all of them are new");
}

#[tokio::test(start_paused = true)]
async fn a_trim_that_finds_nobody_rests_before_it_looks_again() {
    let mut scene = Scene::new();
    scene.open(95);
    scene.wait(58).await;
    scene.look().await;
    scene.wait(5).await;
    scene.look().await;
    assert_eq!(scene.open_now(), 95, "at rest");
    assert_eq!(scene.metrics.trimming.trims().get("high_water"), 1);
    scene.wait(6).await;
    scene.look().await;
    assert_eq!(scene.open_now(), 80);
}

#[tokio::test(start_paused = true)]
async fn the_protected_stay_however_many_newcomers_there_are() {
    let mut scene = Scene::new();
    let reserved = scene.open(85);
    for peer in &reserved {
        scene.connections.protect(*peer, Reason::Reservation);
    }
    scene.open(10);
    scene.wait(61).await;
    scene.look().await;
    // All ten that can go have gone, which is not as many as asked for.
    assert_eq!(scene.open_now(), 85);
    let ended = scene.ended.lock();
    assert!(ended.iter().all(|(peer, _)| !reserved.contains(peer)));
    assert!(ended.iter().all(|(_, ending)| *ending == Ending::Trimmed));
}

#[tokio::test(start_paused = true)]
async fn a_lowered_maximum_holds_and_takes_the_best_protected_last() {
    let mut scene = Scene::new();
    let peers = scene.open(60);
    let (listed, others) = peers.split_at(10);
    let (circuits, others) = others.split_at(10);
    let reserved = &others[..10];
    scene.listed.lock().extend(listed);
    for peer in circuits {
        scene.connections.protect(*peer, Reason::Circuit);
    }
    for peer in reserved {
        scene.connections.protect(*peer, Reason::Reservation);
    }
    // 30 ordinary ones, 10 reserved, 10 with circuits, 10 listed.
    for (max, classes) in [
        (35, ["unprotected"].as_slice()),
        (25, &["unprotected", "reservation"]),
        (12, &["unprotected", "reservation", "circuit"]),
        (5, &["unprotected", "reservation", "circuit", "operator"]),
    ] {
        scene.wait(61).await;
        scene.max.store(max, Ordering::Relaxed);
        scene.look().await;
        assert_eq!(scene.open_now(), max);
        for class in scene.metrics.trimming.victims_by_class().values() {
            let victims = scene.metrics.trimming.victims_by_class().get(class);
            assert_eq!(victims > 0, classes.contains(class), "{class} at {max}");
        }
    }
    assert_eq!(
        scene.metrics.trimming.victims_by_class().get("unprotected"),
        30
    );
}

#[tokio::test(start_paused = true)]
async fn short_memory_takes_a_share_at_a_time_and_stops_at_its_floor() {
    let mut scene = Scene::new();
    let peers = scene.open(40);
    scene.listed.lock().extend(&peers[..5]);
    scene.look_at(BUDGET).await;
    assert_eq!(scene.open_now(), 40, "within the budget");
    scene.look_at(BUDGET * 2).await;
    assert_eq!(scene.open_now(), 30, "a quarter at most, also of the new");
    scene.look_at(BUDGET * 2).await;
    assert_eq!(scene.open_now(), 30, "nothing can be seen of it yet");
    let ended = scene.ended.lock().clone();
    assert!(
        ended
            .iter()
            .all(|(_, ending)| *ending == Ending::MemoryShort)
    );
    for _ in 0..40 {
        scene.wait(300).await;
        scene.look_at(BUDGET * 2).await;
    }
    assert_eq!(scene.open_now(), 20, "a quarter of low water is left");
    let gone = scene.ended.lock();
    assert!(gone.iter().all(|(peer, _)| !peers[..5].contains(peer)));
}

#[tokio::test(start_paused = true)]
async fn goodbyes_are_spread_over_time() {
    let mut scene = Scene::new();
    scene.max.store(2_000, Ordering::Relaxed);
    scene.open(1_080);
    scene.wait(61).await;
    let begin = clock::now();
    scene.look().await;
    assert_eq!(scene.open_now(), 80);
    // 1,000 in batches, each with its pause.
    let took = clock::now() - begin;
    let batches = u32::try_from(1_000_usize.div_ceil(BATCH)).expect("a few hundred");
    assert_eq!(took, PAUSE * batches);
}
