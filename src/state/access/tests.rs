//! What an operator is promised of rules: who is let through where, for how
//! long, and across restarts.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{collections::HashMap, path::Path};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::rulebook::{Changed, LoadError, RuleError, Rulebook};
use super::*;
use crate::{
    metrics::Metrics,
    store::{Change, Store, Table},
};

fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lists(deny: &[Subject], allow: &[Subject]) -> AccessLists {
    AccessLists {
        deny: deny.iter().copied().collect(),
        allow: allow.iter().copied().collect(),
    }
}

fn access(change: impl FnOnce(&mut Config), lists: &AccessLists) -> Arc<Access> {
    let mut config = Config::default();
    change(&mut config);
    Arc::new(Access::new(&config, lists, &Metrics::new().access))
}

fn rule(verdict: Verdict, expires: Option<u64>) -> Rule {
    Rule {
        verdict,
        made: 0,
        expires,
        note: "".into(),
    }
}

const TRUSTED: Standing = Standing {
    uncapped: true,
    unlimited: false,
};

#[test]
fn denial_holds_at_every_gate_and_is_counted_there() {
    let (denied, other) = (PeerId::random(), PeerId::random());
    let lists = lists(&[denied.into(), subject("192.0.2.0/24")], &[]);
    let metrics = Metrics::new();
    let access = Access::new(&Config::default(), &lists, &metrics.access);
    let (bad, good) = (ip("192.0.2.7"), ip("192.0.3.7"));

    assert_eq!(access.at_accept(bad), Err(Denied));
    assert_eq!(access.at_accept(ip("::ffff:192.0.2.7")), Err(Denied));
    assert!(access.at_accept(good).is_ok());
    assert!(access.at_authentication(&denied, good).is_err());
    assert!(access.at_authentication(&other, bad).is_err());
    assert!(access.at_authentication(&other, good).is_ok());
    assert!(access.at_reserve(&denied, good).is_err());
    assert!(access.at_reserve(&other, good).is_ok());
    assert!(access.at_connect(&denied, good, &other, None).is_err());
    assert!(access.at_connect(&other, good, &denied, None).is_err());
    assert!(access.at_connect(&other, bad, &other, None).is_err());
    assert!(access.at_connect(&other, good, &other, None).is_ok());
    for (gate, count) in [
        ("accept", 2),
        ("authentication", 2),
        ("reserve", 1),
        ("connect", 3),
    ] {
        assert_eq!(metrics.access.denials().get(gate), count, "{gate}");
    }
    let gates = [
        Gate::Accept,
        Gate::Authentication,
        Gate::Reserve,
        Gate::Connect,
    ];
    assert_eq!(gates.map(Gate::label), metrics.access.denials().values());
}

#[test]
fn denial_wins_however_narrow_the_trust() {
    let peer = PeerId::random();
    let lists = lists(
        &[subject("192.0.2.0/24")],
        &[subject("192.0.2.1"), peer.into()],
    );
    let access = access(|_| {}, &lists);
    assert!(access.at_accept(ip("192.0.2.1")).is_err());
    assert!(access.at_authentication(&peer, ip("192.0.2.1")).is_err());
    assert!(access.is_protected(&peer));
    access
        .live
        .insert(peer.into(), rule(Verdict::Deny, None))
        .unwrap();
    assert!(!access.is_protected(&peer));
}

