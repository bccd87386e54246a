//! Families whose values are read or summed when a scrape asks for them:
//! sharded counters, and what the kernel and the allocator know anyway.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::declare::Kind;
use super::sharded::ShardedHistogram;

/// A family with one value that a closure computes.
pub(super) struct Pulled {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) help: &'static str,
}

/// Several families whose values come out of one reading.
pub(super) struct PulledCollector<F, const N: usize> {
    families: [Pulled; N],
    descs: [Desc; N],
    read: F,
}

impl<F, const N: usize> PulledCollector<F, N> {
    pub(super) fn new(families: [Pulled; N], read: F) -> Self {
        Self {
            descs: families
                .each_ref()
                .map(|family| desc(family.name, family.help, &[])),
            families,
            read,
        }
    }
}

impl<F, const N: usize> Collector for PulledCollector<F, N>
where
    F: Fn() -> [Option<f64>; N] + Send + Sync,
{
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let values = (self.read)();
        self.families
            .iter()
            .zip(values)
            .filter_map(|(family, value)| {
                let metric = sample(family.kind, value?);
                Some(family_of(
                    family.name,
                    family.help,
                    family.kind,
                    vec![metric],
                ))
            })
            .collect()
    }
}

/// One family with a value for each value of its label.
pub(super) struct LabelledCollector<F, const N: usize> {
    family: Pulled,
    desc: Desc,
    label: &'static str,
    values: &'static [&'static str; N],
    read: F,
}

impl<F, const N: usize> LabelledCollector<F, N> {
    pub(super) fn new(
        family: Pulled,
        label: &'static str,
        values: &'static [&'static str; N],
        read: F,
    ) -> Self {
        Self {
            desc: desc(family.name, family.help, &[label]),
            family,
            label,
            values,
            read,
        }
    }
}

impl<F, const N: usize> Collector for LabelledCollector<F, N>
where
    F: Fn() -> [f64; N] + Send + Sync,
{
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self
            .values
            .iter()
            .zip((self.read)())
            .map(|(value, number)| {
                let mut pair = LabelPair::default();
                pair.set_name(self.label.to_owned());
                pair.set_value((*value).to_owned());
                let mut metric = sample(self.family.kind, number);
                metric.set_label(vec![pair]);
                metric
            })
            .collect();
        let Pulled { name, help, kind } = self.family;
        vec![family_of(name, help, kind, metrics)]
    }
}

/// A [`ShardedHistogram`] as a scrape sees it.
pub(super) struct HistogramCollector {
    name: &'static str,
    help: &'static str,
    desc: Desc,
    histogram: ShardedHistogram,
}

impl HistogramCollector {
    pub(super) fn new(name: &'static str, help: &'static str, histogram: ShardedHistogram) -> Self {
        Self {
            name,
            help,
            desc: desc(name, help, &[]),
            histogram,
        }
    }
}

impl Collector for HistogramCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let reading = self.histogram.read();
        let buckets = reading
            .cumulative
            .into_iter()
            .map(|(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound as f64);
                bucket.set_cumulative_count(count);
                bucket
            })
            .collect();
        let mut value = Histogram::default();
        value.set_sample_count(reading.count);
        value.set_sample_sum(reading.sum as f64);
        value.set_bucket(buckets);
        let mut metric = Metric::default();
        metric.set_histogram(value);
        vec![family_of(
            self.name,
            self.help,
            Kind::Histogram,
            vec![metric],
        )]
    }
}

fn sample(kind: Kind, value: f64) -> Metric {
    let mut metric = Metric::default();
    match kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        Kind::Histogram => unreachable!("a single number is no distribution"),
    }
    metric
}

fn family_of(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    metrics: Vec<Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(metrics);
    family
}

fn desc(name: &'static str, help: &'static str, labels: &[&'static str]) -> Desc {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        .expect("metric and label names are literals of the Prometheus grammar")
}
