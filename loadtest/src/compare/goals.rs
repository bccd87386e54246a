//! Where the field stood when the project began and where Waystation must get, for the
//! figure each scenario is judged by.
//!
//! Absolute values were measured on one machine on one day (two cores of an Intel Xeon,
//! loopback, November 2026). They drift; what holds is the ratio, so each goal is also
//! given as a share of what the baseline cost on that machine.

use crate::{connection::Muxer, report::ScenarioName};

/// The known values of one figure, in that figure's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Goal {
    /// The baseline on the machine of that day.
    pub(crate) baseline: f64,
    /// The throw-away prototype of Waystation's connection path, where it was measured.
    pub(crate) prototype: Option<f64>,
    pub(crate) goal: f64,
}

impl Goal {
    /// The goal as a share of the baseline's cost.
    pub(crate) fn ratio(self) -> f64 {
        self.goal / self.baseline
    }
}

/// Ranges are entered by their middle.
///
/// None for scenarios that are not compared.
pub(crate) fn goal(scenario: ScenarioName, muxer: Muxer) -> Option<Goal> {
    let (baseline, prototype, goal) = match (scenario, muxer) {
        (ScenarioName::Relay, Muxer::Yamux) => (2.62, Some(1.70), 1.5),
        (ScenarioName::Relay, Muxer::Mplex) => (3.02, None, 1.5),
        (ScenarioName::Rtt, Muxer::Yamux) => (33.8, Some(18.8), 12.0),
        (ScenarioName::Rtt, Muxer::Mplex) => (28.4, None, 12.0),
        (ScenarioName::Handshake, _) => (753.0, Some(350.0), 250.0),
        (ScenarioName::Idle, _) => (43.5, Some(4.5), 3.0),
        (ScenarioName::Reserve, _) => (104.5, Some(17.0), 25.0),
        (
            ScenarioName::Trim | ScenarioName::Flood | ScenarioName::Stalled | ScenarioName::Churn,
            _,
        ) => return None,
    };
    Some(Goal {
        baseline,
        prototype,
        goal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_is_better_than_the_baseline() {
        use clap::ValueEnum as _;
        for &scenario in ScenarioName::value_variants() {
            for &muxer in Muxer::value_variants() {
                let goal = goal(scenario, muxer).expect("what can be chosen has a goal");
                assert!(goal.ratio() < 1.0);
            }
        }
    }
}
