//! Which of the addresses that a peer announces are worth keeping, and in
//! which form.
//!
//! As go-libp2p: a peer on the Internet has public addresses only, one in a
//! private network may have private ones, one on this host any. A relayed
//! address is judged by its relay's. Each address is looked at once, without a
//! copy; how many are looked at is bounded by the message they come in.

use std::net::IpAddr;

use multiaddr::Protocol;

use super::{Refusal, packed::ADDRESS_BYTES_MAX};
use crate::state::{addresses::Reach, peer_key::PeerKey};

/// Multiaddr code of `/p2p` as a varint, and the lengths of a peer id.
const P2P_CODE: [u8; 2] = [0xa5, 0x03];

/// The part of an announced address that is kept, without the peer's own id at
/// its end.
///
/// `peer` announces it and was seen at a host of reach `from`.
///
/// # Errors
/// Why it is not kept.
pub(super) fn judge<'a>(
    announced: &'a [u8],
    peer: &PeerKey,
    from: Reach,
) -> Result<&'a [u8], Refusal> {
    let bytes = without_own_id(announced, peer);
    if bytes.len() > ADDRESS_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    let (host, mut rest) = part(bytes)?;
    // A list of addresses in the DNS needs no port of its own.
    let mut leads_on = matches!(host, Protocol::Dnsaddr(_));
    let mut last_is_peer = matches!(host, Protocol::P2p(_));
    let mut second = true;
    while !rest.is_empty() {
        let (next, behind) = part(rest)?;
        if std::mem::take(&mut second) {
            leads_on = !matches!(next, Protocol::Tcp(0) | Protocol::Udp(0));
        }
        last_is_peer = matches!(next, Protocol::P2p(_));
        rest = behind;
    }
    // A peer stands where the address leads, and not as the relay on the way.
    if last_is_peer {
        return Err(Refusal::OtherPeer);
    }
    if !leads_on {
        return Err(Refusal::Unreachable);
    }
    match reach(&host) {
        None => Err(Refusal::Unreachable),
        Some(reach) if reach < from => Err(Refusal::Private),
        Some(_) => Ok(bytes),
    }
}

/// Cuts the peer's own id from the end of an address.
fn without_own_id<'a>(address: &'a [u8], peer: &PeerKey) -> &'a [u8] {
    // Most do not end in an id, and need none to be made to compare with.
    if !address.windows(P2P_CODE.len()).any(|code| code == P2P_CODE) {
        return address;
    }
    let id = peer.to_bytes();
    let (Some(rest), Ok(length)) = (address.strip_suffix(&id[..]), u8::try_from(id.len())) else {
        return address;
    };
    let [high, low] = P2P_CODE;
    rest.strip_suffix(&[high, low, length]).unwrap_or(address)
}

/// The first part of an address, and what is behind it.
fn part(bytes: &[u8]) -> Result<(Protocol<'_>, &[u8]), Refusal> {
    Protocol::from_bytes(bytes).map_err(|_| Refusal::Malformed)
}

/// How far an address reaches that begins like this; `None` if it leads nowhere
/// that we or others could dial.
fn reach(host: &Protocol<'_>) -> Option<Reach> {
    match host {
        Protocol::Ip4(ip) => reach_of((*ip).into()),
        Protocol::Ip6(ip) => reach_of((*ip).into()),
        Protocol::Dns(name)
        | Protocol::Dns4(name)
        | Protocol::Dns6(name)
        | Protocol::Dnsaddr(name) => Some(Reach::of_name(name)),
        _ => None,
    }
}

