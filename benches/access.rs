//! What the operator's rules cost each accepted socket, with the lists that
//! operators have: none, or a hundred thousand ranges and as many rules made
//! at run time as there may be.

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::{hint::black_box, net::IpAddr, net::Ipv4Addr, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use libp2p_identity::PeerId;
use waystation::{
    config::{AccessLists, Config, Subject},
    metrics::Metrics,
    state::access::{Access, Rule, Verdict, rulebook::Rulebook},
    store::Store,
};

const RANGES: u32 = 100_000;
const RULES: u32 = 16_000;

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

/// Ranges of five lengths and single addresses, spread over the upper half of
/// all addresses.
fn range(index: u32) -> Subject {
    let length = [16, 20, 22, 24, 32][(index % 5) as usize];
    let address = v4(0x8000_0000 | index.wrapping_mul(0x9e37_79b1));
    ipnet::IpNet::new(address, length).unwrap().into()
}

fn access(criterion: &mut Criterion) {
    let config = Config::default();
    let metrics = Metrics::new();
    let none = Arc::new(Access::new(
        &config,
        &AccessLists::default(),
        &metrics.access,
    ));
    let lists = AccessLists {
        deny: (0..RANGES).map(range).collect(),
        ..AccessLists::default()
    };
    let many = Arc::new(Access::new(&config, &lists, &metrics.access));

    let directory = tempfile::tempdir().unwrap();
    let opened = Store::open(directory.path(), Arc::clone(&metrics.store)).unwrap();
    let store = Arc::new(opened.store);
    let changes: Vec<_> = (RANGES..RANGES + RULES)
        .map(|index| waystation::store::Change::Put {
            key: range(index).to_string().into_bytes(),
            value: br#"{"verdict":"deny","made":1}"#.to_vec(),
        })
        .collect();
    store
        .apply(waystation::store::Table::Access, &changes)
        .unwrap();
    let book = Rulebook::load(Arc::clone(&many), store, 0, |_| 0).unwrap();

    let peer = PeerId::random();
    let mut group = criterion.benchmark_group("access");
    for (name, access) in [("no rules", &none), ("116,000 rules", &many)] {
        let mut bits = 0_u32;
        group.bench_function(format!("accept, {name}"), |bencher| {
            bencher.iter(|| {
                bits = bits.wrapping_add(0x0101_0107) & 0x7fff_ffff;
                black_box(access.at_accept(v4(bits)))
            });
        });
        group.bench_function(format!("authentication, {name}"), |bencher| {
            bencher.iter(|| black_box(access.at_authentication(&peer, v4(0x0102_0304))));
        });
    }
    group.bench_function("a rule made and removed, on disk", |bencher| {
        let subject: Subject = peer.into();
        let rule = Rule {
            verdict: Verdict::Deny,
            made: 0,
            expires: None,
            note: "".into(),
        };
        bencher.iter(|| {
            book.add(subject, &rule).unwrap();
            book.remove(&subject).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, access);
criterion_main!(benches);
