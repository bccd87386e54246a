//! The scenarios, and what they share: the server under test, the meter that reads its
//! cost, and the progress bar.

pub(crate) mod churn;
pub(crate) mod circuits;
pub(crate) mod crowd;
pub(crate) mod flood;
pub(crate) mod full;
pub(crate) mod handshake;
pub(crate) mod hosted;
pub(crate) mod idle;
pub(crate) mod relay;
pub(crate) mod reserve;
pub(crate) mod rtt;
pub(crate) mod stalled;
pub(crate) mod trim;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::{address::Target, procfs::Server, stack::Stack};

/// How often a quiet server is looked at.
const SETTLE_STEP: Duration = Duration::from_millis(250);

/// The server under test and how to talk to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bench {
    pub(crate) target: Target,
    pub(crate) stack: Stack,
    /// Without it a scenario reports rates and latencies only.
    pub(crate) server: Option<Server>,
    /// Where the server has its metrics, when that is known.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) progress: bool,
}

impl Bench {
    /// A bar on stderr, when that is a terminal and nobody asked for silence.
    pub(crate) fn bar(&self, length: usize, what: &'static str) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{msg:>12} {wide_bar} {pos}/{len} {per_sec}")
            .expect("the template is a constant");
        ProgressBar::new(length as u64)
            .with_style(style)
            .with_message(what)
    }

    pub(crate) fn meter(&self) -> anyhow::Result<Meter> {
        Ok(Meter {
            server: self.server,
            cpu: self.server.map(Server::cpu_time).transpose()?,
            started: Instant::now(),
        })
    }

    /// Waits until the server has finished what it was doing: its CPU use over one step
    /// is at most a tenth of a core and its memory stands still, or `limit` has passed.
    pub(crate) async fn settle(&self, limit: Duration) -> anyhow::Result<()> {
        let Some(server) = self.server else {
            return Ok(());
        };
        let started = Instant::now();
        let mut cpu = server.cpu_time()?;
        let mut resident = server.resident_kib()?;
        while started.elapsed() < limit {
            sleep(SETTLE_STEP).await;
            let (cpu_now, resident_now) = (server.cpu_time()?, server.resident_kib()?);
            let busy = cpu_now.saturating_sub(cpu) > SETTLE_STEP / 10;
            let moving = resident_now.abs_diff(resident) > resident / 500;
            if !busy && !moving {
                break;
            }
            (cpu, resident) = (cpu_now, resident_now);
        }
        Ok(())
    }
}

/// The server's CPU time and the clock at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    server: Option<Server>,
    cpu: Option<Duration>,
    started: Instant,
}

impl Meter {
    /// Since the meter was taken: the time that passed, and the server's CPU time.
    pub(crate) fn read(&self) -> anyhow::Result<Cost> {
        let elapsed = self.started.elapsed();
        let cpu = match (self.server, self.cpu) {
            (Some(server), Some(before)) => Some(server.cpu_time()?.saturating_sub(before)),
            _ => None,
        };
        Ok(Cost { elapsed, cpu })
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Option<Duration>,
}

impl Cost {
    /// The server's CPU time for each of `count` operations, in microseconds.
    pub(crate) fn cpu_micros_per(&self, count: u64) -> Option<f64> {
        self.cpu
            .map(|cpu| cpu.as_secs_f64() * 1e6 / as_f64(count.max(1)))
    }

    pub(crate) fn rate(&self, count: u64) -> f64 {
        as_f64(count) / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The server's share of one core, in percent.
    pub(crate) fn cpu_percent(&self) -> Option<f64> {
        self.cpu
            .map(|cpu| 100.0 * cpu.as_secs_f64() / self.elapsed.as_secs_f64())
    }
}

/// Counts in this program stay far below 2^52, where an f64 is still exact.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_spread_over_the_operations() {
        let cost = Cost {
            elapsed: Duration::from_secs(2),
            cpu: Some(Duration::from_millis(500)),
        };
        assert_eq!(cost.cpu_micros_per(1000), Some(500.0));
        assert_eq!(cost.cpu_percent(), Some(25.0));
        assert!((cost.rate(1000) - 500.0).abs() < 1e-9);
    }

    #[test]
    fn without_a_pid_there_is_no_server_cost() {
        let cost = Cost {
            elapsed: Duration::from_secs(1),
            cpu: None,
        };
        assert_eq!(cost.cpu_micros_per(1), None);
        assert_eq!(cost.cpu_percent(), None);
    }
}
