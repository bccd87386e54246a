//! What of rtnetlink's messages says which addresses this host has
//! (rtnetlink(7), `linux/if_addr.h`).
//!
//! Pure: requests out, parts of answers in. Numbers are in the host's byte
//! order. The kernel is trusted to mean well, not to say only what is known
//! here: what does not read is passed over.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::state::addresses::{InterfaceAddress, Standing};

const HEADER: usize = 16;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;

/// `NLM_F_REQUEST | NLM_F_DUMP`
const REQUEST_DUMP: u16 = 0x1 | 0x300;

const LINK_NAME: u16 = 3;
const LINK_UP: u32 = 0x1;

const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const FLAGS: u16 = 8;

const TEMPORARY: u32 = 0x01;
const DAD_FAILED: u32 = 0x08;
const DEPRECATED: u32 = 0x20;
const TENTATIVE: u32 = 0x40;

/// A table of the kernel's that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Links,
    Addresses,
}

impl Table {
    /// The question for all of it.
    pub(super) fn request(self) -> Vec<u8> {
        // Behind the header, a link's or an address's with nothing filled in.
        let (kind, body) = match self {
            Self::Links => (GET_LINK, 16_u32),
            Self::Addresses => (GET_ADDRESS, 8),
        };
        let length = 16 + body;
        let mut request = Vec::new();
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
        // The number tells answers apart; the kernel fills in the sender.
        request.extend_from_slice(&self.number().to_ne_bytes());
        request.resize(length as usize, 0);
        request
    }

    const fn number(self) -> u32 {
        match self {
            Self::Links => 1,
            Self::Addresses => 2,
        }
    }
}

/// What the kernel has told.
#[derive(Debug, Default)]
pub(super) struct Dump {
    links: HashMap<u32, Link>,
    addresses: Vec<(u32, IpAddr, u32)>,
}

#[derive(Debug)]
struct Link {
    name: String,
    up: bool,
}

impl Dump {
    /// Reads a part of the answer about `table`; whether it was the last.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn handle_part(&mut self, mut part: &[u8], table: Table) -> io::Result<bool> {
        while let Some((message, rest)) = Message::split(part) {
            part = rest;
            if message.number != table.number() {
                continue;
            }
            match message.kind {
                DONE => return Ok(true),
                ERROR => {
                    let code = i32::from_ne_bytes(bytes(message.body, 0).unwrap_or_default());
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                NEW_LINK => self.links.extend(link(message.body)),
                NEW_ADDRESS => self.addresses.extend(address(message.body)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The addresses, with what their interfaces say of them.
    pub(super) fn finish(self) -> Vec<InterfaceAddress> {
        let Self { links, addresses } = self;
        let listed = addresses.into_iter().filter_map(|(index, ip, flags)| {
            // An interface that has come between the two tables is told of.
            let link = links.get(&index)?;
            Some(InterfaceAddress {
                interface: link.name.clone(),
                ip,
                standing: standing(flags, link.up),
            })
        });
        listed.collect()
    }
}

/// What an address is to be used for; the flag of a temporary one is that of a
/// secondary one among IPv4 addresses, where it says nothing.
fn standing(flags: u32, up: bool) -> Standing {
    if !up {
        Standing::Down
    } else if flags & (TENTATIVE | DAD_FAILED) != 0 {
        Standing::Tentative
    } else if flags & DEPRECATED != 0 {
        Standing::Deprecated
    } else if flags & TEMPORARY != 0 {
        Standing::Temporary
    } else {
        Standing::Lasting
    }
}

fn link(body: &[u8]) -> Option<(u32, Link)> {
    let index = u32::from_ne_bytes(bytes(body, 4)?);
    let flags = u32::from_ne_bytes(bytes(body, 8)?);
    let (_, name) = attributes(body.get(16..)?).find(|(kind, _)| *kind == LINK_NAME)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let link = Link {
        name: String::from_utf8_lossy(name).into_owned(),
        up: flags & LINK_UP != 0,
    };
    Some((index, link))
}

fn address(body: &[u8]) -> Option<(u32, IpAddr, u32)> {
    let index = u32::from_ne_bytes(bytes(body, 4)?);
    let mut flags = u32::from(*body.get(2)?);
    let (mut ip, mut local) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ADDRESS => ip = ip_of(value),
            // Of a point-to-point link, the other is the far end's.
            LOCAL => local = ip_of(value),
            // All of them, of which the header holds eight.
            FLAGS => flags = u32::from_ne_bytes(bytes(value, 0)?),
            _ => {}
        }
    }
    let ip = local.or(ip)?;
    if ip.is_ipv4() {
        flags &= !TEMPORARY;
    }
    Some((index, ip, flags))
}

fn ip_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(bytes::<4>(value, 0)?).into()),
        16 => Some(Ipv6Addr::from(bytes::<16>(value, 0)?).into()),
        _ => None,
    }
}

