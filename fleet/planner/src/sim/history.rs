//! Had it been on last week: runs a policy over what was recorded.
//!
//! Of the record, what workloads asked for and when they were there is taken as it was; where they ran and which nodes
//! were on is decided anew, from where they were at first. Watts come from curves learned from the same record. What
//! that assumes is said in the report.

use std::collections::BTreeMap;

use ebbtide_proto::NodeId;
use serde::{Deserialize, Serialize};

use super::scenario::{Faults, Start};
use super::world::setup::{Ends, Job, MachineSpec, Setup, Usage};
use super::world::{KWH, Score, Who, World};
use crate::model::learn::{Curves, Reading};
use crate::plan::Refusal;
use crate::policy::Policy;
use crate::state::node::{Node, PowerState};
use crate::state::workload::Workload;

/// Seconds between plans, where the record is finer.
const PLAN_EVERY_S: u64 = 300;

/// What was recorded, in equal steps.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Seconds of a step.
    pub step_s: u64,
    /// Nodes.
    pub nodes: Vec<NodeHistory>,
    /// Workloads.
    pub workloads: Vec<WorkloadHistory>,
}

/// A node and what it drew.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHistory {
    /// What it is: capacity, labels, boots, and a curve for loads that it was never seen at. It was on or off at first as
    /// this says.
    pub node: Node,
    /// Mean watts of each step; `None` where nobody knows. A node that was off has its standby watts, or 0.
    pub watts: Vec<Option<f64>>,
}

/// A workload and what it did.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadHistory {
    /// What it is: requests, selector, what moving it takes.
    pub workload: Workload,
    /// Each step; `None` where it wasn't there.
    pub samples: Vec<Option<Seen>>,
}

/// A workload in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Where it ran; `None` while it waited.
    pub node: Option<NodeId>,
    /// Thousandths of a CPU that it used on average.
    pub cpu_milli: f64,
}

/// Why a record can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HistoryError {
    /// No steps, or no nodes.
    #[error("the record is empty: it needs a step of at least a second, a node, and a sample")]
    Empty,
    /// A series of another length.
    #[error("{what} has {has} samples, others have {wanted}: all series have the same steps")]
    Length {
        /// Whose.
        what: String,
        /// How many.
        has: usize,
        /// How many others have.
        wanted: usize,
    },
    /// A figure that can't be.
    #[error("{what} has {figure} in step {step}, which can't be")]
    Figure {
        /// Whose.
        what: String,
        /// Counted from nought.
        step: usize,
        /// The figure.
        figure: f64,
    },
    /// The planner refused.
    #[error("no plan: {0}")]
    Plan(#[from] Refusal),
}

/// What would have come of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replayed {
    /// Hours of the record.
    pub hours: f64,
    /// Kilowatt-hours as they were: measured, or by the learned curves where nobody measured.
    pub as_it_was_kwh: f64,
    /// Share of node-steps that were measured, in per cent.
    pub measured_pct: f64,
    /// How far the learned curves are off over all measured steps, in per cent of what was measured.
    pub model_error_pct: f64,
    /// Kilowatt-hours as they would have been; scaled by what the curves are off.
    pub would_be_kwh: f64,
    /// What would have been saved; negative if the policy would have cost more.
    pub saved_kwh: f64,
    /// The same in per cent.
    pub saved_pct: f64,
    /// What the simulated run did.
    pub score: Score,
    /// What all of this takes for granted.
    pub assumptions: Vec<String>,
}

