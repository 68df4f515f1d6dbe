//! Plans: taken up while they are fresh, checked, taken apart into one operation per node, put together again.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_planner::check::check;
use ebbtide_planner::plan::action::{Action, Do, Plan};
use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;

use super::{Executor, World};
use crate::journal::Change;
use crate::node::is_within;
use crate::operation::{Operation, OperationId, Planned, State, Task, Then, Who};
use crate::settings::Mode;

/// A plan on its way.
#[derive(Clone, Debug)]
pub(super) struct PlanRun {
    parts: Vec<Part>,
    /// Actions that are over, and whether they were done.
    pub(super) settled: BTreeMap<u32, bool>,
    pub(super) approved: bool,
    /// From when on its deadlines count.
    pub(super) started: Time,
    /// Taken up by an earlier leader.
    pub(super) inherited: bool,
}

/// Actions that belong together: those of one node, or one workload.
#[derive(Clone, Debug)]
struct Part {
    actions: Vec<u32>,
    task: Task,
    /// Actions of other parts that have to be done before this one begins.
    needs: BTreeSet<u32>,
    deadline_s: u64,
    /// The action that closes the node.
    cordon: Option<u32>,
    begun: bool,
    over: bool,
}

impl PlanRun {
    fn is_begun(&self) -> bool {
        self.parts.iter().any(|part| part.begun)
    }

    pub(super) fn new(plan: &Plan, started: Time) -> Self {
        Self { parts: take_apart(plan), settled: BTreeMap::new(), approved: false, started, inherited: false }
    }

    /// A part that became an operation, before a restart.
    pub(super) fn found(&mut self, part: usize, ended: Option<bool>) {
        if let Some(part) = self.parts.get_mut(part) {
            part.begun = true;
            if let Some(done) = ended {
                part.over = true;
                for action in &part.actions {
                    self.settled.entry(*action).or_insert(done);
                }
            }
        }
    }
}

impl Executor {
    pub(super) fn take_plan(&mut self, world: World<'_>, plan: Box<Plan>) {
        // one at a time: what is planned meanwhile is planned again once that one is over
        if plan.is_empty() || self.waits_already(&plan) || self.plans.values().any(PlanRun::is_begun) {
            return;
        }
        let objection = self.objection(world, &plan);
        let saves = plan.before_w - plan.after_w;
        let why = format!("it changes the fleet's power by {:.1} W", -saves);
        let run = PlanRun::new(&plan, world.now);
        let id = self.begin(world, Task::Plan { plan }, Who::Planner, why, self.settings.approval_s, None);
        match objection {
            Some(words) => self.end(world, id, State::Refused, words),
            None => {
                self.plans.insert(id, run);
            }
        }
    }

    /// Whether the same plan was put forward before and goes on waiting.
    fn waits_already(&self, plan: &Plan) -> bool {
        let same = |id: &OperationId| {
            let known = self.ops.get(id).and_then(plan_of);
            known.is_some_and(|p| {
                p.inputs == plan.inputs && p.actions.iter().map(|a| &a.what).eq(plan.actions.iter().map(|a| &a.what))
            })
        };
        self.plans.iter().any(|(id, run)| !run.inherited && !run.is_begun() && same(id))
    }

    /// Why a plan isn't taken up.
    fn objection(&mut self, world: World<'_>, plan: &Plan) -> Option<String> {
        if let Some(why) = &self.paused {
            return Some(why.clone());
        }
        if !is_within(world.now, plan.at, self.settings.fresh_s) {
            return Some(format!("it was made {:.0} s ago", world.now.since(plan.at)));
        }
        if let Some(v) = check(plan, world.fleet, world.policy).first() {
            return Some(format!("it doesn't hold any more: {}", v.what));
        }
        let live: Vec<OperationId> = self.plans.keys().copied().collect();
        for other in live {
            self.end_plan(world, other, State::Cancelled, "a newer plan came before it was approved".to_owned());
        }
        None
    }

    /// Why a plan may not act on a node now. What was begun on it is brought to its end also when it is no longer time.
    pub(super) fn not_allowed(
        &self,
        world: World<'_>,
        plan: OperationId,
        node: &NodeId,
        begun: bool,
    ) -> Option<String> {
        let pool = world.fleet.nodes.get(node).map_or("", |n| n.pool.as_str());
        let approved = self.plans.get(&plan).is_some_and(|run| run.approved);
        match self.modes.get(pool).copied().unwrap_or_default() {
            Mode::Observe => Some(format!("pool {pool:?} is only observed")),
            Mode::Recommend if !approved => Some("the plan waits for approval".to_owned()),
            Mode::Auto if !approved && !begun && self.closed_windows.contains(pool) => {
                Some(format!("it isn't time to act in pool {pool:?}: the plan waits for that, or for approval"))
            }
            Mode::Recommend | Mode::Auto => None,
        }
    }

