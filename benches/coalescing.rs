//! How many muxer frames share a record and a write system call, and what a
//! frame costs, with coalescing and without: the server's egress beside the
//! `yamux` and `libp2p-mplex` crates over libp2p-noise.
//!
//! All senders do the same work: they are the listener of a connection over
//! loopback, the peer has opened the circuits' streams and granted all credit,
//! and each read pass has brought some messages, dealt out to the circuits in
//! turn, each to be sent as one frame, sealed with ChaCha20-Poly1305. "pass"
//! flushes once behind them, "frame" behind every one. A thread discards what
//! arrives; a pass begins when it has everything, so the socket is not what is
//! measured. Records are counted there, from the framing on the wire; writes
//! where they are made; CPU time is the sending thread's own inside the passes,
//! the kernel's part (which on loopback includes receiving) with it.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "coalescing/receiver.rs"]
mod receiver;
#[path = "coalescing/senders.rs"]
mod senders;

use std::time::Duration;

use receiver::Receiver;
use rustix::time::{ClockId, clock_gettime};
use senders::{Sender, Waystation};
use waystation::engine::muxer::Muxer;

const CIRCUITS: [usize; 3] = [1, 64, 512];

/// Payload of a message and how many a pass brings: small ones as many as a
/// busy pass finds, large ones as many as fill a pass (256 KiB).
const MESSAGES: [(usize, usize); 2] = [(64, 512), (16 * 1024, 16)];

/// Rounds for each sender, in alternation; the first is discarded.
const ROUNDS: usize = 6;

/// Least number of messages in a round.
const ROUND: usize = 8192;

/// When the sender writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Pass,
    Frame,
}

/// What one pass consists of.
#[derive(Clone, Copy)]
struct Work {
    muxer: Muxer,
    circuits: usize,
    payload: usize,
    messages: usize,
}

/// One line of the table in the making.
struct Line {
    name: &'static str,
    flush: Flush,
    sender: Sender,
    receiver: Receiver,
    /// Circuit of the next message.
    next: usize,
    counts: Counts,
    /// CPU time of a frame, each round.
    nanos: Vec<f64>,
}

#[derive(Default)]
struct Counts {
    frames: u64,
    records: u64,
    writes: u64,
}

fn main() {
    // `cargo bench` passes `--bench`; without it, or with `--test`, one short
    // round shows that everything works.
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let test = given("--test") || !given("--bench");
    let (rounds, least) = if test { (2, 1) } else { (ROUNDS, ROUND) };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    println!(
        "muxer  payload  circuits  sender        flush  frames/record  frames/write  ns/frame"
    );
    for muxer in [Muxer::Yamux, Muxer::Mplex] {
        for (payload, messages) in MESSAGES {
            for circuits in CIRCUITS {
                let work = Work {
                    muxer,
                    circuits,
                    payload,
                    messages,
                };
                let passes = least.div_ceil(messages);
                for line in run(&runtime, measure(work, rounds, passes)) {
                    line.print(work);
                }
            }
        }
    }
}

/// Runs `measuring` as a task on this thread, as connections run: polled by
/// `block_on` itself, libp2p-mplex gets slower with every frame that it sends.
/// Without a budget of polls, which the server's writes do not draw on either.
#[expect(clippy::disallowed_methods, reason = "no supervisor in a bench")]
fn run<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    measuring: impl Future<Output = T> + Send + 'static,
) -> T {
    let task = runtime.spawn(tokio::task::coop::unconstrained(measuring));
    runtime.block_on(task).expect("no panic")
}

async fn measure(work: Work, rounds: usize, passes: usize) -> Vec<Line> {
    let theirs = match work.muxer {
        Muxer::Yamux => "yamux",
        Muxer::Mplex => "libp2p-mplex",
    };
    let mut lines = Vec::new();
    for flush in [Flush::Pass, Flush::Frame] {
        let (sender, receiver) = Waystation::connect(work).await;
        let sender = Sender::Waystation(sender);
        lines.push(Line::new("waystation", flush, sender, receiver));
        let (sender, receiver) = match work.muxer {
            Muxer::Yamux => senders::yamux_crate(work).await,
            Muxer::Mplex => senders::mplex_crate(work).await,
        };
        lines.push(Line::new(theirs, flush, sender, receiver));
    }
    for round in 0..rounds {
        for line in &mut lines {
            line.round(work, passes).await;
            if round == 0 {
                line.counts = Counts::default();
                line.nanos.clear();
            }
        }
    }
    lines
}

impl Line {
    fn new(name: &'static str, flush: Flush, sender: Sender, receiver: Receiver) -> Self {
        Self {
            name,
            flush,
            sender,
            receiver,
            next: 0,
            counts: Counts::default(),
            nanos: Vec::new(),
        }
    }

    async fn round(&mut self, work: Work, passes: usize) {
        let payload = vec![5; work.payload];
        let (records, writes) = (self.receiver.records(), self.sender.writes());
        let mut spent = Duration::ZERO;
        for _ in 0..passes {
            let streams: Vec<usize> = (0..work.messages)
                .map(|message| (self.next + message) % work.circuits)
                .collect();
            self.next += work.messages;
            let expected = senders::plaintext(work, &streams);
            let begin = cpu_time();
            self.sender.pass(&streams, &payload, self.flush).await;
            spent += cpu_time() - begin;
            self.receiver.await_plaintext(expected);
        }
        let frames = passes * work.messages;
        self.counts.frames += frames as u64;
        self.counts.records += self.receiver.records() - records;
        self.counts.writes += self.sender.writes() - writes;
        self.nanos.push(spent.as_nanos() as f64 / frames as f64);
    }

    fn print(mut self, work: Work) {
        let Counts {
            frames,
            records,
            writes,
        } = self.counts;
        let muxer = match work.muxer {
            Muxer::Yamux => "yamux",
            Muxer::Mplex => "mplex",
        };
        let flush = match self.flush {
            Flush::Pass => "pass",
            Flush::Frame => "frame",
        };
        self.nanos.sort_by(f64::total_cmp);
        println!(
            "{muxer:<6} {:>7} {:>9}  {:<13} {flush:<5} {:>14.2} {:>13.2} {:>9.0}",
            work.payload,
            work.circuits,
            self.name,
            frames as f64 / records as f64,
            frames as f64 / writes as f64,
            self.nanos[self.nanos.len() / 2],
        );
    }
}

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("time used is not negative")
}