/// Runs `policy` over the record. `progress` is told seconds simulated and of how many.
///
/// # Errors
/// [`HistoryError`] if the record or the policy can't be used.
pub fn replay(
    history: &History,
    policy: &Policy,
    seed: u64,
    progress: impl FnMut(u64, u64),
) -> Result<Replayed, HistoryError> {
    let steps = history.check()?;
    let loads = history.loads(steps);
    let curves = history.learn(&loads);
    let was = history.as_it_was(&loads, &curves);
    let mut world = World::new(history.setup(policy, &curves, steps), seed, Who::Planner)?;
    world.run(progress)?;
    let score = world.score();
    // curves that told too little of the past would tell as much too little of what might have been
    let scale = if was.modelled_j > 0.0 { was.measured_j / was.modelled_j } else { 1.0 };
    let would_be_kwh = score.energy_kwh * scale;
    let as_it_was_kwh = (was.measured_j + was.guessed_j * scale) / KWH;
    let percent = |a: f64, b: f64| if b > 0.0 { a / b * 100.0 } else { 0.0 };
    Ok(Replayed {
        hours: (steps as u64 * history.step_s) as f64 / 3600.0,
        as_it_was_kwh,
        measured_pct: percent(was.measured_steps as f64, (steps * history.nodes.len()) as f64),
        model_error_pct: if was.measured_j > 0.0 { (was.modelled_j / was.measured_j - 1.0) * 100.0 } else { 0.0 },
        would_be_kwh,
        saved_kwh: as_it_was_kwh - would_be_kwh,
        saved_pct: percent(as_it_was_kwh - would_be_kwh, as_it_was_kwh),
        assumptions: history.assumptions(policy),
        score,
    })
}

/// Sums over the record, in joules.
#[derive(Default)]
struct AsItWas {
    measured_j: f64,
    /// By the curves, for the steps that were measured.
    modelled_j: f64,
    /// By the curves, for those that weren't.
    guessed_j: f64,
    measured_steps: u64,
}

impl History {
    /// Steps, if all is in order.
    fn check(&self) -> Result<usize, HistoryError> {
        let steps = self.nodes.first().map_or(0, |n| n.watts.len());
        if self.step_s == 0 || steps == 0 {
            return Err(HistoryError::Empty);
        }
        let length = |what: &dyn ToString, has: usize| {
            if has == steps { Ok(()) } else { Err(HistoryError::Length { what: what.to_string(), has, wanted: steps }) }
        };
        let figures = |what: &dyn ToString, all: &mut dyn Iterator<Item = Option<f64>>, most: f64| match all
            .enumerate()
            .find(|(_, v)| v.is_some_and(|v| !(0.0..=most).contains(&v)))
        {
            Some((step, v)) => {
                Err(HistoryError::Figure { what: what.to_string(), step, figure: v.unwrap_or(f64::NAN) })
            }
            None => Ok(()),
        };
        for n in &self.nodes {
            length(&n.node.id, n.watts.len())?;
            figures(&n.node.id, &mut n.watts.iter().copied(), crate::model::curve::PowerCurve::MAX_WATTS)?;
        }
        for w in &self.workloads {
            length(&w.workload.id, w.samples.len())?;
            figures(&w.workload.id, &mut w.samples.iter().map(|s| s.as_ref().map(|s| s.cpu_milli)), 1e8)?;
        }
        Ok(steps)
    }

    /// Thousandths of a CPU in use by node and step.
    fn loads(&self, steps: usize) -> BTreeMap<NodeId, Vec<f64>> {
        let mut loads: BTreeMap<NodeId, Vec<f64>> =
            self.nodes.iter().map(|n| (n.node.id.clone(), vec![0.0; steps])).collect();
        for w in &self.workloads {
            for (i, seen) in w.samples.iter().enumerate() {
                if let Some(Seen { node: Some(node), cpu_milli }) = seen
                    && let Some(series) = loads.get_mut(node)
                {
                    series[i] += cpu_milli;
                }
            }
        }
        loads
    }

    /// Whether the node drew so little that it must have been off.
    fn was_off(node: &Node, watts: f64) -> bool {
        watts <= node.off_watts.max(0.05 * node.curve.idle())
    }

