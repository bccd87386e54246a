//! Count and rate of what comes from one host, site, network and autonomous
//! system.
//!
//! Owns the table of each level and the order in which a newcomer passes them.
//! Bounds each table as `groups` does. Who is exempt is the caller's to know.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::asn::{Asn, AsnDatabase};
use super::groups::{GroupPermit, GroupTable};
use super::{HostKey, Level, Origin, PrefixKey, Refusal, SiteKey};
use crate::config::ConnectionsConfig;
use crate::engine::token_bucket::Rate;

/// Places in each table beyond one for every connection there may be.
///
/// A group without connections is kept until its bucket is full again, 200 ms
/// after a single connection at the default rate, so this many addresses would
/// have to come and go within that time before strangers share a bucket.
pub(super) const TABLE_SLACK: usize = 16_384;

/// The tables, from the widest group to the narrowest.
#[derive(Debug)]
pub(super) struct Origins {
    /// `None` without a database.
    systems: Option<Systems>,
    prefixes: Arc<GroupTable<PrefixKey>>,
    /// IPv6 only.
    sites: Arc<GroupTable<SiteKey>>,
    hosts: Arc<GroupTable<HostKey>>,
}

#[derive(Debug)]
struct Systems {
    database: AsnDatabase,
    groups: Arc<GroupTable<Asn>>,
}

/// One connection, counted at each level that applies; off again by drop.
#[derive(Debug, Default)]
pub(super) struct OriginPermit {
    system: Option<GroupPermit<Asn>>,
    prefix: Option<GroupPermit<PrefixKey>>,
    site: Option<GroupPermit<SiteKey>>,
    host: Option<GroupPermit<HostKey>>,
}

/// A table's places, and how many connections are counted without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableUsage {
    /// Groups in the table, with or without connections.
    pub groups: Level,
    /// Connections of groups that came when the table was full; where groups
    /// have no connections, requests since it was.
    pub overflow: usize,
}

impl Origins {
    pub(super) fn new(config: &ConnectionsConfig, asn: Option<AsnDatabase>) -> Self {
        let places = config.max.saturating_add(TABLE_SLACK);
        let rate = |per_second, burst: usize| {
            Rate::new(per_second, u32::try_from(burst).unwrap_or(u32::MAX))
        };
        let per_asn = rate(config.rate_per_asn, config.burst_per_asn);
        let per_prefix = rate(config.rate_per_prefix, config.burst_per_prefix);
        let per_site = rate(config.rate_per_site, config.burst_per_site);
        let per_ip = rate(config.rate_per_ip, config.burst_per_ip);
        Self {
            systems: asn.map(|database| Systems {
                database,
                groups: GroupTable::new(places, config.per_asn_max, per_asn),
            }),
            prefixes: GroupTable::new(places, config.per_prefix_max, per_prefix),
            sites: GroupTable::new(places, config.per_site_max, per_site),
            hosts: GroupTable::new(places, config.per_ip_max, per_ip),
        }
    }

    /// Counts one more connection from `address`, which is of `origin`.
    ///
    /// The widest group goes first, so that hosts out of one network whose
    /// limit is reached do not fill the tables of narrower groups; what was
    /// given is returned when a narrower one refuses, so that one loud host
    /// does not use up its neighbours' share.
    pub(super) fn admit(
        &self,
        origin: Origin,
        address: IpAddr,
        now: Instant,
    ) -> Result<OriginPermit, Refusal> {
        let mut permit = OriginPermit::default();
        match self.fill(&mut permit, origin, address, now) {
            Ok(()) => Ok(permit),
            Err(refusal) => {
                permit.undo();
                Err(refusal)
            }
        }
    }

    fn fill(
        &self,
        permit: &mut OriginPermit,
        origin: Origin,
        address: IpAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        if let Some(systems) = &self.systems
            && let Some(system) = systems.database.find(address)
        {
            let acquired = systems.groups.acquire(system, now);
            permit.system = Some(acquired.map_err(Refusal::of_system)?);
        }
        let acquired = self.prefixes.acquire(origin.prefix, now);
        permit.prefix = Some(acquired.map_err(Refusal::of_prefix)?);
        if let Some(site) = origin.site {
            let acquired = self.sites.acquire(site, now);
            permit.site = Some(acquired.map_err(Refusal::of_site)?);
        }
        let acquired = self.hosts.acquire(origin.host, now);
        permit.host = Some(acquired.map_err(Refusal::of_host)?);
        Ok(())
    }

    pub(super) fn sweep(&self, now: Instant) {
        if let Some(systems) = &self.systems {
            systems.groups.sweep(now);
        }
        self.prefixes.sweep(now);
        self.sites.sweep(now);
        self.hosts.sweep(now);
    }

    /// Of hosts, sites, networks and autonomous systems.
    pub(super) fn usage(&self) -> [TableUsage; 4] {
        let systems = self.systems.as_ref().map(|systems| systems.groups.usage());
        [
            self.hosts.usage(),
            self.sites.usage(),
            self.prefixes.usage(),
            systems.unwrap_or(TableUsage {
                groups: Level { taken: 0, max: 0 },
                overflow: 0,
            }),
        ]
    }
}

impl OriginPermit {
    /// Takes the connection off every count and puts its tokens back.
    pub(super) fn undo(self) {
        let Self {
            system,
            prefix,
            site,
            host,
        } = self;
        system.into_iter().for_each(GroupPermit::undo);
        prefix.into_iter().for_each(GroupPermit::undo);
        site.into_iter().for_each(GroupPermit::undo);
        host.into_iter().for_each(GroupPermit::undo);
    }
}
