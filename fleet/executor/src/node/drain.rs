//! Emptying a node: close it, let its workloads leave, a few at a time, look that it is empty; or open it again.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_planner::state::FleetState;
use ebbtide_planner::state::node::PowerState;
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Workload;
use ebbtide_proto::{NodeId, WorkloadId};

use super::{Next, Tried, View, roll_back, tried};
use crate::command::{Effect, Mark};
use crate::event::{Answer, Cordon};
use crate::operation::{Operation, Phase, Planned, State, Step, Then};

/// Times that closing a node is tried.
const CLOSE_TRIES: usize = 3;
/// Times that a workload may fail to leave, refusals aside.
const MOVE_TRIES: usize = 5;

/// What kind of emptying.
pub(crate) struct Job<'a> {
    /// These workloads; `None` for all.
    pub(crate) moves: Option<&'a [Planned]>,
    /// Whether the node is closed first.
    pub(crate) close: bool,
    /// What comes after.
    pub(crate) then: Then,
}

/// Until the node is empty.
pub(crate) fn next(op: &Operation, view: &View<'_>, job: &Job<'_>) -> Next {
    if let Some(next) = locked(op, view) {
        return next;
    }
    if op.phase != Phase::Begin {
        if let Some(why) = &view.stop {
            return roll_back(op, State::RolledBack, format!("undone: {why}"));
        }
        if view.late(op) {
            return roll_back(op, State::RolledBack, format!("undone at its deadline; it was {}", op.words));
        }
    }
    match op.phase {
        Phase::Begin => begin(op, view, job),
        Phase::Close => close(op, view),
        Phase::Settle => match view.sight(op) {
            _ if op.waited(view.now, op.since) < view.settings.settle_s as f64 => {
                Next::Wait("waiting for what was bound to it before it was closed".to_owned())
            }
            Some(_) => taken(op, view).unwrap_or(Next::Turn(Phase::Move)),
            None => Next::Look("looking if it is closed".to_owned()),
        },
        Phase::Move => leave(op, view, job),
        Phase::Verify => verify(op, view, job),
        _ => Next::Wait(String::new()),
    }
}

/// An emptied node that became an operator's lock is the operation's end, whatever is wanted meanwhile.
fn locked(op: &Operation, view: &View<'_>) -> Option<Next> {
    let by_us = op.may_have(|e| *e == Effect::Cordon { mark: Mark::Lock });
    let is_so = view.fresh(op).is_some_and(|s| s.cordon == Some(Cordon::Locked));
    (by_us && is_so).then(|| Next::End(State::Done, "emptied and locked".to_owned()))
}

fn begin(op: &Operation, view: &View<'_>, job: &Job<'_>) -> Next {
    let refuse = |why: String| Next::End(State::Refused, why);
    if let Some(why) = &op.cancelled {
        return Next::End(State::Cancelled, why.clone());
    }
    if view.late(op) {
        return refuse("its time was over before its turn came".to_owned());
    }
    let Some(node) = view.known() else { return refuse("there is no such node".to_owned()) };
    if let Some(why) = view.stop.clone().or_else(|| view.crowded.clone()) {
        return Next::Wait(format!("waiting: {why}"));
    }
    if node.power != PowerState::On {
        return refuse("it isn't known to be on".to_owned());
    }
    let Some(sight) = view.fresh(op) else { return Next::Look("looking at it first".to_owned()) };
    match sight.cordon {
        None => return Next::Look("the cluster can't be asked about it".to_owned()),
        Some(Cordon::Foreign) if job.close => return refuse("somebody else closed it".to_owned()),
        Some(Cordon::Locked) if op.part_of.is_some() => return refuse("an operator locked it".to_owned()),
        Some(_) => {}
    }
    if let Some(who) = &sight.held {
        return refuse(format!("it is held by {who}"));
    }
    if let Some(id) = stays(view, job) {
        return refuse(format!("{id} on it must not be disturbed"));
    }
    if job.then == Then::Off
        && let Some(why) = &view.against_off
    {
        return refuse(why.clone());
    }
    Next::Turn(if job.close { Phase::Close } else { Phase::Move })
}

