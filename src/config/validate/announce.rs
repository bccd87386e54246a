//! Rules for the addresses that the operator has us announce: peers can dial
//! them, and they lead to us.
//!
//! Refuses what cannot be; notes what looks like a slip, because a proxy in
//! front of us may speak what we do not. Spells what is announced as everybody
//! writes it.

use std::net::IpAddr;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

use super::Check;
use crate::config::{Config, ConfigError, ListenAddress, Loaded, Transport};

const KEY: &str = "announce.addresses";

/// See [`Loaded::announce_addresses`].
pub(in crate::config) fn addresses(
    loaded: &Loaded,
    own: &PeerId,
) -> Result<Vec<Multiaddr>, ConfigError> {
    let mut faults = Vec::new();
    let mut addresses = Vec::new();
    for address in &loaded.config.announce.addresses {
        let mut bare = address.clone();
        if let Some(Protocol::P2p(peer)) = address.iter().last() {
            if peer != *own {
                let reason = format!("{address} ends in the id of another peer, ours is {own}");
                faults.push(loaded.fault(KEY, reason));
            }
            bare.pop();
        }
        addresses.push(canonical(&bare));
    }
    if faults.is_empty() {
        Ok(addresses)
    } else {
        Err(ConfigError(faults))
    }
}

/// Tells of addresses at which nothing of ours may listen, and of listeners that
/// nobody may hear of.
pub(super) fn note(loaded: &mut Loaded) {
    let config = &loaded.config;
    let untold = untold(config);
    let listened: Vec<Transport> = config
        .listen
        .addresses
        .iter()
        .filter_map(|address| ListenAddress::of(address).map(|at| at.transport))
        .collect();
    let mut notes = Vec::new();
    for address in &config.announce.addresses {
        let Some(transport) = transport(address) else {
            if !is_list(address) {
                notes.push(format!(
                    "{KEY} has {address}, behind whose port is nothing that peers know"
                ));
            }
            continue;
        };
        // Whoever ends TLS in front of us passes on plain WebSocket.
        let served = listened.contains(&transport)
            || (transport == Transport::Wss && listened.contains(&Transport::Ws));
        if !served {
            notes.push(format!(
                "{KEY} has {address}, and listen.addresses has none of that transport"
            ));
        }
        let by_ip = matches!(
            address.iter().next(),
            Some(Protocol::Ip4(_) | Protocol::Ip6(_))
        );
        let named = address.iter().any(|part| matches!(part, Protocol::Sni(_)));
        if transport == Transport::Wss && by_ip && !named {
            notes.push(format!(
                "{KEY} has {address}, whose certificate browsers cannot check without a name"
            ));
        }
    }
    notes.extend(untold);
    loaded.notes.extend(notes);
}

/// A listener of secure WebSocket without a name, where no other address of that
/// kind is announced: peers on the Internet are told of none, because they could
/// not check its certificate.
fn untold(config: &Config) -> Option<String> {
    let mut announced = config.announce.addresses.iter();
    // What a list has, its DNS records say.
    if announced.any(|address| is_list(address) || transport(address) == Some(Transport::Wss)) {
        return None;
    }
    let wanted = config.listen.addresses.iter();
    let secure = wanted.filter_map(|address| {
        let wanted = ListenAddress::of(address)?;
        (wanted.transport == Transport::Wss).then_some((address, wanted))
    });
    let mut first = None;
    for (address, wanted) in secure {
        if wanted.server_name.is_some() {
            return None;
        }
        first = first.or(is_public(wanted.socket.ip()).then_some(address));
    }
    first.map(|address| {
        format!(
            "listen.addresses has {address}, which nobody on the Internet is told of: a \
             certificate needs a name, so listen on …/tls/sni/NAME/ws or announce \
             /dns4/NAME/…/tls/ws"
        )
    })
}

/// Whether peers on the Internet may reach a socket that is bound to this.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

