//! What peers are told, from each source and for each kind of peer.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::*;

const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/4001";
const PRIVATE: &str = "/ip4/10.0.0.7/tcp/4001";
const PUBLIC: &str = "/ip4/8.8.8.8/tcp/4001";

const INTERNET: &str = "1.1.1.1";
const LAN: &str = "192.168.1.1";
const HERE: &str = "127.0.0.1";

fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn having(configured: &[&str], bound: &[&str]) -> Arc<Addresses> {
    let (configured, bound) = (addresses(configured), addresses(bound));
    Addresses::new(&configured, &bound, PeerId::random())
}

fn held(interface: &str, ip: &str, standing: Standing) -> InterfaceAddress {
    InterfaceAddress {
        interface: interface.to_owned(),
        ip: ip.parse().unwrap(),
        standing,
    }
}

fn told(addresses: &Addresses, peer: &str) -> Vec<String> {
    let told = addresses.told();
    let list = told.list_for(peer.parse().unwrap());
    list.bare.iter().map(ToString::to_string).collect()
}

fn verdict(addresses: &Addresses, address: &str) -> Verdict {
    let entries = addresses.entries();
    let entry = entries
        .iter()
        .find(|entry| entry.address.to_string() == address);
    entry
        .unwrap_or_else(|| panic!("{address} in {entries:?}"))
        .verdict
}

#[test]
fn a_peer_is_told_addresses_that_reach_it() {
    let has = having(&[], &[LOOPBACK, PRIVATE, PUBLIC]);
    assert_eq!(told(&has, INTERNET), [PUBLIC]);
    assert_eq!(told(&has, LAN), [PUBLIC, PRIVATE]);
    assert_eq!(told(&has, HERE), [PUBLIC, PRIVATE, LOOPBACK]);
    assert_eq!(told(&has, "::ffff:1.1.1.1"), [PUBLIC]);
}

#[test]
fn with_nothing_public_what_reaches_furthest_is_told_to_everybody() {
    let room = having(&[], &[LOOPBACK, PRIVATE]);
    assert_eq!(told(&room, INTERNET), [PRIVATE]);
    assert_eq!(told(&room, HERE), [PRIVATE, LOOPBACK]);
    let desk = having(&[], &[LOOPBACK]);
    assert_eq!(told(&desk, INTERNET), [LOOPBACK]);
    assert_eq!(
        verdict(&desk, LOOPBACK),
        Verdict::LastResort(Reach::Loopback)
    );
}

#[test]
fn the_operators_addresses_replace_what_we_listen_on() {
    let us = PeerId::random();
    let dns = "/dns4/relay.example.net/tcp/4001";
    let configured = addresses(&[&format!("{dns}/p2p/{us}")]);
    let has = Addresses::new(&configured, &addresses(&[LOOPBACK, PUBLIC]), us);
    assert_eq!(told(&has, INTERNET), [dns]);
    assert_eq!(has.told().all(), configured);
    let replaced = Verdict::Withheld(Withheld::Configured);
    assert_eq!(verdict(&has, PUBLIC), replaced);
    for network in 0..10 {
        let vote = see(&has, network, "/ip4/8.8.4.4/tcp/4001");
        assert!(vote.is_none(), "what peers see is not asked for");
    }
}

#[test]
fn an_unspecified_address_stands_for_the_interfaces_of_its_family() {
    let has = having(&[], &["/ip4/0.0.0.0/tcp/4001", "/ip6/::/udp/4001/quic-v1"]);
    assert_eq!(told(&has, HERE), [""; 0]);
    let interfaces = vec![
        held("lo", "127.0.0.1", Standing::Lasting),
        held("eth0", "8.8.8.8", Standing::Lasting),
        held("eth0", "2606::1", Standing::Lasting),
    ];
    assert!(has.set_interfaces(interfaces.clone()));
    assert!(!has.set_interfaces(interfaces), "nothing has changed");
    let quic = "/ip6/2606::1/udp/4001/quic-v1";
    assert_eq!(told(&has, INTERNET), [PUBLIC, quic]);
    assert_eq!(told(&has, HERE), [PUBLIC, quic, LOOPBACK]);
}

