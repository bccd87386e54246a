//! A read pass: one read, every record in it opened in place, every frame in
//! them handed on in place.
//!
//! The read buffer belongs to the thread and is borrowed for the pass; what
//! stays with the connection is at most one incomplete record. A pass takes
//! at most [`READ_MAX`] bytes and then yields, so that one busy connection
//! does not keep a worker from the others.

use std::{
    cell::RefCell,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use tokio::io::ReadBuf;

use crate::engine::{
    demux::{Demux, Event},
    record::{MAX_RECORD, Opened},
};
use crate::state::leg::Effects;

use super::{
    carrier::layer::{self, Asides, Decoded},
    closed::Closed,
    egress::Egress,
    pool,
    session::Session,
    task::Connection,
};

/// Most bytes that one pass reads.
pub(super) const READ_MAX: usize = 256 * 1024;

/// What a thread lends to the pass that it runs.
struct Scratch {
    read: Box<[u8]>,
    output: Vec<u8>,
    effects: Effects,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        read: vec![0; READ_MAX + MAX_RECORD + layer::KEPT_MAX].into_boxed_slice(),
        output: Vec::with_capacity(4096),
        effects: Effects::default(),
    });
}

/// What is at hand during one pass.
pub(super) struct Pass<'a> {
    /// What is left to do with other connections, settled at the end.
    pub(super) effects: &'a mut Effects,
    /// A buffer for answers; whoever writes one clears it first.
    pub(super) output: &'a mut Vec<u8>,
    /// When the pass began.
    pub(super) now: Instant,
}

/// Lends the thread's buffers, and settles the effects afterwards.
pub(super) fn with_pass<T>(now: Instant, run: impl FnOnce(&mut Pass<'_>, &mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch {
            read,
            output,
            effects,
        } = scratch;
        let result = run(
            &mut Pass {
                effects,
                output,
                now,
            },
            read,
        );
        effects.settle();
        result
    })
}

impl Connection {
    /// Reads once and works through what came. `Ready` means that there may be
    /// more to read at once.
    pub(super) fn read_pass(
        &mut self,
        task: &mut TaskContext<'_>,
        pass: &mut Pass<'_>,
        buffer: &mut [u8],
    ) -> Result<Poll<()>, Closed> {
        let kept = self.partial.len();
        let front = kept + self.inbound.kept();
        let mut read = ReadBuf::new(&mut buffer[front..front + READ_MAX]);
        match self.reader.poll_read(task, &mut read) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) => return Err(Closed::Io(error.kind())),
            Poll::Ready(Ok(())) => {}
        }
        let count = read.filled().len();
        if count == 0 {
            return Err(Closed::Peer);
        }
        self.session.context.metrics.egress.received(count);
        buffer[..kept].copy_from_slice(&self.partial);
        pool::give(std::mem::take(&mut self.partial));
        let decoded = self.decode(&mut buffer[kept..front + count], pass)?;
        self.records(&mut buffer[..kept + decoded.length], pass)?;
        if decoded.ended {
            return Err(Closed::Peer);
        }
        if count == READ_MAX {
            return Ok(Poll::Ready(()));
        }
        // The read took less than it asked for, so tokio has marked the socket
        // as empty: this registers for the next readiness without a system
        // call.
        match self.reader.poll_read_ready(task) {
            Poll::Ready(Err(error)) => Err(Closed::Io(error.kind())),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Takes what has come through the carrier's layers, if it has any.
    #[inline]
    fn decode(&mut self, bytes: &mut [u8], pass: &mut Pass<'_>) -> Result<Decoded, Closed> {
        if self.inbound.is_empty() {
            let (length, ended) = (bytes.len(), false);
            return Ok(Decoded { length, ended });
        }
        let mut asides = Asides::default();
        let decoded = self.inbound.decode(bytes, &mut asides);
        self.session.egress.say_aside(asides, pass.effects);
        Ok(decoded?)
    }

    /// Opens every complete record in `bytes`; keeps the beginning of one that
    /// is not.
    pub(super) fn records(&mut self, bytes: &mut [u8], pass: &mut Pass<'_>) -> Result<(), Closed> {
        let mut begin = 0;
        let framing = self.open.framing();
        let mut opener = self.open.expand()?;
        while let Some(length) = framing.announced(&bytes[begin..])? {
            let end = begin + length;
            let Some(record) = bytes.get_mut(begin + framing.header()..end) else {
                break;
            };
            let opened = opener.open(record)?;
            self.heard = true;
            match opened {
                Opened::Plaintext(plaintext) => {
                    take_apart(&mut self.demux, &mut self.session, plaintext, pass)?;
                }
                Opened::Nothing => {}
                Opened::Renew => self.session.egress.renew_key(pass.effects),
                Opened::Closed => return Err(Closed::Peer),
            }
            begin = end;
        }
        let rest = &bytes[begin..];
        // What a layer keeps is the beginning of a record of its own.
        let waiting = rest.len() + self.inbound.kept();
        self.record_waits(waiting, begin > 0, pass.now);
        if !rest.is_empty() {
            let mut partial = pool::take(rest.len());
            partial.extend_from_slice(rest);
            self.partial = partial;
        }
        Ok(())
    }

    /// Takes plaintext apart and acts on each event.
    pub(super) fn frames(&mut self, plaintext: &[u8], pass: &mut Pass<'_>) -> Result<(), Closed> {
        take_apart(&mut self.demux, &mut self.session, plaintext, pass)
    }
}

fn take_apart(
    demux: &mut Demux,
    session: &mut Session<Egress>,
    mut plaintext: &[u8],
    pass: &mut Pass<'_>,
) -> Result<(), Closed> {
    while let Some(event) = demux.next(&mut plaintext)? {
        match event {
            Event::Data(id, payload) => session.on_data(id, payload, pass)?,
            Event::Credit(id, bytes) => {
                if let Some(entry) = session.table.get_mut(id) {
                    session.egress.credit(entry.key, bytes, pass.effects)?;
                }
            }
            Event::Opened(id) => session.on_opened(id, pass)?,
            Event::Finished(id) => session.on_finished(id, pass),
            Event::Reset(id) => session.on_reset(id, pass),
            Event::Ping(value) => session.egress.pong(value, pass.effects),
            Event::Pong(_) => {}
            Event::GoAway(code) => session.on_go_away(code),
        }
    }
    Ok(())
}
