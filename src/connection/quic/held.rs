//! The bytes of streams that a connection's transport holds, told to the
//! server's account of buffers.
//!
//! What we send is counted piece by piece: each counts itself off when the
//! transport lets go of it, because it was acknowledged or its stream reset. What
//! has come and was not read is not told by the transport; it is worked out from
//! what came and what was read, and never more than the window allows.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::connection::pool;

/// What a piece takes beside its bytes.
const PIECE_OVERHEAD: usize = 96;

/// Longest piece: what is copied in vain when the transport takes none of it.
const PIECE_MAX: usize = 16 * 1024;

/// First piece for a stream that its peer holds back.
const PIECE_LEAST: usize = 64;

/// Bytes of a datagram that are no stream's: headers, the tag, a word of
/// acknowledgement. Chosen high, so that what honest peers send adds up to less
/// than they have us read, and the estimate falls back to nothing.
const FRAMING: usize = 64;

/// Bytes of a stream in a datagram that has no more than framing: less than a
/// ping, so that these too add up to less than is read.
const FRAME_LEAST: usize = 16;

/// Bytes that may wait for some that are missing, whatever memory there is.
const GAP_LEAST: usize = 16 * 1024;

/// How long more may wait while the memory for buffers is taken. What was lost
/// is sent again within seconds.
const GAP_PATIENCE: Duration = Duration::from_secs(30);

/// Pieces of one stream that the transport may have. It walks over all of them
/// for each packet that it makes, so that of a peer that grants a byte at a time
/// or acknowledges nothing, the rest waits in the stream's queue.
const PIECES_MAX: u32 = 1_024;

/// The pieces of one stream that are with the transport.
#[derive(Default)]
pub(super) struct Pieces {
    live: Arc<AtomicU32>,
    /// How much the transport took at last, where the peer holds it back.
    taken: Option<usize>,
}

/// A piece of what is sent, in the account for as long as it is there.
struct Piece {
    bytes: Vec<u8>,
    live: Arc<AtomicU32>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        pool::released(self.bytes.len() + PIECE_OVERHEAD);
    }
}

impl Pieces {
    /// A copy of the first of these bytes for the transport, behind `taken` that
    /// it has taken just before. A piece of which it takes a byte stays whole:
    /// where a peer holds back, pieces begin as long as what it let us send
    /// before.
    pub(super) fn next(&self, bytes: &[u8], taken: usize) -> Bytes {
        let most = self.taken.map_or(PIECE_MAX, |before| {
            before.max(taken).clamp(PIECE_LEAST, PIECE_MAX)
        });
        let bytes = &bytes[..bytes.len().min(most)];
        pool::held(bytes.len() + PIECE_OVERHEAD);
        self.live.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Piece {
            bytes: bytes.to_vec(),
            live: Arc::clone(&self.live),
        })
    }

    /// The transport takes no more than these bytes, or all there were.
    pub(super) fn took(&mut self, bytes: usize, held_back: bool) {
        let before = self.taken.filter(|_| bytes == 0);
        self.taken = held_back.then_some(before.unwrap_or(bytes));
    }

    /// Whether the transport has as many as it may.
    pub(super) fn are_too_many(&self) -> bool {
        self.live.load(Ordering::Relaxed) >= PIECES_MAX
    }

    /// Whether it has let go of half of them again.
    pub(super) fn are_few(&self) -> bool {
        self.live.load(Ordering::Relaxed) <= PIECES_MAX / 2
    }
}

/// The bytes that have come for a connection's streams and have not been read.
#[derive(Default)]
pub(super) struct Unread {
    bytes: usize,
    /// Datagrams since the last turn.
    datagrams: usize,
    /// Their bytes, less their [`FRAMING`].
    arrived: usize,
    /// Frames of streams until the last turn.
    frames: u64,
    /// Since when more waits than may, and the memory is taken.
    too_much_since: Option<Instant>,
}

impl Unread {
    /// A datagram has come.
    pub(super) fn came(&mut self, datagram: usize) {
        self.datagrams += 1;
        self.arrived += datagram.saturating_sub(FRAMING);
    }

    /// What has come so far was no stream's.
    pub(super) fn forget_arrived(&mut self) {
        self.datagrams = 0;
        self.arrived = 0;
    }

    /// A turn has read so much. `frames` tells how many frames of streams have
    /// ever come: without a new one, datagrams carried something else. At most
    /// `window` bytes can be there.
    pub(super) fn turn(&mut self, frames: impl FnOnce() -> u64, read: usize, window: usize) {
        let came = self.new_frames(frames);
        let arrived = mem::take(&mut self.arrived).max(came.saturating_mul(FRAME_LEAST));
        let now = self.bytes + if came > 0 { arrived } else { 0 };
        self.set(now.saturating_sub(read).min(window));
    }

    /// Whether bytes wait for too long for some that their peer does not send,
    /// while the memory for buffers is taken (`full`). Streams that nobody may
    /// read from are not its doing: they can have as much as `excused`.
    pub(super) fn is_hoarded(&mut self, full: bool, excused: usize, now: Instant) -> bool {
        if !full || self.bytes <= excused + GAP_LEAST {
            self.too_much_since = None;
            return false;
        }
        let since = *self.too_much_since.get_or_insert(now);
        now.saturating_duration_since(since) >= GAP_PATIENCE
    }

    /// No stream is open that could have any: what has come so far counts no
    /// more.
    pub(super) fn clear(&mut self, frames: impl FnOnce() -> u64) {
        self.new_frames(frames);
        self.arrived = 0;
        self.too_much_since = None;
        self.set(0);
    }