    fn learn(&self, loads: &BTreeMap<NodeId, Vec<f64>>) -> Curves {
        let mut curves = Curves::default();
        for n in &self.nodes {
            let Some(used) = loads.get(&n.node.id) else { continue };
            for (watts, milli) in n.watts.iter().zip(used) {
                if let Some(watts) = *watts
                    && !Self::was_off(&n.node, watts)
                {
                    curves.observe(&n.node, Reading { watts, load: n.node.load(*milli), error: 0.0 });
                }
            }
        }
        curves
    }

    fn as_it_was(&self, loads: &BTreeMap<NodeId, Vec<f64>>, curves: &Curves) -> AsItWas {
        let mut sums = AsItWas::default();
        let s = self.step_s as f64;
        for n in &self.nodes {
            let curve = curves.curve(&n.node).unwrap_or(n.node.curve);
            let Some(used) = loads.get(&n.node.id) else { continue };
            let mut on = n.node.power == PowerState::On;
            for (watts, milli) in n.watts.iter().zip(used) {
                on = watts.map_or(on, |w| !Self::was_off(&n.node, w)) || *milli > 0.0;
                let model = if on { curve.watts(n.node.load(*milli)) } else { n.node.off_watts };
                match watts {
                    Some(watts) => {
                        sums.measured_j += watts * s;
                        sums.modelled_j += model * s;
                        sums.measured_steps += 1;
                    }
                    None => sums.guessed_j += model * s,
                }
            }
        }
        sums
    }

    fn setup(&self, policy: &Policy, curves: &Curves, steps: usize) -> Setup {
        let machines = self
            .nodes
            .iter()
            .map(|n| {
                let mut node = n.node.clone();
                node.curve = curves.curve(&node).unwrap_or(node.curve);
                let boot_s = node.boot.seconds(0.5).max(1.0);
                MachineSpec {
                    truth: node.curve,
                    boot_s: (boot_s, 0.0),
                    boot_watts: (node.boot.joules() / boot_s).max(node.curve.idle()),
                    shutdown_s: node.boot.shutdown_s,
                    site: None,
                    node,
                }
            })
            .collect();
        let mut jobs: Vec<Job> = self.workloads.iter().filter_map(|w| w.job(self.step_s, steps)).collect();
        jobs.sort_by(|a, b| a.comes_s.cmp(&b.comes_s).then_with(|| a.workload.id.cmp(&b.workload.id)));
        Setup {
            duration_s: self.step_s * steps as u64,
            step_s: self.step_s,
            plan_every_s: PLAN_EVERY_S.div_ceil(self.step_s) * self.step_s,
            telemetry_every_s: self.step_s,
            start: Start::AsTold,
            machines,
            jobs,
            budgets: Vec::new(),
            faults: Faults { meter_noise: 0.0, ..Faults::default() },
            // a step may be longer than what counts as silence
            policy: Policy { stale_after_s: policy.stale_after_s.max(2 * self.step_s), ..policy.clone() },
        }
    }

    fn assumptions(&self, policy: &Policy) -> Vec<String> {
        vec![
            "workloads would have asked for what they used, whatever ran beside them".to_owned(),
            format!("nothing changes within a step of {} s; plans are made at most that often", self.step_s),
            "power follows the curve learned from this record, by CPU alone; boots take their usual time and power"
                .to_owned(),
            "no boot would have failed, and no reading would have been lost".to_owned(),
            format!(
                "nodes may have been switched as the policy says: {} times in 24 h, on for {} s at least",
                policy.switches_per_day, policy.min_on_s
            ),
        ]
    }
}

