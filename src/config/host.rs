//! What the host grants this process: memory and descriptors.
//!
//! Owns how both are found out, under a control group and behind a `/proc`
//! that shows only processes (`ProcSubset=pid`), which hides `/proc/meminfo`.
//! What is made of them is left to `derive`, which takes them as values.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::value::units::show_size;

/// Where control groups are mounted on every distribution with systemd, and in
/// containers.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Limits of a control group, of version 2 and then of version 1. At
/// `memory.high` a group is slowed down until it gives memory back, which for
/// a server is as bad as the end at `memory.max`.
const LIMIT_FILES: [&str; 3] = ["memory.max", "memory.high", "memory.limit_in_bytes"];

/// What this process may use of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Memory, in bytes: the least of the host's and of what the control groups
    /// that hold this process allow.
    pub memory_bytes: u64,
    /// Descriptors: the hard limit, to which the soft one is raised at the
    /// start. `u64::MAX`: no limit.
    pub descriptors: u64,
    /// Cores that this process may run on; at least one.
    pub cores: usize,
}

impl Host {
    /// Asks the kernel.
    #[must_use]
    pub fn read() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group_limit = memory_limit(&groups, Path::new(CGROUP_ROOT), |path| {
            fs::read_to_string(path).ok()
        });
        Self {
            memory_bytes: physical_memory().min(group_limit.unwrap_or(u64::MAX)),
            descriptors: limit.maximum.unwrap_or(u64::MAX),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// In the words of the keys' origins.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.memory_bytes {
            u64::MAX => f.write_str("memory unknown")?,
            // In whole MiB: the last KiB matter to nobody.
            bytes => write!(f, "memory = {}", show_size(bytes >> 20 << 20))?,
        }
        match self.descriptors {
            u64::MAX => f.write_str(", descriptors unlimited")?,
            count => write!(f, ", descriptors = {count}")?,
        }
        write!(f, ", cores = {}", self.cores)
    }
}

/// `u64::MAX` where it cannot be asked for.
#[cfg(target_os = "linux")]
#[expect(
    clippy::useless_conversion,
    reason = "the field is narrower on 32-bit hosts"
)]
fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit.max(1)))
}

#[cfg(not(target_os = "linux"))]
fn physical_memory() -> u64 {
    u64::MAX
}

/// The least limit of the groups named in `groups` (`/proc/self/cgroup`) and
/// of those around them. In a container the named path may not exist below its
/// mount, whose root is then the group itself, so the root is looked at too.
fn memory_limit(groups: &str, root: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| group_directory(line, root))
        .flat_map(|(mount, group)| {
            let mut directories = Vec::new();
            for directory in group.ancestors() {
                directories.push(directory.to_path_buf());
                if directory == mount {
                    break;
                }
            }
            directories
        })
        .flat_map(|directory| LIMIT_FILES.map(|file| directory.join(file)))
        .filter_map(|file| read(&file)?.trim().parse().ok())
        .min()
}

/// Mount and directory of one line, if it is about memory: `0::/path` in
/// version 2, `4:memory:/path` (or among several controllers) in version 1.
fn group_directory(line: &str, root: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let mount = if controllers.is_empty() {
        root.to_path_buf()
    } else if controllers.split(',').any(|name| name == "memory") {
        root.join(controllers)
    } else {
        return None;
    };
    let path = path.trim_start_matches('/');
    // Seen from a container, a group outside of it begins with "..".
    let group = if path.split('/').any(|part| part == "..") {
        mount.clone()
    } else {
        mount.join(path)
    };
    Some((mount, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/groups";

    fn limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        memory_limit(groups, Path::new(ROOT), |path| {
            let path = path.to_str()?.strip_prefix("/groups/")?;
            let (_, text) = files.iter().find(|(name, _)| *name == path)?;
            Some((*text).to_owned())
        })
    }

    #[test]
    fn this_process_has_some_memory_and_some_descriptors() {
        let host = Host::read();
        assert!(host.memory_bytes > 1 << 20, "{host:?}");
        assert!(host.descriptors > 16, "{host:?}");
    }

    #[test]
    fn the_least_limit_around_the_process_counts() {
        let groups = "0::/system.slice/waystation.service\n";
        let own = "system.slice/waystation.service/memory.max";
        assert_eq!(limit(groups, &[(own, "max\n")]), None);
        assert_eq!(limit(groups, &[(own, "1073741824\n")]), Some(1 << 30));
        let files = [
            (own, "1073741824\n"),
            ("system.slice/waystation.service/memory.high", "900000000\n"),
            ("system.slice/memory.max", "800000000\n"),
        ];
        assert_eq!(limit(groups, &files[..2]), Some(900_000_000));
        assert_eq!(limit(groups, &files), Some(800_000_000));
    }

    #[test]
    fn a_container_sees_its_group_at_the_root() {
        for groups in ["0::/\n", "0::/../outside\n", "0::/docker/0123\n"] {
            assert_eq!(
                limit(groups, &[("memory.max", "536870912\n")]),
                Some(1 << 29),
                "{groups}"
            );
        }
    }

    #[test]
    fn the_first_version_is_read_too() {
        let groups = "5:devices:/\n4:memory:/jobs/one\n0::/\n";
        let unlimited = "9223372036854771712\n";
        let files = [
            ("memory/jobs/one/memory.limit_in_bytes", "268435456\n"),
            ("memory/memory.limit_in_bytes", unlimited),
            ("devices/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(limit(groups, &files), Some(1 << 28));
        // Without a limit there is a number beyond any host's memory.
        assert!(limit(groups, &files[1..]) > Some(1 << 60));
    }
}
