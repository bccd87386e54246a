//! Connection ids that say which worker's connection they belong to.
//!
//! A kernel picks a worker's socket by addresses, so a peer that has moved
//! arrives at any of them. An id is five random bytes and three made of them
//! with a key, into the first of which the worker's number is mixed: an observer
//! learns nothing, and a datagram that was never meant for us is told from one
//! of a connection that a restart has lost.

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

/// Length of our ids.
pub(super) const LENGTH: usize = 8;

/// Random bytes of an id: a million million, of which a worker has some ten
/// thousand in use.
const RANDOM: usize = 5;

/// Most workers that an id can tell apart.
pub(super) const WORKERS_MAX: usize = 256;

/// Makes and reads the ids of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    key: [u64; 2],
    workers: u8,
}

impl Ids {
    /// Ids of this many workers (at most [`WORKERS_MAX`]), under a key that
    /// outlives restarts.
    pub(super) fn new(key: [u8; 16], workers: usize) -> Self {
        let [a, b] = [0, 8].map(|at| {
            let bytes = key[at..at + 8].try_into().expect("half of the key");
            u64::from_le_bytes(bytes)
        });
        Self {
            key: [a, b],
            // The last number that there is, so that 256 fit into a byte.
            workers: u8::try_from(workers.clamp(1, WORKERS_MAX) - 1).unwrap_or(u8::MAX),
        }
    }

    /// The worker that issued an id; `None` if we did not.
    pub(super) fn worker_of(&self, id: &[u8]) -> Option<usize> {
        let (random, check) = id.split_at_checked(RANDOM)?;
        let [mixed, rest @ ..] = <[u8; LENGTH - RANDOM]>::try_from(check).ok()?;
        let [mask, expected @ ..] = self.check(random.try_into().ok()?);
        let worker = mixed ^ mask;
        (rest == expected && worker <= self.workers).then_some(usize::from(worker))
    }

    fn issue(&self, worker: u8) -> [u8; LENGTH] {
        let mut random = [0; RANDOM];
        // Without entropy there is no TLS either; the ids would merely collide,
        // which the endpoint notices.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let [mask, check @ ..] = self.check(random);
        let mut id = [0; LENGTH];
        id[..RANDOM].copy_from_slice(&random);
        id[RANDOM] = mask ^ worker;
        id[RANDOM + 1..].copy_from_slice(&check);
        id
    }

    /// Not cryptography: who could compute it would gain stateless resets and
    /// the number of a worker.
    fn check(&self, random: [u8; RANDOM]) -> [u8; LENGTH - RANDOM] {
        let mut word = [0; 8];
        word[..RANDOM].copy_from_slice(&random);
        let mixed = mix(mix(u64::from_le_bytes(word) ^ self.key[0]) ^ self.key[1]);
        let [a, b, c, ..] = mixed.to_le_bytes();
        [a, b, c]
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014).
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The id in a datagram's first packet, if it is as long as ours.
pub(super) fn destination(datagram: &[u8]) -> Option<&[u8]> {
    const LONG: u8 = 0x80;
    match datagram.first()? & LONG {
        0 => datagram.get(1..1 + LENGTH),
        _ if usize::from(*datagram.get(5)?) == LENGTH => datagram.get(6..6 + LENGTH),
        _ => None,
    }
}

/// Issues the ids of one worker.
pub(super) struct WorkerIds {
    pub(super) ids: Ids,
    pub(super) worker: u8,
}

impl ConnectionIdGenerator for WorkerIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.ids.issue(self.worker))
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        self.ids.worker_of(id).map(drop).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_worker_also_after_a_restart() {
        let before = Ids::new([7; 16], 256);
        let after = Ids::new([7; 16], 256);
        for worker in [0, 1, 200, 255] {
            let id = before.issue(worker);
            assert_eq!(after.worker_of(&id), Some(usize::from(worker)));
        }
    }

    #[test]
    fn ids_of_others_and_of_workers_that_are_not_there_are_nobodys() {
        let ids = Ids::new([7; 16], 2);
        assert_eq!(ids.worker_of(&Ids::new([8; 16], 2).issue(1)), None);
        assert_eq!(ids.worker_of(&Ids::new([7; 16], 3).issue(2)), None);
        assert_eq!(ids.worker_of(&[1, 2, 3]), None);
        let strangers = (0..10_000_u64).filter(|word| {
            let id = mix(*word).to_le_bytes();
            ids.worker_of(&id).is_some()
        });
        assert!(strangers.count() <= 1, "one in 65,536 × 128");
    }

    #[test]
    fn finds_the_id_in_either_form_of_header() {
        let id = [1, 2, 3, 4, 5, 6, 7, 8];
        let short = [&[0x40][..], &id, &[0; 20]].concat();
        assert_eq!(destination(&short), Some(&id[..]));
        let long = [&[0xc0, 0, 0, 0, 1, 8][..], &id, &[0; 20]].concat();
        assert_eq!(destination(&long), Some(&id[..]));
        let longer = [&[0xc0, 0, 0, 0, 1, 9][..], &id, &[0; 20]].concat();
        assert_eq!(destination(&longer), None);
        assert_eq!(destination(&short[..8]), None);
        assert_eq!(destination(&[]), None);
        let _ = ids_have_entropy();
    }

    fn ids_have_entropy() -> [u8; LENGTH] {
        let ids = Ids::new([1; 16], 1);
        let (a, b) = (ids.issue(0), ids.issue(0));
        assert_ne!(a, b);
        WorkerIds { ids, worker: 0 }
            .validate(&ConnectionId::new(&a))
            .unwrap();
        b
    }
}
