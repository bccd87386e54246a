//! What a connection holds while its peer does nothing: bytes that the socket
//! does not take, and a record whose end does not come.
//!
//! Owns how long either may last. Costs nothing while neither is the case: two
//! deadlines of the connection's own task, looked at when they are due.

use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use super::{closed::Closed, egress::signal, pool, read_pass::Pass, task::Connection};

/// How long a peer may leave alone what waits for it, and a long record
/// without its end. A peer that reads takes something within a round trip, a
/// stall of the network included; `TCP_USER_TIMEOUT` is twice as long and
/// starts anew with each byte that the peer makes room for.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);

/// Least bytes that a peer for which bytes wait takes within [`STALL_MAX`]
/// while the memory for buffers is taken: who reads by the byte holds as much
/// as who does not read.
const TAKEN_LEAST: u64 = 64 * 1024;

/// Beginning of a record that nobody minds: the smallest buffer of the pool.
const PARTIAL_ALWAYS: usize = 2 * 1024;

/// What stands still, and until when it may.
#[derive(Default)]
pub(super) struct Stall {
    /// The egress waits for its socket: when to look at it, and how much had
    /// been written before.
    write: Option<(Instant, u64)>,
    /// A record waits for its end.
    record: Option<Instant>,
}

impl Connection {
    /// When the task has something to do although nothing comes.
    pub(super) fn next_wake(&self) -> Instant {
        let write = self.stall.write.map(|(due, _)| due);
        [write, self.stall.record]
            .into_iter()
            .flatten()
            .fold(self.next_deadline(), Instant::min)
    }

    /// Waits for a full socket, and writes on when it is writable.
    pub(super) fn on_writable(
        &mut self,
        signals: u8,
        task: &mut TaskContext<'_>,
        pass: &mut Pass<'_>,
    ) -> Result<(), Closed> {
        if signals & signal::BLOCKED != 0 {
            self.blocked = true;
            let written = || self.session.egress.written().0;
            self.stall
                .write
                .get_or_insert_with(|| (pass.now + STALL_MAX, written()));
        }
        if self.blocked {
            match self.reader.poll_write_ready(task) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Err(Closed::Io(error.kind())),
                Poll::Ready(Ok(())) => {
                    // If the socket fills again, the egress says so again.
                    self.blocked = false;
                    self.session.egress.writable(pass.effects);
                }
            }
        }
        Ok(())
    }

    /// Ends a connection that has stood still for too long.
    pub(super) fn on_stalls(&mut self, now: Instant) -> Result<(), Closed> {
        if let Some((due, before)) = self.stall.write
            && now >= due
        {
            let (written, waiting) = self.session.egress.written();
            let least = if pool::is_full() { TAKEN_LEAST } else { 1 };
            if waiting && written - before < least {
                return Err(Closed::WriteStalled);
            }
            self.stall.write = waiting.then_some((now + STALL_MAX, written));
        }
        if self.stall.record.is_some_and(|due| now >= due) {
            // It is at most one record, so nobody minds while there is memory; and
            // it cannot end while we do not read it.
            if pool::is_full() && self.session.hold.is_none() {
                return Err(Closed::Memory);
            }
            self.stall.record = Some(now + STALL_MAX);
        }
        Ok(())
    }

    /// Notes that `length` bytes of a record wait for its end, and whether one
    /// has ended since this was last told.
    pub(super) fn record_waits(&mut self, length: usize, ended: bool, now: Instant) {
        if length <= PARTIAL_ALWAYS {
            self.stall.record = None;
        } else if ended || self.stall.record.is_none() {
            self.stall.record = Some(now + STALL_MAX);
        }
    }
}
