//! Latency percentiles over a bounded histogram (three significant digits, one
//! nanosecond to one minute), so that memory does not grow with the sample count.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer than any deadline in this program.
const HIGHEST: Duration = Duration::from_secs(60);

/// A set of latencies, kept per task and merged at the end.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        let highest = u64::try_from(HIGHEST.as_nanos()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_bounds(1, highest, 3).expect("bounds are constants"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn max_micros(&self) -> f64 {
        Duration::from_nanos(self.0.max()).as_secs_f64() * 1e6
    }

    /// The latency below which `percent` of the samples lie, in microseconds.
    pub(crate) fn micros_at(&self, percent: f64) -> f64 {
        let nanos = self.0.value_at_quantile(percent / 100.0);
        Duration::from_nanos(nanos).as_secs_f64() * 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_micros(samples: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::new();
        for sample in samples {
            latencies.record(Duration::from_micros(sample));
        }
        latencies
    }

    fn close(actual: f64, expected: f64) -> bool {
        (actual - expected).abs() <= expected * 0.002
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let latencies = from_micros(1..=1000);
        assert!(close(latencies.micros_at(50.0), 500.0));
        assert!(close(latencies.micros_at(99.0), 990.0));
        assert!(close(latencies.micros_at(99.9), 999.0));
    }

    #[test]
    fn merging_is_as_if_one_task_had_recorded_all() {
        let mut left = from_micros(1..=500);
        left.merge(&from_micros(501..=1000));
        assert_eq!(left.len(), 1000);
        assert!(close(left.micros_at(75.0), 750.0));
    }

    #[test]
    fn a_sample_beyond_the_range_is_kept_at_its_end() {
        let latencies = from_micros([3_600_000_000]);
        assert_eq!(latencies.len(), 1);
        assert!(close(latencies.micros_at(50.0), 60e6));
    }
}
