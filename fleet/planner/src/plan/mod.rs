//! Makes plans: `plan(&FleetState, &Policy, now) -> Plan`, a function of its arguments and nothing else: no clock,
//! no chance. Effort is bounded by work done, not by time, so that the same inputs give the same plan anywhere.
//!
//! In this order: what waits is placed, waking nodes if it must; what has outgrown its node is relieved; nodes whose
//! workloads fit elsewhere for less are emptied and powered off. `pack.rs` has the books of who is where, `hold.rs`
//! what keeps a node on, `bound.rs` what no placement can be below, `reason.rs` the words for why.

pub mod action;
pub mod reason;

mod bound;
mod drain;
mod emit;
mod hold;
mod improve;
mod index;
mod pack;
mod problem;
mod relieve;
mod wake;

use std::collections::BTreeSet;

use ebbtide_proto::NodeId;

use crate::policy::{Margin, Policy, PolicyError};
use crate::state::{FleetState, Time};
use action::Plan;
use index::Index;
use pack::{Misfit, Pack};
use problem::{N, Problem, W};
use reason::{Hold, RuledOut, Verdict};

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Inventory hasn't told everything yet: what looks idle may only be unknown.
    #[error("inventory has not been read completely yet; planning starts when it has")]
    NotSynced,
    /// The policy can't be used.
    #[error("the policy can't be used: {0}")]
    Policy(#[from] PolicyError),
}

/// Makes a plan for the whole fleet.
///
/// # Errors
/// [`Refusal::NotSynced`] as long as inventory isn't complete, [`Refusal::Policy`] if the policy makes no sense.
pub fn plan(state: &FleetState, policy: &Policy, now: Time) -> Result<Plan, Refusal> {
    scoped(state, policy, now, None)
}

/// Makes a plan for what changed: the named nodes, what runs on them, what waits, and as many other nodes as are
/// likely to matter for them.
///
/// # Errors
/// As [`plan`].
pub fn plan_around(state: &FleetState, policy: &Policy, now: Time, changed: &[NodeId]) -> Result<Plan, Refusal> {
    let scope = problem::neighbourhood(state, changed);
    scoped(state, policy, now, Some(&scope))
}

fn scoped(state: &FleetState, policy: &Policy, now: Time, scope: Option<&BTreeSet<NodeId>>) -> Result<Plan, Refusal> {
    policy.validate()?;
    if !state.synced {
        return Err(Refusal::NotSynced);
    }
    let problem = Problem::new(state, policy, now, scope);
    let bound = bound::lower_bound(&problem, &[]);
    let mut planner = Planner::new(&problem);
    let before_w = planner.pack.total_watts();
    planner.place_waiting(&bound.prices);
    planner.relieve();
    planner.keep_reserve();
    planner.improve_waiting();
    for _ in 0..ROUNDS {
        let before = planner.steps.len() + planner.late.len();
        planner.drain();
        planner.improve();
        planner.place_late();
        if planner.steps.len() + planner.late.len() == before {
            break;
        }
    }
    Ok(planner.finish(before_w, bound.watts))
}

/// Rounds of emptying nodes and moving single workloads, each of which may make room for the other.
const ROUNDS: usize = 4;

/// A move that was decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) w: W,
    pub(crate) from: N,
    pub(crate) to: N,
    /// Watts that it changes the fleet's power by.
    pub(crate) watts: f64,
}

/// A node that is emptied.
#[derive(Clone, Debug)]
pub(crate) struct Drained {
    pub(crate) n: N,
    pub(crate) moves: Vec<Move>,
    /// Watts that powering it off saves.
    pub(crate) off_w: f64,
}

/// What saves watts.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A node is emptied and powered off.
    Empty(Drained),
    /// A workload moves to where it takes fewer watts.
    Better(Move),
}

/// A plan in the making.
pub(crate) struct Planner<'p, 'a> {
    pub(crate) problem: &'p Problem<'a>,
    pub(crate) pack: Pack<'p, 'a>,
    pub(crate) index: Index,
    pub(crate) holds: Vec<Option<Hold>>,
    pub(crate) woken: Vec<N>,
    pub(crate) waiting: Vec<W>,
    /// Those of them that found room only after others had moved.
    pub(crate) late: Vec<W>,
    pub(crate) relief: Vec<Move>,
    /// What follows, in the order in which it was decided.
    pub(crate) steps: Vec<Step>,
    pub(crate) verdicts: Vec<Option<Verdict>>,
    pub(crate) moves_left: usize,
    /// Nodes for which it was said what ruled all others out.
    pub(crate) told: usize,
}

