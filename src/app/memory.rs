//! How large the process is and whether the host is short of memory.
//!
//! Two small files of `/proc` or of the control group, read at each look. The
//! group's own pressure is preferred to the host's; a unit with `ProcSubset=pid`
//! hides the latter. What neither tells is absent. What follows from it is
//! decided in `state::connections`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::state::connections::Reading;

/// Where the control groups of version 2 are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// Reads the state of memory.
pub(super) struct MemoryProbe {
    /// The file that tells of stalls, if there is one.
    stalls: Option<PathBuf>,
}

impl MemoryProbe {
    /// Finds out once where stalls are told.
    pub(super) fn new() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let places = stall_files(&group);
        Self {
            stalls: places
                .into_iter()
                .find(|path| read(path).as_deref().and_then(stalled).is_some()),
        }
    }

    /// How things stand now.
    pub(super) fn read(&self) -> Reading {
        let status = read(Path::new("/proc/self/status"));
        let stalls = self.stalls.as_deref().and_then(read);
        Reading {
            resident_bytes: status.as_deref().and_then(resident),
            stalled: stalls.as_deref().and_then(stalled),
        }
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Where to look, given `/proc/self/cgroup`: the own group, the mount itself
/// (which in a container is the own group), the whole host.
fn stall_files(group: &str) -> Vec<PathBuf> {
    let own = group.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own
        .filter(|path| !path.is_empty() && !path.split('/').any(|part| part == ".."))
        .map(|path| Path::new(GROUPS).join(path).join("memory.pressure"));
    own.into_iter()
        .chain([
            Path::new(GROUPS).join("memory.pressure"),
            PathBuf::from("/proc/pressure/memory"),
        ])
        .collect()
}

/// Bytes out of `/proc/self/status` (proc(5)): what is not backed by files,
/// since the kernel drops the rest by itself; all of it on older kernels.
fn resident(status: &str) -> Option<u64> {
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let rest = field("RssAnon:").or_else(|| field("VmRSS:"))?;
    let kibibytes: u64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// `some avg10=1.50 avg60=…`, in per cent, as a share.
fn stalled(pressure: &str) -> Option<f64> {
    let line = pressure
        .lines()
        .find_map(|line| line.strip_prefix("some "))?;
    let average = line
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("avg10="))?;
    let percent: f64 = average.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let status = "VmPeak:\t  900 kB\nVmRSS:\t   2048 kB\nThreads:\t3\n";
        assert_eq!(resident(status), Some(2 << 20));
        let anonymous = format!("{status}RssAnon:\t  1024 kB\nRssFile:\t 1024 kB\n");
        assert_eq!(resident(&anonymous), Some(1 << 20));
        assert_eq!(resident("VmRSS: much\n"), None);
        let pressure = "some avg10=12.50 avg60=1.00 avg300=0.10 total=7\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(stalled(pressure), Some(0.125));
        for text in ["", "full avg10=3.00", "some avg10=NaN", "some avg10=101"] {
            assert_eq!(stalled(text), None, "{text}");
        }
    }

    #[test]
    fn the_own_group_is_asked_before_the_host() {
        let told = |group| stall_files(group).remove(0);
        let own = "/sys/fs/cgroup/system.slice/waystation.service/memory.pressure";
        assert_eq!(
            told("0::/system.slice/waystation.service\n"),
            PathBuf::from(own)
        );
        let mount = PathBuf::from("/sys/fs/cgroup/memory.pressure");
        for group in ["0::/\n", "0::/../outside\n", "4:memory:/jobs\n", ""] {
            assert_eq!(told(group), mount, "{group}");
        }
    }

    #[test]
    fn this_process_has_a_size() {
        let reading = MemoryProbe::new().read();
        assert!(reading.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
    }
}
