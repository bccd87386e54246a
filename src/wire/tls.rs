//! As much of TLS as has to be known before a handshake: where a record ends,
//! and which protocols a client hello offers (RFC 8446 §4.1.2 and §5.1,
//! RFC 7301 §3.1).
//!
//! A record is bounded by its two length bytes, the list of protocols by the
//! hello. The handshake itself is left to rustls.

use super::DecodeError;

/// Bytes of type, version and length in front of each record.
pub const RECORD_HEADER_LEN: usize = 5;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const PROTOCOLS: u16 = 16;

/// Length of the record at the front of `input`, its header included, as soon
/// as the header is there.
#[must_use]
pub fn record_len(input: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = *input.first_chunk::<RECORD_HEADER_LEN>()?;
    Some(RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([high, low])))
}

/// The protocols that the client hello in `record` offers, best first; none if
/// it offers none. `record` is the first one of a connection, with its header.
///
/// # Errors
/// `Malformed` if this is no client hello, or not all of one: nothing stops a
/// client from cutting its hello over several records, and none does.
pub fn offered_protocols(record: &[u8]) -> Result<Protocols<'_>, DecodeError> {
    let mut record = Reader(record);
    if record.array::<RECORD_HEADER_LEN>()?[0] != HANDSHAKE || record.byte()? != CLIENT_HELLO {
        return Err(DecodeError::Malformed("not a client hello"));
    }
    let [high, middle, low] = record.array()?;
    let length = u32::from_be_bytes([0, high, middle, low]);
    let length = usize::try_from(length).map_err(|_| CUT_SHORT)?;
    let mut hello = Reader(record.slice(length)?);
    // Version and random, session id, suites, compression.
    hello.array::<34>()?;
    let session = hello.byte()?;
    hello.slice(usize::from(session))?;
    hello.long()?;
    let compression = hello.byte()?;
    hello.slice(usize::from(compression))?;
    let mut extensions = Reader(hello.long()?);
    while !extensions.0.is_empty() {
        let kind = u16::from_be_bytes(extensions.array()?);
        let content = extensions.long()?;
        if kind == PROTOCOLS {
            return Ok(Protocols(Reader(Reader(content).long()?)));
        }
    }
    Ok(Protocols(Reader(&[])))
}

const CUT_SHORT: DecodeError = DecodeError::Malformed("client hello cut short");

/// The names in a list of protocols; ends at one that is cut short.
pub struct Protocols<'a>(Reader<'a>);

impl<'a> Iterator for Protocols<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = self.0.byte().ok()?;
        self.0.slice(usize::from(length)).ok()
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(*array)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (slice, rest) = self.0.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(slice)
    }

    /// What two bytes of length announce.
    fn long(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = u16::from_be_bytes(self.array()?);
        self.slice(usize::from(length))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(protocols: &[&str]) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let mut client =
            ClientConnection::new(Arc::new(config), "name.test".try_into().unwrap()).unwrap();
        let mut record = Vec::new();
        client.write_tls(&mut record).unwrap();
        record
    }

    #[test]
    fn finds_what_a_client_offers_in_its_order() {
        for offered in [
            &["/mplex/6.7.0", "/yamux/1.0.0", "libp2p"][..],
            &["h2"],
            &[],
        ] {
            let record = hello(offered);
            assert_eq!(record_len(&record), Some(record.len()));
            let found: Vec<_> = offered_protocols(&record).unwrap().collect();
            let expected: Vec<_> = offered.iter().map(|name| name.as_bytes()).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_hello_cut_short_is_none() {
        let record = hello(&["libp2p"]);
        for length in 0..record.len() {
            assert!(offered_protocols(&record[..length]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_change_is_survived(
            at in any::<prop::sample::Index>(),
            bytes in prop::collection::vec(any::<u8>(), 1..8),
        ) {
            let mut record = hello(&["/yamux/1.0.0", "libp2p"]);
            let at = at.index(record.len() - bytes.len());
            record[at..at + bytes.len()].copy_from_slice(&bytes);
            if let Ok(protocols) = offered_protocols(&record) {
                prop_assert!(protocols.count() < record.len());
            }
        }
    }
}
