//! Medians over the rounds, the ratio between the two servers, and how that is printed.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use super::goals;
use crate::{
    report::{Better, Report, ScenarioName, median, short},
    server::Kind,
    stack::{Security, Transport, Way},
};

/// One figure of one scenario, measured on both servers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: ScenarioName,
    pub(crate) over: Way,
    pub(crate) figure: Cow<'static, str>,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// Medians over the rounds.
    pub(crate) baseline: f64,
    pub(crate) waystation: f64,
    /// Waystation's value over the baseline's.
    pub(crate) ratio: Option<f64>,
    /// The ratio from which on Waystation is behind: only on the figure the scenario is
    /// judged by, as the rest.
    pub(crate) behind: Option<f64>,
    pub(crate) prototype: Option<f64>,
    pub(crate) goal: Option<f64>,
    pub(crate) goal_ratio: Option<f64>,
}

impl Row {
    /// Whether this is a judged figure on which Waystation is behind the baseline.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind
            .is_some_and(|most| self.ratio.is_none_or(|ratio| ratio > most))
    }
}

impl Row {
    /// Secure WebSocket with Waystation's own TCP and TLS in the baseline's place, the
    /// security and muxer inside being the same.
    fn beside(&self, rows: &[Self]) -> Option<Self> {
        let plain = Way {
            transport: Transport::Tcp,
            ..self.over
        };
        let secure = self.over.transport == Transport::Wss && self.over.security == Security::Tls;
        let most = goals::secure_websocket_ratio(self.scenario)?;
        let beside = rows.iter().find(|row| {
            row.scenario == self.scenario && row.over == plain && row.figure == self.figure
        })?;
        (secure && self.behind.is_some()).then(|| Self {
            figure: format!("{}, beside {plain}", self.figure).into(),
            baseline: beside.waystation,
            ratio: (beside.waystation > 0.0).then(|| self.waystation / beside.waystation),
            behind: Some(most),
            prototype: None,
            goal: Some(most * beside.waystation),
            goal_ratio: Some(most),
            ..self.clone()
        })
    }
}

/// Values as they come in, in the order in which rows are to be printed.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<Key, Series>);

/// Scenario and way by their place in the run, then the figure's place in its report.
type Key = (usize, usize);

#[derive(Debug)]
struct Series {
    scenario: ScenarioName,
    over: Way,
    figure: Cow<'static, str>,
    unit: &'static str,
    better: Better,
    baseline: Vec<f64>,
    waystation: Vec<f64>,
}

impl Results {
    /// Adds one run; `place` orders scenarios and ways in the table.
    pub(crate) fn add(&mut self, place: usize, kind: Kind, report: &Report) {
        for figure in &report.figures {
            let key = self.key(place, &figure.name);
            let series = self.0.entry(key).or_insert_with(|| Series {
                scenario: report.scenario,
                over: report.over,
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

    /// Where this figure is, or is to be: by its name, as one server may tell more than
    /// the other.
    fn key(&self, place: usize, figure: &str) -> Key {
        let there = || self.0.range((place, 0)..(place + 1, 0));
        let mut known = there().filter(|(_, series)| series.figure == figure);
        known
            .next()
            .map_or_else(|| (place, there().count()), |(key, _)| *key)
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = self.beside_baseline();
        let beside_tls: Vec<_> = rows.iter().filter_map(|row| row.beside(&rows)).collect();
        rows.extend(beside_tls);
        rows
    }

    fn beside_baseline(&self) -> Vec<Row> {
        self.0
            .iter()
            .filter_map(|((_, index), series)| {
                let baseline = median(&series.baseline)?;
                let waystation = median(&series.waystation)?;
                let judged = *index == 0;
                let goal = judged
                    .then(|| goals::goal(series.scenario, series.over))
                    .flatten();
                Some(Row {
                    scenario: series.scenario,
                    over: series.over,
                    figure: series.figure.clone(),
                    unit: series.unit,
                    better: series.better,
                    baseline,
                    waystation,
                    ratio: (baseline > 0.0).then(|| waystation / baseline),
                    behind: judged.then_some(1.0),
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
    "over",
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
        row.over.to_string(),
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
        over("tcp", ScenarioName::Handshake, cpu, rate)
    }

    fn over(way: &str, scenario: ScenarioName, cpu: f64, rate: f64) -> Report {
        let way = way.parse().expect("a way is given");
        Report::new(scenario, way)
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
    fn a_figure_that_one_server_lacks_does_not_shift_the_others() {
        let mut results = Results::default();
        results.add(0, Kind::Baseline, &report(900.0, 100.0));
        let more = Report::new(
            ScenarioName::Handshake,
            "tcp".parse().expect("a way is given"),
        )
        .lower("server cpu/handshake", "us", 300.0)
        .lower("allocated", "KiB", 7.0)
        .higher("rate", "/s", 150.0);
        results.add(0, Kind::Waystation, &more);
        let rows = results.rows();
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (&*row.figure, row.waystation))
            .collect();
        assert_eq!(rows, [("server cpu/handshake", 300.0), ("rate", 150.0)]);
    }

    #[test]
    fn secure_websocket_is_held_against_our_own_tls() {
        let mut results = Results::default();
        for (place, way, cpu) in [(0, "tcp/tls", 1.0), (1, "wss/tls", 1.2), (2, "wss", 9.0)] {
            for kind in [Kind::Baseline, Kind::Waystation] {
                results.add(place, kind, &over(way, ScenarioName::Relay, cpu, 1.0));
            }
        }
        let rows = results.rows();
        let beside: Vec<_> = rows.iter().skip(6).collect();
        assert_eq!(beside.len(), 1, "one figure is judged");
        assert_eq!(beside[0].ratio, Some(1.2));
        assert_eq!(beside[0].goal_ratio, Some(1.3));
        assert!(!beside[0].is_behind());
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
