//! Packet protection of QUIC's 1-RTT packets (RFC 9001 §5) with keys that are
//! kept as their bytes.
//!
//! A prepared AES-GCM context is 640 bytes and one for headers 500; four and two
//! of them would be a tenth of what an idle connection takes. A thread has
//! places for prepared ones ([`PREPARED`] of each kind), which keys take from each
//! other: a connection that carries a circuit finds its own there more often than
//! not, one that says a word in fifteen seconds prepares them anew, in a quarter of
//! a microsecond. Each worker has its own connections, so that nothing is prepared
//! twice.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{
    Aad, LessSafeKey, Nonce,
    quic::{AES_128, AES_256, CHACHA20, HeaderProtectionKey},
};
use bytes::BytesMut;
use quinn_proto::crypto::{self, CryptoError, KeyPair};

use crate::engine::record::{Secret, Suite, TAG_LEN};

/// Keys of each kind that a thread keeps prepared, 300 KiB in all once there are
/// so many.
const PREPARED: usize = 256;

/// Where the packet number begins to be the sample (RFC 9001 §5.4.2), and how
/// long the sample is.
const SAMPLE_AT: usize = 4;
const SAMPLE_LEN: usize = 16;

/// Packets that AES-GCM may seal with one key, and of forged ones how many may
/// fail to open (RFC 9001 §6.6).
const AES_SEALED_MAX: u64 = 1 << 23;
const AES_FORGED_MAX: u64 = 1 << 52;
/// The same of ChaCha20-Poly1305.
const CHACHA20_SEALED_MAX: u64 = u64::MAX;
const CHACHA20_FORGED_MAX: u64 = 1 << 36;

/// The secrets of both directions, from which keys are made.
pub(super) struct Secrets {
    pub(super) suite: Suite,
    pub(super) local: Secret,
    pub(super) remote: Secret,
}

impl Secrets {
    /// The keys of packets.
    pub(super) fn packet_keys(&self) -> KeyPair<Box<dyn crypto::PacketKey>> {
        KeyPair {
            local: Box::new(PacketKey::new(self.suite, &self.local)),
            remote: Box::new(PacketKey::new(self.suite, &self.remote)),
        }
    }

    /// The keys of headers, which stay for good (RFC 9001 §6.1).
    pub(super) fn header_keys(&self) -> KeyPair<Box<dyn crypto::HeaderKey>> {
        KeyPair {
            local: Box::new(HeaderKey::new(self.suite, &self.local)),
            remote: Box::new(HeaderKey::new(self.suite, &self.remote)),
        }
    }

    /// The secrets behind the next key update (RFC 9001 §6.1).
    pub(super) fn next(&self) -> Self {
        Self {
            suite: self.suite,
            local: self.local.next(self.suite, b"quic ku"),
            remote: self.remote.next(self.suite, b"quic ku"),
        }
    }
}

/// A key and what makes it known to the threads' prepared ones.
struct Key {
    /// Given at first use, so that keys that wait for an update take no place;
    /// 0 before.
    id: AtomicU64,
    suite: Suite,
    bytes: [u8; 32],
}

impl Key {
    fn new(suite: Suite, secret: &Secret, label: &[u8]) -> Self {
        let mut bytes = [0; 32];
        secret.expand_label(suite, label, &mut bytes[..suite.key_len()]);
        Self {
            id: AtomicU64::new(0),
            suite,
            bytes,
        }
    }

    /// A number that no other key of this kind has.
    fn id(&self, given: &AtomicU64) -> u64 {
        let id = self.id.load(Ordering::Relaxed);
        if id != 0 {
            return id;
        }
        let new = given.fetch_add(1, Ordering::Relaxed) + 1;
        let was = self
            .id
            .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
        was.err().unwrap_or(new)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.suite.key_len()]
    }
}

/// What a thread has prepared, each where its id says.
struct Prepared<T>(RefCell<Vec<Place<T>>>);

/// A key's number, and what was made of it.
type Place<T> = Option<Box<(u64, T)>>;

/// Numbers that have been given to keys of packets, and to those of headers.
static PACKET_KEYS_GIVEN: AtomicU64 = AtomicU64::new(0);
static HEADER_KEYS_GIVEN: AtomicU64 = AtomicU64::new(0);

