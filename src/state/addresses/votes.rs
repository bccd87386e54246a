//! Under which addresses peers say they see us, and which of them we believe.
//!
//! What a peer that dialed us sees is what it dialed, so it tells how a NAT in
//! front of us maps our ports; but anybody can say anything. A network (an IPv4
//! /24, an IPv6 /48) has one vote for each transport and family, however many
//! peers speak in it, and an address is believed when several networks agree.
//! Bounded: addresses, votes for each, and how many are believed at a time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::Transport;
use crate::state::limits::PrefixKey;

/// Networks that have to agree (go-libp2p: 4 groups of observers).
pub const OBSERVERS_MIN: usize = 4;

/// Addresses with votes. When there are more, the one with the fewest goes.
const ADDRESSES_MAX: usize = 64;

/// Votes counted for one address; more would say nothing new.
const OBSERVERS_MAX: usize = 64;

/// Addresses believed of one transport and family (go-libp2p: 3).
const BELIEVED_MAX: usize = 3;

/// How long a vote stays after its last connection, so that a server with few
/// visitors does not forget where it is between them.
const LINGER: Duration = Duration::from_secs(30 * 60);

/// An address that a peer sees us under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Observed {
    /// What is spoken there.
    pub transport: Transport,
    /// Where.
    pub socket: SocketAddr,
}

/// A vote that was counted, to be given back when its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ballot {
    observed: Observed,
    network: PrefixKey,
    /// Tells this vote from a later one of the same network.
    number: u64,
}

/// The votes that were cast.
#[derive(Debug, Default)]
pub(super) struct Votes {
    seen: HashMap<Observed, Seen>,
    next: u64,
}

#[derive(Debug, Default)]
struct Seen {
    votes: HashMap<PrefixKey, Vote>,
    believed: bool,
    /// Number of the first vote: of equals, the oldest is believed.
    since: u64,
}

#[derive(Debug)]
struct Vote {
    number: u64,
    /// Open connections that said so.
    connections: usize,
    /// When it is forgotten, once none is open.
    until: Option<Instant>,
}

impl Votes {
    /// Counts what one connection from this network says. `None` if the address
    /// has votes enough.
    pub(super) fn cast(&mut self, observed: Observed, network: PrefixKey) -> Option<Ballot> {
        self.change_of_mind(&observed, &network);
        if !self.seen.contains_key(&observed) {
            self.make_room();
        }
        let number = self.next;
        let seen = self.seen.entry(observed).or_insert_with(|| Seen {
            since: number,
            ..Seen::default()
        });
        if seen.votes.len() >= OBSERVERS_MAX && !seen.votes.contains_key(&network) {
            return None;
        }
        self.next += 1;
        let vote = seen.votes.entry(network).or_insert(Vote {
            number,
            connections: 0,
            until: None,
        });
        vote.connections += 1;
        vote.until = None;
        Some(Ballot {
            observed,
            network,
            number: vote.number,
        })
    }

    /// The connection that cast this vote has ended.
    pub(super) fn withdraw(&mut self, ballot: &Ballot, now: Instant) {
        let vote = self
            .seen
            .get_mut(&ballot.observed)
            .and_then(|seen| seen.votes.get_mut(&ballot.network))
            .filter(|vote| vote.number == ballot.number);
        if let Some(vote) = vote {
            vote.connections = vote.connections.saturating_sub(1);
            if vote.connections == 0 {
                vote.until = Some(now + LINGER);
            }
        }
    }

    /// Forgets what has expired and makes up its mind what to believe. What is
    /// believed stays so while enough networks agree, so that a majority that
    /// comes and goes does not change what peers are told.
    pub(super) fn review(&mut self, now: Instant) {
        self.seen.retain(|_, seen| {
            seen.votes
                .retain(|_, vote| vote.until.is_none_or(|until| now < until));
            seen.believed &= seen.votes.len() >= OBSERVERS_MIN;
            !seen.votes.is_empty()
        });
        let mut candidates: Vec<(Observed, usize, u64)> = self
            .seen
            .iter()
            .filter(|(_, seen)| !seen.believed && seen.votes.len() >= OBSERVERS_MIN)
            .map(|(observed, seen)| (*observed, seen.votes.len(), seen.since))
            .collect();
        candidates.sort_by_key(|(_, votes, since)| (std::cmp::Reverse(*votes), *since));
        for (observed, ..) in candidates {
            let believed = self
                .seen
                .iter()
                .filter(|(other, seen)| seen.believed && same_kind(other, &observed))
                .count();
            if believed < BELIEVED_MAX
                && let Some(seen) = self.seen.get_mut(&observed)
            {
                seen.believed = true;
            }
        }
    }

    /// Addresses with votes.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Every address with votes: how many, and whether it is believed. The
    /// oldest first.
    pub(super) fn list(&self) -> Vec<(Observed, usize, bool)> {
        let mut list: Vec<_> = self.seen.iter().collect();
        list.sort_by_key(|(_, seen)| seen.since);
        list.into_iter()
            .map(|(observed, seen)| (*observed, seen.votes.len(), seen.believed))
            .collect()
    }

    /// A network has one vote of a kind: an earlier one for another address is
    /// void.
    fn change_of_mind(&mut self, observed: &Observed, network: &PrefixKey) {
        self.seen.retain(|other, seen| {
            if other != observed && same_kind(other, observed) {
                seen.votes.remove(network);
            }
            !seen.votes.is_empty()
        });
    }

