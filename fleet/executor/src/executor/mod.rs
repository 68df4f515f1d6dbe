//! The core: takes in what happened, lets every live operation go on, and says what to do.
//!
//! `effects.rs` is the only place from which an effect is asked for: journal, gate, send, answer. `orders.rs` takes in
//! what operators want, `plans.rs` takes plans apart, `resume.rs` begins anew after a crash.

mod effects;
mod orders;
mod plans;
mod resume;

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_planner::policy::Policy;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::NodeId;

use crate::audit::AuditEntry;
use crate::command::{Command, Generation};
use crate::event::{Cordon, Event, Sight};
use crate::journal::{Change, Record};
use crate::leases::Leases;
use crate::limits::Traffic;
use crate::node::{self, Next, Seen, View, is_within};
use crate::operation::{Operation, OperationId, Phase, State, Task, Who};
use crate::rules::Now;
use crate::settings::{Mode, Settings};
use crate::switches::Switches;
use crate::words;
use effects::Flight;
use plans::PlanRun;

pub use resume::ResumeError;

/// Decisions that an operation makes in a row within one step.
const IN_A_ROW: usize = 64;
/// Seconds between two steps, in either direction, that mean that a clock was set, or the process stood still.
const CLOCK_SET_S: u64 = 15;
/// Seconds until a look without an answer is asked for again.
const LOOK_TIMEOUT_S: u64 = 10;

/// The executor.
#[derive(Clone, Debug)]
pub struct Executor {
    generation: Generation,
    settings: Settings,
    leading: bool,
    next_seq: u64,
    next_op: u64,
    next_look: u64,
    ops: BTreeMap<OperationId, Operation>,
    flights: BTreeMap<OperationId, Flight>,
    plans: BTreeMap<OperationId, PlanRun>,
    leases: Leases,
    switches: Switches,
    seen: BTreeMap<NodeId, Seen>,
    /// The latest look asked for at each node, and when.
    asked: BTreeMap<NodeId, (u64, Time)>,
    quarantined: BTreeMap<NodeId, String>,
    paused: Option<String>,
    modes: BTreeMap<String, Mode>,
    closed_windows: BTreeSet<String>,
    last_replan: Option<Time>,
    last_step: Option<Time>,
    out: Vec<Command>,
}

/// What a step may look at.
#[derive(Clone, Copy)]
struct World<'a> {
    now: Time,
    fleet: &'a FleetState,
    policy: &'a Policy,
}

impl Executor {
    /// Takes in an event and says what to do. `fleet` is the fleet as it is known now, `now` the wall clock.
    pub fn step(&mut self, now: Time, fleet: &FleetState, policy: &Policy, event: Event) -> Vec<Command> {
        let world = World { now, fleet, policy };
        self.mind_the_clock(now);
        if self.leading {
            self.take(world, event);
        }
        if self.leading {
            self.give_up_waiting(world);
            self.advance_plans(world);
            self.drive(world);
            self.advance_plans(world);
            self.forget();
        }
        std::mem::take(&mut self.out)
    }

