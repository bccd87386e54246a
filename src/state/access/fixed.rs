//! A configured list: fixed, small, and read without a lock.
//!
//! A list of a hundred thousand ranges is common, so ranges are kept as bare
//! numbers, sorted for each prefix length that occurs: five lengths are five
//! searches, whatever their number.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use libp2p_identity::PeerId;

use crate::config::Subject;

/// The subjects of one list.
#[derive(Debug, Default)]
pub(super) struct Set {
    peers: HashSet<PeerId>,
    v4: Vec<(u8, Box<[u32]>)>,
    v6: Vec<(u8, Box<[u128]>)>,
}

impl Set {
    pub(super) fn new(subjects: &HashSet<Subject>) -> Self {
        let mut peers = HashSet::new();
        let mut v4 = BTreeMap::<u8, Vec<u32>>::new();
        let mut v6 = BTreeMap::<u8, Vec<u128>>::new();
        for subject in subjects {
            match subject {
                Subject::Peer(peer) => {
                    peers.insert(*peer);
                }
                Subject::Range(IpNet::V4(range)) => {
                    let ranges = v4.entry(range.prefix_len()).or_default();
                    ranges.push(range.network().to_bits());
                }
                Subject::Range(IpNet::V6(range)) => {
                    let ranges = v6.entry(range.prefix_len()).or_default();
                    ranges.push(range.network().to_bits());
                }
            }
        }
        Self {
            peers,
            v4: sorted(v4),
            v6: sorted(v6),
        }
    }

    /// Whether the peer is listed.
    pub(super) fn has_peer(&self, peer: &PeerId) -> bool {
        self.peers.contains(peer)
    }

    /// Whether a listed range whose prefix is as long as `shortest` covers the
    /// address, which is not a mapped one.
    pub(super) fn has_address(&self, address: IpAddr, shortest: u8) -> bool {
        match address {
            IpAddr::V4(v4) => {
                let bits = v4.to_bits();
                let mut listed = self.v4.iter().filter(|(length, _)| *length >= shortest);
                listed.any(|(length, ranges)| {
                    let mask = u32::MAX.checked_shl(32 - u32::from(*length));
                    ranges.binary_search(&(bits & mask.unwrap_or(0))).is_ok()
                })
            }
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                let mut listed = self.v6.iter().filter(|(length, _)| *length >= shortest);
                listed.any(|(length, ranges)| {
                    let mask = u128::MAX.checked_shl(128 - u32::from(*length));
                    ranges.binary_search(&(bits & mask.unwrap_or(0))).is_ok()
                })
            }
        }
    }

    /// Whether exactly this subject is listed.
    pub(super) fn has(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Peer(peer) => self.has_peer(peer),
            Subject::Range(IpNet::V4(range)) => {
                has_range(&self.v4, range.prefix_len(), &range.network().to_bits())
            }
            Subject::Range(IpNet::V6(range)) => {
                has_range(&self.v6, range.prefix_len(), &range.network().to_bits())
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        let v4: usize = self.v4.iter().map(|(_, ranges)| ranges.len()).sum();
        let v6: usize = self.v6.iter().map(|(_, ranges)| ranges.len()).sum();
        self.peers.len() + v4 + v6
    }
}

fn sorted<T: Ord>(by_length: BTreeMap<u8, Vec<T>>) -> Vec<(u8, Box<[T]>)> {
    by_length
        .into_iter()
        .map(|(length, mut ranges)| {
            ranges.sort_unstable();
            (length, ranges.into_boxed_slice())
        })
        .collect()
}

fn has_range<T: Ord>(by_length: &[(u8, Box<[T]>)], length: u8, bits: &T) -> bool {
    by_length
        .iter()
        .find(|(candidate, _)| *candidate == length)
        .is_some_and(|(_, ranges)| ranges.binary_search(bits).is_ok())
}
