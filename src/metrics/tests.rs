//! What an operator may rely on in every family, whichever layer declares it.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use super::declare::Kind;
use super::*;
use crate::clock;

const LABELS: ConnectionLabels = ConnectionLabels {
    direction: Direction::Inbound,
    transport: Transport::Tcp,
    security: Security::Noise,
    muxer: Muxer::Yamux,
    early_muxer: true,
    ip_version: IpVersion::V6,
};

/// Families that other programs named, which we keep as they are.
const PROCESS: &str = "process_";

#[test]
fn every_family_has_help_and_a_conventional_name() {
    for family in &Metrics::new().declared {
        let name = family.name;
        assert!(family.help.ends_with('.'), "{name}: help is no sentence");
        assert!(
            ["waystation_", "libp2p_", PROCESS]
                .iter()
                .any(|prefix| name.starts_with(prefix)),
            "{name}: foreign prefix"
        );
        assert_eq!(
            name.ends_with("_total"),
            family.kind == Kind::Counter,
            "{name}: _total belongs to counters, and to all of them"
        );
        for unit in ["_ms", "_millis", "_micros", "_kib", "_mib", "_percent"] {
            assert!(!name.contains(unit), "{name}: not a base unit");
        }
        for (label, values) in &family.labels {
            assert!(
                !["peer", "peer_id", "address", "ip", "le"].contains(label),
                "{name}: label {label} could tell peers apart"
            );
            let distinct: BTreeSet<_> = values.iter().collect();
            assert!(!values.is_empty() && distinct.len() == values.len());
        }
    }
}

#[test]
fn a_scrape_parses_and_names_only_declared_families() {
    let metrics = Metrics::new();
    let _connection = metrics.connections.opened(LABELS, clock::now());
    metrics
        .upgrade
        .started(clock::now())
        .completed(LABELS, clock::now());
    metrics.egress.flushed(3, 1, 700);

    let text = metrics.render();
    let mut types = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "{name} appears twice");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|family| types.get(family) == Some(&"histogram"))
                .unwrap_or(name);
            assert!(types.contains_key(family), "{line} has no type");
        }
    }
    let declared: BTreeSet<_> = metrics.declared.iter().map(|family| family.name).collect();
    let scraped: BTreeSet<_> = types.keys().copied().collect();
    assert_eq!(scraped, declared);
}

#[test]
fn closing_a_connection_takes_it_out_of_every_gauge_and_says_why() {
    let metrics = Metrics::new();
    metrics.connections.set_max(2);
    let mut first = metrics.connections.opened(LABELS, clock::now());
    let second = metrics.connections.opened(
        ConnectionLabels {
            muxer: Muxer::Mplex,
            ..LABELS
        },
        clock::now(),
    );
    assert_eq!(metrics.occupancy().connections, Usage { used: 2, max: 2 });

    first.closing("protocol_violation");
    first.closing("io");
    drop(first);
    drop(second);
    assert_eq!(metrics.occupancy().connections.free(), 2);
    let text = metrics.render();
    for line in [
        r#"waystation_connections_by_protocol{muxer="/yamux/1.0.0",security="/noise",transport="tcp"} 0"#,
        r#"waystation_connections_closed_total{reason="protocol_violation"} 1"#,
        r#"waystation_connections_closed_total{reason="io"} 0"#,
        r#"waystation_connections_closed_total{reason="dropped"} 1"#,
        r#"libp2p_swarm_connections_closed_total{dir="inbound",early_muxer="true",ip_version="ip6",muxer="/mplex/6.7.0",security="/noise",transport="tcp"} 1"#,
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[test]
fn sockets_upgrades_streams_and_circuits_end_however_they_are_let_go() {
    let metrics = Metrics::new();
    drop(metrics.listener.socket_accepted());
    drop(metrics.upgrade.started(clock::now()));
    let mut stream = metrics.streams.opened(Direction::Inbound);
    stream.serves(Service::Hop);
    stream.serves(Service::Circuit);
    drop(stream);
    let mut circuit = metrics.circuits.opened(clock::now());
    circuit.ending("byte_limit");
    circuit.ending("source_closed");
    drop(circuit);

    let text = metrics.render();
    for line in [
        "waystation_sockets_upgrading 0",
        r#"waystation_upgrades_failed_total{cause="abandoned"} 1"#,
        r#"waystation_streams{service="negotiating"} 0"#,
        r#"waystation_streams{service="hop"} 0"#,
        r#"waystation_streams{service="circuit"} 0"#,
        r#"waystation_streams_opened_total{dir="inbound",service="circuit"} 1"#,
        "waystation_relay_circuits 0",
        r#"waystation_relay_circuits_ended_total{cause="byte_limit"} 1"#,
        "libp2p_relaysvc_connection_duration_seconds_count 1",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[test]
fn relayed_bytes_add_up_across_threads_and_under_both_names() {
    let metrics = Metrics::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                metrics.circuits.relayed_to_destination(1000);
                metrics.circuits.relayed_to_source(10);
            });
        }
    });
    let text = metrics.render();
    for line in [
        r#"waystation_relay_bytes_total{direction="source_to_destination"} 4000"#,
        r#"waystation_relay_bytes_total{direction="destination_to_source"} 40"#,
        "libp2p_relaysvc_data_transferred_bytes_total 4040",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[test]
fn sizes_of_tables_are_copied_before_each_scrape() {
    let metrics = Metrics::new();
    metrics.before_scrape(|metrics| {
        metrics
            .limits
            .set_limits(std::array::from_fn(|index| (index, 10 * index)));
        metrics
            .limits
            .set_tables(std::array::from_fn(|index| ((index + 3, 100), index)));
        metrics.identify.set_interned(40, 7);
    });
    let text = metrics.render();
    for line in [
        r#"waystation_origins_tracked{by="host"} 3"#,
        r#"waystation_origins_tracked_max{by="connecting_peer"} 100"#,
        r#"waystation_origins_overflowed{by="prefix"} 2"#,
        r#"waystation_limit_used{limit="connections.transient_max"} 2"#,
        r#"waystation_limit_max{limit="streams.hop_max"} 100"#,
        "waystation_identify_agents 7",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[test]
fn a_pool_knows_what_waits_and_what_is_out() {
    let metrics = Metrics::new();
    let pool = &metrics.pools;
    pool.lent(None);
    pool.lent(None);
    pool.returned(Some(4096));
    pool.returned(Some(65_536));
    pool.lent(Some(4096));
    let text = metrics.render();
    for line in [
        r#"waystation_pool_buffers_lent 1"#,
        r#"waystation_pool_buffers_held 1"#,
        r#"waystation_pool_held_bytes 65536"#,
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}