    /// Whether it still leads; if not, nothing will come of it any more.
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// An operation, if it is live or ended not long ago.
    pub fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.ops.get(&id)
    }

    /// All operations that are live or ended not long ago, the oldest first.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.ops.values()
    }

    /// Nodes that are left alone until an operator unlocks them, and why.
    pub fn quarantined(&self) -> &BTreeMap<NodeId, String> {
        &self.quarantined
    }

    /// Numbers of the next record and the next operation.
    pub fn next(&self) -> (u64, OperationId) {
        (self.next_seq, OperationId(self.next_op))
    }

    /// When each node was switched within the last day.
    pub fn switches(&self) -> &Switches {
        &self.switches
    }

    /// Why nothing new is begun, if so.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// Time is the wall clock's, which can be set. Then waiting begins anew, and no deadline moves further away.
    fn mind_the_clock(&mut self, now: Time) {
        let before = self.last_step.replace(now).unwrap_or(now);
        let back_ms = before.ms().saturating_sub(now.ms());
        if now.since(before) < CLOCK_SET_S as f64 && back_ms < CLOCK_SET_S * 1000 {
            return;
        }
        for flight in self.flights.values_mut() {
            flight.since = now;
        }
        for op in self.ops.values_mut().filter(|o| o.is_live()) {
            op.clock_set = Some(now);
            op.deadline = Time::from_ms(op.deadline.ms().saturating_sub(back_ms));
            op.quiet_until = op.quiet_until.map(|_| now.plus_secs(self.settings.answer_s));
        }
        for run in self.plans.values_mut() {
            run.started = Time::from_ms(run.started.ms().saturating_sub(back_ms));
        }
    }

    fn take(&mut self, world: World<'_>, event: Event) {
        match event {
            Event::Tick => {}
            Event::Journalled { generation, seq } if generation == self.generation => self.journalled(world, seq),
            Event::JournalFailed { generation } if generation == self.generation => self.stand_down(),
            Event::Answered { generation, key, answer } if generation == self.generation => {
                self.answered(world, key, answer);
            }
            Event::Journalled { .. } | Event::JournalFailed { .. } | Event::Answered { .. } => {}
            Event::Seen { node, look, sight } => self.saw(world, node, look, *sight),
            Event::Planned(plan) => self.take_plan(world, plan),
            Event::Asked { ticket, by, why, what } => self.take_order(world, ticket, by, why, what),
            Event::Mode { pool, mode } => {
                self.modes.insert(pool, mode);
            }
            Event::Window { pool, open: true } => {
                self.closed_windows.remove(&pool);
            }
            Event::Window { pool, open: false } => {
                self.closed_windows.insert(pool);
            }
            Event::LeaseLost => self.stand_down(),
        }
    }

    /// Nothing will be asked for any more: what is durable is all that the next leader needs.
    fn stand_down(&mut self) {
        self.leading = false;
        self.flights.clear();
        self.out.clear();
    }

    fn saw(&mut self, world: World<'_>, node: NodeId, look: Option<u64>, sight: Sight) {
        if let Cordon::Ours(left_by) = sight.cordon.unwrap_or(Cordon::Open) {
            self.find_leftover(world, &node, left_by);
        }
        // what was told of its own accord may be older than what an operation did; only answers to looks count
        let Some(look) = look else { return };
        if self.seen.get(&node).is_some_and(|s| s.look >= look) || look >= self.next_look {
            return;
        }
        self.seen.insert(node.clone(), Seen { look, at: world.now, sight });
        self.looked(world, &node, look);
    }

    fn find_leftover(&mut self, world: World<'_>, node: &NodeId, left_by: OperationId) {
        let lives = self.ops.get(&left_by).is_some_and(Operation::is_live);
        let cared_for = self.ops.values().any(|o| o.is_live() && o.task.is_exclusive() && o.task.node() == Some(node));
        if lives || cared_for || self.quarantined.contains_key(node) {
            return;
        }
        let task = Task::CleanUp { node: node.clone(), left_by };
        let why = format!("it carries the mark of {left_by}, which is over");
        self.begin(world, task, Who::Executor, why, self.settings.drain_s, None);
    }

    /// Takes an operation on.
    fn begin(
        &mut self,
        world: World<'_>,
        task: Task,
        by: Who,
        why: String,
        seconds: u64,
        part_of: Option<(OperationId, usize)>,
    ) -> OperationId {
        let id = OperationId(self.next_op);
        self.next_op += 1;
        let op = Operation {
            id,
            task,
            by,
            why,
            at: world.now,
            deadline: world.now.plus_secs(seconds),
            part_of,
            state: State::Live,
            phase: Phase::Begin,
            since: world.now,
            steps_before: 0,
            ended: None,
            words: "waiting for its turn".to_owned(),
            steps: Vec::new(),
            cancelled: None,
            quiet_until: None,
            clock_set: None,
            look_from: self.next_look,
        };
        self.write(world.now, Change::Began(Box::new(op.clone())));
        self.ops.insert(id, op);
        self.out.push(Command::Changed(id));
        id
    }

    /// Lets every live operation go on until it waits for something.
    fn drive(&mut self, world: World<'_>) {
        let live: Vec<OperationId> = self.ops.values().filter(|o| o.is_live()).map(|o| o.id).collect();
        for id in live {
            for _ in 0..IN_A_ROW {
                if self.flights.contains_key(&id) || !self.advance(world, id) {
                    break;
                }
            }
        }
    }

    /// One decision of one operation. Returns whether it may decide again at once.
    fn advance(&mut self, world: World<'_>, id: OperationId) -> bool {
        let Some(op) = self.ops.get(&id).filter(|o| o.is_live()) else { return false };
        if matches!(op.task, Task::Word { .. }) {
            let words = "the executor began anew before it was heard; ask again".to_owned();
            self.end(world, id, State::Cancelled, words);
            return false;
        }
        if matches!(op.task, Task::Capacity { .. }) {
            self.keep_capacity(world, id);
            return false;
        }
        let Some(node) = op.task.node().cloned() else { return false };
        if op.quiet_until.is_some_and(|t| world.now < t) {
            return false;
        }
        let wants_it = matches!(op.task, Task::PowerOn { .. } | Task::Empty { .. }) && op.phase == Phase::Begin;
        let next = match self.quarantined.get(&node).filter(|_| wants_it) {
            Some(why) => Next::End(State::Refused, format!("it is left alone until it is unlocked: {why}")),
            None => self.look_at(world, op, &node, |view| node::next(op, view)),
        };
        self.carry_on(world, id, &node, next)
    }

    fn carry_on(&mut self, world: World<'_>, id: OperationId, node: &NodeId, next: Next) -> bool {
        let exclusive = self.ops.get(&id).is_some_and(|o| o.task.is_exclusive());
        if matches!(next, Next::Act(..) | Next::Turn(_)) && exclusive && !self.leases.take(node, id) {
            return false;
        }
        match next {
            Next::Wait(words) => self.say(id, words),
            Next::Look(words) => {
                let from = self.ops.get(&id).map_or(0, |o| o.look_from);
                self.look(world.now, node, from);
                self.say(id, words);
            }
            Next::Act(effect, words) => {
                if effect.switches()
                    && let Some(why) = self.traffic(world).too_fast(node)
                {
                    self.say(id, format!("waiting: {why}"));
                    return false;
                }
                self.say(id, words);
                self.intend(world, id, node, effect);
            }
            Next::Turn(phase) => {
                self.write(world.now, Change::Turned { operation: id, phase: phase.clone() });
                let look_from = self.next_look;
                if let Some(op) = self.ops.get_mut(&id) {
                    op.turn(phase, world.now);
                    op.look_from = look_from;
                }
                return true;
            }
            Next::Settle(action, done) => {
                let plan = self.ops.get(&id).and_then(|o| o.part_of).map(|p| p.0);
                let Some(plan) = plan else { return false };
                self.settle(world.now, plan, action, done);
                return true;
            }
            Next::End(state, words) => self.end(world, id, state, words),
            Next::Quarantine(words) => self.quarantine(world, id, node, words),
        }
        false
    }

    /// What is known about an operation and its node, for a decision.
    fn look_at<T>(&self, world: World<'_>, op: &Operation, id: &NodeId, decide: impl FnOnce(&View<'_>) -> T) -> T {
        let away = |n: &NodeId| {
            let held = self.leases.holder(n).is_some_and(|h| h != op.id);
            held || self.quarantined.contains_key(n)
        };
        let rules =
            Now { now: world.now, fleet: world.fleet, policy: world.policy, switches: &self.switches, away: &away };
        let powers_off = matches!(op.task, Task::Empty { then: crate::operation::Then::Off, .. });
        let view = View {
            now: world.now,
            fleet: world.fleet,
            settings: &self.settings,
            node: id,
            seen: self.seen.get(id),
            stop: self.stop(world, op, id),
            crowded: self.crowded(world, op, id),
            against_off: if powers_off { rules.against_off(id) } else { None },
            settled: op.part_of.and_then(|(plan, _)| self.plans.get(&plan)).map(|run| &run.settled),
        };
        decide(&view)
    }

    /// Why nothing new may be begun by an operation.
    fn stop(&self, world: World<'_>, op: &Operation, node: &NodeId) -> Option<String> {
        if let Some(why) = &op.cancelled {
            return Some(why.clone());
        }
        if op.by == Who::Executor {
            return None;
        }
        if let Some(why) = &self.paused {
            return Some(why.clone());
        }
        let (plan, _) = op.part_of?;
        self.not_allowed(world, plan, node, op.phase != Phase::Begin || !op.steps.is_empty())
    }

    /// Why an operation that hasn't begun has to wait for others.
    fn crowded(&self, world: World<'_>, op: &Operation, node: &NodeId) -> Option<String> {
        if op.phase != Phase::Begin {
            return None;
        }
        let holder = self.leases.holder(node).filter(|h| *h != op.id);
        if let Some(other) = holder.filter(|_| op.task.is_exclusive()) {
            return Some(format!("{other} works on the same node"));
        }
        self.traffic(world).full(op)
    }

    fn traffic<'a>(&'a self, world: World<'a>) -> Traffic<'a> {
        let active = |o: &&Operation| o.task.node().is_some_and(|n| self.leases.holder(n) == Some(o.id));
        let about_to = |f: &&Flight| f.effect.switches() && !f.is_sent();
        Traffic {
            now: world.now,
            fleet: world.fleet,
            settings: &self.settings,
            switches: &self.switches,
            active: self.ops.values().filter(|o| o.is_live()).filter(active).collect(),
            about_to: self.flights.values().filter(about_to).map(|f| &f.node).collect(),
        }
    }

    /// Asks for a look, unless one that serves is under way or was had just now.
    fn look(&mut self, now: Time, node: &NodeId, from: u64) {
        let had = self.seen.get(node).map(|s| (s.look, s.at));
        if let Some((look, at)) = self.asked.get(node).copied()
            && look >= from
        {
            let answered = had.is_some_and(|(l, _)| l >= look);
            let patience = if answered { self.settings.look_s } else { LOOK_TIMEOUT_S };
            let since = if answered { had.map_or(at, |(_, t)| t) } else { at };
            if now.since(since) < patience as f64 && is_within(now, since, patience) {
                return;
            }
        }
        self.ask_to_look(now, node);
    }

    fn ask_to_look(&mut self, now: Time, node: &NodeId) -> u64 {
        let look = self.next_look;
        self.next_look += 1;
        self.asked.insert(node.clone(), (look, now));
        self.out.push(Command::Look { generation: self.generation, node: node.clone(), look });
        look
    }

    fn say(&mut self, id: OperationId, words: String) {
        if let Some(op) = self.ops.get_mut(&id)
            && op.words != words
        {
            op.words = words;
            self.out.push(Command::Changed(id));
        }
    }

    fn write(&mut self, now: Time, change: Change) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let record = Box::new(Record { seq, generation: self.generation, at: now, change });
        self.out.push(Command::Journal { generation: self.generation, record });
        seq
    }

    /// An operation is over.
    fn end(&mut self, world: World<'_>, id: OperationId, state: State, words: String) {
        let Some(op) = self.ops.get_mut(&id).filter(|o| o.is_live()) else { return };
        op.state = state;
        op.ended = Some(world.now);
        op.words.clone_from(&words);
        let (node, who, why) = (op.task.node().cloned(), op.by.clone(), op.why.clone());
        let what = words::task(&op.task);
        let unlocks = matches!(op.task, Task::Unlock { .. }) && state == State::Done;
        let (part_of, wakes) = (op.part_of, matches!(op.task, Task::PowerOn { .. }));
        let result = Some(format!("{}: {words}", words::state(state)));
        self.leases.release(id);
        if unlocks
            && let Some(node) = &node
            && self.quarantined.remove(node).is_some()
        {
            self.write(world.now, Change::Freed { node: node.clone() });
        }
        self.write(world.now, Change::Ended { operation: id, state, words: words.clone() });
        self.out.push(Command::Audit(AuditEntry { at: world.now, who, what, why, node, operation: id, result }));
        self.out.push(Command::Changed(id));
        if let Some((plan, part)) = part_of {
            self.part_ended(world.now, plan, part, state == State::Done);
        }
        let unfinished = !matches!(state, State::Done | State::Cancelled);
        if unfinished && (part_of.is_some() || wakes || state == State::Quarantined) {
            self.replan(world.now, format!("{id}: {words}"));
        }
    }

    /// An operation is over, and its node left alone until a person has looked.
    fn quarantine(&mut self, world: World<'_>, id: OperationId, node: &NodeId, words: String) {
        self.write(world.now, Change::Quarantined { node: node.clone(), why: words.clone() });
        self.quarantined.insert(node.clone(), words.clone());
        self.end(world, id, State::Quarantined, words);
    }

    fn replan(&mut self, now: Time, why: String) {
        let due = self.last_replan.is_none_or(|at| !is_within(now, at, self.settings.replan_s));
        if due {
            self.last_replan = Some(now);
            self.out.push(Command::Replan { generation: self.generation, why });
        }
    }

    /// Drops the oldest operations that are over, so that memory has a bound.
    fn forget(&mut self) {
        let mut surplus = self.ops.values().filter(|o| !o.is_live()).count().saturating_sub(self.settings.kept);
        let plans = &self.plans;
        self.ops.retain(|_, op| {
            let part = op.part_of.is_some_and(|(plan, _)| plans.contains_key(&plan));
            let drop = surplus > 0 && !op.is_live() && !part;
            surplus -= usize::from(drop);
            !drop
        });
    }
}