#[test]
fn addresses_that_do_not_last_or_do_not_leave_the_link_are_told_to_nobody() {
    let has = having(&[], &["/ip6/::/tcp/4001"]);
    has.set_interfaces(vec![
        held("eth0", "2606::1", Standing::Lasting),
        held("eth0", "2606::2", Standing::Temporary),
        held("eth0", "2606::3", Standing::Deprecated),
        held("eth0", "2606::4", Standing::Tentative),
        held("eth1", "2606::5", Standing::Down),
        held("eth0", "fe80::1", Standing::Lasting),
    ]);
    assert_eq!(told(&has, "::1"), ["/ip6/2606::1/tcp/4001"]);
    for (ip, reason) in [
        ("2606::2", Withheld::Temporary),
        ("2606::3", Withheld::Deprecated),
        ("2606::4", Withheld::Tentative),
        ("2606::5", Withheld::Down),
        ("fe80::1", Withheld::LinkLocal),
    ] {
        let address = format!("/ip6/{ip}/tcp/4001");
        assert_eq!(verdict(&has, &address), Verdict::Withheld(reason));
    }
}

#[test]
fn secure_websocket_is_told_with_a_name_only() {
    let nameless = "/ip4/8.8.8.8/tcp/443/tls/ws";
    let named = "/ip4/8.8.8.8/tcp/444/tls/sni/relay.example.net/ws";
    let has = having(&[], &[nameless, named]);
    assert_eq!(told(&has, INTERNET), [named]);
    assert_eq!(
        verdict(&has, nameless),
        Verdict::Withheld(Withheld::Nameless)
    );
}

#[test]
fn a_name_goes_with_the_port_that_peers_see() {
    let bound = [
        "/ip4/10.0.0.7/tcp/443/tls/ws",
        "/ip4/10.0.0.7/tcp/444/tls/sni/a.example/ws",
        "/ip4/10.0.0.7/tcp/445/tls/sni/b.example/ws",
    ];
    for (port, told_as) in [
        (443, None),
        (444, Some("/ip4/8.8.4.4/tcp/444/tls/sni/a.example/ws")),
        (445, Some("/ip4/8.8.4.4/tcp/445/tls/sni/b.example/ws")),
        (8443, Some("/ip4/8.8.4.4/tcp/8443/tls/sni/a.example/ws")),
    ] {
        let has = having(&[], &bound);
        let seen: Multiaddr = format!("/ip4/8.8.4.4/tcp/{port}/tls/ws").parse().unwrap();
        let vote = |network: u8| {
            let observer = [9, 9, network, 9].into();
            has.observed(observer, Transport::Wss, &seen.to_vec())
        };
        let votes: Vec<_> = (0..4).map(vote).collect();
        assert!(votes.iter().all(Option::is_some));
        has.review(clock::now());
        let public = told(&has, INTERNET);
        let public = public.iter().find(|address| address.contains("8.8.4.4"));
        assert_eq!(public.map(String::as_str), told_as, "{port}");
    }
}

/// A peer in a network of its own says under which address it sees us.
fn see(has: &Arc<Addresses>, network: u8, address: &str) -> Option<Box<Vote>> {
    let observer = format!("9.9.{network}.9").parse().unwrap();
    let address: Multiaddr = address.parse().unwrap();
    has.observed(observer, Transport::Tcp, &address.to_vec())
}

#[test]
fn what_several_networks_see_is_told_and_forgotten_when_they_are_gone() {
    let has = having(&[], &[PRIVATE]);
    let mapped = "/ip4/8.8.4.4/tcp/14001";
    let mut votes = Vec::new();
    for network in 0..4 {
        votes.push(see(&has, network, mapped).unwrap());
        let enough = votes.len() >= OBSERVERS_MIN;
        assert_eq!(has.review(clock::now()), enough);
        assert!(!has.review(clock::now()), "nothing more has been said");
    }
    assert_eq!(told(&has, INTERNET), [mapped]);
    assert_eq!(told(&has, LAN), [mapped, PRIVATE]);
    drop(votes);
    let later = clock::now() + Duration::from_secs(24 * 60 * 60);
    assert!(has.review(later));
    assert_eq!(told(&has, INTERNET), [PRIVATE]);
}

#[test]
fn a_host_with_hundreds_of_addresses_tells_as_many_as_peers_read() {
    let has = having(&[], &["/ip4/0.0.0.0/tcp/4001"]);
    let many = |count: u16| {
        let address = |host: u16| {
            let [high, low] = host.to_be_bytes();
            held("eth0", &format!("8.8.{high}.{low}"), Standing::Lasting)
        };
        (0..count).map(address).collect()
    };
    assert!(has.set_interfaces(many(300)));
    let told = told(&has, INTERNET).len();
    let left_out = has.left_out();
    assert!((30..100).contains(&told), "{told}");
    assert_eq!(left_out.not_looked_at, 300 - 256);
    assert_eq!(left_out.no_room, 256 - told);
    assert_eq!(has.told().all().len(), told);
    assert!(has.set_interfaces(many(3)));
    assert_eq!(has.left_out(), LeftOut::default());
}