impl WorkloadHistory {
    /// The workload as the world will see it; `None` if it never was there.
    fn job(&self, step_s: u64, steps: usize) -> Option<Job> {
        let first = self.samples.iter().position(Option::is_some)?;
        let last = self.samples.iter().rposition(Option::is_some)?;
        let mut workload = self.workload.clone();
        workload.node = self.samples[first].as_ref().and_then(|s| s.node.clone());
        workload.demand = crate::model::demand::Demand::default();
        #[allow(clippy::cast_possible_truncation, reason = "thousandths of a CPU need no more digits")]
        let milli = self.samples.iter().map(|s| s.as_ref().map_or(0.0, |s| s.cpu_milli as f32)).collect();
        let ends = if last + 1 == steps { Ends::Never } else { Ends::At((last as u64 + 1) * step_s) };
        Some(Job {
            workload,
            comes_s: first as u64 * step_s,
            ends,
            usage: Usage::Series { step_s, milli, even: false },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::model::curve::PowerCurve;
    use crate::state::resources::Resources;
    use ebbtide_proto::WorkloadId;
    use ebbtide_proto::id::WorkloadKind;

    /// Six hours of four nodes of 100 W idle and 200 W full, one workload on each, a quarter busy.
    fn spread_out() -> History {
        let steps = 72;
        let node = |i: usize| {
            Node::new(
                NodeId::new(&format!("n{i}")).unwrap(),
                Resources::new(8000, 1 << 34),
                PowerCurve::line(90.0, 180.0),
            )
        };
        let nodes = (0..4).map(|i| NodeHistory { node: node(i), watts: vec![Some(125.0); steps] }).collect();
        let workloads = (0..4)
            .map(|i| WorkloadHistory {
                workload: Workload::new(
                    WorkloadId::new(WorkloadKind::Pod, &format!("w{i}")).unwrap(),
                    Resources::new(2000, 1 << 30),
                ),
                samples: vec![
                    Some(Seen { node: Some(NodeId::new(&format!("n{i}")).unwrap()), cpu_milli: 2000.0 });
                    steps
                ],
            })
            .collect();
        History { step_s: 300, nodes, workloads }
    }

    #[test]
    fn a_fleet_that_was_spread_out_would_have_been_packed() {
        let r = replay(&spread_out(), &Policy::default(), 1, |_, _| {}).unwrap();
        assert!((r.as_it_was_kwh - 3.0).abs() < 1e-9 && (r.measured_pct - 100.0).abs() < 1e-9, "{r:?}");
        assert!(r.model_error_pct.abs() < 2.0, "{r:?}");
        // one full node instead of four, for most of the time
        assert!(r.would_be_kwh < 1.7 && r.would_be_kwh > 1.0, "{r:?}");
        assert!((r.saved_kwh - (r.as_it_was_kwh - r.would_be_kwh)).abs() < 1e-9 && r.score.violations == 0, "{r:?}");
        assert_eq!((r.score.served, r.score.power_offs), (4, 3), "{r:?}");
    }

    #[test]
    fn what_nobody_measured_is_modelled_and_said_to_be() {
        let mut history = spread_out();
        history.nodes[0].watts.iter_mut().step_by(2).for_each(|w| *w = None);
        let r = replay(&history, &Policy::default(), 1, |_, _| {}).unwrap();
        assert!((r.measured_pct - 87.5).abs() < 1e-9, "{r:?}");
        assert!((r.as_it_was_kwh - 3.0).abs() < 0.05, "{r:?}");
    }

    #[test]
    fn a_record_with_holes_in_its_form_is_refused() {
        let mut history = spread_out();
        history.workloads[1].samples.pop();
        let said = replay(&history, &Policy::default(), 1, |_, _| {}).unwrap_err().to_string();
        assert_eq!(said, "pod/w1 has 71 samples, others have 72: all series have the same steps");
        let mut history = spread_out();
        history.nodes[2].watts[3] = Some(f64::NAN);
        let said = replay(&history, &Policy::default(), 1, |_, _| {}).unwrap_err().to_string();
        assert_eq!(said, "n2 has NaN in step 3, which can't be");
        let empty = History { step_s: 300, nodes: Vec::new(), workloads: Vec::new() };
        assert_eq!(replay(&empty, &Policy::default(), 1, |_, _| {}), Err(HistoryError::Empty));
    }
}
