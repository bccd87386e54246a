//! What the server process cost, read from /proc: CPU time, resident memory, descriptors.
//!
//! Only the server's process is read, so the load generator's own work never counts.
//! Parsing is pure and tested; the readers around it add the path.

use std::{fs, time::Duration};

use anyhow::Context;

/// Unit of the times in /proc/PID/stat: USER_HZ, 100 on every Linux since 2.6.
const TICKS_PER_SECOND: u32 = 100;

/// The server's process, or nothing when no pid was given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pid: u32,
}

impl Server {
    /// # Errors
    /// When there is no such process.
    pub(crate) fn new(pid: u32) -> anyhow::Result<Self> {
        let server = Self { pid };
        server.cpu_time()?;
        Ok(server)
    }

    pub(crate) fn pid(self) -> u32 {
        self.pid
    }

    /// User plus system time of all threads, also of those that ended.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn cpu_time(self) -> anyhow::Result<Duration> {
        let stat = self.read("stat")?;
        parse_cpu_time(&stat).with_context(|| format!("cannot parse /proc/{}/stat", self.pid))
    }

    /// Resident set in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn resident_kib(self) -> anyhow::Result<u64> {
        let status = self.read("status")?;
        parse_resident_kib(&status).with_context(|| format!("no VmRSS in /proc/{}", self.pid))
    }

    /// Descriptors the server may hold.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn descriptors_max(self) -> anyhow::Result<u64> {
        parse_descriptors_max(&self.read("limits")?).context("no limit of open files")
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// Descriptors this process may hold.
///
/// # Errors
/// When /proc is not mounted.
pub(crate) fn own_descriptors_max() -> anyhow::Result<u64> {
    let limits =
        fs::read_to_string("/proc/self/limits").context("cannot read /proc/self/limits")?;
    parse_descriptors_max(&limits).context("no limit of open files")
}

fn parse_cpu_time(stat: &str) -> Option<Duration> {
    // The command, second field, is in parentheses and may hold both spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(1) * user.checked_add(system)? / TICKS_PER_SECOND)
}

fn parse_resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn parse_descriptors_max(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_adds_user_and_system_whatever_the_command_is_called() {
        let stat =
            "4242 (odd) name (x) S 1 4242 4242 0 -1 4194560 900 0 3 0 1234 66 7 8 20 0 5 0 88";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs(13)));
        assert_eq!(parse_cpu_time("4242 (cut"), None);
        assert_eq!(parse_cpu_time("1 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_vmrss() {
        let status = "Name:\tx\nVmHWM:\t  999 kB\nVmRSS:\t   51234 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(parse_resident_kib(status), Some(51_234));
        assert_eq!(parse_resident_kib("VmHWM: 1 kB"), None);
    }

    #[test]
    fn descriptor_limit_is_the_soft_one() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 20000                files\n";
        assert_eq!(parse_descriptors_max(limits), Some(1024));
    }

    #[test]
    fn this_process_can_be_read() {
        let server = Server::new(std::process::id()).unwrap();
        assert!(server.resident_kib().unwrap() > 0);
        assert!(server.descriptors_max().unwrap() > 0);
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(Server::new(u32::MAX).is_err());
    }
}