    fn make_room(&mut self) {
        if self.seen.len() < ADDRESSES_MAX {
            return;
        }
        let least = self
            .seen
            .iter()
            .min_by_key(|(_, seen)| (seen.believed, seen.votes.len(), seen.since))
            .map(|(observed, _)| *observed);
        if let Some(least) = least {
            self.seen.remove(&least);
        }
    }
}

fn same_kind(one: &Observed, other: &Observed) -> bool {
    one.transport == other.transport && one.socket.is_ipv4() == other.socket.is_ipv4()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn at(host: u8, port: u16) -> Observed {
        Observed {
            transport: Transport::Tcp,
            socket: SocketAddr::from(([8, 8, 8, host], port)),
        }
    }

    fn network(number: u8) -> PrefixKey {
        PrefixKey::V4([9, 9, number])
    }

    fn believed(votes: &Votes) -> Vec<Observed> {
        let list = votes.list().into_iter();
        list.filter(|(.., believed)| *believed)
            .map(|(observed, ..)| observed)
            .collect()
    }

    #[test]
    fn an_address_is_believed_when_several_networks_agree() {
        let (mut votes, now) = (Votes::default(), clock::now());
        for _ in 0..100 {
            votes.cast(at(1, 4001), network(0));
        }
        for number in (1..).take(OBSERVERS_MIN - 1) {
            votes.review(now);
            assert_eq!(believed(&votes), []);
            votes.cast(at(1, 4001), network(number)).unwrap();
        }
        votes.review(now);
        assert_eq!(believed(&votes), [at(1, 4001)]);
    }

    #[test]
    fn a_vote_outlives_its_last_connection_for_a_while_and_no_longer() {
        let (mut votes, now) = (Votes::default(), clock::now());
        let ballots: Vec<Ballot> = (0..4)
            .map(|number| votes.cast(at(1, 4001), network(number)).unwrap())
            .collect();
        let second = votes.cast(at(1, 4001), network(0)).unwrap();
        votes.review(now + LINGER * 10);
        assert_eq!(believed(&votes).len(), 1, "all of them are connected");
        votes.withdraw(&ballots[0], now);
        votes.review(now + LINGER);
        assert_eq!(believed(&votes).len(), 1, "the other one still says so");
        votes.withdraw(&second, now);
        votes.review(now + LINGER - Duration::from_secs(1));
        assert_eq!(believed(&votes).len(), 1);
        votes.review(now + LINGER);
        assert_eq!(believed(&votes), []);
    }

    #[test]
    fn a_network_that_changes_its_mind_takes_its_vote_along() {
        let (mut votes, now) = (Votes::default(), clock::now());
        let old = votes.cast(at(1, 4001), network(0)).unwrap();
        let new = votes.cast(at(2, 4001), network(0)).unwrap();
        let again = votes.cast(at(1, 4001), network(0)).unwrap();
        votes.withdraw(&old, now);
        votes.withdraw(&new, now);
        votes.review(now + LINGER);
        assert_eq!(votes.list(), [(at(1, 4001), 1, false)]);
        votes.withdraw(&again, now);
        votes.review(now + LINGER);
        assert_eq!(votes.list(), []);
    }

    #[test]
    fn few_are_believed_and_who_is_stays_so() {
        let (mut votes, now) = (Votes::default(), clock::now());
        for number in 0..4 {
            votes.cast(at(1, 4001), network(number));
        }
        votes.review(now);
        for host in 2..8 {
            for number in 0..8 {
                votes.cast(at(host, 4001), network(host * 10 + number));
            }
        }
        votes.review(now);
        assert_eq!(believed(&votes), [at(1, 4001), at(2, 4001), at(3, 4001)]);
    }

    #[test]
    fn liars_do_not_push_out_what_many_say() {
        let (mut votes, now) = (Votes::default(), clock::now());
        for number in 0..3 {
            votes.cast(at(1, 4001), network(number));
        }
        for number in 3..255 {
            votes.cast(at(2, u16::from(number)), network(number));
        }
        votes.cast(at(1, 4001), network(255));
        votes.review(now);
        assert_eq!(believed(&votes), [at(1, 4001)]);
        assert!(votes.list().len() <= ADDRESSES_MAX);
    }

    proptest! {
        /// Whatever is said and taken back, the bounds hold, nobody is believed
        /// whom too few vouch for, and nothing is left when all have gone.
        #[test]
        fn bounds_hold_and_nothing_leaks(
            steps in prop::collection::vec((0u8..4, 0u8..6, any::<u8>(), 0u64..3_000), 0..400)
        ) {
            let (mut votes, mut now) = (Votes::default(), clock::now());
            let mut ballots = Vec::new();
            for (kind, host, number, seconds) in steps {
                match kind {
                    0 | 1 => ballots.extend(votes.cast(at(host, 1 + u16::from(number / 16)), network(number))),
                    2 if !ballots.is_empty() => {
                        let ballot = ballots.swap_remove(usize::from(number) % ballots.len());
                        votes.withdraw(&ballot, now);
                    }
                    _ => now += Duration::from_secs(seconds),
                }
                votes.review(now);
                let list = votes.list();
                prop_assert!(list.len() <= ADDRESSES_MAX);
                prop_assert!(believed(&votes).len() <= BELIEVED_MAX);
                let mut networks = 0;
                for (_, count, believed) in list {
                    prop_assert!(count <= OBSERVERS_MAX);
                    prop_assert!(!believed || count >= OBSERVERS_MIN);
                    networks += count;
                }
                prop_assert!(networks <= 256, "a network has one vote");
            }
            for ballot in ballots {
                votes.withdraw(&ballot, now);
            }
            votes.review(now + LINGER);
            prop_assert_eq!(votes.list(), []);
        }
    }
}