#[test]
fn trust_brings_what_the_configuration_says() {
    let peer = PeerId::random();
    let lists = lists(&[], &[peer.into(), subject("2001:db8::/32")]);
    let at = |config: fn(&mut Config)| access(config, &lists);
    let (near, far) = (ip("2001:db8::1"), ip("2001:db9::1"));

    let usual = at(|_| {});
    assert_eq!(usual.at_accept(near), Ok(TRUSTED));
    assert_eq!(usual.at_accept(far), Ok(Standing::default()));
    assert_eq!(usual.at_reserve(&peer, far), Ok(TRUSTED));
    let stranger = PeerId::random();
    assert_eq!(
        usual.at_connect(&stranger, far, &peer, None),
        Ok([Standing::default(), TRUSTED])
    );

    let generous = at(|config| config.access.allow_unlimited_circuits = true);
    assert!(generous.at_reserve(&peer, far).unwrap().unlimited);
    let strict = at(|config| config.access.allow_uncapped = false);
    assert_eq!(strict.at_accept(near), Ok(Standing::default()));

    let closed = at(|config| config.relay.allowed_only = true);
    assert!(closed.at_reserve(&peer, far).is_ok());
    assert!(closed.at_reserve(&stranger, near).is_ok());
    assert_eq!(closed.at_reserve(&stranger, far), Err(Denied));
    // Anybody may connect to those who may reserve, whatever they are known
    // by, and to nobody else.
    let to = |target, address| closed.at_connect(&stranger, far, target, Some(address));
    assert!(to(&peer, far).is_ok());
    assert_eq!(to(&stranger, near), Ok([Standing::default(), TRUSTED]));
    assert_eq!(to(&stranger, far), Err(Denied));
    assert!(closed.at_connect(&stranger, far, &peer, None).is_ok());
}

#[test]
fn rules_are_counted_and_none_is_made_beyond_the_maximum() {
    let access = access(
        |config| config.access.rules_max = 2,
        &AccessLists::default(),
    );
    let insert = |text: &str, verdict| access.live.insert(subject(text), rule(verdict, None));
    insert("192.0.2.1", Verdict::Deny).unwrap();
    insert("192.0.2.0/24", Verdict::Allow).unwrap();
    assert_eq!(
        insert("192.0.2.2", Verdict::Deny),
        Err(RulesFull { max: 2 })
    );
    // A change is no new one.
    insert("192.0.2.0/24", Verdict::Deny).unwrap();
    assert_eq!(access.live.counts(), [2, 0]);
    assert!(access.live.remove(&subject("192.0.2.1")).is_some());
    insert("192.0.2.2", Verdict::Deny).unwrap();
    assert_eq!(access.live.counts(), [2, 0]);
}

/// A store, what was cut, and the rules between them.
struct Kept {
    directory: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Subjects in the store, as long as nobody has it open.
    fn stored(&self) -> Vec<String> {
        let store = Store::open(self.path(), Arc::clone(&Metrics::new().store));
        let mut keys = Vec::new();
        let look = |key: &[u8], _: &[u8]| keys.push(String::from_utf8(key.to_vec()).unwrap());
        store.unwrap().store.for_each(Table::Access, look).unwrap();
        keys
    }

    fn start(&self, now: u64, lists: &AccessLists) -> (Rulebook, Arc<Mutex<Vec<Subject>>>) {
        let store = Store::open(self.path(), Arc::clone(&Metrics::new().store));
        let store = Arc::new(store.unwrap().store);
        let cut = Arc::new(Mutex::new(Vec::new()));
        let cut_ = Arc::clone(&cut);
        let book = Rulebook::load(access(|_| {}, lists), store, now, move |subject| {
            cut_.lock().push(*subject);
            3
        });
        (book.unwrap(), cut)
    }
}

