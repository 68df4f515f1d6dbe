//! Makes plans: `plan(&FleetState, &Policy, now) -> Plan`, a function of its arguments and nothing else: no clock,
//! no chance. Effort is bounded by work done, not by time, so that the same inputs give the same plan anywhere.
//!
//! In this order: what waits is placed, waking nodes if it must; what has outgrown its node is relieved; nodes whose
//! workloads fit elsewhere for less are emptied and powered off. `pack.rs` has the books of who is where, `hold.rs`
//! what keeps a node on, `bound.rs` what no placement can be below, `reason.rs` the words for why.

pub mod action;
pub mod reason;

mod arrange;
mod bound;
mod course;
mod displace;
mod drain;
mod emit;
mod facts;
mod hold;
mod improve;
mod index;
mod order;
mod pack;
mod problem;
mod relieve;
mod search;
mod small;
mod wake;
mod wakes;
mod weigh;

use std::collections::BTreeSet;

use ebbtide_proto::NodeId;

use crate::policy::{Basis, Margin, Policy, PolicyError};
use crate::state::{FleetState, Time};
use action::Plan;
use bound::Market;
use facts::Facts;
use index::Index;
use pack::{Load, Misfit, Pack};
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
    if let Some(weighed) = weigh::weighed(state, policy) {
        let mut plan = course::plan(&Facts::new(&weighed, policy, now, scope));
        weigh::back(&mut plan, state, policy, scope);
        return Ok(plan);
    }
    Ok(course::plan(&Facts::new(state, policy, now, scope)))
}

/// Times the least that a workload is charged anywhere from which on a place is dear.
const DEAR: f64 = 1.25;

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

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A node is powered on.
    Wake(N),
    /// A workload that waits is placed.
    Place(W, N),
    /// A workload moves: off a node that it has outgrown, or to where it takes fewer watts.
    Move(Move),
    /// A node is emptied and powered off.
    Empty(Drained),
}

/// A plan in the making.
pub(crate) struct Planner<'p, 'a> {
    pub(crate) problem: &'p Problem<'a>,
    pub(crate) pack: Pack<'p, 'a>,
    pub(crate) market: Market,
    pub(crate) index: Index,
    pub(crate) holds: Vec<Option<Hold>>,
    pub(crate) woken: Vec<N>,
    pub(crate) waiting: Vec<W>,
    pub(crate) relief: Vec<Move>,
    /// Nodes that have too much on them, and nowhere to put it.
    pub(crate) hot: Vec<N>,
    /// What is decided for good, in an order of which every prefix is harmless.
    pub(crate) steps: Vec<Step>,
    pub(crate) verdicts: Vec<Option<Verdict>>,
    pub(crate) moves_left: usize,
    /// Nodes for which it was said what ruled all others out.
    pub(crate) told: usize,
}

impl<'p, 'a> Planner<'p, 'a> {
    fn new(problem: &'p Problem<'a>, facts: &Facts<'a>, first: bool) -> Self {
        let pack = Pack::new(problem);
        let holds = hold::against_off(problem, facts);
        // with forecasts, prices are for the bound and for what waits only
        let priced = first || problem.policy.basis == Basis::Requests || problem.work.iter().any(|w| w.home.is_none());
        let market = Market::new(problem, |n| holds[n].is_some(), priced);
        let index = Index::new(&pack, &market);
        Self {
            problem,
            market,
            index,
            holds,
            woken: Vec::new(),
            waiting: Vec::new(),
            relief: Vec::new(),
            hot: Vec::new(),
            steps: Vec::new(),
            verdicts: vec![None; problem.nodes.len()],
            moves_left: problem.policy.max_moves,
            told: 0,
            pack,
        }
    }

    /// Decides, in the order in which one thing depends on another.
    fn run(&mut self) {
        let waits = self.problem.work.iter().any(|w| w.home.is_none());
        if waits {
            self.place_waiting();
        }
        self.relieve();
        self.keep_reserve();
        if waits {
            self.improve_waiting();
            self.cancel_wakes();
        }
        self.seal();
        self.hold_pools();
        self.improve(true);
        loop {
            let before = self.steps.len();
            self.drain();
            self.improve(false);
            self.place_late();
            if self.steps.len() == before {
                return;
            }
        }
    }

    /// Makes steps of what was decided about what waits and what has outgrown its node.
    fn seal(&mut self) {
        self.woken.sort_unstable();
        self.steps.extend(self.woken.iter().map(|&n| Step::Wake(n)));
        self.steps.extend(std::mem::take(&mut self.relief).into_iter().map(Step::Move));
        let placed = self.waiting.iter().filter_map(|&w| Some(Step::Place(w, self.pack.place[w]?)));
        self.steps.extend(placed);
    }

    /// Whether it would wake what was powered off before in the same plan.
    fn turns_back(&self, facts: &Facts<'_>) -> bool {
        self.woken.iter().any(|&n| facts.nodes[self.problem.nodes[n].fact].switched)
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

    /// Puts nodes' books back as they were, to the last bit.
    pub(crate) fn restore(&mut self, books: impl IntoIterator<Item = (N, Load)>) {
        for (n, load) in books {
            self.pack.loads[n] = load;
            self.index.update(&self.pack, n);
        }
    }

    /// The best node for a workload, with margin `z` for forecasts.
    pub(crate) fn seek(&mut self, w: W, z: Margin) -> Option<N> {
        let candidates = self.index.candidates(&mut self.pack, &self.market, w, z);
        self.pack.best(w, &candidates, z)
    }

    /// The best node for a workload that waits, if it is charged about as little there as anywhere: else it is worth
    /// waking another node.
    pub(crate) fn seek_cheap(&mut self, w: W) -> Option<N> {
        let n = self.seek(w, self.pack.margins.fit)?;
        let dear = self.problem.policy.basis == Basis::Requests
            && self.market.kind_of[n]
                .is_some_and(|k| self.market.cost(self.problem, w, k) > DEAR * self.market.worth(self.problem, w));
        (!dear).then_some(n)
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
        self.problem.work[w].move_j
    }

    /// Whether the reserve holds with the nodes that are open now.
    pub(crate) fn reserve_holds(&self) -> bool {
        self.reserve_holds_beside(self.problem.foreseen)
    }

    /// Whether it holds once so many thousandths of a CPU more are asked for.
    pub(crate) fn reserve_holds_beside(&self, foreseen: f64) -> bool {
        let reserve = self.problem.policy.reserve;
        if reserve.nodes == 0 && reserve.cpu <= 0.0 && foreseen <= 0.0 {
            return true;
        }
        let dims = 2.min(self.problem.dims);
        let (mut room, mut used) = ([0.0; 2], [0.0; 2]);
        let mut fullest: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        for n in (0..self.problem.nodes.len()).filter(|&n| self.pack.open[n]) {
            for d in 0..dims {
                let has = self.problem.nodes[n].room[d] as f64;
                let uses = if d == problem::CPU && self.problem.policy.basis == Basis::Forecast {
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
            let (share, more) = if d == problem::CPU { (reserve.cpu * room[d], foreseen) } else { (0.0, 0.0) };
            room[d] - used[d] - more >= failing.max(share)
        })
    }
}