/// A workload that has to stay, if the job is about all of them.
fn stays<'a>(view: &View<'a>, job: &Job<'_>) -> Option<&'a WorkloadId> {
    let here = || view.fleet.places.on(view.node).filter_map(|id| view.fleet.workloads.get(id));
    here().find(|w| w.stays && !w.per_node && job.moves.is_none()).map(|w| &w.id)
}

fn close(op: &Operation, view: &View<'_>) -> Next {
    let effect = Effect::Cordon { mark: Mark::Operation(op.id) };
    let again = |why: &str| Next::Act(effect.clone(), format!("closing it to new work{why}"));
    match tried(op.here(|e| matches!(e, Effect::Cordon { .. }))) {
        Tried::Not => again(""),
        Tried::Done => Next::Turn(Phase::Settle),
        Tried::Unknown => match view.sight(op).and_then(|s| s.cordon) {
            Some(Cordon::Ours(id)) if id == op.id => Next::Turn(Phase::Settle),
            Some(Cordon::Foreign) => roll_back(op, State::RolledBack, "somebody else closed it".to_owned()),
            Some(_) => again(" once more"),
            None => Next::Look("looking if it is closed".to_owned()),
        },
        Tried::Again(_, why) if op.tries(|e| matches!(e, Effect::Cordon { .. })) >= CLOSE_TRIES => {
            roll_back(op, State::Failed, format!("it could not be closed: {why}"))
        }
        Tried::Again(at, _) if view.now >= at => again(" once more"),
        Tried::Again(_, why) => Next::Wait(format!("it could not be closed yet: {why}")),
    }
}

/// What to do if the node isn't ours any more; `None` if it is, or nobody knows.
pub(crate) fn taken(op: &Operation, view: &View<'_>) -> Option<Next> {
    let sight = view.sight(op)?;
    let words = match (&sight.held, sight.cordon) {
        (Some(who), _) => format!("it is now held by {who}"),
        (None, Some(Cordon::Open)) => "somebody opened it meanwhile".to_owned(),
        (None, Some(Cordon::Foreign | Cordon::Locked)) => "somebody else closed it meanwhile".to_owned(),
        (None, Some(Cordon::Ours(id))) if id != op.id => format!("it carries the mark of {id}"),
        _ => return None,
    };
    Some(roll_back(op, State::RolledBack, words))
}

fn leave(op: &Operation, view: &View<'_>, job: &Job<'_>) -> Next {
    // whoever takes the node meanwhile shall have it
    let Some(sight) = view.fresh(op) else { return Next::Look(op.words.clone()) };
    match sight.cordon {
        None => return Next::Look("the cluster can't be asked about it".to_owned()),
        Some(_) if job.close => {
            if let Some(next) = taken(op, view) {
                return next;
            }
        }
        Some(cordon) => {
            if cordon == Cordon::Foreign || sight.held.is_some() {
                return roll_back(op, State::RolledBack, "somebody else has it now".to_owned());
            }
        }
    }
    let mut leaving = Leaving::default();
    for (step, workload, to, members) in asked(op, view.fleet) {
        match under_way(op, view, step, workload, to, members) {
            None => {}
            Some(Next::Wait(why)) => leaving.add(view, workload, Next::Wait(why)),
            Some(Next::Look(why)) => leaving.add(view, workload, Next::Look(why)),
            Some(next) => return next,
        }
    }
    let full = leaving.workloads.len() >= view.settings.moves_at_once.max(1);
    if let Some(next) = leaving.next.take_if(|_| full) {
        return next;
    }
    let next =
        if let Some(moves) = job.moves { of_plan(op, view, job, moves, &leaving) } else { of_all(view, &leaving) };
    match (next, leaving.next) {
        // others may be asked, or are over; to go on all have to be
        (next @ (Next::Act(..) | Next::Settle(..)), _) | (next, None) => next,
        (Next::Turn(phase @ Phase::Open { .. }), _) => Next::Turn(phase),
        (Next::Quarantine(why), _) => Next::Quarantine(why),
        (Next::End(state, why), _) if state != State::Done => Next::End(state, why),
        (_, Some(wait)) => wait,
    }
}

