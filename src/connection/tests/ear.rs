//! What a peer hears: records opened in order, frames taken apart, bytes kept
//! by stream.

use std::collections::BTreeMap;

use crate::engine::{
    demux::{Demux, Event, Side, StreamId},
    muxer::Muxer,
    record::{OpenKey, Opened, RecordError},
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
    /// Those of them with which the server has taken a new key.
    pub(in crate::connection) renewals: usize,
    /// What the record layer has said at the end, where it has words for it: 0 if
    /// nothing was wrong.
    pub(in crate::connection) alert: Option<u8>,
    pub(in crate::connection) open: OpenKey,
    demux: Demux,
    partial: Vec<u8>,
}

impl Ear {
    pub(in crate::connection) fn new(muxer: Muxer, open: OpenKey) -> Self {
        Self {
            streams: BTreeMap::new(),
            session: Vec::new(),
            records: 0,
            renewals: 0,
            alert: None,
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
        let framing = self.open.framing();
        while let Some(length) = framing.announced(rest).expect("a record") {
            if rest.len() < length {
                break;
            }
            let (record, after) = rest.split_at_mut(length);
            assert_eq!(self.alert, None, "something behind the end");
            let mut opener = self.open.expand().expect("a key");
            let opened = opener.open(&mut record[framing.header()..]);
            self.records += 1;
            let mut plaintext: &[u8] = match opened {
                Ok(Opened::Plaintext(plaintext)) => plaintext,
                Ok(Opened::Nothing) => {
                    self.renewals += 1;
                    &[]
                }
                Ok(Opened::Renew) => panic!("the server has asked for a new key"),
                Ok(Opened::Closed) => {
                    self.alert = Some(0);
                    &[]
                }
                Err(RecordError::Alert(alert)) => {
                    self.alert = Some(alert);
                    &[]
                }
                Err(error) => panic!("not authentic or not in order: {error}"),
            };
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
