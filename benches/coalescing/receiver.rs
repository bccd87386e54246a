//! The other end of a connection: discards what arrives and counts it.

use std::{
    io::Read,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use waystation::engine::record::TAG_LEN;

/// Counts from the framing alone, for it has no key.
pub(crate) struct Receiver {
    tally: Arc<Tally>,
    /// Plaintext that has been waited for.
    expected: u64,
}

#[derive(Default)]
struct Tally {
    records: AtomicU64,
    plaintext: AtomicU64,
}

impl Receiver {
    /// Reads `socket` until its end, on a thread of its own.
    pub(crate) fn start(socket: TcpStream) -> Self {
        let tally = Arc::new(Tally::default());
        let (shared, sender) = (Arc::clone(&tally), thread::current());
        thread::spawn(move || receive(socket, &shared, &sender));
        Self { tally, expected: 0 }
    }

    /// Records that have arrived whole.
    pub(crate) fn records(&self) -> u64 {
        self.tally.records.load(Ordering::Relaxed)
    }

    /// Waits until `length` more bytes of plaintext have arrived.
    pub(crate) fn await_plaintext(&mut self, length: u64) {
        self.expected += length;
        while self.tally.plaintext.load(Ordering::Acquire) < self.expected {
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

fn receive(mut socket: TcpStream, tally: &Tally, sender: &Thread) {
    let mut buffer = vec![0; 512 * 1024];
    let (mut header, mut header_length, mut body) = (0_usize, 0, 0);
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        let mut rest = &buffer[..count];
        let (mut records, mut plaintext) = (0, 0);
        while let Some((&first, behind)) = rest.split_first() {
            if body > 0 {
                let skipped = rest.len().min(body);
                body -= skipped;
                rest = &rest[skipped..];
                continue;
            }
            header = header << 8 | usize::from(first);
            header_length += 1;
            rest = behind;
            if header_length == 2 {
                records += 1;
                plaintext += header - TAG_LEN;
                body = header;
                (header, header_length) = (0, 0);
            }
        }
        tally.records.fetch_add(records, Ordering::Relaxed);
        tally
            .plaintext
            .fetch_add(plaintext as u64, Ordering::Release);
        sender.unpark();
    }
}
