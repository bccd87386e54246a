//! Levels that the parts of the server know, copied into gauges when somebody
//! asks for them.
//!
//! Owns which level goes to which gauge. Counts nothing itself.

use std::sync::Arc;

use crate::metrics::Metrics;
use crate::state::connections::Reason;
use crate::state::limits::{Level, TableUsage};
use crate::store::Store;

use super::worker;

/// Has the sizes of tables read when somebody asks for them.
pub(super) fn observe(metrics: &Arc<Metrics>, shared: &worker::Shared, store: &Arc<Store>) {
    let store = Arc::clone(store);
    let (limits, buffers) = (Arc::clone(&shared.limits), Arc::clone(&shared.buffers));
    let context = Arc::downgrade(&shared.context);
    metrics.before_scrape(move |metrics| {
        let Some(context) = context.upgrade() else {
            return;
        };
        let known = context.peerstore.usage();
        metrics.identify.set_interned(known.protocols, known.agents);
        metrics
            .peerstore
            .set_usage(known.peers, known.addresses, known.bytes, known.changed);
        let addresses = &context.relay.addresses;
        let announced = addresses.told().all().len();
        let left_out = addresses.left_out();
        metrics.identify.set_addresses(
            announced,
            addresses.observed_count(),
            left_out.no_room + left_out.not_looked_at,
        );
        let (reservations, circuits) = (&context.relay.reservations, &context.relay.circuits);
        let usage = limits.usage();
        let [streams, ping, identify, push, hop] = context.streams.usage();
        let pair = |level: Level| (level.taken, level.max);
        metrics.limits.set_limits([
            pair(usage.total),
            pair(usage.sockets),
            pair(usage.transient),
            pair(buffers.usage()),
            (reservations.count(), reservations.max()),
            (circuits.open_count(), circuits.max()),
            pair(streams),
            pair(ping),
            pair(identify),
            pair(push),
            pair(hop),
        ]);
        let table = |usage: TableUsage| (pair(usage.groups), usage.overflow);
        metrics.limits.set_tables([
            table(usage.hosts),
            table(usage.sites),
            table(usage.prefixes),
            table(usage.systems),
            table(reservations.rates_usage()),
            table(circuits.rates_usage()),
        ]);
        metrics
            .circuits
            .set_metered_peers(circuits.bandwidth().peers());
        let connections = &context.connections;
        metrics.trimming.set_levels(
            connections.peers(),
            connections.open().saturating_sub(connections.staying()),
            Reason::ALL.map(|reason| connections.protected(reason)),
        );
        metrics.store.set_file_bytes(store.file_bytes());
        context.relay.access.observe();
    });
}
