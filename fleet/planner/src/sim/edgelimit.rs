//! EdgeLimit: four radio units and an edge server. Work goes to the radio units while they have room; the server is
//! powered off, and comes back when it is needed. Events come from the scenario; every decision is the planner's.
//!
//! Facts of the scenario: Heusinger, Mansuroglu, Wagner (Fraunhofer IIS), "Energieeffiziente Orchestrierung",
//! elektroniknet.de, 20 June 2024, part 2: 28 W idle, +4 W of RAN, 53 W for nine applications on the server and 1 W on
//! the radio units, 39 W of which the server needs to be ready.

use ebbtide_proto::id::{IdError, WorkloadKind};
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::check::check;
use crate::explain;
use crate::model::boot::BootModel;
use crate::model::curve::PowerCurve;
use crate::model::demand::Demand;
use crate::plan::action::{Do, Plan};
use crate::plan::{Refusal, plan};
use crate::policy::Policy;
use crate::state::event::Event;
use crate::state::node::{Node, PowerState};
use crate::state::resources::Resources;
use crate::state::workload::Workload;
use crate::state::{FleetState, Time};

/// Thousandths of a CPU that an application really uses of the whole one it requests: what makes nine of them 1 W on
/// the radio units, where four CPUs of RAN are 1 W a unit.
const APP_USE_MILLI: f32 = 444.4;
/// Applications that are asked for.
const APPS: u32 = 9;
/// Seconds between the steps of the scenario.
const STEP_S: u64 = 1800;

/// The power of all nodes at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, `t0` to `t5`.
    pub t: String,
    /// What happened.
    pub event: String,
    /// Watts of all nodes.
    pub total_w: f64,
    /// Applications on the edge server.
    pub apps_on_server: u32,
    /// Whether the edge server is on.
    pub server_on: bool,
    /// What the planner says of the edge server at this step.
    pub why: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Power at each step.
    pub timeline: Vec<Step>,
    /// Times that a node was powered on.
    pub power_on: u32,
    /// Times that a node was powered off.
    pub power_off: u32,
    /// Applications that were moved.
    pub moves: u32,
    /// What the checker found in all plans; nothing.
    pub violations: u32,
    /// Watts that the planner foresaw of the move away from the server.
    pub foreseen_move_w: f64,
    /// Watts that the planner foresaw of powering the server off.
    pub foreseen_off_w: f64,
    /// The seed. The scenario leaves nothing to chance: every seed gives the same.
    pub seed: u64,
}

/// Why the scenario can't be run.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A name that isn't one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The planner refused.
    #[error("no plan: {0}")]
    Plan(#[from] Refusal),
}

struct Run {
    state: FleetState,
    policy: Policy,
    at: Time,
    server: NodeId,
    report: Report,
}

/// Runs the scenario.
///
/// # Errors
/// [`SimError::Plan`] if the planner refuses; it has no reason to.
pub fn run(seed: u64) -> Result<Report, SimError> {
    let mut run = Run::new(seed)?;
    run.note("t0", "the edge server is off, the radio units idle", None);

    run.at = run.at.plus_secs(STEP_S);
    run.radio(4000)?;
    let p = run.decide()?;
    run.carry_out(&p.actions.iter().map(|a| &a.what).collect::<Vec<_>>());
    run.note("t1", "the radio units start RAN", Some(&p));

    run.at = run.at.plus_secs(STEP_S);
    for i in 1..=APPS {
        let id = WorkloadId::new(WorkloadKind::Pod, &format!("mec/app-{i}"))?;
        let mut app = Workload::new(id, Resources::new(1000, 0));
        app.demand = Demand::steady(APP_USE_MILLI);
        run.state.apply(run.at, Event::WorkloadSeen(Box::new(app)));
    }
    let p = run.decide()?;
    run.carry_out(&p.actions.iter().map(|a| &a.what).collect::<Vec<_>>());
    run.note("t2", "nine applications are requested", Some(&p));

    run.at = run.at.plus_secs(STEP_S);
    run.radio(0)?;
    run.note("t3", "the RAN load is gone, the radio units have room", None);

    // only the moves are carried out; before the server is switched off, the planner is asked again
    run.at = run.at.plus_secs(STEP_S);
    let p = run.decide()?;
    let moves: Vec<&Do> = p.actions.iter().map(|a| &a.what).filter(|a| matches!(a, Do::Move { .. })).collect();
    let sum = |power_off: bool| {
        p.actions.iter().filter(|a| matches!(a.what, Do::PowerOff { .. }) == power_off).map(|a| a.watts).sum::<f64>()
    };
    run.report.foreseen_move_w = sum(false);
    run.report.foreseen_off_w = sum(true);
    run.carry_out(&moves);
    run.note("t4", "the applications move to the radio units", Some(&p));

    run.at = run.at.plus_secs(60);
    let p = run.decide()?;
    run.carry_out(&p.actions.iter().map(|a| &a.what).collect::<Vec<_>>());
    run.note("t5", "the edge server is powered off", Some(&p));
    Ok(run.report)
}