    pub(super) fn approve(&mut self, world: World<'_>, plan: OperationId, by: &str) -> (State, String) {
        let Some(run) = self.plans.get_mut(&plan) else {
            return (State::Refused, format!("{plan} is no plan that waits for approval"));
        };
        let begun = run.parts.iter().any(|p| p.begun);
        let Some(Task::Plan { plan: what }) = self.ops.get(&plan).map(|o| &o.task) else {
            return (State::Refused, format!("{plan} is no plan"));
        };
        // what was begun in pools that needn't be asked has changed the fleet
        if !begun && let Some(v) = check(what, world.fleet, world.policy).first() {
            let words = format!("it doesn't hold any more: {}", v.what);
            self.end_plan(world, plan, State::Refused, words.clone());
            return (State::Refused, words);
        }
        run.approved = true;
        run.started = world.now;
        self.write(world.now, Change::Approved { plan, by: by.to_owned() });
        (State::Done, format!("{plan} is carried out"))
    }

    /// Begins what can begin and ends what is over.
    pub(super) fn advance_plans(&mut self, world: World<'_>) {
        let ids: Vec<OperationId> = self.plans.keys().copied().collect();
        for id in ids {
            self.advance_plan(world, id);
        }
    }

    fn advance_plan(&mut self, world: World<'_>, id: OperationId) {
        let Some(op) = self.ops.get(&id) else { return };
        let (cancelled, expired) = (op.cancelled.clone(), world.now >= op.deadline);
        // whether it was found to hold isn't known, and by now it may not
        if self.plans.get(&id).is_some_and(|run| run.inherited && !run.parts.iter().any(|p| p.begun)) {
            let words = "the executor began anew before any of it was begun; planned anew".to_owned();
            self.end_plan(world, id, State::Cancelled, words);
            self.replan(world.now, format!("{id} was left"));
            return;
        }
        let count = self.plans.get(&id).map_or(0, |run| run.parts.len());
        for part in 0..count {
            self.advance_part(world, id, part, cancelled.as_deref(), expired);
        }
        let Some(run) = self.plans.get(&id) else { return };
        let (all, done) = (run.settled.len(), run.settled.values().filter(|d| **d).count());
        if run.parts.iter().all(|p| p.over) {
            let begun = run.parts.iter().any(|p| p.begun);
            let (state, words) = match (cancelled, begun) {
                _ if all == done => (State::Done, format!("all {all} actions are done")),
                (Some(why), false) => (State::Cancelled, why),
                (Some(why), true) => (State::RolledBack, format!("{why}; {done} of {all} actions were done")),
                (None, false) => (State::Cancelled, "nobody let it act in time".to_owned()),
                (None, true) => (State::Failed, format!("{done} of {all} actions are done; the rest is planned anew")),
            };
            self.end_plan(world, id, state, words);
        } else {
            self.say(id, format!("{done} of {} actions are done", run_len(&self.plans, id)));
        }
    }

    fn advance_part(&mut self, world: World<'_>, id: OperationId, n: usize, cancelled: Option<&str>, expired: bool) {
        let Some(run) = self.plans.get(&id) else { return };
        let Some(part) = run.parts.get(n).filter(|p| !p.begun && !p.over) else { return };
        let late = world.now >= run.started.plus_secs(part.deadline_s);
        let node = part.task.node().cloned();
        let waits_for_word = node.as_ref().and_then(|n| self.not_allowed(world, id, n, false));
        let observed = node.as_ref().is_some_and(|n| {
            let pool = world.fleet.nodes.get(n).map_or("", |n| n.pool.as_str());
            self.modes.get(pool).copied().unwrap_or_default() == Mode::Observe
        });
        let failed = part.needs.iter().any(|need| run.settled.get(need) == Some(&false));
        let ready = part.needs.iter().all(|need| run.settled.get(need) == Some(&true));
        let waits = waits_for_word.is_some();
        // a plan that waits for approval has longer than its actions
        if cancelled.is_some() || failed || observed || expired || (late && !waits) {
            self.part_ended(world.now, id, n, false);
            return;
        }
        if !ready || waits || self.paused.is_some() {
            return;
        }
        let left = (part.deadline_s as f64 - world.now.since(run.started)).max(1.0);
        #[allow(clippy::cast_possible_truncation, reason = "seconds of a plan")]
        let left = left.ceil() as u64;
        let (task, words) = (part.task.clone(), format!("part of {id}"));
        if let Some(part) = self.plans.get_mut(&id).and_then(|run| run.parts.get_mut(n)) {
            part.begun = true;
        }
        self.begin(world, task, Who::Planner, words, left, Some((id, n)));
    }

