//! The process as the kernel sees it, under the names that every Prometheus
//! client library uses, and which build it is.
//!
//! Reads only `/proc/self`, and so works where `ProcSubset=pid` hides the rest
//! of `/proc`; the start time is our own for that reason.

use std::fs;

use super::declare::{Declarations, Kind};
use super::pulled::Pulled;

/// Unit of the times in `/proc/self/stat`: `USER_HZ`, 100 on every Linux
/// architecture that this server is built for.
const TICKS_PER_SECOND: f64 = 100.0;

const CPU: &str = "process_cpu_seconds_total";
const RESIDENT: &str = "process_resident_memory_bytes";
const VIRTUAL: &str = "process_virtual_memory_bytes";
const THREADS: &str = "process_threads";
const OPEN_FDS: &str = "process_open_fds";
const MAX_FDS: &str = "process_max_fds";
const STARTED: &str = "process_start_time_seconds";

pub(super) fn declare(declare: &mut Declarations) {
    declare
        .gauge_vec(
            "waystation_build_info",
            "Always 1; the label says which version runs.",
            &[("version", &[env!("CARGO_PKG_VERSION")])],
        )
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1);

    let started = crate::clock::unix_seconds();
    declare
        .gauge(
            "waystation_start_time_seconds",
            "When this server was started, in seconds since the Unix epoch.",
        )
        .set(i64::try_from(started).unwrap_or(i64::MAX));

    let family = |kind, name, help| Pulled { kind, name, help };
    declare.pulled(
        [
            family(Kind::Counter, CPU, "Total user and system CPU time."),
            family(Kind::Gauge, RESIDENT, "Resident memory size."),
            family(Kind::Gauge, VIRTUAL, "Virtual memory size."),
            family(Kind::Gauge, THREADS, "Number of OS threads."),
            family(Kind::Gauge, OPEN_FDS, "Number of open file descriptors."),
            family(
                Kind::Gauge,
                MAX_FDS,
                "Maximum number of open file descriptors.",
            ),
            family(
                Kind::Gauge,
                STARTED,
                "Start time of the process since the Unix epoch.",
            ),
        ],
        move || {
            let status = read("status");
            [
                read("stat").as_deref().and_then(cpu_seconds),
                status.as_deref().and_then(|s| kibibytes(s, "VmRSS:")),
                status.as_deref().and_then(|s| kibibytes(s, "VmSize:")),
                status.as_deref().and_then(|s| number(s, "Threads:")),
                open_files(),
                read("limits")
                    .as_deref()
                    .and_then(|s| number(s, "Max open files")),
                Some(started as f64),
            ]
        },
    );
}

/// A file of `/proc/self`; `None` where there is none.
fn read(file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{file}")).ok()
}

/// User plus system time: fields 14 and 15 (proc(5)), counted from behind the
/// command name, which may hold spaces and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn kibibytes(table: &str, key: &str) -> Option<f64> {
    number(table, key).map(|kibibytes| kibibytes * 1024.0)
}

/// The first number of the line that begins with `key`; none when it says
/// `unlimited`.
fn number(table: &str, key: &str) -> Option<f64> {
    let rest = table.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// The size of `/proc/self/fd` is the number of open files since Linux 6.2;
/// before, it is zero and they have to be counted, which takes time with tens
/// of thousands of sockets.
fn open_files() -> Option<f64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size as f64);
    }
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_hostile_command_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0 99 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (cut"), None);
    }

    #[test]
    fn tables_of_the_kernel_are_read_by_their_key() {
        let status = "VmPeak:\t  9 kB\nVmSize:\t    4 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(status, "VmSize:"), Some(4096.0));
        assert_eq!(number(status, "Threads:"), Some(3.0));
        let limits = "Max open files            1024                 4096      files\n";
        assert_eq!(number(limits, "Max open files"), Some(1024.0));
        assert_eq!(
            number(
                "Max open files   unlimited  unlimited files",
                "Max open files"
            ),
            None
        );
    }

    #[test]
    fn this_process_has_files_open_and_memory_in_use() {
        assert!(open_files().unwrap() >= 3.0);
        assert!(kibibytes(&read("status").unwrap(), "VmRSS:").unwrap() > 1e6);
    }
}
