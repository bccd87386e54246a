//! What admission costs for one socket: admitted and let go, and refused by the
//! network's limit as in a flood, on tables that hold 50,000 connections.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use waystation::clock;
use waystation::config::ConnectionsConfig;
use waystation::state::limits::{AsnDatabase, Limits, SocketPermit};

/// An address by its number.
type Address = fn(u32) -> SocketAddr;

/// Connections that are open meanwhile.
const OPEN: u32 = 50_000;

fn config() -> ConnectionsConfig {
    ConnectionsConfig {
        max: 100_000,
        transient_max: 100_000,
        rate_per_ip: 1e9,
        burst_per_ip: 1_000_000,
        rate_per_site: 1e9,
        burst_per_site: 1_000_000,
        rate_per_prefix: 1e9,
        burst_per_prefix: 1_000_000,
        rate_per_asn: 1e9,
        burst_per_asn: 1_000_000,
        per_asn_max: 100_000,
        ..ConnectionsConfig::default()
    }
}

fn v4(index: u32) -> SocketAddr {
    let address = u32::from(Ipv4Addr::new(11, 0, 0, 0)) + index;
    (IpAddr::V4(address.into()), 1).into()
}

fn v6(index: u32) -> SocketAddr {
    let address = (0x2001_0db8_u128 << 96) | (u128::from(index) << 72);
    (IpAddr::V6(Ipv6Addr::from(address)), 1).into()
}

/// Half a million ranges, as many as IPv4 has.
fn database() -> AsnDatabase {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: String = (0..500_000_u32)
        .map(|index| {
            let first = Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 0)) + index * 256);
            let last = Ipv4Addr::from(u32::from(first) + 255);
            format!("{first}\t{last}\t{}\tXX\tNAME\n", index / 8 + 1)
        })
        .collect();
    fs::write(file.path(), lines).unwrap();
    AsnDatabase::open(file.path()).unwrap()
}

fn filled(limits: &Arc<Limits>, now: Instant) -> Vec<SocketPermit> {
    (0..OPEN)
        .map(|index| {
            let remote = if index % 2 == 0 {
                v4(index * 7)
            } else {
                v6(index * 7)
            };
            limits.admit(remote, false, now).unwrap()
        })
        .collect()
}

fn admit(criterion: &mut Criterion) {
    let now = clock::now();
    let mut group = criterion.benchmark_group("admit");
    let limits = Limits::new(&config());
    let with_systems = Limits::with_systems(&config(), Some(database()));
    let held = [filled(&limits, now), filled(&with_systems, now)];
    let cases: [(&str, &Arc<Limits>, Address); 3] = [
        ("ipv4", &limits, v4),
        ("ipv6", &limits, v6),
        ("ipv4_with_systems", &with_systems, v4),
    ];
    for (name, limits, address) in cases {
        let (mut index, mut now) = (0_u32, now);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // A hundred thousand a second, none of whom comes twice soon.
                now += Duration::from_micros(10);
                index = index.wrapping_add(1) % 1_000_000;
                drop(black_box(limits.admit(address(index), false, now)));
            });
        });
    }
    let full = Limits::new(&ConnectionsConfig {
        per_prefix_max: 1,
        ..config()
    });
    let one = full.admit(v4(0), false, now).unwrap();
    group.bench_function("refused_by_network", |bencher| {
        bencher.iter(|| black_box(full.admit(v4(1), false, now)).unwrap_err());
    });
    drop((one, held));
    group.finish();
}

criterion_group!(benches, admit);
criterion_main!(benches);