impl<T> Prepared<T> {
    const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    fn with<R>(&self, id: u64, prepare: impl FnOnce() -> T, work: impl FnOnce(&T) -> R) -> R {
        let mut places = self.0.borrow_mut();
        if places.is_empty() {
            places.resize_with(PREPARED, || None);
        }
        let place = &mut places[place(id)];
        if place.as_ref().is_none_or(|held| held.0 != id) {
            *place = None;
        }
        let held = place.get_or_insert_with(|| Box::new((id, prepare())));
        work(&held.1)
    }

    /// Its key is no more.
    fn forget(&self, id: u64) {
        let mut places = self.0.borrow_mut();
        if let Some(place) = places.get_mut(place(id)) {
            place.take_if(|held| held.0 == id);
        }
    }
}

fn place(id: u64) -> usize {
    usize::try_from(id % PREPARED as u64).expect("less than the places")
}

thread_local! {
    static PACKET_KEYS: Prepared<LessSafeKey> = const { Prepared::new() };
    static HEADER_KEYS: Prepared<HeaderProtectionKey> = const { Prepared::new() };
}

/// Protects the packets of one direction.
struct PacketKey {
    key: Key,
    iv: [u8; 12],
}

impl PacketKey {
    fn new(suite: Suite, secret: &Secret) -> Self {
        let key = Key::new(suite, secret, b"quic key");
        let mut iv = [0; 12];
        secret.expand_label(suite, b"quic iv", &mut iv);
        Self { key, iv }
    }

    fn with<R>(&self, work: impl FnOnce(&LessSafeKey) -> R) -> R {
        let prepare = || {
            let key = self.key.suite.prepare(self.key.bytes());
            key.expect("as long as its suite says")
        };
        let id = self.key.id(&PACKET_KEYS_GIVEN);
        PACKET_KEYS.with(|keys| keys.with(id, prepare, work))
    }

    /// RFC 9001 §5.3: the packet number over the end of the vector.
    fn nonce(&self, packet: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, counted) in nonce[4..].iter_mut().zip(packet.to_be_bytes()) {
            *byte ^= counted;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Drop for PacketKey {
    fn drop(&mut self) {
        // On a thread that ends there is nothing left to forget.
        let _ = PACKET_KEYS.try_with(|keys| keys.forget(self.key.id.load(Ordering::Relaxed)));
    }
}

impl crypto::PacketKey for PacketKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (header, rest) = buf.split_at_mut(header_len);
        let (payload, room) = rest.split_at_mut(rest.len() - TAG_LEN);
        let nonce = self.nonce(packet);
        let tag = self
            .with(|key| key.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload))
            .expect("a packet is shorter than what an AEAD takes");
        room.copy_from_slice(tag.as_ref());
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let nonce = self.nonce(packet);
        let length = self
            .with(|key| {
                let opened = key.open_in_place(nonce, Aad::from(header), payload);
                opened.map(|plaintext| plaintext.len())
            })
            .map_err(|_| CryptoError)?;
        payload.truncate(length);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_LEN
    }

    fn confidentiality_limit(&self) -> u64 {
        match self.key.suite {
            Suite::Aes128 | Suite::Aes256 => AES_SEALED_MAX,
            Suite::ChaCha20 => CHACHA20_SEALED_MAX,
        }
    }

    fn integrity_limit(&self) -> u64 {
        match self.key.suite {
            Suite::Aes128 | Suite::Aes256 => AES_FORGED_MAX,
            Suite::ChaCha20 => CHACHA20_FORGED_MAX,
        }
    }
}

/// Protects the headers of one direction.
struct HeaderKey(Key);

impl HeaderKey {
    fn new(suite: Suite, secret: &Secret) -> Self {
        Self(Key::new(suite, secret, b"quic hp"))
    }

    /// What lies over the first byte and the packet number (RFC 9001 §5.4.1);
    /// nothing if the packet is too short to tell.
    fn mask(&self, pn_offset: usize, packet: &[u8]) -> Option<[u8; 5]> {
        let sample = packet.get(pn_offset + SAMPLE_AT..)?.get(..SAMPLE_LEN)?;
        let prepare = || {
            let algorithm = match self.0.suite {
                Suite::Aes128 => &AES_128,
                Suite::Aes256 => &AES_256,
                Suite::ChaCha20 => &CHACHA20,
            };
            HeaderProtectionKey::new(algorithm, self.0.bytes()).expect("as long as its suite says")
        };
        let id = self.0.id(&HEADER_KEYS_GIVEN);
        HEADER_KEYS.with(|keys| {
            let mask = keys.with(id, prepare, |key| key.new_mask(sample));
            mask.ok()
        })
    }
}

