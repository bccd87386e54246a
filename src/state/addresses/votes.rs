//! Under which addresses peers say they see us, and which of them we believe.
//!
//! What a peer that dialed us sees is what it dialed, so it tells how a NAT in
//! front of us maps our ports; but anybody can say anything. A network (an IPv4
//! /24, an IPv6 /48) has one vote for each transport and family, however many
//! peers speak in it, and an address is believed when several networks agree.
//! Bounded: addresses, votes for each, how many are believed at a time, and how
//! often that changes.

use std::cmp::Reverse;
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

/// What is believed is neither given up nor displaced for this long after a
/// change: each is pushed to everybody, and a few networks that change their minds
/// must not have us do that all the time. A free place is taken at once, so that
/// the first networks after a start do not decide alone.
const SETTLED: Duration = Duration::from_secs(10 * 60);

/// An address takes the place of one that is believed when its votes are to the
/// other's as more than this to that: half as many again.
const CHALLENGER: usize = 2;
const INCUMBENT: usize = 3;

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
    /// When a belief may end next; at once if none has begun yet.
    settled_until: Option<Instant>,
}

/// A transport, and whether it is over IPv4.
type Kind = (Transport, bool);

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

    /// Forgets what has expired and makes up its mind what to believe; whether
    /// that has changed. Nothing is given up within [`SETTLED`] after a change, and
    /// what is new comes into a free place.
    pub(super) fn review(&mut self, now: Instant) -> bool {
        for seen in self.seen.values_mut() {
            seen.votes
                .retain(|_, vote| vote.until.is_none_or(|until| now < until));
        }
        let settled = self.settled_until.is_some_and(|until| now < until);
        let wanted = self.wanted();
        let mut changed = false;
        let mut taken: HashMap<Kind, usize> = HashMap::new();
        for (observed, seen) in self.seen.iter_mut().filter(|(_, seen)| seen.believed) {
            if settled || wanted.contains(observed) {
                *taken.entry(observed.kind()).or_default() += 1;
            } else {
                seen.believed = false;
                changed = true;
            }
        }
        for observed in wanted {
            let taken = taken.entry(observed.kind()).or_default();
            if let Some(seen) = self.seen.get_mut(&observed)
                && !seen.believed
                && *taken < BELIEVED_MAX
            {
                seen.believed = true;
                *taken += 1;
                changed = true;
            }
        }
        self.seen
            .retain(|_, seen| seen.believed || !seen.votes.is_empty());
        if changed {
            self.settled_until = Some(now + SETTLED);
        }
        changed
    }

    /// What is worth believing now: of each kind the addresses with most votes,
    /// where those of one that is believed already count for more. The best first.
    fn wanted(&self) -> Vec<Observed> {
        let enough = self.seen.iter();
        let enough = enough.filter(|(_, seen)| seen.votes.len() >= OBSERVERS_MIN);
        let mut candidates: Vec<(&Observed, &Seen)> = enough.collect();
        candidates.sort_by_key(|(_, seen)| {
            let worth = if seen.believed { INCUMBENT } else { CHALLENGER };
            (
                Reverse(seen.votes.len() * worth),
                !seen.believed,
                seen.since,
            )
        });
        let mut taken: HashMap<Kind, usize> = HashMap::new();
        let chosen = candidates.into_iter().filter(|(observed, _)| {
            let taken = taken.entry(observed.kind()).or_default();
            *taken += 1;
            *taken <= BELIEVED_MAX
        });
        chosen.map(|(observed, _)| *observed).collect()
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
            if other != observed && other.kind() == observed.kind() {
                seen.votes.remove(network);
            }
            seen.believed || !seen.votes.is_empty()
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

impl Observed {
    const fn kind(&self) -> Kind {
        (self.transport, self.socket.is_ipv4())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::ops::Range;

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
        assert!(votes.review(now));
        let now = now + LINGER * 10;
        assert!(!votes.review(now), "all of them are connected");
        votes.withdraw(&ballots[0], now);
        assert!(!votes.review(now + LINGER), "the other one still says so");
        votes.withdraw(&second, now);
        assert!(!votes.review(now + LINGER - Duration::from_secs(1)));
        assert!(votes.review(now + LINGER));
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

    fn vote(votes: &mut Votes, observed: Observed, networks: Range<u8>) {
        for number in networks {
            votes.cast(observed, network(number)).unwrap();
        }
    }

    #[test]
    fn few_are_believed_and_of_equals_those_that_are_stay_so() {
        let (mut votes, now) = (Votes::default(), clock::now());
        vote(&mut votes, at(1, 4001), 0..4);
        assert!(votes.review(now));
        for host in 2..8 {
            vote(&mut votes, at(host, 4001), host * 10..host * 10 + 6);
        }
        assert!(votes.review(now + SETTLED));
        let mut few = believed(&votes);
        few.sort_by_key(|seen| seen.socket);
        assert_eq!(few, [at(1, 4001), at(2, 4001), at(3, 4001)]);
        assert!(
            !votes.review(now + SETTLED * 2),
            "six to four is not enough"
        );
    }

    #[test]
    fn clearly_more_votes_displace_what_is_believed_when_it_has_settled() {
        let (mut votes, now) = (Votes::default(), clock::now());
        for host in 1..4 {
            vote(&mut votes, at(host, 4001), host * 10..host * 10 + 4);
        }
        assert!(votes.review(now));
        vote(&mut votes, at(9, 4001), 100..107);
        assert!(!votes.review(now + SETTLED - Duration::from_secs(1)));
        assert!(votes.review(now + SETTLED));
        assert_eq!(believed(&votes), [at(1, 4001), at(2, 4001), at(9, 4001)]);
    }

    #[test]
    fn networks_that_change_their_minds_end_nothing_before_ten_minutes() {
        let (mut votes, begun) = (Votes::default(), clock::now());
        let (mut changes, mut ends, mut before) = (Vec::new(), Vec::new(), 0);
        for second in 0..3_600 {
            let now = begun + Duration::from_secs(second);
            let host = if second % 20 < 10 { 1 } else { 2 };
            vote(&mut votes, at(host, 4001), 0..4);
            if votes.review(now) {
                changes.push(second);
            }
            let count = believed(&votes).len();
            if count < before {
                ends.push(second);
            }
            before = count;
        }
        assert_eq!(ends, [610, 1_220, 1_830, 2_440, 3_050]);
        // What comes back finds its place free.
        let mut expected: Vec<_> = ends.iter().flat_map(|end| [*end, end + 10]).collect();
        expected.splice(0..0, [0, 10]);
        assert_eq!(changes, expected);
    }

    #[test]
    fn who_comes_first_does_not_keep_others_from_a_free_place() {
        let (mut votes, now) = (Votes::default(), clock::now());
        // Four networks that lie, right after a start.
        vote(&mut votes, at(1, 4001), 0..4);
        assert!(votes.review(now));
        let quic = Observed {
            transport: Transport::Quic,
            ..at(1, 4001)
        };
        vote(&mut votes, quic, 0..4);
        assert!(votes.review(now));
        assert_eq!(believed(&votes), [at(1, 4001), quic]);
        vote(&mut votes, at(2, 4001), 10..30);
        assert!(votes.review(now), "what most say does not wait");
        vote(&mut votes, at(3, 4001), 40..44);
        vote(&mut votes, at(4, 4001), 50..55);
        assert!(votes.review(now));
        assert!(!votes.review(now), "there are three");
        assert_eq!(
            believed(&votes),
            [at(1, 4001), quic, at(2, 4001), at(4, 4001)],
            "of those that come together the best"
        );
    }

    #[test]
    fn what_was_given_up_may_come_back() {
        let (mut votes, now) = (Votes::default(), clock::now());
        vote(&mut votes, at(1, 4001), 0..4);
        votes.review(now);
        vote(&mut votes, at(2, 1), 0..1);
        let later = now + SETTLED;
        assert!(votes.review(later), "three are too few");
        vote(&mut votes, at(1, 4001), 0..1);
        assert!(votes.review(later));
        assert_eq!(believed(&votes), [at(1, 4001)]);
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
                let unsettled = votes.settled_until.is_none_or(|until| now >= until);
                let mut networks = 0;
                for (_, count, believed) in list {
                    prop_assert!(count <= OBSERVERS_MAX);
                    prop_assert!(!(believed && unsettled) || count >= OBSERVERS_MIN);
                    networks += count;
                }
                prop_assert!(networks <= 256, "a network has one vote");
            }
            for ballot in ballots {
                votes.withdraw(&ballot, now);
            }
            votes.review(now + LINGER.max(SETTLED));
            prop_assert_eq!(votes.list(), []);
        }
    }
}
