//! Where the field stood when the project began and where Waystation must get, for the
//! figure each scenario is judged by.
//!
//! Absolute values were measured on one machine on one day (two cores of an Intel Xeon,
//! loopback, November 2026). They drift; what holds is the ratio, so each goal is also
//! given as a share of what the baseline cost on that machine.

use crate::{
    report::ScenarioName,
    stack::{Muxer, Security, Transport, Way},
};

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
/// None for what was not measured on that day: WebSocket, and scenarios that are not
/// compared.
pub(crate) fn goal(scenario: ScenarioName, over: Way) -> Option<Goal> {
    let (baseline, prototype, goal) = match (over.transport, over.security, over.muxer) {
        (Transport::Tcp, Security::Noise, muxer) => over_noise(scenario, muxer)?,
        (Transport::Tcp, Security::Tls, Muxer::Yamux) => over_tls(scenario)?,
        (Transport::Quic, ..) => over_quic(scenario)?,
        (Transport::Tcp | Transport::Ws | Transport::Wss, ..) => return None,
    };
    Some(Goal {
        baseline,
        prototype,
        goal,
    })
}

type Known = (f64, Option<f64>, f64);

fn over_noise(scenario: ScenarioName, muxer: Muxer) -> Option<Known> {
    Some(match (scenario, muxer) {
        (ScenarioName::Relay, Muxer::Yamux) => (2.62, Some(1.70), 1.5),
        (ScenarioName::Relay, Muxer::Mplex) => (3.02, None, 1.5),
        (ScenarioName::Rtt, Muxer::Yamux) => (33.8, Some(18.8), 12.0),
        (ScenarioName::Rtt, Muxer::Mplex) => (28.4, None, 12.0),
        (ScenarioName::Handshake, _) => (753.0, Some(350.0), 250.0),
        (ScenarioName::Idle, _) => (43.5, Some(4.5), 3.0),
        (ScenarioName::Reserve, _) => (104.5, Some(17.0), 25.0),
        _ => return None,
    })
}

fn over_tls(scenario: ScenarioName) -> Option<Known> {
    Some(match scenario {
        ScenarioName::Relay => (2.60, None, 0.9),
        ScenarioName::Rtt => (39.1, None, 12.0),
        ScenarioName::Handshake => (1077.0, None, 450.0),
        ScenarioName::Idle => (35.0, None, 4.0),
        ScenarioName::Reserve => (104.5, None, 25.0),
        _ => return None,
    })
}

fn over_quic(scenario: ScenarioName) -> Option<Known> {
    Some(match scenario {
        ScenarioName::Relay => (6.06, None, 2.5),
        ScenarioName::Rtt => (32.2, None, 25.0),
        ScenarioName::Handshake => (1517.0, None, 700.0),
        ScenarioName::Idle => (87.0, None, 25.0),
        _ => return None,
    })
}

/// The most that secure WebSocket may cost beside TCP with TLS, the same security and
/// muxer inside: a mask, a frame and one more cipher.
///
/// Only where bytes are carried: two handshakes cost more than one.
pub(crate) fn secure_websocket_ratio(scenario: ScenarioName) -> Option<f64> {
    matches!(scenario, ScenarioName::Relay | ScenarioName::Rtt).then_some(1.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_is_better_than_the_baseline() {
        use clap::ValueEnum as _;
        for &scenario in ScenarioName::value_variants() {
            for over in ["tcp", "tcp/noise/mplex", "tcp/tls", "quic"] {
                let over: Way = over.parse().expect("a way is given");
                match goal(scenario, over) {
                    Some(goal) => assert!(goal.ratio() < 1.0),
                    // A signature is the same work; its streams have no goal of their own.
                    None => assert_eq!(scenario, ScenarioName::Reserve),
                }
            }
        }
    }
}
