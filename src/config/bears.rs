//! What the host bears, and what to say when it is less than wanted.
//!
//! Owns what a connection costs of memory and descriptors. Notes refuse
//! nothing: an operator may know the host better than we do.

use super::value::units::show_size;
use super::{Host, Loaded};

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
                scarcer(host)
            ));
        }
    } else {
        let wanted = connections_max as u64;
        if wanted > by_descriptors(host) {
            notes.push(format!(
                "connections.max = {connections_max} needs {} descriptors; the hard limit is {}",
                wanted.saturating_add(DESCRIPTORS_RESERVED),
                host.descriptors
            ));
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

/// Connections that the host bears.
pub(super) fn connections(host: &Host) -> usize {
    let fit = by_descriptors(host).min(by_memory(host));
    let fit = usize::try_from(fit).unwrap_or(usize::MAX);
    fit.clamp(CONNECTIONS_LEAST, CONNECTIONS_WANTED)
}

fn by_descriptors(host: &Host) -> u64 {
    host.descriptors.saturating_sub(DESCRIPTORS_RESERVED)
}

fn by_memory(host: &Host) -> u64 {
    host.memory_bytes / MEMORY_PER_CONNECTION
}

/// What the host has of the thing that holds back the number of connections.
pub(super) fn scarcer(host: &Host) -> String {
    if by_descriptors(host) < by_memory(host) {
        format!("descriptors = {}", host.descriptors)
    } else {
        memory(host)
    }
}

/// Told in whole MiB: the last KiB matter to nobody.
pub(super) fn memory(host: &Host) -> String {
    format!("memory = {}", show_size(host.memory_bytes >> 20 << 20))
}
