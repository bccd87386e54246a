//! One connection with one stream at a time, driven in the order in which the
//! questions are asked.
//!
//! Bounds what is kept: one incomplete record and one read on the way in, and
//! of the stream's bytes what the question's codec has not yet refused or
//! taken. Grants no credit: no answer comes near a stream's first window.
//! Streams that the server opens are left unanswered, since a probe serves
//! nothing; refused, they would stop rust-libp2p from answering our pings.

use std::future::poll_fn;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::ProbeError;
use crate::connection::carrier::{Carrier, layer};
use crate::engine::{
    batch::Batch,
    demux::{Demux, Event, Side, StreamId},
    frames::{self, Greeting},
    muxer::Muxer,
    negotiate::{Dialer, Reply},
    record::{Alert, OpenKey, Opened, SealKey},
};
use crate::upgrade::Upgraded;
use crate::wire::yamux::GoAwayCode;

/// Bytes read at once.
const READ_MAX: usize = 16 * 1024;

/// An upgraded connection from the dialer's side.
pub(super) struct Session {
    carrier: Carrier<TcpStream>,
    muxer: Muxer,
    seal: SealKey,
    open: OpenKey,
    demux: Demux,
    /// Bytes from the carrier that are not a whole record yet.
    sealed: Vec<u8>,
    batch: Batch,
    opened: u32,
    stream: Option<Stream>,
}

/// The stream that a question is asked on.
struct Stream {
    id: StreamId,
    protocol: &'static str,
    /// What came on it and was not taken yet.
    inbox: Vec<u8>,
    ended: bool,
}

impl Session {
    /// Starts with what came glued to the handshake.
    pub(super) fn begin(upgraded: Upgraded<TcpStream>) -> Result<Self, ProbeError> {
        let mut session = Self {
            carrier: Carrier::resumed(upgraded.socket, upgraded.layers),
            muxer: upgraded.muxer,
            batch: Batch::framed(upgraded.seal.framing()),
            seal: upgraded.seal,
            open: upgraded.open,
            demux: Demux::new(upgraded.muxer, Side::Dialer),
            sealed: upgraded.ciphertext,
            opened: 0,
            stream: None,
        };
        session.frames(&upgraded.plaintext)?;
        session.records()?;
        Ok(session)
    }

    /// Opens a stream, in place of the one before, and agrees on a protocol.
    pub(super) async fn open(&mut self, protocol: &'static str) -> Result<(), ProbeError> {
        let id = match self.muxer {
            Muxer::Yamux => StreamId::yamux(self.opened * 2 + 1),
            Muxer::Mplex => StreamId::mplex(self.opened.into(), true),
        };
        self.opened += 1;
        self.stream = Some(Stream {
            id,
            protocol,
            inbox: Vec::new(),
            ended: false,
        });
        let mut proposal = Vec::new();
        let mut dialer = Dialer::propose(protocol, &mut proposal);
        frames::data(self.muxer, id, Greeting::Open, &proposal, &mut self.batch);
        self.flush().await?;
        loop {
            let reply = dialer.handle_input(self.inbox());
            match reply.map_err(|error| ProbeError::Negotiate { protocol, error })? {
                Reply::Accepted { consumed } => {
                    self.take(consumed);
                    return Ok(());
                }
                Reply::Refused { .. } => return Err(ProbeError::NotOffered(protocol)),
                Reply::NeedMore => self.take(self.inbox().len()),
            }
            self.hear().await?;
        }
    }

