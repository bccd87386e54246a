//! What a scenario hands back: named figures with a unit and a direction, printed as
//! text or JSON.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use crate::stack::Way;

/// Whether less or more of a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Lower,
    Higher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScenarioName {
    Handshake,
    Idle,
    Reserve,
    Relay,
    Rtt,
    // The baseline has nothing to be compared in what follows.
    #[value(skip)]
    Trim,
    #[value(skip)]
    Flood,
    #[value(skip)]
    Stalled,
    #[value(skip)]
    Churn,
    #[value(skip)]
    Full,
}

impl ScenarioName {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Reserve => "reserve",
            Self::Relay => "relay",
            Self::Rtt => "rtt",
            Self::Trim => "trim",
            Self::Flood => "flood",
            Self::Stalled => "stalled",
            Self::Churn => "churn",
            Self::Full => "full",
        }
    }
}

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: Cow<'static, str>,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) better: Better,
    /// The most it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<f64>,
}

impl Figure {
    /// Whether it is more than it should be. A figure that could not be told is.
    fn misses(&self) -> bool {
        self.goal
            .is_some_and(|goal| self.value.is_nan() || self.value > goal)
    }
}

/// The figures of one run of one scenario; the first is the one servers are judged by,
/// where the server's pid was known.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: ScenarioName,
    pub(crate) over: Way,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(scenario: ScenarioName, over: Way) -> Self {
        Self {
            scenario,
            over,
            figures: Vec::new(),
        }
    }

    pub(crate) fn lower(
        self,
        name: impl Into<Cow<'static, str>>,
        unit: &'static str,
        value: f64,
    ) -> Self {
        self.with(name.into(), unit, value, Better::Lower, None)
    }

    pub(crate) fn higher(
        self,
        name: impl Into<Cow<'static, str>>,
        unit: &'static str,
        value: f64,
    ) -> Self {
        self.with(name.into(), unit, value, Better::Higher, None)
    }

    /// A figure that should be at most `goal`.
    pub(crate) fn at_most(
        self,
        goal: f64,
        name: impl Into<Cow<'static, str>>,
        unit: &'static str,
        value: f64,
    ) -> Self {
        self.with(name.into(), unit, value, Better::Lower, Some(goal))
    }

    fn with(
        mut self,
        name: Cow<'static, str>,
        unit: &'static str,
        value: f64,
        better: Better,
        goal: Option<f64>,
    ) -> Self {
        self.figures.push(Figure {
            name,
            unit,
            value,
            better,
            goal,
        });
        self
    }

    /// The medians of several runs of one scenario, in the first one's order. A figure
    /// that some runs lack, as one of peers refused by a limit, is theirs that have it.
    pub(crate) fn median(mut rounds: Vec<Self>) -> Option<Self> {
        let mut values: BTreeMap<Cow<'static, str>, Vec<f64>> = BTreeMap::new();
        for figure in rounds.iter().flat_map(|report| &report.figures) {
            let values = values.entry(figure.name.clone()).or_default();
            values.push(figure.value);
        }
        let mut merged = (!rounds.is_empty()).then(|| rounds.remove(0))?;
        let others = rounds.into_iter().flat_map(|report| report.figures);
        for figure in others {
            if !merged.figures.iter().any(|known| known.name == figure.name) {
                merged.figures.push(figure);
            }
        }
        for figure in &mut merged.figures {
            if let Some(median) = values.get(&figure.name).and_then(|values| median(values)) {
                figure.value = median;
            }
        }
        Some(merged)
    }

    /// The names of figures that miss their goal.
    pub(crate) fn missed(&self) -> Vec<&str> {
        let missed = self.figures.iter().filter(|figure| figure.misses());
        missed.map(|figure| figure.name.as_ref()).collect()
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{} over {}\n", self.scenario.label(), self.over);
        for figure in &self.figures {
            let value = short(figure.value);
            let goal = match (figure.goal, figure.misses()) {
                (None, _) => String::new(),
                (Some(goal), false) => format!(" (at most {})", short(goal)),
                (Some(goal), true) => format!(" (MISSED: at most {})", short(goal)),
            };
            let line = format!("  {:<24} {value:>10} {}{goal}", figure.name, figure.unit);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return sorted.get(middle).copied();
    }
    Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0)
}

/// Three significant digits, which is more than these measurements are good for.
pub(crate) fn short(value: f64) -> String {
    let digits = match value.abs() {
        magnitude if magnitude >= 100.0 => 0,
        magnitude if magnitude >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(scenario: ScenarioName, over: &str) -> Report {
        Report::new(scenario, over.parse().expect("a way is given"))
    }

    #[test]
    fn values_are_printed_with_the_digits_they_deserve() {
        assert_eq!(short(753.4), "753");
        assert_eq!(short(33.84), "33.8");
        assert_eq!(short(2.5449), "2.54");
    }

    #[test]
    fn the_text_names_scenario_way_and_units() {
        let report = report(ScenarioName::Rtt, "tcp/noise/mplex").lower("server cpu", "us", 12.0);
        let text = report.to_text();
        assert!(text.starts_with("rtt over tcp/noise/mplex\n"));
        assert!(text.contains("server cpu"));
        assert!(text.trim_end().ends_with("12.0 us"));
    }

    #[test]
    fn several_rounds_are_told_by_their_medians() {
        let round = |p99: f64| report(ScenarioName::Flood, "tcp").lower("p99", "us", p99);
        let rounds = vec![
            round(3.0),
            round(90.0),
            round(1.0).lower("refused", "", 7.0),
        ];
        let median = Report::median(rounds).map(|report| report.figures);
        let values = median
            .iter()
            .flatten()
            .map(|figure| (figure.name.as_ref(), figure.value));
        assert_eq!(values.collect::<Vec<_>>(), [("p99", 3.0), ("refused", 7.0)]);
        assert!(Report::median(Vec::new()).is_none());
    }

    #[test]
    fn a_goal_is_met_missed_or_cannot_be_told() {
        let report = report(ScenarioName::Trim, "quic")
            .at_most(1.5, "met", "x", 1.5)
            .at_most(1.5, "missed", "x", 1.51)
            .at_most(1.5, "unknown", "x", f64::NAN)
            .lower("without", "x", 9.0);
        assert_eq!(report.missed(), ["missed", "unknown"]);
        let text = report.to_text();
        assert!(text.contains("1.50 x (at most 1.50)"));
        assert!(text.contains("1.51 x (MISSED: at most 1.50)"));
    }
}