impl Check<'_> {
    pub(super) fn announce(&mut self) {
        let addresses = &self.loaded.config.announce.addresses;
        for (index, address) in addresses.iter().enumerate() {
            let fault = fault(address).or_else(|| {
                addresses[..index]
                    .contains(address)
                    .then_some("is listed twice")
            });
            if let Some(fault) = fault {
                self.refuse(KEY, &format!("{address} {fault}"));
            }
        }
    }
}

/// Why peers could not reach us at this address.
fn fault(address: &Multiaddr) -> Option<&'static str> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return Some("goes through another relay");
    }
    let mut parts: Vec<_> = address.iter().collect();
    if matches!(parts.last(), Some(Protocol::P2p(_))) {
        parts.pop();
    }
    if parts.iter().any(|part| matches!(part, Protocol::P2p(_))) {
        return Some("has a peer id before its end");
    }
    let host = match parts.first() {
        Some(Protocol::Ip4(ip)) => Some(IpAddr::from(*ip)),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::from(*ip)),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => None,
        // A list of addresses, each of which has a port of its own.
        Some(Protocol::Dnsaddr(_)) => {
            return (parts.len() > 1).then_some("has more behind the name of a list of addresses");
        }
        _ => return Some("does not begin with /ip4, /ip6, /dns, /dns4, /dns6 or /dnsaddr"),
    };
    if host.is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
        return Some("names no host");
    }
    match parts.get(1) {
        Some(Protocol::Tcp(port) | Protocol::Udp(port)) if *port != 0 => None,
        _ => Some("names no port"),
    }
}

/// What is spoken at an announced address.
fn transport(address: &Multiaddr) -> Option<Transport> {
    let parts: Vec<_> = address.iter().skip(1).collect();
    let rest = match parts.as_slice() {
        [rest @ .., Protocol::P2p(_)] => rest,
        all => all,
    };
    match rest {
        [Protocol::Tcp(_)] => Some(Transport::Tcp),
        [Protocol::Udp(_), Protocol::QuicV1] => Some(Transport::Quic),
        [Protocol::Tcp(_), Protocol::Ws(_)] => Some(Transport::Ws),
        [Protocol::Tcp(_), Protocol::Wss(_)]
        | [Protocol::Tcp(_), Protocol::Tls, Protocol::Ws(_)]
        | [
            Protocol::Tcp(_),
            Protocol::Tls,
            Protocol::Sni(_),
            Protocol::Ws(_),
        ] => Some(Transport::Wss),
        _ => None,
    }
}

fn is_list(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Dnsaddr(_)))
}

