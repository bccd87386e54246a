//! A peer id in the shortest form that tables can hold.
//!
//! `PeerId` has room for any multihash and takes 80 bytes. The ids that keys of
//! libp2p have come in three shapes of at most 33 bytes that differ; this holds
//! those, and made-up ones of at most 32 bytes. What does not fit is no peer's.

use libp2p_identity::PeerId;

/// Multihash codes: the key itself, and SHA-256 of it.
const IDENTITY: u8 = 0x00;
const SHA2_256: u8 = 0x12;

/// `PublicKey` protobufs up to the key: its kind and its length.
const ED25519_PREFIX: [u8; 4] = [8, 1, 0x12, 32];
const SECP256K1_PREFIX: [u8; 4] = [8, 2, 0x12, 33];

/// Who a peer is, in 34 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKey {
    /// The id is an Ed25519 key.
    Ed25519([u8; 32]),
    /// The id is a compressed secp256k1 key.
    Secp256k1([u8; 33]),
    /// The id is a hash of a longer key: RSA or ECDSA.
    Sha256([u8; 32]),
    /// The id is something else that is no longer than a key, padded with 0.
    Identity([u8; 32], u8),
}

impl PeerKey {
    /// The key of this peer; `None` for an id that is longer than that of any
    /// kind of key, which no authenticated peer has.
    #[must_use]
    pub fn new(peer: &PeerId) -> Option<Self> {
        let multihash = peer.as_ref();
        let digest = multihash.digest();
        match u8::try_from(multihash.code()).ok()? {
            SHA2_256 => Some(Self::Sha256(digest.try_into().ok()?)),
            IDENTITY if digest.len() <= 32 => {
                let mut padded = [0; 32];
                padded[..digest.len()].copy_from_slice(digest);
                Some(Self::Identity(padded, multihash.size()))
            }
            IDENTITY => {
                let (prefix, key) = digest.split_first_chunk::<4>()?;
                match *prefix {
                    ED25519_PREFIX => Some(Self::Ed25519(key.try_into().ok()?)),
                    SECP256K1_PREFIX => Some(Self::Secp256k1(key.try_into().ok()?)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The key in the binary form of a peer id, as files keep it.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::new(&PeerId::from_bytes(bytes).ok()?)
    }

    /// The binary form of the peer id: at most 39 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (head, tail): (&[u8], &[u8]) = match self {
            Self::Ed25519(key) => (&[IDENTITY, 36, 8, 1, 0x12, 32], key),
            Self::Secp256k1(key) => (&[IDENTITY, 37, 8, 2, 0x12, 33], key),
            Self::Sha256(hash) => (&[SHA2_256, 32], hash),
            Self::Identity(padded, length) => (
                &[IDENTITY, *length],
                &padded[..usize::from(*length).min(32)],
            ),
        };
        [head, tail].concat()
    }

    /// The peer id.
    ///
    /// # Panics
    /// Never: all shapes are peer ids.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        PeerId::from_bytes(&self.to_bytes()).expect("a key holds the shape of a peer id")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use libp2p_identity::Keypair;

    use super::*;

    #[test]
    fn ids_of_every_kind_of_key_come_back_as_they_were() {
        for peer in [
            Keypair::generate_ed25519().public().to_peer_id(),
            Keypair::generate_secp256k1().public().to_peer_id(),
            Keypair::generate_ecdsa().public().to_peer_id(),
            PeerId::random(),
        ] {
            let key = PeerKey::new(&peer).unwrap();
            assert_eq!(key.peer_id(), peer);
            assert_eq!(key.to_bytes(), peer.to_bytes());
            assert_eq!(PeerKey::from_bytes(&key.to_bytes()), Some(key));
        }
        assert_eq!(size_of::<PeerKey>(), 34);
    }

    #[test]
    fn an_id_that_is_no_key_has_none() {
        let mut bytes = vec![IDENTITY, 36];
        bytes.extend([8, 9, 0x12, 32]);
        bytes.extend([7; 32]);
        let strange = PeerId::from_bytes(&bytes).unwrap();
        assert_eq!(PeerKey::new(&strange), None);
        assert_eq!(PeerKey::from_bytes(b"no peer id"), None);
    }
}