#[test]
fn rules_outlive_a_restart_and_end_by_the_clock_on_the_wall() {
    let (kept, none) = (Kept::new(), AccessLists::default());
    let peer = PeerId::random();
    let (book, cut) = kept.start(1_000, &none);
    let ban = Rule {
        note: "scans".into(),
        ..rule(Verdict::Deny, Some(1_060))
    };
    let closing = Changed {
        closing: 3,
        kept: true,
    };
    assert_eq!(book.add(subject("192.0.2.0/24"), &ban).unwrap(), closing);
    let friend = book.add(peer.into(), &rule(Verdict::Allow, None)).unwrap();
    assert_eq!(friend.closing, 0);
    book.add(subject("198.51.100.1"), &rule(Verdict::Deny, Some(1_100)))
        .unwrap();
    book.add(subject("198.51.100.2"), &rule(Verdict::Deny, None))
        .unwrap();
    assert_eq!(cut.lock().len(), 3);
    book.remove(&subject("198.51.100.2")).unwrap();
    drop(book);

    let (book, cut) = kept.start(1_059, &none);
    assert!(cut.lock().is_empty());
    let listed: HashMap<_, _> = book.access().rules().into_iter().collect();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[&subject("192.0.2.0/24")], ban);
    assert!(book.access().at_accept(ip("192.0.2.9")).is_err());
    assert!(book.access().is_protected(&peer));
    assert!(!book.is_expiry_due(1_059));
    assert!(book.is_expiry_due(1_060));
    book.tend(1_060);
    assert!(book.access().at_accept(ip("192.0.2.9")).is_ok());
    assert!(book.access().at_accept(ip("198.51.100.1")).is_err());
    assert!(!book.is_expiry_due(1_099));
    drop(book);

    // What ended while the server was stopped is gone, from the store too.
    let (book, _) = kept.start(2_000, &none);
    assert_eq!(
        book.access().rules(),
        [(peer.into(), rule(Verdict::Allow, None))]
    );
    book.tend(2_000);
    assert!(!book.is_behind());
    drop(book);
    let store = Store::open(kept.path(), Arc::clone(&Metrics::new().store))
        .unwrap()
        .store;
    let mut left = 0;
    store.for_each(Table::Access, |_, _| left += 1).unwrap();
    assert_eq!(left, 1);
}

#[test]
fn a_store_that_begins_anew_is_given_all_rules_again() {
    let kept = Kept::new();
    let (book, _) = kept.start(0, &AccessLists::default());
    let deny = rule(Verdict::Deny, None);
    book.add(subject("192.0.2.1"), &deny).unwrap();
    assert!(!book.is_behind());
    book.store().spoil();
    book.add(subject("192.0.2.2"), &deny).unwrap();
    assert!(book.is_behind());
    book.tend(1);
    assert!(!book.is_behind());
    drop(book);
    assert_eq!(kept.stored(), ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn what_cannot_be_changed_is_told() {
    let kept = Kept::new();
    let (book, _) = kept.start(0, &lists(&[subject("192.0.2.1")], &[]));
    let unknown = book.remove(&subject("192.0.2.2"));
    assert!(matches!(unknown, Err(RuleError::Unknown(_))), "{unknown:?}");
    let configured = book.remove(&subject("192.0.2.1")).unwrap_err();
    assert_eq!(
        configured.to_string(),
        "192.0.2.1 is in the configuration (access.deny, access.deny_file)"
    );
    let long = Rule {
        note: "x".repeat(NOTE_MAX + 1).into(),
        ..rule(Verdict::Deny, None)
    };
    let long = book.add(subject("192.0.2.3"), &long);
    assert!(matches!(long, Err(RuleError::NoteTooLong)));
    assert!(book.access().rules().is_empty());
}

#[test]
fn the_store_has_what_the_table_has_whoever_changes_it_meanwhile() {
    let kept = Kept::new();
    let (book, _) = kept.start(0, &AccessLists::default());
    let deny = rule(Verdict::Deny, None);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (book, deny) = (&book, &deny);
            scope.spawn(move || {
                for round in 0..12 {
                    let subject = subject(&format!("192.0.2.{}", (thread + round) % 3));
                    if (thread + round / 3) % 2 == 0 {
                        book.add(subject, deny).unwrap();
                    } else {
                        // Somebody else may have been first.
                        let _ = book.remove(&subject);
                    }
                }
            });
        }
    });
    assert!(!book.is_behind());
    let rules = book.access().rules().into_iter();
    let mut held: Vec<String> = rules.map(|(subject, _)| subject.to_string()).collect();
    held.sort();
    drop(book);
    assert_eq!(kept.stored(), held);
}

