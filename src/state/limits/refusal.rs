//! Why a socket or connection was not admitted: the limit that fired.
//!
//! One variant for each limit, with the label for metrics and the words for
//! the log, which name the key. Counts nothing itself.

use super::groups::GroupRefusal;

/// Why a socket, or a connection that has shown who it is, may not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// `connections.max`.
    #[error("too many connections (connections.max)")]
    Total,
    /// `connections.sockets_max`.
    #[error("too many connections that take a descriptor each (connections.sockets_max)")]
    Sockets,
    /// `connections.transient_max`.
    #[error("too many sockets that have not authenticated (connections.transient_max)")]
    Transient,
    /// `connections.per_peer_max`.
    #[error("too many connections of this peer (connections.per_peer_max)")]
    PerPeer,
    /// `connections.per_ip_max`.
    #[error("too many connections from this address (connections.per_ip_max)")]
    PerIp,
    /// `connections.per_site_max`.
    #[error("too many connections from this site (connections.per_site_max)")]
    PerSite,
    /// `connections.per_prefix_max`.
    #[error("too many connections from this network (connections.per_prefix_max)")]
    PerPrefix,
    /// `connections.per_asn_max`.
    #[error("too many connections from this autonomous system (connections.per_asn_max)")]
    PerAsn,
    /// `connections.rate_per_ip`.
    #[error("too many new connections from this address (connections.rate_per_ip)")]
    RatePerIp,
    /// `connections.rate_per_site`.
    #[error("too many new connections from this site (connections.rate_per_site)")]
    RatePerSite,
    /// `connections.rate_per_prefix`.
    #[error("too many new connections from this network (connections.rate_per_prefix)")]
    RatePerPrefix,
    /// `connections.rate_per_asn`.
    #[error("too many new connections from this autonomous system (connections.rate_per_asn)")]
    RatePerAsn,
    /// The server is about to stop.
    #[error("shutting down")]
    Draining,
}

impl Refusal {
    /// Every refusal, for registering one series per label.
    pub const ALL: [Self; 13] = [
        Self::Total,
        Self::Sockets,
        Self::Transient,
        Self::PerPeer,
        Self::PerIp,
        Self::PerSite,
        Self::PerPrefix,
        Self::PerAsn,
        Self::RatePerIp,
        Self::RatePerSite,
        Self::RatePerPrefix,
        Self::RatePerAsn,
        Self::Draining,
    ];

    /// Name for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Sockets => "sockets",
            Self::Transient => "transient",
            Self::PerPeer => "per_peer",
            Self::PerIp => "per_ip",
            Self::PerSite => "per_site",
            Self::PerPrefix => "per_prefix",
            Self::PerAsn => "per_asn",
            Self::RatePerIp => "rate_per_ip",
            Self::RatePerSite => "rate_per_site",
            Self::RatePerPrefix => "rate_per_prefix",
            Self::RatePerAsn => "rate_per_asn",
            Self::Draining => "draining",
        }
    }

    pub(super) const fn of_host(refusal: GroupRefusal) -> Self {
        match refusal {
            GroupRefusal::Count => Self::PerIp,
            GroupRefusal::Rate => Self::RatePerIp,
        }
    }

    pub(super) const fn of_site(refusal: GroupRefusal) -> Self {
        match refusal {
            GroupRefusal::Count => Self::PerSite,
            GroupRefusal::Rate => Self::RatePerSite,
        }
    }

    pub(super) const fn of_prefix(refusal: GroupRefusal) -> Self {
        match refusal {
            GroupRefusal::Count => Self::PerPrefix,
            GroupRefusal::Rate => Self::RatePerPrefix,
        }
    }

    pub(super) const fn of_system(refusal: GroupRefusal) -> Self {
        match refusal {
            GroupRefusal::Count => Self::PerAsn,
            GroupRefusal::Rate => Self::RatePerAsn,
        }
    }
}
