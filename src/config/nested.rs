//! Limits that count a part of what another one counts.
//!
//! Owns which limit lies within which. A value that somebody set moves derived
//! ones out of its way; two that contradict each other and were both set, or
//! one that does not fit into the server's capacity, are refused with both
//! keys named. What is derived from a value that moved follows it.

use std::collections::BTreeSet;

use super::{Config, Fault, Loaded, Origin, derive};

/// A count in the configuration: its key and where it stands.
type Count = (&'static str, fn(&mut Config) -> &mut usize);

/// The second of each pair counts the first and more; innermost pairs first.
const NESTED: &[(Count, Count)] = &[
    (RESERVATIONS_PER_IP, RESERVATIONS_PER_PREFIX),
    (RESERVATIONS_PER_PREFIX, RESERVATIONS),
    (LOW_WATER, HIGH_WATER),
    (HIGH_WATER, CONNECTIONS),
    (PER_IP, PER_SITE),
    (PER_SITE, PER_PREFIX),
    (PER_PREFIX, PER_ASN),
    (PER_ASN, CONNECTIONS),
    (PER_PEER, CONNECTIONS),
    (TRANSIENT, CONNECTIONS),
    (SOCKETS, CONNECTIONS),
    (RESERVATIONS, CONNECTIONS),
    (CIRCUITS_PER_PEER, CIRCUITS),
    (CIRCUITS_PER_PEER, STREAMS_PER_CONNECTION),
    (PINGS_PER_PEER, PINGS),
    (IDENTIFIES_PER_PEER, IDENTIFIES),
    (PUSHES_PER_PEER, PUSHES),
    (HOPS_PER_PEER, HOPS),
    (PINGS, STREAMS),
    (IDENTIFIES, STREAMS),
    (PUSHES, STREAMS),
    (HOPS, STREAMS),
    (STREAMS_PER_CONNECTION, STREAMS),
];

/// Capacities: never raised to make room for a part of them.
const CAPACITIES: &[&str] = &[
    CONNECTIONS.0,
    SOCKETS.0,
    RESERVATIONS.0,
    CIRCUITS.0,
    STREAMS_PER_CONNECTION.0,
];

macro_rules! counts {
    ($($name:ident = $section:ident.$key:ident;)*) => {
        $(const $name: Count = (
            concat!(stringify!($section), ".", stringify!($key)),
            |config| &mut config.$section.$key,
        );)*
    };
}

counts! {
    CONNECTIONS = connections.max;
    HIGH_WATER = connections.high_water;
    LOW_WATER = connections.low_water;
    SOCKETS = connections.sockets_max;
    TRANSIENT = connections.transient_max;
    PER_IP = connections.per_ip_max;
    PER_SITE = connections.per_site_max;
    PER_PREFIX = connections.per_prefix_max;
    PER_ASN = connections.per_asn_max;
    PER_PEER = connections.per_peer_max;
    STREAMS_PER_CONNECTION = connections.streams_max;
    RESERVATIONS = relay.reservations_max;
    RESERVATIONS_PER_IP = relay.reservations_per_ip_max;
    RESERVATIONS_PER_PREFIX = relay.reservations_per_prefix_max;
    CIRCUITS = relay.circuits_max;
    CIRCUITS_PER_PEER = relay.circuits_per_peer_max;
    STREAMS = streams.max;
    PINGS = streams.ping_max;
    PINGS_PER_PEER = streams.ping_per_peer_max;
    IDENTIFIES = streams.identify_max;
    IDENTIFIES_PER_PEER = streams.identify_per_peer_max;
    PUSHES = streams.push_max;
    PUSHES_PER_PEER = streams.push_per_peer_max;
    HOPS = streams.hop_max;
    HOPS_PER_PEER = streams.hop_per_peer_max;
}

/// Fits what nobody set to what somebody did, and tells the contradictions.
pub(super) fn fit(loaded: &mut Loaded) -> Vec<Fault> {
    for (part, whole) in NESTED {
        raise(loaded, *part, *whole);
    }
    let mut moved = loaded.raised.clone();
    derive::follow(loaded, &mut moved);
    fit_circuits(loaded);
    lower_all(loaded, &mut moved);
    // What follows from something lower is no higher than before, but may be
    // above a limit that follows from something lower as well.
    derive::follow(loaded, &mut moved);
    lower_all(loaded, &mut moved)
}

fn lower_all(loaded: &mut Loaded, moved: &mut BTreeSet<&'static str>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (part, whole) in NESTED.iter().rev() {
        faults.extend(lower(loaded, *part, *whole, moved));
    }
    faults
}

/// A circuit is two streams, so circuits that nobody set follow from streams.
fn fit_circuits(loaded: &mut Loaded) {
    let streams = loaded.config.streams.max;
    let circuits = &mut loaded.config.relay.circuits_max;
    if *circuits > streams / 2 && !loaded.origins.contains_key(CIRCUITS.0) {
        *circuits = (streams / 2).max(1);
        let from = format!("{} = {streams}", STREAMS.0);
        loaded.derived.insert(CIRCUITS.0, Origin::Derived(from));
    }
}

/// Makes room for a part that somebody set in a whole that nobody did.
fn raise(loaded: &mut Loaded, part: Count, whole: Count) {
    let ((part_key, part), (whole_key, whole)) = (part, whole);
    // Raised itself, a part counts as set by who caused that.
    let deliberate = loaded.origins.contains_key(part_key) || loaded.raised.contains(part_key);
    if !deliberate || loaded.origins.contains_key(whole_key) || CAPACITIES.contains(&whole_key) {
        return;
    }
    let needed = *part(&mut loaded.config);
    let whole = whole(&mut loaded.config);
    if needed > *whole {
        *whole = needed;
        let from = format!("{part_key} = {needed}");
        loaded.derived.insert(whole_key, Origin::Derived(from));
        loaded.raised.insert(whole_key);
    }
}

/// Lowers a default to the limit around it; refuses a value that somebody set.
fn lower(
    loaded: &mut Loaded,
    part: Count,
    whole: Count,
    moved: &mut BTreeSet<&'static str>,
) -> Option<Fault> {
    let ((part_key, part), (whole_key, whole)) = (part, whole);
    let whole = *whole(&mut loaded.config);
    let part = part(&mut loaded.config);
    if *part <= whole {
        return None;
    }
    if loaded.origins.contains_key(part_key) {
        let origin = loaded.origin(whole_key).phrase();
        let reason = format!("is above {whole_key} = {whole} {origin}");
        return Some(loaded.fault(part_key, reason));
    }
    // A whole of 0 is refused for itself.
    *part = whole.max(1);
    let from = format!("{whole_key} = {whole}");
    loaded.derived.insert(part_key, Origin::Derived(from));
    moved.insert(part_key);
    None
}
