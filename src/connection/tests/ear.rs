//! What a peer hears: records opened in order, frames taken apart, bytes kept
//! by stream.

use std::collections::BTreeMap;

use crate::engine::{
    demux::{Demux, Event, Side, StreamId},
    muxer::Muxer,
    record::{HEADER_LEN, OpenKey},
};

/// What was heard on one stream.
#[derive(Debug, Default)]
pub(in crate::connection) struct Heard {
    /// The server opened it.
    pub(in crate::connection) opened: bool,
    pub(in crate::connection) bytes: Vec<u8>,
    pub(in crate::connection) credit: u64,
    pub(in crate::connection) finished: bool,
    pub(in crate::connection) reset: bool,
}

/// What was heard of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connection) enum Session {
    Ping(u32),
    Pong(u32),
    GoAway(u32),
}

/// The receiving half of a dialer.
pub(in crate::connection) struct Ear {
    pub(in crate::connection) streams: BTreeMap<StreamId, Heard>,
    pub(in crate::connection) session: Vec<Session>,
    /// Records opened.
    pub(in crate::connection) records: usize,
    open: OpenKey,
    demux: Demux,
    partial: Vec<u8>,
}

impl Ear {
    pub(in crate::connection) fn new(muxer: Muxer, open: OpenKey) -> Self {
        Self {
            streams: BTreeMap::new(),
            session: Vec::new(),
            records: 0,
            open,
            demux: Demux::new(muxer, Side::Dialer),
            partial: Vec::new(),
        }
    }

    /// Takes what was read; the payload that it brought, in its order.
    pub(in crate::connection) fn hear(&mut self, input: &[u8]) -> Vec<(StreamId, u32)> {
        self.partial.extend_from_slice(input);
        let mut bytes = std::mem::take(&mut self.partial);
        let mut rest = &mut bytes[..];
        let mut payloads = Vec::new();
        while let Some(length) = rest.first_chunk::<HEADER_LEN>() {
            let length = HEADER_LEN + usize::from(u16::from_be_bytes(*length));
            if rest.len() < length {
                break;
            }
            let (record, after) = rest.split_at_mut(length);
            let plaintext = self.open.open(&mut record[HEADER_LEN..]);
            let mut plaintext: &[u8] = plaintext.expect("authentic and in order");
            self.records += 1;
            while let Some(event) = self.demux.next(&mut plaintext).expect("frames") {
                payloads.extend(self.keep(event));
            }
            rest = after;
        }
        self.partial = rest.to_vec();
        payloads
    }

    fn keep(&mut self, event: Event<'_>) -> Option<(StreamId, u32)> {
        match event {
            Event::Opened(stream) => {
                let opened = Heard {
                    opened: true,
                    ..Heard::default()
                };
                self.streams.insert(stream, opened);
            }
            Event::Data(stream, bytes) => {
                self.stream(stream).bytes.extend_from_slice(bytes);
                return Some((stream, u32::try_from(bytes.len()).expect("in a record")));
            }
            Event::Finished(stream) => self.stream(stream).finished = true,
            Event::Reset(stream) => self.stream(stream).reset = true,
            Event::Credit(stream, credit) => self.stream(stream).credit += u64::from(credit),
            Event::Ping(value) => self.session.push(Session::Ping(value)),
            Event::Pong(value) => self.session.push(Session::Pong(value)),
            Event::GoAway(code) => self.session.push(Session::GoAway(code)),
        }
        None
    }

    fn stream(&mut self, stream: StreamId) -> &mut Heard {
        self.streams.entry(stream).or_default()
    }
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let streams = self.streams.iter().map(|(stream, heard)| {
            let Heard {
                opened,
                bytes,
                credit,
                finished,
                reset,
            } = heard;
            let bytes = bytes.len();
            format!(
                "{stream:?}: opened {opened} bytes {bytes} credit {credit} finished {finished} reset {reset}"
            )
        });
        f.debug_struct("Ear")
            .field("streams", &streams.collect::<Vec<_>>())
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
