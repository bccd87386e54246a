//! The one way to write to a connection: a short lock around the batch and
//! each stream's sending half.
//!
//! Anyone with the connection's handle appends frames; they land where they
//! will be sealed. [`Link::flush`] takes the whole batch, lets the lock go,
//! seals and writes it, and comes back for what was appended meanwhile, so
//! frames of many circuits and many small writes share a record and a system
//! call while a lone small write leaves at once. When the socket is full the
//! rest waits for writability, which the connection's own task sees to.
//!
//! Bounds: the batch stops taking circuit and service bytes at
//! [`HIGH_WATER`]; what is over waits in its stream's queue (at most
//! [`QUEUE_MAX`]); a peer that makes us answer without reading is dropped at
//! [`HARD_MAX`], or at [`OWN_MAX`] when memory is short.

mod link;
mod own;
mod streams;
mod write;

use std::{
    mem,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::Waker,
};

use parking_lot::Mutex;

use super::carrier::{
    WriteHalf,
    layer::{Asides, Outbound},
};
use crate::engine::{
    batch::Batch,
    demux::Side,
    frames,
    muxer::Muxer,
    record::{Alert, SealKey},
};
use crate::metrics::EgressMetrics;
use crate::state::leg::{Command, Effects, Link, StreamKey};
use crate::wire::yamux::GoAwayCode;

pub use streams::CreditOverflow;
pub(super) use streams::SendHalf;
use streams::SendStream;
use write::Writer;

/// Batch size above which stream bytes queue up with their stream.
const HIGH_WATER: usize = 256 * 1024;

/// Batch size at which a peer that asks and does not read is given up: room
/// above the high-water mark for frames that may not wait (answers to pings,
/// window updates, resets).
const HARD_MAX: usize = HIGH_WATER + 96 * 1024;

/// Most bytes of a batch behind a full socket that are no circuit's while the
/// memory for buffers is taken: some thousand answers to pings.
const OWN_MAX: usize = 16 * 1024;

/// Most bytes that may wait for one stream: a window, and one read pass on
/// top for mplex sources, which are stopped only between passes.
pub(super) const QUEUE_MAX: usize = 640 * 1024;

/// Bytes of answers waiting for one stream at which a peer asks and does not
/// read. The longest answer, to identify or RESERVE, is 4 KiB.
const ANSWERS_MAX: usize = 16 * 1024;

/// Most offers of circuits that may wait in an inbox.
const OFFERS_MAX: usize = 64;

/// How a carrier that has words for it ends a connection (RFC 6455, 7.4.1).
const CLOSE_NORMAL: u16 = 1000;

/// What the connection's task is being woken for.
pub(super) mod signal {
    /// The inbox has commands.
    pub(crate) const INBOX: u8 = 1;
    /// The socket is full: wait for writability, then flush.
    pub(crate) const BLOCKED: u8 = 2;
    /// Writing failed: the connection is over.
    pub(crate) const FAILED: u8 = 4;
    /// A held stream has credit again.
    pub(crate) const RESUME: u8 = 8;
}

/// A connection's sending half.
pub(super) struct Egress {
    muxer: Muxer,
    me: Weak<Egress>,
    metrics: Arc<EgressMetrics>,
    waker: OnceLock<Waker>,
    signals: AtomicU8,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// Not here while a flush is under way on some thread.
    writer: Option<Box<Writer>>,
    batch: Batch,
    /// Bytes of the batch that are circuits', their frames' headers included.
    of_circuits: usize,
    /// Bytes that the socket has taken, as of the last write.
    written: u64,
    /// Bytes in the batch whose credit is owed once they have left.
    carried: Vec<(StreamKey, u32)>,
    /// Sorted by id.
    streams: Vec<SendStream>,
    /// Streams with a queue.
    queued: u32,
    /// Where the next refill begins, so that queues take turns.
    turn: u32,
    generation: u32,
    next_local: u64,
    /// Somebody has this connection on the list of what to flush.
    touched: bool,
    blocked: bool,
    /// A stream of this connection holds up reading until it has credit.
    holding: bool,
    offers: u16,
    inbox: Vec<Command>,
    /// What the carrier's layers are to say with the next write.
    asides: Option<Box<Asides>>,
    /// Whether there are layers at all.
    layered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is taken; what is in the batch still goes out.
    Closing,
    Closed,
}

impl Egress {
    /// The sending half of a connection that was just upgraded.
    pub(super) fn new(
        muxer: Muxer,
        side: Side,
        seal: SealKey,
        outbound: Outbound,
        socket: WriteHalf,
        metrics: Arc<EgressMetrics>,
    ) -> Arc<Self> {
        let next_local = match (muxer, side) {
            (Muxer::Yamux, Side::Dialer) => 1,
            (Muxer::Yamux, Side::Listener) => 2,
            (Muxer::Mplex, _) => 0,
        };
        let batch = Batch::framed(seal.framing());
        let layered = !outbound.is_empty();
        Arc::new_cyclic(|me| Self {
            muxer,
            me: Weak::clone(me),
            metrics,
            waker: OnceLock::new(),
            signals: AtomicU8::new(0),
            state: Mutex::new(State {
                phase: Phase::Open,
                writer: Some(Box::new(Writer::new(seal, outbound, socket))),
                batch,
                of_circuits: 0,
                written: 0,
                carried: Vec::new(),
                streams: Vec::new(),
                queued: 0,
                turn: 0,
                generation: 0,
                next_local,
                touched: false,
                blocked: false,
                holding: false,
                offers: 0,
                inbox: Vec::new(),
                asides: None,
                layered,
            }),
        })
    }

