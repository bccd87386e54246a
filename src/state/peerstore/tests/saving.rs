//! What survives a restart.

use super::*;

const NOON: u64 = 1_800_000_000;

impl Bench {
    fn wall(&self, unix_seconds: u64) -> Wall {
        Wall {
            now: self.now,
            unix_seconds,
        }
    }

    /// What would be on disk: all that has changed.
    fn saved(&self, unix_seconds: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let wall = self.wall(unix_seconds);
        let mut saved = Vec::new();
        for stripe in 0..self.peers.stripes() {
            let Changes::Peers(peers) = self.peers.take_changes(stripe) else {
                panic!("few have changed");
            };
            for peer in peers {
                saved.extend(
                    self.peers
                        .save(&peer, wall)
                        .map(|value| (peer.to_bytes(), value)),
                );
            }
        }
        saved
    }

    fn restarted(saved: &[(Vec<u8>, Vec<u8>)], unix_seconds: u64) -> Self {
        let bench = Self::new();
        let wall = bench.wall(unix_seconds);
        for (key, value) in saved {
            let _ = bench.peers.load(key, value, wall);
        }
        bench.assert_ordered();
        bench
    }
}

#[test]
fn everything_known_of_a_peer_comes_back() {
    let mut bench = Bench::new();
    let key = Keypair::generate_ed25519();
    let (gone, here) = (key.public().to_peer_id(), PeerId::random());
    let connection = bench.connect(&gone);
    let record = signed(
        &key,
        &gone,
        u64::MAX,
        &[&public(1), "/ip4/8.8.4.4/tcp/4001"],
    );
    bench.announce(&gone, connection, &[], Some(&record));
    bench.now += HOUR;
    bench.leave(&gone, connection);
    let connection = bench.connect(&here);
    bench.say(&here, connection, &[&public(2)]);
    bench.now += HOUR;

    let before = bench.peers.get(&gone, bench.now).unwrap();
    let after = Bench::restarted(&bench.saved(NOON), NOON + 60);
    let known = after.peers.get(&gone, after.now).unwrap();
    assert_eq!(known.agent, before.agent);
    assert_eq!(known.protocols, before.protocols);
    assert_eq!(known.record, Some((u64::MAX, record)));
    for (known, before) in known.addresses.iter().zip(&before.addresses) {
        assert_eq!(known.address, before.address);
        assert_eq!(
            known.expires_in,
            before.expires_in.map(|span| span - MINUTE)
        );
        assert_eq!(
            known.last_success,
            before.last_success.map(|span| span + MINUTE)
        );
    }
    // Who was connected has left, as far as we know just now.
    let known = after.peers.get(&here, after.now).unwrap();
    assert!(!known.connected);
    assert_eq!(known.addresses[0].class, Class::RecentlyConnected);
    assert_eq!(known.addresses[0].expires_in, Some(DAY));
}

#[test]
fn what_expired_meanwhile_is_not_taken() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    bench.visit(&peer, Duration::ZERO, &[&public(1)]);
    let saved = bench.saved(NOON);
    let (key, value) = &saved[0];
    let fresh = Bench::new();
    let later = fresh.wall(NOON + 16 * 60);
    assert_eq!(fresh.peers.load(key, value, later), Err(LoadError::Expired));
    fresh.assert_clear();
    // A clock that was wrong does not make it immortal.
    let wrong = fresh.wall(0);
    assert_eq!(fresh.peers.load(key, value, wrong), Ok(()));
    let known = fresh.peers.get(&peer, fresh.now).unwrap();
    assert_eq!(known.addresses[0].expires_in, Some(DAY));
}

#[test]
fn a_peer_that_was_connected_at_a_crash_does_not_begin_anew_at_each_start() {
    let mut bench = Bench::new();
    let (here, gone) = (PeerId::random(), PeerId::random());
    let connection = bench.connect(&here);
    bench.say(&here, connection, &[&public(1)]);
    bench.visit(&gone, HOUR, &[&public(2)]);
    // Only what is not any more as it was saved is to be written again.
    let after = Bench::restarted(&bench.saved(NOON), NOON);
    assert_eq!(after.peers.usage().changed, 1);
    let key = PeerKey::new(&here).unwrap();
    let stripe = after.peers.peers.stripe_of(&key);
    assert_eq!(after.peers.take_changes(stripe), Changes::Peers(vec![key]));
}

#[test]
fn an_older_sequence_number_is_refused_after_a_restart_too() {
    let mut bench = Bench::new();
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id();
    let connection = bench.connect(&peer);
    let record = signed(&key, &peer, 7, &[&public(1)]);
    bench.announce(&peer, connection, &[], Some(&record));
    let mut after = Bench::restarted(&bench.saved(NOON), NOON);
    let connection = after.connect(&peer);
    let stale = signed(&key, &peer, 6, &[&public(2)]);
    after.announce(&peer, connection, &[], Some(&stale));
    assert_eq!(after.refused(Refusal::RecordSequence), 1);
    assert_eq!(after.addresses(&peer), [public(1)]);
}

#[test]
fn changes_are_told_once_and_again_if_they_could_not_be_written() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    bench.visit(&peer, HOUR, &[&public(1)]);
    let key = PeerKey::new(&peer).unwrap();
    let stripe = bench.peers.peers.stripe_of(&key);
    let changes = bench.peers.take_changes(stripe);
    assert_eq!(changes, Changes::Peers(vec![key]));
    assert_eq!(bench.peers.take_changes(stripe), Changes::Peers(Vec::new()));
    bench.peers.put_back(stripe, changes);
    assert_eq!(bench.peers.usage().changed, 1);
    // One that is gone has changed too.
    let _ = bench.peers.take_changes(stripe);
    bench.now += 2 * DAY;
    bench.sweep();
    assert_eq!(bench.peers.take_changes(stripe), Changes::Peers(vec![key]));
    assert_eq!(bench.peers.save(&key, bench.wall(NOON)), None);
}

#[test]
fn what_is_no_saved_peer_is_refused_and_does_no_harm() {
    let mut bench = Bench::new();
    let peer = PeerId::random();
    bench.visit(&peer, HOUR, &[&public(1), &public(2)]);
    let saved = bench.saved(NOON);
    let (key, value) = &saved[0];
    let fresh = Bench::new();
    let wall = fresh.wall(NOON);
    for end in 0..value.len() {
        // A cut between two addresses leaves the first.
        let _ = fresh.peers.load(key, &value[..end], wall);
    }
    for at in 0..value.len() {
        let mut garbled = value.clone();
        garbled[at] ^= 0x55;
        let _ = fresh.peers.load(key, &garbled, wall);
    }
    let malformed = Err(LoadError::Malformed);
    assert_eq!(fresh.peers.load(b"nobody", value, wall), malformed);
    assert_eq!(fresh.peers.load(key, b"", wall), malformed);
    assert_eq!(fresh.peers.load(key, &[9; 40], wall), malformed);
    fresh.assert_ordered();
}