#[test]
fn what_trust_has_given_ends_with_it() {
    let kept = Kept::new();
    let start = |change: fn(&mut Config)| {
        let store = Store::open(kept.path(), Arc::clone(&Metrics::new().store)).unwrap();
        let access = access(change, &AccessLists::default());
        Rulebook::load(access, Arc::new(store.store), 0, |_| 3).unwrap()
    };
    let friend = subject("192.0.2.1");
    let trusting = |book: &Rulebook| {
        let made = book.add(friend, &rule(Verdict::Allow, None)).unwrap();
        assert_eq!(made.closing, 0);
        book.remove(&friend).unwrap().closing
    };
    assert_eq!(trusting(&start(|_| {})), 0);
    assert_eq!(
        trusting(&start(|config| config.relay.allowed_only = true)),
        3
    );
    let unlimited = |config: &mut Config| config.access.allow_unlimited_circuits = true;
    assert_eq!(trusting(&start(unlimited)), 3);

    let (ending, cut) = (Kept::new(), Arc::new(Mutex::new(Vec::new())));
    let store = Store::open(ending.path(), Arc::clone(&Metrics::new().store)).unwrap();
    let access = access(unlimited, &AccessLists::default());
    let cut_ = Arc::clone(&cut);
    let book = Rulebook::load(access, Arc::new(store.store), 0, move |subject| {
        cut_.lock().push(*subject);
        1
    });
    let book = book.unwrap();
    book.add(friend, &rule(Verdict::Allow, Some(5))).unwrap();
    book.tend(4);
    assert!(cut.lock().is_empty());
    book.tend(5);
    assert_eq!(*cut.lock(), [friend]);
}