/// The latest that was asked of each workload that may not have left yet.
fn asked<'a>(op: &'a Operation, fleet: &FleetState) -> Vec<(&'a Step, &'a WorkloadId, Option<&'a NodeId>, usize)> {
    let (mut seen, mut groups) = (BTreeSet::new(), BTreeSet::new());
    let mut latest = Vec::new();
    for step in op.steps.iter().rev() {
        let Effect::Evict { workload, to, members, group } = &step.effect else { continue };
        // of a group that may lack one, the next was asked when this ran elsewhere
        let alone = group.as_ref().filter(|group| fleet.budgets.get(*group).is_none_or(|away| *away <= 1));
        let over = alone.is_some_and(|group| !groups.insert(group)) && !fleet.workloads.contains_key(workload);
        if seen.insert(workload) && !over {
            latest.push((step, workload, to.as_ref(), *members));
        }
    }
    latest.reverse();
    latest
}

/// Workloads that were asked to leave and don't run elsewhere yet.
#[derive(Default)]
struct Leaving<'a> {
    workloads: BTreeSet<&'a WorkloadId>,
    groups: BTreeMap<&'a str, u32>,
    /// The room that they need.
    needs: Resources,
    /// What is waited for.
    next: Option<Next>,
}

impl<'a> Leaving<'a> {
    fn add(&mut self, view: &View<'a>, workload: &'a WorkloadId, next: Next) {
        self.workloads.insert(workload);
        if let Some(known) = view.fleet.workloads.get(workload) {
            self.needs.add(&known.requests);
            if let Some(group) = &known.group {
                *self.groups.entry(group).or_default() += 1;
            }
        }
        // a look serves all of them
        if self.next.is_none() || matches!(next, Next::Look(_)) {
            self.next = Some(next);
        }
    }

    /// Whether a workload has to wait until another of its group runs elsewhere.
    fn holds(&self, view: &View<'_>, w: &Workload) -> bool {
        let Some(group) = w.group.as_deref() else { return false };
        let away = view.fleet.budgets.get(group).copied().unwrap_or(1);
        self.groups.get(group).is_some_and(|n| *n >= away.max(1))
    }
}

/// What there is to do about a workload that was asked to leave; `None` if that is over.
fn under_way(
    op: &Operation,
    view: &View<'_>,
    step: &Step,
    workload: &WorkloadId,
    to: Option<&NodeId>,
    members: usize,
) -> Option<Next> {
    let here = view.fleet.workloads.get(workload).is_some_and(|w| w.node.as_ref() == Some(view.node));
    let tries = |s: &&Step| {
        matches!(&s.effect, Effect::Evict { workload: w, .. } if w == workload)
            && matches!(s.answer, Some((_, Answer::Failed { .. })))
    };
    match tried(Some(step)) {
        Tried::Not => Some(Next::Wait(String::new())),
        Tried::Again(..) if !here => None,
        Tried::Again(_, why) if op.steps.iter().filter(tries).count() >= MOVE_TRIES => {
            Some(roll_back(op, State::RolledBack, format!("undone: {workload} doesn't leave: {why}")))
        }
        Tried::Again(at, why) if view.now < at => Some(Next::Wait(format!("waiting for {workload}: {why}"))),
        Tried::Again(..) => Some(ask(view, workload, to, &Leaving::default())),
        Tried::Unknown if here => match view.fresh(op).and_then(|s| s.workloads.as_ref()) {
            None => Some(Next::Look(format!("looking if {workload} has left"))),
            Some(there) if there.contains(workload) => Some(ask(view, workload, to, &Leaving::default())),
            Some(_) => Some(Next::Wait(format!("waiting for {workload} to run elsewhere"))),
        },
        Tried::Done | Tried::Unknown if here => Some(Next::Wait(format!("waiting for {workload} to leave"))),
        Tried::Done | Tried::Unknown => (!is_whole(view.fleet, step, workload, view.node, members))
            .then(|| Next::Wait(format!("waiting for {workload} to run elsewhere"))),
    }
}