impl Run {
    fn new(seed: u64) -> Result<Self, SimError> {
        let mut state = FleetState::new();
        for i in 1..=4 {
            // 7 W idle, 1 W more with four busy CPUs
            let mut node =
                Node::new(NodeId::new(&format!("ru{i}"))?, Resources::new(4000, 0), PowerCurve::line(7.0, 8.0));
            node.pool = "edge".to_owned();
            node.switchable = false;
            state.apply(Time::ZERO, Event::NodeSeen(Box::new(node)));
        }
        // 39 W ready; 14 W for nine applications are 3.5 W a CPU
        let server = NodeId::new("edge1")?;
        let mut node = Node::new(server.clone(), Resources::new(16_000, 0), PowerCurve::line(39.0, 39.0 + 16.0 * 3.5));
        node.pool = "edge".to_owned();
        node.power = PowerState::Off;
        node.boot = BootModel::guess(74.0, 4600.0, 30.0);
        state.apply(Time::ZERO, Event::NodeSeen(Box::new(node)));
        state.apply(Time::ZERO, Event::Synced);
        let report = Report {
            timeline: Vec::new(),
            power_on: 0,
            power_off: 0,
            moves: 0,
            violations: 0,
            foreseen_move_w: 0.0,
            foreseen_off_w: 0.0,
            seed,
        };
        Ok(Self { state, policy: Policy::default(), at: Time::ZERO, server, report })
    }

    /// RAN takes, or gives back, CPUs of every radio unit.
    fn radio(&mut self, milli: u64) -> Result<(), SimError> {
        for i in 1..=4 {
            let node = NodeId::new(&format!("ru{i}"))?;
            let event = Event::NodeReserved { node, reserved: Resources::new(milli, 0), used_milli: milli };
            self.state.apply(self.at, event);
        }
        Ok(())
    }

    fn decide(&mut self) -> Result<Plan, SimError> {
        for node in self.state.nodes.keys().cloned().collect::<Vec<_>>() {
            self.state.apply(self.at, Event::NodeHeard { node });
        }
        let p = plan(&self.state, &self.policy, self.at)?;
        self.report.violations += u32::try_from(check(&p, &self.state, &self.policy).len()).unwrap_or(u32::MAX);
        Ok(p)
    }

    fn carry_out(&mut self, actions: &[&Do]) {
        for what in actions {
            match what {
                Do::PowerOn { .. } => self.report.power_on += 1,
                Do::PowerOff { .. } => self.report.power_off += 1,
                Do::Move { .. } => self.report.moves += 1,
                Do::Place { .. } | Do::Cordon { .. } => {}
            }
            for event in what.effects() {
                self.state.apply(self.at, event);
            }
        }
    }

    fn note(&mut self, t: &str, event: &str, plan: Option<&Plan>) {
        let why =
            plan.and_then(|p| explain::node(p, &self.state, &self.server)).map(|e| e.to_string()).unwrap_or_default();
        let on = self.state.nodes.get(&self.server).is_some_and(|n| n.power == PowerState::On);
        self.report.timeline.push(Step {
            t: t.to_owned(),
            event: event.to_owned(),
            total_w: self.state.watts(),
            apps_on_server: u32::try_from(self.state.places.on(&self.server).count()).unwrap_or(u32::MAX),
            server_on: on,
            why,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_server_comes_and_goes_once_and_power_is_as_measured() {
        let report = run(7).unwrap();
        let watts: Vec<f64> = report.timeline.iter().map(|s| s.total_w).collect();
        for (is, should) in watts.iter().zip([28.0, 32.0, 85.0, 81.0, 68.0, 29.0]) {
            assert!((is - should).abs() <= 1.0, "{watts:?}");
        }
        assert_eq!((report.power_on, report.power_off, report.moves, report.violations), (1, 1, 9, 0));
        assert!((report.foreseen_move_w + 13.0).abs() <= 1.0, "{}", report.foreseen_move_w);
        assert!((report.foreseen_off_w + 39.0).abs() <= 1.0, "{}", report.foreseen_off_w);
        let why = &report.timeline[2].why;
        assert!(why.contains("no free cpu: ru1, ru2, ru3, ru4"), "{why}");
        assert!(report.timeline[5].why.contains("it is empty, and no demand is pending"), "{report:?}");
    }
}
