//! What a scenario hands back: named figures with a unit and a direction, printed as
//! text or JSON.

use serde::Serialize;

use crate::connection::Muxer;

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
}

impl ScenarioName {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Reserve => "reserve",
            Self::Relay => "relay",
            Self::Rtt => "rtt",
        }
    }
}

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) better: Better,
}

/// The figures of one run of one scenario; the first is the one servers are judged by,
/// where the server's pid was known.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: ScenarioName,
    pub(crate) muxer: Muxer,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(scenario: ScenarioName, muxer: Muxer) -> Self {
        Self {
            scenario,
            muxer,
            figures: Vec::new(),
        }
    }

    pub(crate) fn lower(mut self, name: &'static str, unit: &'static str, value: f64) -> Self {
        self.figures.push(Figure {
            name,
            unit,
            value,
            better: Better::Lower,
        });
        self
    }

    pub(crate) fn higher(mut self, name: &'static str, unit: &'static str, value: f64) -> Self {
        self.figures.push(Figure {
            name,
            unit,
            value,
            better: Better::Higher,
        });
        self
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{} over {}\n", self.scenario.label(), self.muxer.label());
        for figure in &self.figures {
            let value = short(figure.value);
            text.push_str(&format!(
                "  {:<24} {value:>10} {}\n",
                figure.name, figure.unit
            ));
        }
        text
    }
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

    #[test]
    fn values_are_printed_with_the_digits_they_deserve() {
        assert_eq!(short(753.4), "753");
        assert_eq!(short(33.84), "33.8");
        assert_eq!(short(2.5449), "2.54");
    }

    #[test]
    fn the_text_names_scenario_muxer_and_units() {
        let report = Report::new(ScenarioName::Rtt, Muxer::Mplex).lower("server cpu", "us", 12.0);
        let text = report.to_text();
        assert!(text.starts_with("rtt over mplex\n"));
        assert!(text.contains("server cpu"));
        assert!(text.trim_end().ends_with("12.0 us"));
    }
}