/// Whether the workload, or another of its group in its stead, runs elsewhere.
fn is_whole(fleet: &FleetState, step: &Step, workload: &WorkloadId, from: &NodeId, members: usize) -> bool {
    if let Some(w) = fleet.workloads.get(workload) {
        return w.node.as_ref().is_some_and(|n| n != from);
    }
    // what belongs to no group is gone for good: it ended by itself
    if members == 0 || matches!(step.answer, Some((_, Answer::Gone))) {
        return true;
    }
    let Effect::Evict { group: Some(group), .. } = &step.effect else { return true };
    running(fleet, group) >= members || !fleet.workloads.values().any(|w| w.group.as_ref() == Some(group))
}

fn running(fleet: &FleetState, group: &str) -> usize {
    fleet.workloads.values().filter(|w| w.group.as_deref() == Some(group) && w.node.is_some()).count()
}

fn ask(view: &View<'_>, workload: &WorkloadId, to: Option<&NodeId>, leaving: &Leaving<'_>) -> Next {
    let Some(w) = view.fleet.workloads.get(workload) else {
        return Next::Wait(format!("waiting for {workload} to be known again"));
    };
    if leaving.holds(view, w) {
        return Next::Wait(format!("{workload} waits for another of its group"));
    }
    if !has_room(view, w, &leaving.needs) {
        return Next::Wait(format!("no open node has room for {workload}"));
    }
    let members = w.group.as_deref().map_or(0, |g| running(view.fleet, g));
    let effect = Effect::Evict { workload: workload.clone(), to: to.cloned(), group: w.group.clone(), members };
    Next::Act(effect, format!("moving {workload}"))
}

/// Whether any other node could take the workload now, besides what is on its way.
fn has_room(view: &View<'_>, w: &Workload, on_its_way: &Resources) -> bool {
    view.fleet.nodes.values().any(|n| {
        let mut wanted = view.fleet.places.used(&n.id).clone();
        wanted.add(&w.requests);
        wanted.add(on_its_way);
        n.id != *view.node
            && n.power == PowerState::On
            && !n.cordoned
            && w.admits(n)
            && wanted.lacks(&n.allocatable()).is_none()
    })
}

fn of_plan(op: &Operation, view: &View<'_>, job: &Job<'_>, moves: &[Planned], leaving: &Leaving<'_>) -> Next {
    let over = |action: u32| view.settled.and_then(|s| s.get(&action).copied());
    let mut waits = None;
    for m in moves.iter().filter(|m| over(m.action).is_none() && !leaving.workloads.contains(&m.workload)) {
        let here = view.fleet.workloads.get(&m.workload).filter(|w| w.node.as_ref() == Some(view.node));
        let Some(w) = here else { return Next::Settle(m.action, true) };
        if let Some(failed) = m.needs.iter().find(|n| over(**n) == Some(false)) {
            return roll_back(op, State::RolledBack, format!("undone: {} needs action {failed}, which failed", w.id));
        }
        if w.stays || w.per_node {
            return roll_back(op, State::RolledBack, format!("undone: {} must not be disturbed", w.id));
        }
        if let Some(need) = m.needs.iter().find(|n| over(**n).is_none()) {
            waits.get_or_insert_with(|| format!("{} waits for action {need} of the plan", w.id));
            continue;
        }
        match ask(view, &m.workload, Some(&m.to), leaving) {
            Next::Wait(why) => waits = waits.or(Some(why)),
            next => return next,
        }
    }
    match waits {
        Some(why) => Next::Wait(why),
        None if job.close => Next::Turn(Phase::Verify),
        None => Next::End(State::Done, format!("{} workloads moved", moves.len())),
    }
}

fn of_all(view: &View<'_>, leaving: &Leaving<'_>) -> Next {
    let mut waits = None;
    let here = view.fleet.places.on(view.node).filter_map(|id| view.fleet.workloads.get(id));
    for w in here.filter(|w| !w.per_node && !leaving.workloads.contains(&w.id)) {
        if w.stays {
            return Next::Wait(format!("{} must not be disturbed", w.id));
        }
        match ask(view, &w.id, None, leaving) {
            Next::Wait(why) => waits = waits.or(Some(why)),
            next => return next,
        }
    }
    waits.map_or(Next::Turn(Phase::Verify), Next::Wait)
}