impl Drop for HeaderKey {
    fn drop(&mut self) {
        let _ = HEADER_KEYS.try_with(|keys| keys.forget(self.0.id.load(Ordering::Relaxed)));
    }
}

impl crypto::HeaderKey for HeaderKey {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        if let Some([first, number @ ..]) = self.mask(pn_offset, packet) {
            packet[0] ^= first & protected_bits(packet[0]);
            lay_over(number, pn_offset, packet[0], packet);
        }
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        if let Some([first, number @ ..]) = self.mask(pn_offset, packet) {
            let plain = packet[0];
            packet[0] ^= first & protected_bits(plain);
            lay_over(number, pn_offset, plain, packet);
        }
    }

    fn sample_size(&self) -> usize {
        SAMPLE_LEN
    }
}

/// The bits of a first byte that are protected: four of a long header, five of a
/// short one.
const fn protected_bits(first: u8) -> u8 {
    if first & 0x80 == 0 { 0x1f } else { 0x0f }
}

/// Lays the mask over a packet number, whose length the plain first byte tells.
fn lay_over(mask: [u8; 4], pn_offset: usize, first: u8, packet: &mut [u8]) {
    let length = usize::from(first & 3) + 1;
    for (byte, mask) in packet[pn_offset..].iter_mut().zip(mask).take(length) {
        *byte ^= mask;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use quinn_proto::crypto::{HeaderKey as _, PacketKey as _};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    fn chacha20() -> Secret {
        let secret = "9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b";
        Secret::new(&hex(secret)).unwrap()
    }

    // RFC 9001, appendix A.5.
    #[test]
    fn a_short_header_packet_is_what_the_rfc_shows() {
        let packet_key = PacketKey::new(Suite::ChaCha20, &chacha20());
        let header_key = HeaderKey::new(Suite::ChaCha20, &chacha20());
        let mut packet = hex("4200bff401");
        packet.resize(packet.len() + TAG_LEN, 0);
        packet_key.encrypt(654_360_564, &mut packet, 4);
        header_key.encrypt(1, &mut packet);
        assert_eq!(packet, hex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb"));

        header_key.decrypt(1, &mut packet);
        assert_eq!(packet[..4], hex("4200bff4"));
        let mut payload = BytesMut::from(&packet[4..]);
        packet_key
            .decrypt(654_360_564, &packet[..4], &mut payload)
            .unwrap();
        assert_eq!(payload, [1][..]);
    }

    // RFC 9001, appendix A.5: "ku".
    #[test]
    fn the_next_secret_is_what_the_rfc_shows() {
        let secrets = Secrets {
            suite: Suite::ChaCha20,
            local: chacha20(),
            remote: chacha20(),
        };
        let next = "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9";
        let next = Secret::new(&hex(next)).unwrap();
        assert!(secrets.next().local == next && secrets.next().remote == next);
    }

    #[test]
    fn keys_that_share_a_place_do_not_open_each_other() {
        for suite in [Suite::Aes128, Suite::Aes256, Suite::ChaCha20] {
            let keys: Vec<PacketKey> = (0..=PREPARED)
                .map(|at| {
                    let mut bytes = [7; 48];
                    bytes[..8].copy_from_slice(&at.to_le_bytes());
                    PacketKey::new(suite, &Secret::new(&bytes).unwrap())
                })
                .collect();
            // Every key twice, so that each is prepared, replaced and prepared again.
            for _ in 0..2 {
                for key in &keys {
                    let mut packet = *b"header and some payload ................";
                    let plain = packet;
                    key.encrypt(3, &mut packet, 6);
                    let mut payload = BytesMut::from(&packet[6..]);
                    key.decrypt(3, &packet[..6], &mut payload).unwrap();
                    assert_eq!(payload, plain[6..plain.len() - TAG_LEN]);
                    let mut payload = BytesMut::from(&packet[6..]);
                    assert!(keys[1].decrypt(4, &packet[..6], &mut payload).is_err());
                }
            }
            let (first, last) = (&keys[0], &keys[PREPARED]);
            let mut packet = *b"header and some payload ................";
            first.encrypt(9, &mut packet, 6);
            let mut payload = BytesMut::from(&packet[6..]);
            assert!(last.decrypt(9, &packet[..6], &mut payload).is_err());
        }
    }

    #[test]
    fn a_packet_that_is_too_short_is_left_alone() {
        let key = HeaderKey::new(Suite::Aes128, &chacha20());
        let mut packet = [0x41; 20];
        key.decrypt(1, &mut packet);
        assert_eq!(packet, [0x41; 20]);
    }
}