/// `/wss` as `/tls/ws` (reference §20).
fn canonical(address: &Multiaddr) -> Multiaddr {
    let mut spelled = Multiaddr::empty();
    for part in address {
        match part {
            Protocol::Wss(path) => {
                spelled.push(Protocol::Tls);
                spelled.push(Protocol::Ws(path));
            }
            other => spelled.push(other),
        }
    }
    spelled
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
pub(super) mod tests {
    use super::super::tests::{load, reason};
    use super::*;

    pub(in crate::config::validate) const OWN: &str =
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";
    pub(in crate::config::validate) const OTHER: &str =
        "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY";

    #[test]
    fn announced_addresses_can_be_dialled() {
        let relayed = format!("/ip4/192.0.2.1/tcp/1/p2p/{OTHER}/p2p-circuit");
        let early = format!("/ip4/192.0.2.1/p2p/{OWN}/tcp/1");
        for (address, fault) in [
            (relayed.as_str(), "goes through another relay"),
            (&early, "has a peer id before its end"),
            ("/ip4/0.0.0.0/tcp/1", "names no host"),
            ("/ip6/ff02::1/tcp/1", "names no host"),
            ("/ip4/192.0.2.1", "names no port"),
            ("/ip4/192.0.2.1/tcp/0", "names no port"),
            (
                "/tcp/1",
                "does not begin with /ip4, /ip6, /dns, /dns4, /dns6 or /dnsaddr",
            ),
            (
                "/dnsaddr/relay.example.net/tcp/1",
                "has more behind the name of a list of addresses",
            ),
        ] {
            let reason = reason(&[&format!("announce.addresses={address}")]);
            assert_eq!(reason, format!("{address} {fault}"));
        }
        assert_eq!(
            reason(&["announce.addresses=/dns/a.example/tcp/1,/dns/a.example/tcp/1"]),
            "/dns/a.example/tcp/1 is listed twice"
        );
        load(&["announce.addresses=/dnsaddr/relay.example.net"]).unwrap();
    }

    #[test]
    fn announced_addresses_may_end_in_our_peer_id_and_no_other() {
        let own: PeerId = OWN.parse().unwrap();
        let bare = "/dns4/relay.example.org/tcp/4001";
        let addresses = |peer: &str| {
            load(&[&format!("announce.addresses={bare}/p2p/{peer}")])
                .unwrap()
                .announce_addresses(&own)
        };
        assert_eq!(addresses(OWN).unwrap(), [bare.parse().unwrap()]);
        let error = addresses(OTHER).unwrap_err().to_string();
        assert!(error.starts_with("announce.addresses = ["), "{error}");
        assert!(
            error.ends_with(&format!("in the id of another peer, ours is {OWN}")),
            "{error}"
        );
    }

    #[test]
    fn secure_websocket_is_announced_in_its_canonical_spelling() {
        let loaded = load(&["announce.addresses=/dns4/relay.example.net/tcp/443/wss"]).unwrap();
        let announced = loaded.announce_addresses(&OWN.parse().unwrap()).unwrap();
        let canonical = "/dns4/relay.example.net/tcp/443/tls/ws";
        assert_eq!(announced, [canonical.parse().unwrap()]);
    }

    #[test]
    fn a_secure_listener_that_nobody_is_told_of_is_noted() {
        let notes = |listen: &str, announce: &str| {
            let loaded = load(&[
                &format!("listen.addresses={listen}"),
                &format!("announce.addresses={announce}"),
                "tls.certificate_files=a.pem",
                "tls.key_files=a.key",
            ]);
            loaded.unwrap().notes().to_vec()
        };
        const NAMELESS: &str = "/ip4/0.0.0.0/tcp/4001/tls/ws";
        for (listen, announce) in [
            (
                "/ip4/0.0.0.0/tcp/1/tls/sni/a.example/ws,/ip4/0.0.0.0/tcp/1/tls/ws",
                "",
            ),
            (NAMELESS, "/dns4/relay.example.net/tcp/443/tls/ws"),
            ("/ip4/127.0.0.1/tcp/4001/tls/ws", ""),
            ("/ip6/fd00::1/tcp/4001/wss", ""),
        ] {
            assert_eq!(notes(listen, announce), [""; 0], "{listen}");
        }
        for announce in ["", "/ip4/192.0.2.1/tcp/4001"] {
            let told = notes(
                &format!("/ip4/0.0.0.0/tcp/4001,{NAMELESS},/ip6/::/tcp/4001/tls/ws"),
                announce,
            );
            let [note] = &told[..] else {
                panic!("{told:?}")
            };
            assert!(
                note.starts_with(&format!("listen.addresses has {NAMELESS}, ")),
                "{note}"
            );
            assert!(note.contains("/tls/sni/NAME/ws"), "{note}");
        }
    }

    #[test]
    fn what_nothing_of_ours_answers_is_noted() {
        let notes = |address: &str| {
            let loaded = load(&[
                "listen.addresses=/ip4/0.0.0.0/tcp/4001",
                &format!("announce.addresses={address}"),
            ]);
            loaded.unwrap().notes().to_vec()
        };
        for fine in [
            "/ip4/192.0.2.1/tcp/443",
            "/dns4/relay.example.net/tcp/4001",
            "/dnsaddr/relay.example.net",
        ] {
            assert_eq!(notes(fine), [""; 0], "{fine}");
        }
        for (slip, note) in [
            ("/ip4/192.0.2.1/udp/4001/quic-v1", "none of that transport"),
            (
                "/dns4/relay.example.net/tcp/80/ws",
                "none of that transport",
            ),
            ("/ip4/192.0.2.1/udp/4001", "nothing that peers know"),
        ] {
            let notes = notes(slip);
            assert!(notes.len() == 1 && notes[0].ends_with(note), "{notes:?}");
        }
    }
}
