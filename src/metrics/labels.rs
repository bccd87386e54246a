//! Closed label sets that describe connections and streams.
//!
//! Values are those of go-libp2p's swarm metrics (transport names, protocol
//! ids, `ip4`/`ip6`), so that its dashboards filter ours without a change.

use std::net::IpAddr;

/// Declares an enum whose variants are the values of one label.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub(super) const VALUES: &'static [&'static str] = &[$($value),+];

            /// The label's value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                Self::VALUES[self as usize]
            }
        }
    };
}

label_values! {
    /// Who opened the connection or stream.
    Direction { Inbound = "inbound", Outbound = "outbound" }
}

label_values! {
    /// The transport under a connection. go has one name for WebSocket with
    /// and without TLS.
    Transport {
        Tcp = "tcp",
        Quic = "quic-v1",
        Ws = "websocket",
        Wss = "secure-websocket",
    }
}

label_values! {
    /// The protocol that authenticated and encrypts a connection; empty, as in
    /// go, where the transport does it.
    Security { Noise = "/noise", Tls = "/tls/1.0.0", OfTransport = "" }
}

label_values! {
    /// The multiplexer of a connection; empty, as in go, where the transport
    /// has streams of its own.
    Muxer { Yamux = "/yamux/1.0.0", Mplex = "/mplex/6.7.0", OfTransport = "" }
}

label_values! {
    /// The IP version of our end of a connection.
    IpVersion { V4 = "ip4", V6 = "ip6" }
}

label_values! {
    /// What a stream is used for.
    Service {
        /// No protocol agreed yet.
        Negotiating = "negotiating",
        Ping = "ping",
        Identify = "identify",
        IdentifyPush = "identify_push",
        Hop = "hop",
        Stop = "stop",
        /// One end of a relayed circuit.
        Circuit = "circuit",
    }
}

impl From<IpAddr> for IpVersion {
    /// An IPv4 peer on a dual-stack IPv6 socket counts as IPv4.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Whether the muxer was agreed inside the security handshake.
const EARLY_MUXER: &[&str] = &["false", "true"];

/// Everything by which a connection is counted, known once it is upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLabels {
    pub direction: Direction,
    pub transport: Transport,
    pub security: Security,
    pub muxer: Muxer,
    pub early_muxer: bool,
    pub ip_version: IpVersion,
}

impl ConnectionLabels {
    /// Number of distinct values.
    pub(super) const COUNT: usize = Direction::VALUES.len() * Self::HANDSHAKES;
    /// Number of distinct values but for the direction, which go's handshake
    /// histogram does not have.
    pub(super) const HANDSHAKES: usize = Transport::VALUES.len()
        * Security::VALUES.len()
        * Muxer::VALUES.len()
        * EARLY_MUXER.len()
        * IpVersion::VALUES.len();

    /// Label names in the order of [`Self::values`].
    pub(super) const NAMES: [(&'static str, &'static [&'static str]); 6] = [
        ("dir", Direction::VALUES),
        ("transport", Transport::VALUES),
        ("security", Security::VALUES),
        ("muxer", Muxer::VALUES),
        ("early_muxer", EARLY_MUXER),
        ("ip_version", IpVersion::VALUES),
    ];

    pub(super) fn values(self) -> [&'static str; 6] {
        [
            self.direction.label(),
            self.transport.label(),
            self.security.label(),
            self.muxer.label(),
            EARLY_MUXER[usize::from(self.early_muxer)],
            self.ip_version.label(),
        ]
    }

    /// A number below [`Self::COUNT`], different for every value.
    pub(super) const fn index(self) -> usize {
        self.handshake_index() + Self::HANDSHAKES * self.direction as usize
    }

    /// A number below [`Self::HANDSHAKES`] that ignores the direction.
    pub(super) const fn handshake_index(self) -> usize {
        let mut index = self.transport as usize;
        index = index * Security::VALUES.len() + self.security as usize;
        index = index * Muxer::VALUES.len() + self.muxer as usize;
        index = index * EARLY_MUXER.len() + self.early_muxer as usize;
        index * IpVersion::VALUES.len() + self.ip_version as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_label_set_has_its_own_index() {
        let mut seen = [false; ConnectionLabels::COUNT];
        for direction in [Direction::Inbound, Direction::Outbound] {
            for (transport, security, muxer) in [
                (Transport::Tcp, Security::Noise, Muxer::Yamux),
                (Transport::Tcp, Security::Noise, Muxer::Mplex),
                (Transport::Quic, Security::OfTransport, Muxer::OfTransport),
            ] {
                for early_muxer in [false, true] {
                    for ip_version in [IpVersion::V4, IpVersion::V6] {
                        let labels = ConnectionLabels {
                            direction,
                            transport,
                            security,
                            muxer,
                            early_muxer,
                            ip_version,
                        };
                        let slot = &mut seen[labels.index()];
                        assert!(!*slot, "{labels:?} shares its index");
                        *slot = true;
                    }
                }
            }
        }
    }

    #[test]
    fn a_mapped_ipv4_address_counts_as_ipv4() {
        let mapped = IpAddr::V6(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        assert_eq!(IpVersion::from(mapped), IpVersion::V4);
    }
}
