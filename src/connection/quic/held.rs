//! The bytes of streams that a connection's transport holds, told to the
//! server's account of buffers.
//!
//! What we send is counted piece by piece: each counts itself off when the
//! transport lets go of it, because it was acknowledged or its stream reset. What
//! has come and was not read is not told by the transport; it is worked out from
//! what came and what was read, and never more than the window allows.

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

/// Bytes that may wait for some that are missing, whatever memory there is.
const GAP_LEAST: usize = 16 * 1024;

/// How long more may wait while the memory for buffers is taken. What was lost
/// is sent again within seconds.
const GAP_PATIENCE: Duration = Duration::from_secs(30);

/// A piece of what is sent, in the account for as long as it is there.
struct Piece(Vec<u8>);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        pool::released(self.0.len() + PIECE_OVERHEAD);
    }
}

/// A copy of these bytes for the transport.
pub(super) fn piece(bytes: &[u8]) -> Bytes {
    pool::held(bytes.len() + PIECE_OVERHEAD);
    Bytes::from_owner(Piece(bytes.to_vec()))
}

/// How long the next piece may be, behind `taken` bytes. A piece of which the
/// transport takes a byte stays whole: of a peer that grants little at a time,
/// pieces begin small, so that what is kept for it is at most twice what it lets
/// us send.
pub(super) fn piece_len(held_back: bool, taken: usize) -> usize {
    if held_back {
        taken.clamp(PIECE_LEAST, PIECE_MAX)
    } else {
        PIECE_MAX
    }
}

/// The bytes that have come for a connection's streams and have not been read.
#[derive(Default)]
pub(super) struct Unread {
    bytes: usize,
    /// Bytes of datagrams since the last turn, less their [`FRAMING`].
    arrived: usize,
    /// Frames of streams until the last turn.
    frames: u64,
    /// Since when more waits than may, and the memory is taken.
    too_much_since: Option<Instant>,
}

impl Unread {
    /// A datagram has come.
    pub(super) fn came(&mut self, datagram: usize) {
        self.arrived += datagram.saturating_sub(FRAMING);
    }

    /// What has come so far was no stream's.
    pub(super) fn forget_arrived(&mut self) {
        self.arrived = 0;
    }

    /// A turn has read so much. `frames` tells how many frames of streams have
    /// ever come: without a new one, datagrams carried something else. At most
    /// `window` bytes can be there.
    pub(super) fn turn(&mut self, frames: impl FnOnce() -> u64, read: usize, window: usize) {
        let mut now = self.bytes;
        if self.arrived > 0 {
            let arrived = std::mem::take(&mut self.arrived);
            let frames = frames();
            if frames != std::mem::replace(&mut self.frames, frames) {
                now += arrived;
            }
        }
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

    /// No stream is open that could have any.
    pub(super) fn clear(&mut self) {
        self.set(0);
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
        self.clear();
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
        let mut piece = piece(&[7; 1_000]);
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
    }

    #[test]
    fn pieces_for_a_peer_that_grants_little_begin_small() {
        assert_eq!(piece_len(false, 0), PIECE_MAX);
        assert_eq!(piece_len(true, 0), PIECE_LEAST);
        assert_eq!(piece_len(true, 1_000), 1_000);
        assert_eq!(piece_len(true, 1 << 20), PIECE_MAX);
    }
}