fn verify(op: &Operation, view: &View<'_>, job: &Job<'_>) -> Next {
    let Some(sight) = view.fresh(op) else { return Next::Look("looking if it is empty".to_owned()) };
    if let Some(next) = taken(op, view) {
        return next;
    }
    match (&sight.workloads, sight.cordon) {
        (Some(there), Some(_)) => match there.first() {
            Some(id) if job.moves.is_some() || op.committed() => {
                return roll_back(op, State::RolledBack, format!("undone: {id} came to it since"));
            }
            Some(id) if view.fleet.workloads.get(id).is_some_and(|w| w.node.as_ref() == Some(view.node)) => {
                return Next::Turn(Phase::Move);
            }
            Some(id) => return Next::Look(format!("{id} is still on it")),
            None => {}
        },
        _ => return Next::Look("the cluster can't be asked if it is empty".to_owned()),
    }
    match (job.then, &view.against_off) {
        (Then::Open, _) => Next::Turn(Phase::Open { state: State::Done, words: "emptied".to_owned() }),
        (Then::Lock, _) => super::lock::keep(op, view),
        (Then::Off, Some(why)) => roll_back(op, State::RolledBack, format!("undone: {why}")),
        (Then::Off, None) => Next::Turn(Phase::Goodbye),
    }
}

/// Opens the node if it carries the operation's mark, then ends. Has no deadline: it is tried until it is so.
pub(crate) fn open(op: &Operation, view: &View<'_>, state: State, words: &str) -> Next {
    let uncordon = Effect::Uncordon { mark: Mark::Operation(op.id) };
    let end = || Next::End(state, words.to_owned());
    if view.known().is_none() {
        return Next::End(state, format!("{words}; there is no such node any more"));
    }
    if let Some(next) = locked(op, view) {
        return next;
    }
    let Some(sight) = view.fresh(op) else { return Next::Look(format!("opening it: {words}")) };
    match sight.cordon {
        None => Next::Look("the cluster can't be asked; it is opened as soon as it can".to_owned()),
        Some(Cordon::Ours(id)) if id == op.id => {
            // the scheduler must not take a machine for ready that is off
            if op.committed() && sight.ready != Some(false) && !super::off::came_back(op, view, sight) {
                return Next::Look("waiting until the cluster knows that it is off".to_owned());
            }
            match tried(op.here(|e| e.restores())) {
                Tried::Again(at, why) if view.now < at => Next::Wait(format!("it can't be opened yet: {why}")),
                _ => Next::Act(uncordon, format!("opening it: {words}")),
            }
        }
        Some(_) => end(),
    }
}

/// Puts a workload that waits on a node.
pub(crate) fn place(op: &Operation, view: &View<'_>, workload: &WorkloadId) -> Next {
    let Some(w) = view.fleet.workloads.get(workload) else {
        return Next::End(State::Done, format!("{workload} ended"));
    };
    if let Some(node) = &w.node {
        return Next::End(State::Done, format!("{workload} runs on {node}"));
    }
    if view.late(op) {
        return Next::End(State::Failed, format!("{workload} still waits for a node"));
    }
    if let Some(why) = &op.cancelled {
        return Next::End(State::Cancelled, why.clone());
    }
    if let Some(why) = &view.stop {
        return Next::Wait(format!("waiting: {why}"));
    }
    let open = view.known().is_some_and(|n| n.power == PowerState::On && !n.cordoned);
    match tried(op.here(|e| matches!(e, Effect::Place { .. }))) {
        Tried::Not if !open => Next::End(State::Refused, format!("{} takes no work", view.node)),
        Tried::Not => Next::Act(Effect::Place { workload: workload.clone() }, format!("placing {workload}")),
        Tried::Again(_, why) => Next::End(State::Failed, format!("{workload} can't be placed: {why}")),
        Tried::Done | Tried::Unknown => Next::Wait(format!("waiting for {workload} to run")),
    }
}
