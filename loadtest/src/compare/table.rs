//! Medians over the rounds, the ratio between the two servers, and how that is printed.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use super::goals;
use crate::{
    connection::Muxer,
    report::{Better, Report, ScenarioName, median, short},
    server::Kind,
};

/// One figure of one scenario, measured on both servers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: ScenarioName,
    pub(crate) muxer: Muxer,
    pub(crate) figure: Cow<'static, str>,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// Medians over the rounds.
    pub(crate) baseline: f64,
    pub(crate) waystation: f64,
    /// Waystation's value over the baseline's.
    pub(crate) ratio: Option<f64>,
    /// Only on the figure the scenario is judged by.
    pub(crate) prototype: Option<f64>,
    pub(crate) goal: Option<f64>,
    pub(crate) goal_ratio: Option<f64>,
}

impl Row {
    /// Whether this is a judged figure on which Waystation is behind the baseline.
    pub(crate) fn is_behind(&self) -> bool {
        self.goal.is_some() && self.ratio.is_none_or(|ratio| ratio > 1.0)
    }
}

/// Values as they come in, in the order in which rows are to be printed.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<Key, Series>);

/// Scenario and muxer by their place in the run, then the figure's place in its report.
type Key = (usize, usize);

#[derive(Debug)]
struct Series {
    scenario: ScenarioName,
    muxer: Muxer,
    figure: Cow<'static, str>,
    unit: &'static str,
    better: Better,
    baseline: Vec<f64>,
    waystation: Vec<f64>,
}

impl Results {
    /// Adds one run; `place` orders scenarios and muxers in the table.
    pub(crate) fn add(&mut self, place: usize, kind: Kind, report: &Report) {
        for (index, figure) in report.figures.iter().enumerate() {
            let series = self.0.entry((place, index)).or_insert_with(|| Series {
                scenario: report.scenario,
                muxer: report.muxer,
                figure: figure.name.clone(),
                unit: figure.unit,
                better: figure.better,
                baseline: Vec::new(),
                waystation: Vec::new(),
            });
            match kind {
                Kind::Baseline => series.baseline.push(figure.value),
                Kind::Waystation => series.waystation.push(figure.value),
            }
        }
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.0
            .iter()
            .filter_map(|((_, index), series)| {
                let baseline = median(&series.baseline)?;
                let waystation = median(&series.waystation)?;
                let goal = (*index == 0)
                    .then(|| goals::goal(series.scenario, series.muxer))
                    .flatten();
                Some(Row {
                    scenario: series.scenario,
                    muxer: series.muxer,
                    figure: series.figure.clone(),
                    unit: series.unit,
                    better: series.better,
                    baseline,
                    waystation,
                    ratio: (baseline > 0.0).then(|| waystation / baseline),
                    prototype: goal.and_then(|goal| goal.prototype),
                    goal: goal.map(|goal| goal.goal),
                    goal_ratio: goal.map(goals::Goal::ratio),
                })
            })
            .collect()
    }
}

const HEADINGS: [&str; 9] = [
    "scenario",
    "muxer",
    "figure",
    "unit",
    "baseline",
    "waystation",
    "ratio",
    "prototype",
    "goal (ratio)",
];

/// Columns from here on are numbers, aligned to the right.
const FIRST_NUMBER: usize = 4;

pub(crate) fn to_text(rows: &[Row]) -> String {
    let cells: Vec<[String; 9]> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .chain([HEADINGS[column].len()])
            .max()
            .unwrap_or(0)
    };
    let mut text = String::new();
    for row in [HEADINGS.map(str::to_owned)].iter().chain(&cells) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            if column < FIRST_NUMBER {
                line.push_str(&format!("{cell:<width$}  "));
            } else {
                line.push_str(&format!("{cell:>width$}  "));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> [String; 9] {
    let dash = || "-".to_owned();
    let goal = match (row.goal, row.goal_ratio) {
        (Some(goal), Some(ratio)) => format!("{} ({ratio:.2})", short(goal)),
        _ => dash(),
    };
    [
        row.scenario.label().to_owned(),
        row.muxer.label().to_owned(),
        row.figure.to_string(),
        row.unit.to_owned(),
        short(row.baseline),
        short(row.waystation),
        row.ratio.map_or_else(dash, |ratio| format!("{ratio:.2}")),
        row.prototype.map_or_else(dash, short),
        goal,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cpu: f64, rate: f64) -> Report {
        Report::new(ScenarioName::Handshake, Muxer::Yamux)
            .lower("server cpu/handshake", "us", cpu)
            .higher("rate", "/s", rate)
    }

    fn results() -> Results {
        let mut results = Results::default();
        for cpu in [900.0, 800.0, 10_000.0] {
            results.add(0, Kind::Baseline, &report(cpu, 100.0));
        }
        for cpu in [300.0, 240.0] {
            results.add(0, Kind::Waystation, &report(cpu, 150.0));
        }
        results
    }

    #[test]
    fn rows_compare_medians_so_one_bad_round_does_not_count() {
        let rows = results().rows();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].baseline, 900.0);
        assert_eq!(rows[0].waystation, 270.0);
        assert_eq!(rows[0].ratio, Some(0.3));
        assert_eq!(rows[1].ratio, Some(1.5));
    }

    #[test]
    fn only_the_judged_figure_can_be_behind() {
        let mut rows = results().rows();
        assert!(!rows[0].is_behind());
        assert!(!rows[1].is_behind(), "a rate has no goal");
        rows[0].ratio = Some(1.01);
        assert!(rows[0].is_behind());
    }

    #[test]
    fn a_figure_measured_on_one_server_only_has_no_row() {
        let mut results = Results::default();
        results.add(0, Kind::Waystation, &report(1.0, 1.0));
        assert!(results.rows().is_empty());
    }

    #[test]
    fn columns_line_up() {
        let text = to_text(&results().rows());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let end = lines[0].find("ratio").map(|at| at + "ratio".len());
        assert_eq!(lines[1].find("0.30").map(|at| at + 4), end);
        assert_eq!(lines[2].find("1.50").map(|at| at + 4), end);
    }
}
