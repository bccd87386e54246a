//! How a layer declares its series: name, help and closed label sets in one
//! call, registered at once and remembered for the generated reference.
//!
//! Every value of a closed set exists from the start at zero, so that a rate
//! sees the first event; the exception are the sets with several labels, whose
//! combinations appear when they first occur.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::pulled::{HistogramCollector, LabelledCollector, Pulled, PulledCollector};
use super::sharded::ShardedHistogram;

/// Name of a label and all the values it can have.
pub(super) type Label = (&'static str, &'static [&'static str]);

/// One family as the reference lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: Vec<Label>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Collects declarations into a registry.
pub(super) struct Declarations {
    registry: Registry,
    declared: Vec<Declared>,
}

const UNIQUE: &str = "every metric is declared once, with a valid name";

impl Declarations {
    pub(super) fn new() -> Self {
        Self {
            registry: Registry::new(),
            declared: Vec::new(),
        }
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> IntCounter {
        self.remember(Kind::Counter, name, help, &[]);
        self.register(IntCounter::new(name, help).expect(UNIQUE))
    }

    /// Counters for every value of one label.
    pub(super) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &'static [&'static str],
    ) -> Counters {
        let family = self.counter_vec(name, help, &[(label, values)]);
        Counters {
            name,
            values,
            counters: values
                .iter()
                .map(|value| family.with_label_values(&[value]))
                .collect(),
        }
    }

    /// Gauges for every value of one label, in their order.
    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &'static [&'static str; N],
    ) -> [IntGauge; N] {
        let family = self.gauge_vec(name, help, &[(label, values)]);
        values.map(|value| family.with_label_values(&[value]))
    }

    pub(super) fn counter_vec(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[Label],
    ) -> IntCounterVec {
        self.remember(Kind::Counter, name, help, labels);
        self.register(IntCounterVec::new(Opts::new(name, help), &names(labels)).expect(UNIQUE))
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> IntGauge {
        self.remember(Kind::Gauge, name, help, &[]);
        self.register(IntGauge::new(name, help).expect(UNIQUE))
    }

    pub(super) fn gauge_vec(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[Label],
    ) -> IntGaugeVec {
        self.remember(Kind::Gauge, name, help, labels);
        self.register(IntGaugeVec::new(Opts::new(name, help), &names(labels)).expect(UNIQUE))
    }

    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        buckets: Vec<f64>,
    ) -> Histogram {
        self.remember(Kind::Histogram, name, help, &[]);
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.register(Histogram::with_opts(opts).expect(UNIQUE))
    }

    pub(super) fn histogram_vec(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[Label],
        buckets: Vec<f64>,
    ) -> HistogramVec {
        self.remember(Kind::Histogram, name, help, labels);
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.register(HistogramVec::new(opts, &names(labels)).expect(UNIQUE))
    }

    pub(super) fn sharded_histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [u64],
    ) -> ShardedHistogram {
        self.remember(Kind::Histogram, name, help, &[]);
        let histogram = ShardedHistogram::new(bounds);
        self.admit(HistogramCollector::new(name, help, histogram.clone()));
        histogram
    }

    /// A histogram that the whole process shares.
    pub(super) fn shared_histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        histogram: &Histogram,
    ) {
        self.remember(Kind::Histogram, name, help, &[]);
        self.admit(histogram.clone());
    }

    /// Families whose values are read together at each scrape; a value of
    /// `None` leaves its family out.
    pub(super) fn pulled<const N: usize>(
        &mut self,
        families: [Pulled; N],
        read: impl Fn() -> [Option<f64>; N] + Send + Sync + 'static,
    ) {
        for family in &families {
            self.remember(family.kind, family.name, family.help, &[]);
        }
        self.admit(PulledCollector::new(families, read));
    }

    /// One pulled family with one label: `read` answers for each value in turn.
    pub(super) fn pulled_by_label<const N: usize>(
        &mut self,
        family: Pulled,
        label: &'static str,
        values: &'static [&'static str; N],
        read: impl Fn() -> [f64; N] + Send + Sync + 'static,
    ) {
        self.remember(family.kind, family.name, family.help, &[(label, values)]);
        self.admit(LabelledCollector::new(family, label, values, read));
    }

    pub(super) fn finish(self) -> (Registry, Vec<Declared>) {
        (self.registry, self.declared)
    }

    fn remember(&mut self, kind: Kind, name: &'static str, help: &'static str, labels: &[Label]) {
        self.declared.push(Declared {
            name,
            help,
            kind,
            labels: labels.to_vec(),
        });
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.admit(collector.clone());
        collector
    }

    fn admit(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect(UNIQUE);
    }
}

fn names(labels: &[Label]) -> Vec<&'static str> {
    labels.iter().map(|(name, _)| *name).collect()
}

/// Counters of one family, one for each value of its label.
///
/// The value comes from the `label()` of an enum that another layer owns, so
/// that this module need not repeat the enum. Looking it up among a dozen
/// values is fit for refusals and endings, not for frames.
#[derive(Debug)]
pub struct Counters {
    name: &'static str,
    values: &'static [&'static str],
    counters: Vec<IntCounter>,
}

impl Counters {
    /// Counts one event.
    ///
    /// A value outside the declared set is a programming error: debug builds
    /// panic, release builds leave it uncounted rather than grow the set.
    pub fn inc(&self, value: &'static str) {
        if let Some(counter) = self.find(value) {
            counter.inc();
        } else {
            debug_assert!(false, "{} has no value {value:?}", self.name);
        }
    }

    /// Counts several events; none is fine too.
    pub fn add(&self, value: &'static str, count: usize) {
        let counter = self.find(value);
        debug_assert!(counter.is_some(), "{} has no value {value:?}", self.name);
        if let Some(counter) = counter
            && count > 0
        {
            counter.inc_by(count as u64);
        }
    }

    /// The number of a value in the order of declaration, for guards that keep
    /// what they will count in one byte; as in [`Self::inc`], a value outside
    /// the set is a programming error.
    pub(super) fn position(&self, value: &'static str) -> Option<u8> {
        let position = self.values.iter().position(|known| *known == value);
        debug_assert!(position.is_some(), "{} has no {value:?}", self.name);
        position.and_then(|position| u8::try_from(position).ok())
    }

    pub(super) fn inc_at(&self, position: u8) {
        if let Some(counter) = self.counters.get(usize::from(position)) {
            counter.inc();
        }
    }

    /// Events counted under a value; zero for a value outside the set.
    #[must_use]
    pub fn get(&self, value: &str) -> u64 {
        self.find(value).map_or(0, IntCounter::get)
    }

    /// All values of the label: lets the layer that owns the enum test that
    /// each of its variants is counted.
    #[must_use]
    pub const fn values(&self) -> &'static [&'static str] {
        self.values
    }

    fn find(&self, value: &str) -> Option<&IntCounter> {
        let position = self.values.iter().position(|known| *known == value)?;
        self.counters.get(position)
    }
}