/// One message of a part.
struct Message<'a> {
    kind: u16,
    number: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn split(part: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = u32::from_ne_bytes(bytes(part, 0)?) as usize;
        let message = Self {
            kind: u16::from_ne_bytes(bytes(part, 4)?),
            number: u32::from_ne_bytes(bytes(part, 8)?),
            body: part.get(HEADER..length)?,
        };
        Some((message, after(part, length)))
    }
}

/// The attributes at the end of a message, by kind.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes(rest, 0)?));
        let kind = u16::from_ne_bytes(bytes(rest, 2)?);
        let value = rest.get(4..length)?;
        rest = after(rest, length);
        Some((kind, value))
    })
}

/// What is behind `length` bytes and their padding.
fn after(part: &[u8], length: usize) -> &[u8] {
    part.get(length.next_multiple_of(4)..).unwrap_or_default()
}

fn bytes<const N: usize>(part: &[u8], at: usize) -> Option<[u8; N]> {
    part.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, number: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&number.to_ne_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn link_message(index: u32, flags: u32, name: &str) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend_from_slice(&index.to_ne_bytes());
        body.extend_from_slice(&flags.to_ne_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend(attribute(99, b"other"));
        body.extend(attribute(LINK_NAME, format!("{name}\0").as_bytes()));
        message(NEW_LINK, 1, &body)
    }

    fn address_message(index: u32, flags: u32, parts: &[(u16, IpAddr)]) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend_from_slice(&index.to_ne_bytes());
        for (kind, ip) in parts {
            match ip {
                IpAddr::V4(ip) => body.extend(attribute(*kind, &ip.octets())),
                IpAddr::V6(ip) => body.extend(attribute(*kind, &ip.octets())),
            }
        }
        body.extend(attribute(FLAGS, &flags.to_ne_bytes()));
        message(NEW_ADDRESS, 2, &body)
    }

    #[test]
    fn addresses_are_told_with_their_interface_and_how_long_they_last() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut dump = Dump::default();
        let mut links = link_message(1, LINK_UP, "lo");
        links.extend(link_message(2, LINK_UP, "tun0"));
        links.extend(link_message(3, 0, "eth1"));
        assert!(!dump.handle_part(&links, Table::Links).unwrap());
        let done = message(DONE, 1, &[0; 4]);
        assert!(dump.handle_part(&done, Table::Links).unwrap());
        let far = (ADDRESS, ip("10.0.0.1"));
        let mut parts = address_message(2, TEMPORARY, &[far, (LOCAL, ip("10.0.0.2"))]);
        for (index, flags, text) in [
            (1, 0x80, "::1"),
            (2, TEMPORARY, "2606::1"),
            (2, TEMPORARY | DEPRECATED, "2606::2"),
            (2, TENTATIVE, "2606::3"),
            (3, 0, "2606::4"),
            (9, 0, "2606::5"),
        ] {
            parts.extend(address_message(index, flags, &[(ADDRESS, ip(text))]));
        }
        parts.extend(message(DONE, 2, &[0; 4]));
        assert!(dump.handle_part(&parts, Table::Addresses).unwrap());
        let told = dump.finish().into_iter();
        let told: Vec<_> = told
            .map(|held| (held.interface, held.ip.to_string(), held.standing))
            .collect();
        let expected = [
            ("tun0", "10.0.0.2", Standing::Lasting),
            ("lo", "::1", Standing::Lasting),
            ("tun0", "2606::1", Standing::Temporary),
            ("tun0", "2606::2", Standing::Deprecated),
            ("tun0", "2606::3", Standing::Tentative),
            ("eth1", "2606::4", Standing::Down),
        ]
        .map(|(name, ip, standing)| (name.to_owned(), ip.to_owned(), standing));
        assert_eq!(told, expected);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let refused = message(ERROR, 2, &(-1_i32).to_ne_bytes());
        let error = Dump::default()
            .handle_part(&refused, Table::Addresses)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(part in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut dump = Dump::default();
            let _ = dump.handle_part(&part, Table::Addresses);
            let _ = link(&part);
            let _ = address(&part);
            prop_assert!(dump.finish().is_empty());
        }
    }
}
