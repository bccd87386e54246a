//! What the host bears, and what to say when it is less than wanted.
//!
//! Owns what a connection costs of memory and descriptors. Notes refuse
//! nothing: an operator may know the host better than we do.

use super::value::units::show_size;
use super::{Config, Host, ListenAddress, Loaded, Transport};

/// Connections where nothing forbids them: what this server is built for.
pub(super) const CONNECTIONS_WANTED: usize = 50_000;
/// Fewest connections that are worth a server, whatever the host says.
const CONNECTIONS_LEAST: usize = 16;
/// Memory to have for each connection: some 3.5 KiB of ours and 5 KiB of the
/// kernel's while it is idle, the rest for what is on its way. 50,000 fit into
/// a host of one GiB.
const MEMORY_PER_CONNECTION: u64 = 16 * 1024;
/// Descriptors that are not connections: listening sockets, the admin server,
/// the runtimes' own, standard streams, files being read.
const DESCRIPTORS_RESERVED: u64 = 256;

/// Tells what the host does not bear, be it that a default is lower for it or
/// that somebody has set more.
pub(super) fn note(loaded: &mut Loaded, host: &Host) {
    let connections_max = loaded.config.connections.max;
    let mut notes = Vec::new();
    if !loaded.origins.contains_key("connections.max") {
        if connections_max < CONNECTIONS_WANTED {
            notes.push(format!(
                "connections.max is {connections_max} instead of {CONNECTIONS_WANTED}: no more fit into {}",
                scarcer(&loaded.config, host)
            ));
        }
    } else {
        let wanted = connections_max as u64;
        if wanted > by_descriptors(host) && !listens_on_quic(&loaded.config) {
            notes.push(needs_descriptors("connections.max", connections_max, host));
        }
        if wanted > by_memory(host) {
            notes.push(format!(
                "connections.max = {connections_max} needs {} of memory; the host has {}",
                show_size(wanted.saturating_mul(MEMORY_PER_CONNECTION)),
                show_size(host.memory_bytes >> 20 << 20)
            ));
        }
    }
    let config = &loaded.config;
    let (key, sockets_max) = ("connections.sockets_max", config.connections.sockets_max);
    if !loaded.origins.contains_key(key) {
        if sockets_max < connections_max && listens_on_quic(config) {
            notes.push(format!(
                "{key} is {sockets_max}: descriptors = {} allow no more, QUIC may have the rest",
                host.descriptors
            ));
        }
    } else if sockets_max as u64 > by_descriptors(host) {
        notes.push(needs_descriptors(key, sockets_max, host));
    }
    for (key, size) in [
        ("memory.max", config.memory.max),
        ("connections.buffers_max", config.connections.buffers_max),
        ("peerstore.memory_max", config.peerstore.memory_max),
    ] {
        if let Some(size) = size.filter(|size| *size > host.memory_bytes)
            && loaded.origins.contains_key(key)
        {
            notes.push(format!(
                "{key} = {} is above {}",
                show_size(size),
                memory(host)
            ));
        }
    }
    loaded.notes.extend(notes);
}

/// Connections that the host bears. Those over QUIC share a few sockets, so that
/// descriptors hold back the others only.
pub(super) fn connections(config: &Config, host: &Host) -> usize {
    let fit = if listens_on_quic(config) {
        by_memory(host)
    } else {
        by_descriptors(host).min(by_memory(host))
    };
    let fit = usize::try_from(fit).unwrap_or(usize::MAX);
    fit.clamp(CONNECTIONS_LEAST, CONNECTIONS_WANTED)
}

/// Of these connections, the ones that may take a descriptor each.
pub(super) fn sockets(connections: usize, host: &Host) -> usize {
    let fit = usize::try_from(by_descriptors(host)).unwrap_or(usize::MAX);
    connections.min(fit.max(CONNECTIONS_LEAST))
}

fn listens_on_quic(config: &Config) -> bool {
    let mut wanted = config.listen.addresses.iter().filter_map(ListenAddress::of);
    wanted.any(|address| address.transport == Transport::Quic)
}

fn needs_descriptors(key: &str, count: usize, host: &Host) -> String {
    let needed = (count as u64).saturating_add(DESCRIPTORS_RESERVED);
    format!(
        "{key} = {count} needs {needed} descriptors; the hard limit is {}",
        host.descriptors
    )
}

fn by_descriptors(host: &Host) -> u64 {
    host.descriptors.saturating_sub(DESCRIPTORS_RESERVED)
}

fn by_memory(host: &Host) -> u64 {
    host.memory_bytes / MEMORY_PER_CONNECTION
}

/// What the host has of the thing that holds back the number of connections.
pub(super) fn scarcer(config: &Config, host: &Host) -> String {
    if by_descriptors(host) < by_memory(host) && !listens_on_quic(config) {
        format!("descriptors = {}", host.descriptors)
    } else {
        memory(host)
    }
}

/// Told in whole MiB: the last KiB matter to nobody.
pub(super) fn memory(host: &Host) -> String {
    format!("memory = {}", show_size(host.memory_bytes >> 20 << 20))
}
