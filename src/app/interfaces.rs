//! What an unspecified listening address stands for: the addresses of this
//! host's interfaces. Whom each of them reaches is for `state::addresses`.

use multiaddr::{Multiaddr, Protocol};

/// Replaces unspecified addresses by those of this host's interfaces.
pub(super) fn expand(bound: &[Multiaddr]) -> Vec<Multiaddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list this host's addresses; set announce.addresses");
        Vec::new()
    });
    let mut expanded = Vec::new();
    for address in bound {
        let unspecified = match address.iter().next() {
            Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
            Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
            _ => false,
        };
        if !unspecified {
            expanded.push(address.clone());
            continue;
        }
        let is_v4 = matches!(address.iter().next(), Some(Protocol::Ip4(_)));
        expanded.extend(
            interfaces
                .iter()
                .map(if_addrs::Interface::ip)
                .filter(|ip| ip.is_ipv4() == is_v4)
                .map(|ip| {
                    let rest = address.iter().skip(1);
                    std::iter::once(Protocol::from(ip)).chain(rest).collect()
                }),
        );
    }
    expanded
}
