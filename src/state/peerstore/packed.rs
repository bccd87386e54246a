//! The addresses of one peer in one allocation: bytes as on the wire, each
//! behind a head that says how long it may be kept and who said it.
//!
//! Bounds one address to 255 bytes. Which addresses stand here, in which
//! order and how many is for `entry`.

/// Longest address that is kept, in bytes: a relayed WebTransport address with
/// two certificate hashes takes half of it.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Length, class and source, expiry, last success.
const HEAD: usize = 1 + 1 + 4 + 4;

/// A moment in whole seconds, on the peerstore's own scale (see `Scale`).
pub(super) type Seconds = u32;

/// The expiry of what does not expire by itself.
pub(super) const NEVER: Seconds = Seconds::MAX;

/// How long an address is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// While the peer that announced it is connected.
    Connected = 0,
    /// For a time after the peer has left.
    RecentlyConnected = 1,
    /// For a shorter time: heard of, never seen.
    Discovered = 2,
    /// Until the configuration says otherwise.
    Permanent = 3,
}

/// Who said an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The peer, under its signature.
    Record = 0,
    /// The peer, over its own connection.
    Identify = 1,
    /// The operator.
    Operator = 2,
    /// Another peer.
    Other = 3,
}

impl Class {
    const ALL: [Self; 4] = [
        Self::Connected,
        Self::RecentlyConnected,
        Self::Discovered,
        Self::Permanent,
    ];

    /// From the number that files and memory keep.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl Source {
    const ALL: [Self; 4] = [Self::Record, Self::Identify, Self::Operator, Self::Other];

    /// From the number that files and memory keep.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether the peer itself said it.
    pub(super) const fn is_own(self) -> bool {
        matches!(self, Self::Record | Self::Identify)
    }
}

/// One address with what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) class: Class,
    pub(super) source: Source,
    /// When it goes. For a connected peer's it is when it would go if the peer
    /// had not come back, or 0.
    pub(super) expires: Seconds,
    /// When the peer was last seen at it; 0: never.
    pub(super) success: Seconds,
}

impl Held<'_> {
    /// What becomes of it when the peer has come back and does not announce it
    /// again: it expires when it would have if the peer had stayed away. What
    /// was announced since the peer came stays.
    pub(super) fn not_repeated(self) -> Self {
        match self.class {
            Class::Connected if self.expires != 0 => Self {
                class: Class::RecentlyConnected,
                ..self
            },
            _ => self,
        }
    }

    /// Whether it counts at `now`.
    pub(super) fn is_live(&self, now: Seconds) -> bool {
        match self.class {
            Class::Connected | Class::Permanent => true,
            Class::RecentlyConnected | Class::Discovered => self.expires > now,
        }
    }

    /// When it expires by itself.
    pub(super) fn expiry(&self) -> Seconds {
        match self.class {
            Class::Connected | Class::Permanent => NEVER,
            Class::RecentlyConnected | Class::Discovered => self.expires,
        }
    }
}

/// Addresses, packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// Packs these; one that is longer than [`ADDRESS_BYTES_MAX`] is left out,
    /// which callers have seen to.
    pub(super) fn new(addresses: &[Held<'_>]) -> Self {
        let room = addresses.iter().map(Self::room).sum();
        let mut packed = Vec::with_capacity(room);
        for held in addresses {
            let Ok(length) = u8::try_from(held.bytes.len()) else {
                debug_assert!(false, "an address that is too long was let through");
                continue;
            };
            packed.push(length);
            packed.push((held.class as u8) << 4 | held.source as u8);
            packed.extend_from_slice(&held.expires.to_be_bytes());
            packed.extend_from_slice(&held.success.to_be_bytes());
            packed.extend_from_slice(held.bytes);
        }
        Self(packed.into_boxed_slice())
    }

    /// Bytes that one address takes.
    pub(super) fn room(held: &Held<'_>) -> usize {
        HEAD + held.bytes.len()
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        Iter(&self.0)
    }

    /// Those that count at `now`.
    pub(super) fn live(&self, now: Seconds) -> impl Iterator<Item = Held<'_>> {
        self.iter().filter(move |held| held.is_live(now))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// The addresses in the order in which they were packed.
#[derive(Debug, Clone)]
pub(super) struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = Held<'a>;

    fn next(&mut self) -> Option<Held<'a>> {
        let (head, rest) = self.0.split_first_chunk::<HEAD>()?;
        let [length, kind, e0, e1, e2, e3, s0, s1, s2, s3] = *head;
        let (bytes, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some(Held {
            bytes,
            class: Class::from_number(kind >> 4)?,
            source: Source::from_number(kind & 0x0f)?,
            expires: u32::from_be_bytes([e0, e1, e2, e3]),
            success: u32::from_be_bytes([s0, s1, s2, s3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_back_in_order() {
        let long = [7; ADDRESS_BYTES_MAX];
        let mut held = Vec::new();
        for (index, class) in (1u32..).zip(Class::ALL) {
            for source in Source::ALL {
                let bytes = if index == 2 { &long[..] } else { b"short" };
                held.push(Held {
                    bytes,
                    class,
                    source,
                    expires: index,
                    success: NEVER - index,
                });
            }
        }
        let packed = Packed::new(&held);
        assert!(packed.iter().eq(held.iter().copied()));
        assert_eq!(Packed::default().iter().count(), 0);
    }

    #[test]
    fn three_usual_addresses_take_little() {
        let held = Held {
            bytes: &[0; 8],
            class: Class::Connected,
            source: Source::Identify,
            expires: 0,
            success: 0,
        };
        assert_eq!(Packed::new(&[held; 3]).bytes(), 54);
    }
}
