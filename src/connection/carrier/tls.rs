//! TLS 1.3 as a layer, around WebSocket: records opened and sealed in place by
//! the same record layer that connections have.
//!
//! Bounds what is kept to one incomplete record. The handshake is over when a
//! layer is made; once it has closed it sends nothing more.

use crate::connection::pool;
use crate::engine::record::{OpenKey, Opened, RecordError, SealKey};

use super::layer::{Asides, Decoded};

/// Room for the records that carry no bytes: a new key, and the end.
const OWN_MAX: usize = 128;

/// The receiving side.
pub struct RecordDecoder {
    open: OpenKey,
    /// The beginning of a record whose end has not arrived.
    partial: Vec<u8>,
    /// The peer has said that nothing more comes.
    ended: bool,
}

/// The sending side.
pub struct RecordEncoder {
    seal: SealKey,
    closed: bool,
}

impl RecordDecoder {
    /// Opens what comes behind a handshake.
    #[must_use]
    pub const fn new(open: OpenKey) -> Self {
        Self {
            open,
            partial: Vec::new(),
            ended: false,
        }
    }

    pub(super) fn kept(&self) -> usize {
        self.partial.len()
    }

    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        asides: &mut Asides,
    ) -> Result<Decoded, RecordError> {
        let kept = self.partial.len();
        bytes[..kept].copy_from_slice(&self.partial);
        pool::give(std::mem::take(&mut self.partial));
        let framing = self.open.framing();
        let mut opener = self.open.expand()?;
        let (mut at, mut length) = (0, 0);
        while !self.ended
            && let Some(record) = framing.announced(&bytes[at..])?
        {
            let body = at + framing.header();
            let Some(record) = bytes.get_mut(body..at + record) else {
                break;
            };
            at = body + record.len();
            match opener.open(record)? {
                Opened::Plaintext(plaintext) => {
                    let end = body + plaintext.len();
                    bytes.copy_within(body..end, length);
                    length += end - body;
                }
                Opened::Nothing => {}
                Opened::Renew => asides.renew = true,
                Opened::Closed => self.ended = true,
            }
        }
        if at < bytes.len() && !self.ended {
            let mut partial = pool::take(bytes.len() - at);
            partial.extend_from_slice(&bytes[at..]);
            self.partial = partial;
        }
        Ok(Decoded {
            length,
            ended: self.ended,
        })
    }
}

/// A connection may end in the middle of a record.
impl Drop for RecordDecoder {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.partial));
    }
}

impl RecordEncoder {
    /// Seals what goes out behind a handshake.
    #[must_use]
    pub const fn new(seal: SealKey) -> Self {
        let closed = false;
        Self { seal, closed }
    }

    pub(super) fn encode(
        &mut self,
        bytes: &mut Vec<u8>,
        asides: &Asides,
    ) -> Result<(), RecordError> {
        if self.closed {
            bytes.clear();
            return Ok(());
        }
        let framing = self.seal.framing();
        let records = bytes.len().div_ceil(framing.plaintext_max());
        let needed = bytes.len() + records * (framing.header() + framing.trailer()) + OWN_MAX;
        let mut sealed = pool::take(needed);
        let outcome = self.append(bytes, asides, &mut sealed);
        pool::give(std::mem::replace(bytes, sealed));
        outcome
    }

    fn append(
        &mut self,
        bytes: &[u8],
        asides: &Asides,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        if asides.renew || self.seal.is_worn() {
            self.seal.renew(out)?;
        }
        let framing = self.seal.framing();
        if !bytes.is_empty() {
            let mut sealer = self.seal.expand()?;
            for part in bytes.chunks(framing.plaintext_max()) {
                let start = out.len();
                out.resize(start + framing.header(), 0);
                out.extend_from_slice(part);
                out.resize(out.len() + framing.trailer(), 0);
                sealer.seal(&mut out[start..])?;
            }
        }
        if asides.close.is_some() {
            self.closed = true;
            self.seal.close(out)?;
        }
        Ok(())
    }
}