#[test]
fn rules_that_cannot_be_read_harm_no_others() {
    let kept = Kept::new();
    let store = Store::open(kept.path(), Arc::clone(&Metrics::new().store))
        .unwrap()
        .store;
    let put = |key: &str, value: &str| Change::Put {
        key: key.into(),
        value: value.into(),
    };
    let changes = [
        put("192.0.2.1", r#"{"verdict":"deny","made":1,"newer":[2]}"#),
        put("192.0.2.2", r#"{"verdict":"shun","made":1}"#),
        put("nobody", r#"{"verdict":"deny","made":1}"#),
        put("192.0.2.3", "garbage"),
        put("192.0.2.4", r#"{"verdict":"deny","made":1,"expires":5}"#),
    ];
    store.apply(Table::Access, &changes).unwrap();
    drop(store);
    let (book, _) = kept.start(9, &AccessLists::default());
    assert_eq!(book.access().rules().len(), 1);
    assert!(book.access().at_accept(ip("192.0.2.1")).is_err());
    // A newer version may know them: only what has ended goes.
    assert!(book.is_behind());
    book.tend(9);
    assert!(!book.is_behind());
    drop(book);
    assert_eq!(
        kept.stored(),
        ["192.0.2.1", "192.0.2.2", "192.0.2.3", "nobody"]
    );
}

#[test]
fn a_start_that_would_forget_rules_is_refused_and_loses_none() {
    let kept = Kept::new();
    let (book, _) = kept.start(0, &AccessLists::default());
    for text in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        book.add(subject(text), &rule(Verdict::Deny, None)).unwrap();
    }
    let ends = rule(Verdict::Deny, Some(5));
    book.add(subject("192.0.2.4"), &ends).unwrap();
    drop(book);
    let start = |max: usize| {
        let store = Store::open(kept.path(), Arc::clone(&Metrics::new().store)).unwrap();
        let access = access(
            |config| config.access.rules_max = max,
            &AccessLists::default(),
        );
        Rulebook::load(access, Arc::new(store.store), 9, |_| 0)
    };
    let refused = start(2);
    assert!(matches!(refused, Err(LoadError::TooMany { stored: 3 })));
    assert_eq!(start(3).unwrap().access().rules().len(), 3);
    assert_eq!(kept.stored().len(), 4);
}

#[derive(Debug, Clone)]
enum Step {
    Insert(usize, Verdict, Option<u64>),
    Remove(usize),
    Pass(u64),
}

/// Subjects that overlap, so that every answer joins several rules.
fn subjects() -> Vec<Subject> {
    [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3",
        "10.1.2.128/25",
        "::/0",
        "2001:db8::/32",
        "2001:db8:1::/48",
        "2001:db8:1::1",
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
    ]
    .map(subject)
    .to_vec()
}

fn probes() -> Vec<IpAddr> {
    [
        "10.1.2.3",
        "10.1.2.200",
        "10.1.3.3",
        "10.2.0.0",
        "11.0.0.0",
        "2001:db8:1::1",
        "2001:db8:2::",
        "2001:db9::",
    ]
    .map(ip)
    .to_vec()
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Deny), Just(Verdict::Allow)]
}

fn step() -> impl Strategy<Value = Step> {
    let expires = prop::option::of(1_u64..50);
    prop_oneof![
        4 => (0_usize..11, verdict(), expires).prop_map(|(s, v, e)| Step::Insert(s, v, e)),
        2 => (0_usize..11).prop_map(Step::Remove),
        2 => (0_u64..20).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Rules made, changed, removed and expired answer as a plain list would,
    /// and so do the configured lists.
    #[test]
    fn answers_are_those_of_a_plain_list(steps in prop::collection::vec(step(), 0..60)) {
        let subjects = subjects();
        let live = Live::new(8);
        let mut model = HashMap::<Subject, (Verdict, Option<u64>)>::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Insert(index, verdict, lasts) => {
                    let (subject, expires) = (subjects[index], lasts.map(|lasts| now + lasts));
                    let room = model.len() < 8 || model.contains_key(&subject);
                    let inserted = live.insert(subject, rule(verdict, expires));
                    prop_assert_eq!(inserted.is_ok(), room);
                    if room {
                        model.insert(subject, (verdict, expires));
                    }
                }
                Step::Remove(index) => {
                    let removed = live.remove(&subjects[index]).is_some();
                    prop_assert_eq!(removed, model.remove(&subjects[index]).is_some());
                }
                Step::Pass(seconds) => {
                    now += seconds;
                    let before = model.len();
                    model.retain(|_, (_, expires)| expires.is_none_or(|expires| expires > now));
                    prop_assert_eq!(live.expire(now).len(), before - model.len());
                }
            }
            let of = |verdict| model.iter().filter(move |(_, (said, _))| *said == verdict);
            prop_assert_eq!(live.counts(), [Verdict::Deny, Verdict::Allow].map(|v| of(v).count()));
            let pick = |verdict| of(verdict).map(|(subject, _)| *subject).collect();
            let (denied, allowed): (Vec<_>, Vec<_>) = (pick(Verdict::Deny), pick(Verdict::Allow));
            let fixed = [&denied, &allowed].map(|list| Set::new(&list.iter().copied().collect()));
            let nobody = PeerId::random();
            for address in probes() {
                let covers = |list: &[Subject]| list.iter().any(|s| s.covers(&nobody, address));
                let said = Said { denied: covers(&denied), allowed: covers(&allowed) };
                prop_assert_eq!(live.of_address(address, 0), said);
                prop_assert_eq!(fixed[0].has_address(address, 0), said.denied);
                prop_assert_eq!(fixed[1].has_address(address, 0), said.allowed);
            }
            for subject in &subjects {
                prop_assert_eq!(fixed[0].has(subject), denied.contains(subject));
            }
            if let Some(Subject::Peer(peer)) = subjects.last() {
                prop_assert_eq!(live.of_peer(peer).denied, denied.contains(&Subject::Peer(*peer)));
                prop_assert_eq!(fixed[1].has_peer(peer), allowed.contains(&Subject::Peer(*peer)));
            }
        }
    }
}