    /// Tells whom to wake. Called by the connection's task at its first poll:
    /// a task has one waker for its life.
    pub(super) fn set_waker(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    /// What the task was woken for since it last asked.
    pub(super) fn take_signals(&self) -> u8 {
        if self.signals.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.signals.swap(0, Ordering::AcqRel)
    }

    /// The commands that have arrived, in order.
    pub(super) fn take_inbox(&self) -> Vec<Command> {
        let mut state = self.state.lock();
        state.offers = 0;
        mem::take(&mut state.inbox)
    }

    /// Writes on after the socket has become writable.
    pub(super) fn writable(&self, effects: &mut Effects) {
        self.state.lock().blocked = false;
        self.flush(effects);
    }

    /// Bytes that the socket has taken so far, and whether more wait because
    /// it is full.
    pub(super) fn written(&self) -> (u64, bool) {
        let state = self.state.lock();
        (state.written, state.blocked)
    }

    /// Answers a keep-alive question.
    pub(super) fn pong(&self, value: u32, effects: &mut Effects) {
        self.control(effects, |batch| frames::pong(value, batch));
    }

    /// The peer has a new key and asks for a new one of ours.
    pub(super) fn renew_key(&self, effects: &mut Effects) {
        self.control(effects, Batch::renew_key);
    }

    /// Asks the peer for a sign of life (yamux only).
    pub(super) fn ping(&self, value: u32, effects: &mut Effects) {
        self.control(effects, |batch| frames::ping(value, batch));
    }

    /// Takes nothing more, says goodbye, and writes what the socket takes: the
    /// muxer's words, then the record layer's, if it still has any. Commands that
    /// have not been acted upon come back.
    pub(super) fn say_goodbye(
        &self,
        code: GoAwayCode,
        alert: Option<Alert>,
        effects: &mut Effects,
    ) -> Vec<Command> {
        {
            let mut state = self.state.lock();
            if state.phase == Phase::Open {
                state.phase = Phase::Closing;
                state.reserve(64);
                frames::go_away(self.muxer, code, &mut state.batch);
                if let Some(alert) = alert {
                    state.batch.close(alert);
                }
                if state.layered {
                    state
                        .asides
                        .get_or_insert_default()
                        .close
                        .get_or_insert(CLOSE_NORMAL);
                }
            }
        }
        self.flush(effects);
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        // A flush on another thread drops the writer when it finds this phase.
        state.writer = None;
        state.streams = Vec::new();
        state.queued = 0;
        // Others may hold on to their handle for a while.
        super::pool::give(mem::take(&mut state.batch).into_buffer());
        mem::take(&mut state.inbox)
    }

    /// Has the carrier's layers say something with the next write.
    pub(super) fn say_aside(&self, asides: Asides, effects: &mut Effects) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open && state.layered && !asides.is_empty() {
            state.asides.get_or_insert_default().merge(asides);
            self.touch(&mut state, effects);
        }
    }

    fn control(&self, effects: &mut Effects, frame: impl FnOnce(&mut Batch)) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        state.reserve(64);
        frame(&mut state.batch);
        self.touch(&mut state, effects);
    }

    /// To be called behind whatever was appended: sees that it is written, or
    /// gives up a peer that makes us answer and does not read.
    fn touch(&self, state: &mut State, effects: &mut Effects) {
        if state.batch.len() > HARD_MAX || state.asks_too_much() {
            if state.phase == Phase::Open {
                state.phase = Phase::Closing;
                self.signal(signal::FAILED);
            }
            return;
        }
        if !state.touched
            && !state.blocked
            && let Some(me) = self.me.upgrade()
        {
            state.touched = true;
            effects.touch(me);
        }
    }

    fn signal(&self, bits: u8) {
        if self.signals.fetch_or(bits, Ordering::AcqRel) & bits != bits
            && let Some(waker) = self.waker.get()
        {
            waker.wake_by_ref();
        }
    }

    /// The stream has ended in both directions: its task is to forget it.
    fn forget(&self, state: &mut State, stream: StreamKey) {
        state.inbox.push(Command::Forget(stream));
        self.signal(signal::INBOX);
    }
}

impl State {
    /// Whether memory is short, and the peer has us say more than it reads.
    /// What circuits carry is held back from where it comes.
    fn asks_too_much(&self) -> bool {
        self.blocked
            && self.batch.len().saturating_sub(self.of_circuits) > OWN_MAX
            && super::pool::is_full()
    }

    /// Whether there is nothing to write.
    fn idle(&self) -> bool {
        self.batch.is_empty()
            && self.asides.is_none()
            && self
                .writer
                .as_ref()
                .is_none_or(|writer| !writer.has_pending())
    }

    /// Makes room in the batch for `length` bytes more.
    fn reserve(&mut self, length: usize) {
        let needed = self.batch.needed(length);
        if needed > self.batch.capacity() {
            // At least doubled, so that many small frames do not each copy it.
            let room = needed.max(2 * self.batch.capacity());
            let old = self.batch.grow_into(super::pool::take(room));
            super::pool::give(old);
        }
    }
}

/// A connection may end with bytes in hand.
impl Drop for State {
    fn drop(&mut self) {
        super::pool::give(mem::take(&mut self.batch).into_buffer());
    }
}

#[cfg(test)]
mod tests;