fn reach_of(ip: IpAddr) -> Option<Reach> {
    let ip = ip.to_canonical();
    let leads_nowhere = ip.is_unspecified()
        || ip.is_multicast()
        || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    (!leads_nowhere).then(|| Reach::of(ip))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use libp2p_identity::PeerId;
    use multiaddr::Multiaddr;
    use proptest::prelude::*;

    use super::*;

    fn judged(address: &str, from: Reach) -> Result<(), Refusal> {
        let peer = PeerKey::new(&PeerId::random()).unwrap();
        let bytes = address.parse::<Multiaddr>().unwrap().to_vec();
        judge(&bytes, &peer, from).map(|kept| assert_eq!(kept, bytes))
    }

    #[test]
    fn a_public_peer_has_public_addresses() {
        let relay = PeerId::random();
        for address in [
            "/ip4/8.8.8.8/tcp/4001",
            "/ip6/2a00:1450::1/udp/4001/quic-v1",
            "/dns4/node.example.net/tcp/443/wss",
            "/dnsaddr/bootstrap.example.org",
            &format!("/ip4/8.8.8.8/tcp/4001/p2p/{relay}/p2p-circuit"),
        ] {
            assert_eq!(judged(address, Reach::Public), Ok(()), "{address}");
        }
        for address in [
            "/ip4/10.1.2.3/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip6/fe80::1/tcp/4001",
            "/dns4/localhost/tcp/4001",
            "/dns/printer.local/tcp/4001",
            &format!("/ip4/192.168.0.1/tcp/4001/p2p/{relay}/p2p-circuit"),
        ] {
            assert_eq!(
                judged(address, Reach::Public),
                Err(Refusal::Private),
                "{address}"
            );
            assert_eq!(judged(address, Reach::Loopback), Ok(()), "{address}");
        }
        let loopback = judged("/ip4/127.0.0.1/tcp/1", Reach::Private);
        assert_eq!(loopback, Err(Refusal::Private));
    }

    #[test]
    fn what_nobody_can_dial_is_refused_whoever_says_it() {
        for address in [
            "/ip4/0.0.0.0/tcp/4001",
            "/ip6/::/tcp/4001",
            "/ip4/224.0.0.1/udp/4001/quic-v1",
            "/ip4/8.8.8.8/tcp/0",
            "/ip4/8.8.8.8",
            "/tcp/4001",
            "/memory/7/ws",
        ] {
            let refused = judged(address, Reach::Loopback);
            assert_eq!(refused, Err(Refusal::Unreachable), "{address}");
        }
    }

    #[test]
    fn only_the_peers_own_id_may_stand_at_the_end() {
        let peer = PeerId::random();
        let key = PeerKey::new(&peer).unwrap();
        let bare: Multiaddr = "/ip4/8.8.8.8/tcp/4001".parse().unwrap();
        let own = bare.clone().with(Protocol::P2p(peer)).to_vec();
        assert_eq!(judge(&own, &key, Reach::Public), Ok(&bare.to_vec()[..]));
        let other = bare.with(Protocol::P2p(PeerId::random())).to_vec();
        let refused = judge(&other, &key, Reach::Public);
        assert_eq!(refused, Err(Refusal::OtherPeer));
    }

    #[test]
    fn what_is_no_address_or_too_long_is_refused() {
        let peer = PeerKey::new(&PeerId::random()).unwrap();
        let mut long = "/ip4/8.8.8.8".parse::<Multiaddr>().unwrap();
        while long.len() <= ADDRESS_BYTES_MAX {
            long.push(Protocol::Tcp(1));
        }
        for (bytes, refusal) in [
            (&b"\xff\xff\xff"[..], Refusal::Malformed),
            (b"", Refusal::Malformed),
            (&long.to_vec(), Refusal::TooLong),
        ] {
            assert_eq!(judge(bytes, &peer, Reach::Loopback), Err(refusal));
        }
    }

    proptest! {
        /// Whatever a peer announces, only what can be read again is kept.
        #[test]
        fn what_is_kept_is_an_address(
            mut bytes in prop::collection::vec(any::<u8>(), 0..64),
            host in prop::option::of(any::<[u8; 4]>()),
        ) {
            if let Some(host) = host {
                bytes.splice(0..0, [4].into_iter().chain(host).chain([6, 15, 161]));
            }
            let peer = PeerKey::new(&PeerId::random()).unwrap();
            if let Ok(kept) = judge(&bytes, &peer, Reach::Loopback) {
                prop_assert!(Multiaddr::try_from(kept.to_vec()).is_ok());
            }
        }
    }
}