    /// Frames of streams that have come since this was last asked.
    fn new_frames(&mut self, frames: impl FnOnce() -> u64) -> usize {
        if mem::take(&mut self.datagrams) == 0 {
            return 0;
        }
        let frames = frames();
        let before = mem::replace(&mut self.frames, frames);
        usize::try_from(frames.saturating_sub(before)).unwrap_or(usize::MAX)
    }

    fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            pool::held(bytes - self.bytes);
        } else {
            pool::released(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many bytes as a peer puts into one datagram, and what it takes.
    const DATAGRAM: (usize, usize) = (1_160, 1_200);

    const WINDOW: usize = 64 * 1024;

    #[test]
    fn a_piece_counts_until_the_last_of_it_is_gone() {
        let before = pool::untold();
        let pieces = Pieces::default();
        let mut piece = pieces.next(&[7; 1_000], 0);
        let rest = piece.split_off(10);
        drop(rest);
        assert_eq!(pool::untold() - before, 1_000 + PIECE_OVERHEAD as i64);
        drop(piece);
        assert_eq!(pool::untold(), before);
    }

    #[test]
    fn what_is_not_read_counts_until_it_is() {
        let before = pool::untold();
        let mut unread = Unread::default();
        for frames in 1..=20 {
            unread.came(DATAGRAM.1);
            unread.turn(|| frames, 0, WINDOW);
        }
        let held = pool::untold() - before;
        assert!(held > 20 * 1_100 && held <= 20 * 1_160, "{held}");
        unread.turn(|| 20, 20 * DATAGRAM.0, WINDOW);
        assert_eq!(pool::untold(), before);
    }

    #[test]
    fn what_honest_peers_send_adds_up_to_nothing() {
        let before = pool::untold();
        let mut unread = Unread::default();
        for frames in 1..=10_000 {
            unread.came(DATAGRAM.1);
            unread.turn(|| frames, DATAGRAM.0, WINDOW);
            // A ping, and an acknowledgement of nothing else.
            unread.came(75);
            unread.turn(|| frames, 32, WINDOW);
            unread.came(1_200);
            unread.turn(|| frames, 0, WINDOW);
        }
        assert_eq!(pool::untold(), before);
    }

    #[test]
    fn no_more_counts_than_the_window_and_nothing_behind_the_end() {
        let before = pool::untold();
        let mut unread = Unread::default();
        for frames in 1..=1_000 {
            unread.came(DATAGRAM.1);
            unread.turn(|| frames, 0, WINDOW);
        }
        assert_eq!(pool::untold() - before, WINDOW as i64);
        drop(unread);
        assert_eq!(pool::untold(), before);
    }

    #[test]
    fn bytes_behind_a_gap_are_given_up_in_time_when_the_memory_is_taken() {
        let start = crate::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut unread = Unread::default();
        unread.came(40 * 1024);
        unread.turn(|| 1, 0, WINDOW);
        assert!(!unread.is_hoarded(true, 0, at(0)));
        assert!(!unread.is_hoarded(true, 0, at(29)));
        assert!(unread.is_hoarded(true, 0, at(30)));
        // Without need nobody is given up, nor for what a circuit holds back.
        assert!(!unread.is_hoarded(false, 0, at(31)));
        assert!(!unread.is_hoarded(true, 0, at(32)), "its time begins anew");
        assert!(!unread.is_hoarded(true, WINDOW, at(90)));
        // Nor who sends what was missing.
        assert!(!unread.is_hoarded(true, 0, at(91)));
        unread.turn(|| 1, 30 * 1024, WINDOW);
        assert!(!unread.is_hoarded(true, 0, at(200)));
        // Nor does a later stream pay for an earlier one.
        unread.came(40 * 1024);
        unread.turn(|| 2, 0, WINDOW);
        assert!(!unread.is_hoarded(true, 0, at(300)));
        unread.clear(|| 2);
        unread.came(40 * 1024);
        unread.turn(|| 3, 0, WINDOW);
        assert!(!unread.is_hoarded(true, 0, at(340)));
    }

    #[test]
    fn what_comes_in_small_datagrams_counts_and_what_came_for_nobody_does_not() {
        let before = pool::untold();
        let mut unread = Unread::default();
        for frames in 1..=1_000 {
            unread.came(60);
            unread.turn(|| frames, 0, WINDOW);
        }
        assert_eq!(pool::untold() - before, 1_000 * FRAME_LEAST as i64);
        for _ in 0..50 {
            unread.came(DATAGRAM.1);
            unread.clear(|| 1_000);
        }
        unread.came(DATAGRAM.1);
        unread.clear(|| 1_010);
        unread.came(75);
        unread.turn(|| 1_011, 32, WINDOW);
        assert_eq!(pool::untold(), before);
    }

    #[test]
    fn pieces_begin_as_long_as_what_the_peer_let_us_send_before() {
        let long = vec![7; 2 * PIECE_MAX];
        let mut pieces = Pieces::default();
        let next = |pieces: &Pieces, taken| pieces.next(&long, taken).len();
        assert_eq!(next(&pieces, 0), PIECE_MAX);
        pieces.took(1, true);
        assert_eq!(next(&pieces, 0), PIECE_LEAST);
        assert_eq!(next(&pieces, 1_000), 1_000);
        pieces.took(2_400, true);
        pieces.took(0, true);
        assert_eq!(next(&pieces, 0), 2_400);
        pieces.took(PIECE_MAX, false);
        assert_eq!(next(&pieces, 0), PIECE_MAX);
    }
}