impl<'p, 'a> Planner<'p, 'a> {
    fn new(problem: &'p Problem<'a>) -> Self {
        let pack = Pack::new(problem);
        let index = Index::new(&pack);
        Self {
            problem,
            index,
            holds: hold::against_off(problem),
            woken: Vec::new(),
            waiting: Vec::new(),
            late: Vec::new(),
            relief: Vec::new(),
            steps: Vec::new(),
            verdicts: vec![None; problem.nodes.len()],
            moves_left: problem.policy.max_moves,
            told: 0,

            pack,
        }
    }

    /// Moves a workload on the books and says what that changes.
    pub(crate) fn shift(&mut self, w: W, from: N, to: N) -> Move {
        let before = self.pack.watts(from) + self.pack.watts(to);
        self.pack.lift(w);
        self.pack.put(w, to);
        self.index.update(&self.pack, from);
        self.index.update(&self.pack, to);
        Move { w, from, to, watts: self.pack.watts(from) + self.pack.watts(to) - before }
    }

    /// The best node for a workload, with margin `z` for forecasts.
    pub(crate) fn seek(&mut self, w: W, z: Margin) -> Option<N> {
        let candidates = self.index.candidates(&mut self.pack, w, z);
        self.pack.best(w, &candidates, z)
    }

    /// All open nodes besides where it is, by what rules them out for the workload; nodes that are off don't count.
    pub(crate) fn ruled_out(&self, w: W, z: Margin) -> Vec<RuledOut> {
        let mut out: Vec<RuledOut> = Vec::new();
        for n in 0..self.problem.nodes.len() {
            if self.pack.place[w] == Some(n) || !self.pack.lit[n] {
                continue;
            }
            let Err(misfit) = self.pack.judge(w, n, z) else { continue };
            let by = self.name_of(misfit);
            let node = &self.problem.nodes[n].node.id;
            match out.iter_mut().find(|r| r.by == by) {
                Some(r) => {
                    r.nodes += 1;
                    if r.such_as.len() < 4 {
                        r.such_as.push(node.clone());
                    }
                }
                None => out.push(RuledOut { by, nodes: 1, such_as: vec![node.clone()] }),
            }
        }
        out.sort();
        out
    }

    fn name_of(&self, misfit: Misfit) -> String {
        match misfit {
            Misfit::Closed => "closed to new work".to_owned(),
            Misfit::Admission => "labels or taints".to_owned(),
            Misfit::Room(d) => format!("no free {}", self.problem.names[d]),
            Misfit::Forecast => "no free cpu by forecast".to_owned(),
            Misfit::Spread => "too many of its group".to_owned(),
            Misfit::Avoid => "groups that avoid each other".to_owned(),
        }
    }

    /// Joules that moving a workload costs, what it is worth undisturbed included.
    pub(crate) fn move_cost(&self, w: W) -> f64 {
        self.problem.work[w].work.migration.energy_j() + self.problem.policy.disruption_j
    }

    /// Whether the reserve holds with the nodes that are open now.
    pub(crate) fn reserve_holds(&self) -> bool {
        let reserve = self.problem.policy.reserve;
        if reserve.nodes == 0 && reserve.cpu <= 0.0 {
            return true;
        }
        let dims = 2.min(self.problem.dims);
        let (mut room, mut used) = ([0.0; 2], [0.0; 2]);
        let mut fullest: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        for n in (0..self.problem.nodes.len()).filter(|&n| self.pack.open[n]) {
            for d in 0..dims {
                let has = self.problem.nodes[n].room[d] as f64;
                let uses = if d == problem::CPU && self.problem.policy.basis == crate::policy::Basis::Forecast {
                    self.pack.loads[n].level
                } else {
                    self.pack.loads[n].used[d] as f64
                };
                room[d] += has;
                used[d] += uses;
                fullest[d].push(uses);
            }
        }
        (0..dims).all(|d| {
            fullest[d].sort_by(|a, b| b.total_cmp(a));
            let failing: f64 = fullest[d].iter().take(reserve.nodes as usize).sum();
            let share = if d == problem::CPU { reserve.cpu * room[d] } else { 0.0 };
            room[d] - used[d] >= failing.max(share)
        })
    }
}