    /// An action is over.
    pub(super) fn settle(&mut self, now: Time, plan: OperationId, action: u32, done: bool) {
        let Some(run) = self.plans.get_mut(&plan) else { return };
        if run.settled.insert(action, done).is_none() {
            self.write(now, Change::Settled { plan, action, done });
        }
    }

    /// The operation of a part is over, or won't be.
    pub(super) fn part_ended(&mut self, now: Time, plan: OperationId, part: usize, done: bool) {
        let Some(part) = self.plans.get_mut(&plan).and_then(|run| run.parts.get_mut(part)) else { return };
        part.over = true;
        for action in part.actions.clone() {
            let known = self.plans.get(&plan).is_some_and(|run| run.settled.contains_key(&action));
            if !known {
                self.settle(now, plan, action, done);
            }
        }
    }

    fn end_plan(&mut self, world: World<'_>, id: OperationId, state: State, words: String) {
        self.plans.remove(&id);
        self.end(world, id, state, words);
        if matches!(state, State::Failed) {
            self.replan(world.now, format!("{id} was not carried out as a whole"));
        }
    }
}

fn run_len(plans: &BTreeMap<OperationId, PlanRun>, id: OperationId) -> usize {
    plans.get(&id).map_or(0, |run| run.parts.iter().map(|p| p.actions.len()).sum())
}

/// One part per node that is emptied, relieved or woken, and per workload that is placed.
fn take_apart(plan: &Plan) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let goes_off: BTreeSet<&NodeId> = plan
        .actions
        .iter()
        .filter_map(|a| if let Do::PowerOff { node } = &a.what { Some(node) } else { None })
        .collect();
    for action in &plan.actions {
        let task = match &action.what {
            Do::PowerOn { node } => Task::PowerOn { node: node.clone() },
            Do::Place { workload, to } => Task::Place { workload: workload.clone(), to: to.clone() },
            Do::Cordon { node } | Do::PowerOff { node } | Do::Move { from: node, .. } => {
                let off = goes_off.contains(node);
                let then = if off { Then::Off } else { Then::Open };
                Task::Empty { node: node.clone(), moves: Some(Vec::new()), close: off, then }
            }
        };
        let same = |p: &&mut Part| matches!((&p.task, &task), (Task::Empty { node: a, .. }, Task::Empty { node: b, .. }) if a == b);
        match parts.iter_mut().find(same) {
            Some(part) => add(part, action),
            None => {
                let mut part = Part {
                    actions: Vec::new(),
                    task,
                    needs: BTreeSet::new(),
                    deadline_s: 0,
                    cordon: None,
                    begun: false,
                    over: false,
                };
                add(&mut part, action);
                parts.push(part);
            }
        }
    }
    parts
}

fn add(part: &mut Part, action: &Action) {
    part.actions.push(action.id);
    part.deadline_s = part.deadline_s.max(action.deadline_s);
    if matches!(action.what, Do::Cordon { .. }) {
        part.cordon = Some(action.id);
    }
    match (&mut part.task, &action.what) {
        // a move waits for what it needs by itself
        (Task::Empty { moves: Some(moves), .. }, Do::Move { workload, to, .. }) => moves.push(Planned {
            action: action.id,
            workload: workload.clone(),
            to: to.clone(),
            needs: action.needs.iter().copied().filter(|n| part.cordon != Some(*n)).collect(),
        }),
        // what a power-off needs are the moves and the cordon of the same part
        (Task::Empty { .. }, _) => {}
        _ => part.needs.extend(&action.needs),
    }
}

/// Whether an operation is a plan's.
pub(super) fn plan_of(op: &Operation) -> Option<&Plan> {
    if let Task::Plan { plan } = &op.task { Some(plan) } else { None }
}