    /// Sends bytes on the stream.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), ProbeError> {
        let stream = self.stream.as_ref().expect("opened before");
        let (muxer, id) = (self.muxer, stream.id);
        frames::data(muxer, id, Greeting::None, bytes, &mut self.batch);
        self.flush().await
    }

    /// What has come on the stream and is not taken yet.
    pub(super) fn inbox(&self) -> &[u8] {
        self.stream.as_ref().map_or(&[], |stream| &stream.inbox)
    }

    /// Takes bytes off the front of the inbox.
    pub(super) fn take(&mut self, count: usize) {
        if let Some(stream) = &mut self.stream {
            stream.inbox.drain(..count);
        }
    }

    /// Whether the server has ended or reset the stream.
    pub(super) fn has_ended(&self) -> bool {
        self.stream.as_ref().is_none_or(|stream| stream.ended)
    }

    /// Waits for more on the stream.
    pub(super) async fn hear(&mut self) -> Result<(), ProbeError> {
        if let Some(stream) = self.stream.as_ref().filter(|stream| stream.ended) {
            return Err(ProbeError::StreamEnded(stream.protocol));
        }
        let mut buffer = vec![0; READ_MAX + layer::KEPT_MAX];
        let read = poll_fn(|cx| self.carrier.poll_receive(cx, &mut buffer)).await;
        let read = read.map_err(ProbeError::Carrier)?;
        if read == 0 {
            return Err(ProbeError::Closed);
        }
        self.sealed.extend_from_slice(&buffer[..read]);
        self.records()?;
        self.flush().await
    }

    /// Says that nothing more will be asked on the stream.
    pub(super) async fn finish(&mut self) -> Result<(), ProbeError> {
        if let Some(stream) = self.stream.take() {
            frames::finish(self.muxer, stream.id, Greeting::None, &mut self.batch);
        }
        self.flush().await
    }

    /// Says goodbye and closes the connection.
    pub(super) async fn end(mut self) -> Result<(), ProbeError> {
        frames::go_away(self.muxer, GoAwayCode::Normal, &mut self.batch);
        self.batch.close(Alert::CLOSE_NOTIFY);
        self.flush().await?;
        let (mut socket, _) = self.carrier.into_parts();
        socket.shutdown().await.map_err(ProbeError::Io)
    }

    /// Sends what was gathered as one write.
    async fn flush(&mut self) -> Result<(), ProbeError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = self.batch.take();
        let (bytes, _) = batch.seal(&mut self.seal).map_err(ProbeError::Record)?;
        self.carrier.enqueue(&bytes).map_err(ProbeError::Carrier)?;
        poll_fn(|cx| self.carrier.poll_flush(cx))
            .await
            .map_err(ProbeError::Io)
    }

    /// Opens every whole record that is here.
    fn records(&mut self) -> Result<(), ProbeError> {
        let mut sealed = std::mem::take(&mut self.sealed);
        let mut done = 0;
        let framing = self.open.framing();
        loop {
            let announced = framing.announced(&sealed[done..]);
            let Some(length) = announced.map_err(ProbeError::Record)? else {
                break;
            };
            let body = done + framing.header()..done + length;
            let Some(record) = sealed.get_mut(body) else {
                break;
            };
            let opened = self.open.expand().and_then(|mut key| key.open(record));
            match opened.map_err(ProbeError::Record)? {
                Opened::Plaintext(plaintext) => self.frames(plaintext)?,
                Opened::Nothing => {}
                Opened::Renew => self.batch.renew_key(),
                Opened::Closed => return Err(ProbeError::Closed),
            }
            done += length;
        }
        sealed.drain(..done);
        self.sealed = sealed;
        Ok(())
    }

    fn frames(&mut self, mut plaintext: &[u8]) -> Result<(), ProbeError> {
        while let Some(event) = self.demux.next(&mut plaintext).map_err(ProbeError::Muxer)? {
            let current = self.stream.as_mut();
            let on = |id| current.filter(|stream| stream.id == id && !stream.ended);
            match event {
                Event::Data(id, bytes) => {
                    if let Some(stream) = on(id) {
                        stream.inbox.extend_from_slice(bytes);
                    }
                }
                Event::Finished(id) | Event::Reset(id) => {
                    if let Some(stream) = on(id) {
                        stream.ended = true;
                    }
                }
                Event::Ping(value) => frames::pong(value, &mut self.batch),
                // Our questions are far smaller than a stream's first window.
                Event::Credit(..) | Event::Opened(_) | Event::Pong(_) => {}
                Event::GoAway(code) => return Err(ProbeError::GoAway(code)),
            }
        }
        Ok(())
    }
}
