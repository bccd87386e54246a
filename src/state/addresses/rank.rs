//! In which order addresses are told, and where the list ends.
//!
//! Pure. What reaches furthest comes first, and of that one address of each
//! listener in turn, so that what has no room is never a whole transport. Bounds
//! what peers are told to what fits into one message, and the addresses of
//! interfaces to what is worth looking at.

use std::cmp::Reverse;
use std::collections::HashMap;

use multiaddr::{Multiaddr, Protocol};

use super::judge::{Entry, InterfaceAddress, Source, Standing, Verdict, Withheld};
use super::reach::Reach;

/// Bytes of all the addresses that are told, each with our peer id. The 4 KiB of
/// a reservation hold them beside a voucher with RSA keys of 4,096 bits, and
/// identify's first message, where they have no peer id, beside such a key.
const TOLD_BYTES_MAX: usize = 2_560;

/// Bytes of a peer id and of what frames an address that ends in it.
const PEER_ID_BYTES: usize = 48;

/// Addresses of interfaces that are looked at. A host that routes for others may
/// have thousands.
pub(super) const INTERFACES_MAX: usize = 256;

/// Puts the entries in the order in which they are told, the others behind, and
/// withholds what has no room; how many those are.
pub(super) fn rank(entries: &mut Vec<Entry>) -> usize {
    let mut turns: HashMap<(Option<Reach>, Listener), usize> = HashMap::new();
    let keyed = entries.drain(..).map(|entry| {
        let told = reach_told(&entry.verdict);
        // The operator's own order stands.
        let turn = if entry.source == Source::Configured || told.is_none() {
            0
        } else {
            let turn = turns.entry((told, listener(&entry.address))).or_default();
            *turn += 1;
            *turn
        };
        ((Reverse(told), turn), entry)
    });
    let mut keyed: Vec<_> = keyed.collect();
    keyed.sort_by_key(|(key, _)| *key);
    entries.extend(keyed.into_iter().map(|(_, entry)| entry));
    let mut room = TOLD_BYTES_MAX;
    let mut left_out = 0;
    for entry in entries {
        if reach_told(&entry.verdict).is_none() {
            continue;
        }
        let length = entry.address.len() + PEER_ID_BYTES;
        if let Some(rest) = room.checked_sub(length) {
            room = rest;
        } else {
            entry.verdict = Verdict::Withheld(Withheld::NoRoom);
            left_out += 1;
        }
    }
    left_out
}

/// The addresses of interfaces that are looked at, and how many are not: those
/// that last first, then those that reach furthest.
pub(super) fn worth_a_look(mut held: Vec<InterfaceAddress>) -> (Vec<InterfaceAddress>, usize) {
    let left_out = held.len().saturating_sub(INTERFACES_MAX);
    if left_out > 0 {
        held.sort_by_key(|held| {
            (
                held.standing != Standing::Lasting,
                Reverse(Reach::of(held.ip)),
            )
        });
        held.truncate(INTERFACES_MAX);
    }
    (held, left_out)
}

fn reach_told(verdict: &Verdict) -> Option<Reach> {
    match verdict {
        Verdict::Told(reach) | Verdict::LastResort(reach) => Some(*reach),
        Verdict::Withheld(_) => None,
    }
}

/// Family, and what is behind the host.
type Listener = (bool, Multiaddr);

/// What an address has in common with others of its listener.
fn listener(address: &Multiaddr) -> Listener {
    let mut parts = address.iter();
    let ipv4 = matches!(parts.next(), Some(Protocol::Ip4(_)));
    (ipv4, parts.collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn entry(address: &str, verdict: Verdict) -> Entry {
        Entry {
            address: address.parse().unwrap(),
            source: Source::Bound,
            verdict,
        }
    }

    #[test]
    fn what_reaches_furthest_comes_first_and_listeners_take_turns() {
        let public = Verdict::Told(Reach::Public);
        let mut entries = vec![
            entry(
                "/ip4/0.0.0.0/tcp/1",
                Verdict::Withheld(Withheld::Unspecified),
            ),
            entry("/ip4/127.0.0.1/tcp/1", Verdict::Told(Reach::Loopback)),
            entry("/ip4/8.8.8.8/tcp/1", public),
            entry("/ip4/8.8.4.4/tcp/1", public),
            entry("/ip4/10.0.0.1/udp/1/quic-v1", Verdict::Told(Reach::Private)),
            entry("/ip4/8.8.8.8/udp/1/quic-v1", public),
            entry("/ip4/8.8.4.4/udp/1/quic-v1", public),
        ];
        assert_eq!(rank(&mut entries), 0);
        let order: Vec<String> = entries
            .iter()
            .map(|entry| entry.address.to_string())
            .collect();
        assert_eq!(
            order,
            [
                "/ip4/8.8.8.8/tcp/1",
                "/ip4/8.8.8.8/udp/1/quic-v1",
                "/ip4/8.8.4.4/tcp/1",
                "/ip4/8.8.4.4/udp/1/quic-v1",
                "/ip4/10.0.0.1/udp/1/quic-v1",
                "/ip4/127.0.0.1/tcp/1",
                "/ip4/0.0.0.0/tcp/1",
            ]
        );
    }

    #[test]
    fn what_has_no_room_reaches_least_and_is_counted() {
        let mut entries = vec![entry("/ip4/10.0.0.1/tcp/1", Verdict::Told(Reach::Private))];
        for host in 0..100 {
            for what in ["tcp/1", "tcp/2/ws"] {
                let address = format!("/ip4/8.8.8.{host}/{what}");
                entries.push(entry(&address, Verdict::Told(Reach::Public)));
            }
        }
        let left_out = rank(&mut entries);
        let told = |what: &str| {
            let told = entries.iter().filter(|entry| {
                entry.verdict == Verdict::Told(Reach::Public)
                    && entry.address.to_string().ends_with(what)
            });
            told.count()
        };
        let (plain, web) = (told("tcp/1"), told("tcp/2/ws"));
        assert!(plain > 15 && plain.abs_diff(web) <= 1, "{plain} {web}");
        assert_eq!(left_out, 201 - plain - web);
        let private = entries.iter().find(|entry| {
            let address = entry.address.to_string();
            address.starts_with("/ip4/10.")
        });
        assert_eq!(
            private.unwrap().verdict,
            Verdict::Withheld(Withheld::NoRoom)
        );
    }

    #[test]
    fn of_too_many_addresses_those_that_could_be_told_are_looked_at() {
        let held = |last: usize, standing| InterfaceAddress {
            interface: "eth0".to_owned(),
            ip: std::net::IpAddr::from([
                10,
                0,
                u8::try_from(last / 256).unwrap(),
                u8::try_from(last % 256).unwrap(),
            ]),
            standing,
        };
        let mut all: Vec<_> = (0..INTERFACES_MAX + 9)
            .map(|last| held(last, Standing::Temporary))
            .collect();
        let mut public = held(0, Standing::Lasting);
        public.ip = [8, 8, 8, 8].into();
        all.push(public.clone());
        let (looked_at, left_out) = worth_a_look(all);
        assert_eq!((looked_at.len(), left_out), (INTERFACES_MAX, 10));
        assert_eq!(looked_at[0], public);
    }
}