#[test]
fn what_peers_see_counts_for_nothing_where_a_public_address_is_known() {
    let has = having(&[], &[PUBLIC]);
    let votes: Vec<_> = (0..9)
        .map(|network| see(&has, network, "/ip4/8.8.4.4/tcp/4001"))
        .collect();
    assert!(votes.iter().all(Option::is_some));
    assert!(!has.review(clock::now()));
    assert_eq!(
        verdict(&has, "/ip4/8.8.4.4/tcp/4001"),
        Verdict::Withheld(Withheld::Needless)
    );
}

#[test]
fn only_a_stranger_who_sees_a_public_address_of_a_transport_we_have_is_heard() {
    let has = having(&[], &[PRIVATE]);
    let us = has.us();
    let by = |observer: &str, transport, address: &str| {
        let address: Multiaddr = address.parse().unwrap();
        let observer = observer.parse().unwrap();
        has.observed(observer, transport, &address.to_vec())
            .is_some()
    };
    let other = PeerId::random();
    assert!(by("9.9.9.9", Transport::Tcp, "/ip4/8.8.4.4/tcp/1"));
    assert!(by(
        "9.9.9.9",
        Transport::Tcp,
        &format!("/ip4/8.8.4.4/tcp/1/p2p/{us}")
    ));
    for (observer, transport, address) in [
        ("10.0.0.1", Transport::Tcp, "/ip4/8.8.4.4/tcp/1".to_owned()),
        ("127.0.0.1", Transport::Tcp, "/ip4/8.8.4.4/tcp/1".to_owned()),
        (
            "9.9.9.9",
            Transport::Quic,
            "/ip4/8.8.4.4/udp/1/quic-v1".to_owned(),
        ),
        (
            "9.9.9.9",
            Transport::Tcp,
            "/ip4/8.8.4.4/udp/1/quic-v1".to_owned(),
        ),
        ("9.9.9.9", Transport::Tcp, "/ip4/8.8.4.4/tcp/0".to_owned()),
        ("9.9.9.9", Transport::Tcp, "/ip4/8.8.4.4".to_owned()),
        ("9.9.9.9", Transport::Tcp, "/ip6/2606::1/tcp/1".to_owned()),
        ("2620::9", Transport::Tcp, "/ip4/8.8.4.4/tcp/1".to_owned()),
        (
            "9.9.9.9",
            Transport::Tcp,
            "/ip4/8.8.4.4/tcp/1/tls/ws".to_owned(),
        ),
        ("9.9.9.9", Transport::Tcp, "/ip4/10.0.0.7/tcp/1".to_owned()),
        ("9.9.9.9", Transport::Tcp, "/ip4/0.0.0.0/tcp/1".to_owned()),
        (
            "9.9.9.9",
            Transport::Tcp,
            "/dns4/example.net/tcp/1".to_owned(),
        ),
        (
            "9.9.9.9",
            Transport::Tcp,
            format!("/ip4/8.8.4.4/tcp/1/p2p/{other}"),
        ),
        (
            "9.9.9.9",
            Transport::Tcp,
            format!("/ip4/8.8.4.4/tcp/1/p2p/{other}/p2p-circuit"),
        ),
    ] {
        assert!(!by(observer, transport, &address), "{observer} {address}");
    }
    let garbage = has.observed("9.9.9.9".parse().unwrap(), Transport::Tcp, &[4, 8, 8]);
    assert!(garbage.is_none());
}

#[test]
fn nobody_is_heard_of_another_family_or_of_a_translated_address() {
    let has = having(&[], &[PRIVATE, "/ip6/::/tcp/4001"]);
    let by = |observer: &str, address: &str| {
        let address: Multiaddr = address.parse().unwrap();
        let observer = observer.parse().unwrap();
        has.observed(observer, Transport::Tcp, &address.to_vec())
            .is_some()
    };
    assert!(by("2620::9", "/ip6/2606::1/tcp/1"));
    for (observer, address) in [
        ("9.9.9.9", "/ip6/2606::1/tcp/1"),
        ("2620::9", "/ip4/8.8.4.4/tcp/1"),
        ("2620::9", "/ip6/64:ff9b::808:404/tcp/1"),
        ("2620::9", "/ip6/2002:808:404::1/tcp/1"),
    ] {
        assert!(!by(observer, address), "{observer} {address}");
    }
}
