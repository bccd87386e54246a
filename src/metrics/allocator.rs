//! What jemalloc holds, read at each scrape.
//!
//! Five gauges of the whole process; what of it belongs to which layer is told
//! by the pools and by the numbers of connections and streams.

use tikv_jemalloc_ctl::{epoch, stats};

use super::declare::{Declarations, Kind};
use super::pulled::Pulled;

pub(super) fn declare(declare: &mut Declarations) {
    let family = |name, help| Pulled {
        kind: Kind::Gauge,
        name,
        help,
    };
    declare.pulled(
        [
            family(
                "waystation_allocator_allocated_bytes",
                "Memory that the program asked for and has not given back.",
            ),
            family(
                "waystation_allocator_active_bytes",
                "Memory in pages with at least one allocation; beyond allocated it is fragmentation.",
            ),
            family(
                "waystation_allocator_resident_bytes",
                "Memory of the allocator that is backed by physical pages.",
            ),
            family(
                "waystation_allocator_mapped_bytes",
                "Address space that the allocator has mapped for use.",
            ),
            family(
                "waystation_allocator_retained_bytes",
                "Address space that the allocator keeps without physical pages.",
            ),
        ],
        || {
            // The statistics are a copy that the epoch refreshes. Without
            // statistics support all of them are absent.
            if epoch::advance().is_err() {
                return [None; 5];
            }
            [
                stats::allocated::read(),
                stats::active::read(),
                stats::resident::read(),
                stats::mapped::read(),
                stats::retained::read(),
            ]
            .map(|bytes| bytes.ok().map(|bytes| bytes as f64))
        },
    );
}
