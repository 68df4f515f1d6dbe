//! Proves a plan harmless before anything is acted upon: walks through it action by action and looks at the fleet
//! after each, as if the power went at that moment.
//!
//! Shares no code with `plan`: it keeps its own books, in names rather than numbers, and knows the rules from the
//! policy and the state alone. What both got wrong in the same way, neither would notice.

mod books;
mod nodes;

use std::collections::BTreeSet;

use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::plan::action::{Action, Do, Plan};
use crate::policy::{Basis, Policy};
use crate::state::FleetState;
use crate::state::node::PowerState;
use crate::state::workload::{Over, Workload};
use books::Books;

/// Watts that sums in another order may differ by, as a share.
const ROUNDING: f64 = 1e-6;

/// Something a plan mustn't do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Violation {
    /// The action that does it; `None` if it is the plan as a whole.
    pub action: Option<u32>,
    /// What is wrong, for people.
    pub what: String,
}

/// Everything that is wrong with `plan`; nothing, for every plan that `plan::plan` makes.
pub fn check(plan: &Plan, state: &FleetState, policy: &Policy) -> Vec<Violation> {
    let mut found = Vec::new();
    if !plan.actions.is_empty() && !state.synced {
        found.push(Violation { action: None, what: "made before inventory was complete".to_owned() });
    }
    let mut books = Books::new(plan, state, policy);
    let mut seen: BTreeSet<u32> = BTreeSet::new();
    let mut moved: BTreeSet<&WorkloadId> = BTreeSet::new();
    for action in &plan.actions {
        let mut say = |what: String| found.push(Violation { action: Some(action.id), what });
        if let Some(late) = action.needs.iter().find(|id| !seen.contains(id)) {
            say(format!("needs action {late}, which doesn't come before it"));
        }
        if !seen.insert(action.id) {
            say("has the same number as another action".to_owned());
        }
        for what in judge(action, plan, state, policy, &books) {
            say(what);
        }
        if let Do::Move { workload, .. } | Do::Place { workload, .. } = &action.what
            && !moved.insert(workload)
        {
            say(format!("{workload} is moved more than once"));
        }
        books.carry_out(action);
    }
    found.extend(whole(plan, state, &books));
    found
}

/// What is wrong with one action, given all before it.
fn judge(action: &Action, plan: &Plan, state: &FleetState, policy: &Policy, books: &Books<'_>) -> Vec<String> {
    match &action.what {
        Do::PowerOn { node } => nodes::power_on(state, node),
        Do::Cordon { node } => nodes::cordon(state, node),
        Do::PowerOff { node } => nodes::power_off(action, node, plan, state, policy, books),
        Do::Place { workload, to } => match state.workloads.get(workload) {
            None => vec![format!("places {workload}, which doesn't exist")],
            Some(w) if w.node.is_some() => vec![format!("places {workload}, which runs already")],
            Some(w) => arrives(action, w, to, state, policy, books),
        },
        Do::Move { workload, from, to } => match state.workloads.get(workload) {
            None => vec![format!("moves {workload}, which doesn't exist")],
            Some(w) => {
                let mut wrong = leaves(action, w, from, plan, state, policy, books);
                wrong.extend(arrives(action, w, to, state, policy, books));
                wrong
            }
        },
    }
}

/// What speaks against taking the workload off its node.
fn leaves(
    action: &Action,
    w: &Workload,
    from: &NodeId,
    plan: &Plan,
    state: &FleetState,
    policy: &Policy,
    books: &Books<'_>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if w.node.as_ref() != Some(from) {
        wrong.push(format!("moves {} from {from}, where it isn't", w.id));
    }
    if w.stays || w.per_node {
        wrong.push(format!("moves {}, which has to stay", w.id));
    }
    if let Some(at) = w.moved
        && plan.at.since(at) < policy.min_stay_s as f64
    {
        wrong.push(format!("moves {} again after {} s", w.id, plan.at.since(at)));
    }
    if books.power(from) == PowerState::Off {
        wrong.push(format!("moves {} off {from}, which is off", w.id));
    }
    if let Some(wake) = books.woken.get(from).filter(|wake| !action.needs.contains(wake)) {
        wrong.push(format!("moves {} off {from} without waiting for action {wake}, which powers it on", w.id));
    }
    if let Some(node) = state.nodes.get(from)
        && !nodes::is_fresh(node, policy, plan.at)
    {
        wrong.push(format!("moves {} off {from}, of which nothing was heard lately", w.id));
    }
    let Some(group) = &w.group else { return wrong };
    let allowed = state.budgets.get(group).copied().unwrap_or(1);
    // members that waited are there once they have been placed, for a move that waits for that
    let room = (allowed as usize).saturating_sub(books.away(group, &action.needs));
    if room == 0 {
        wrong.push(format!("moves {}, but group {group} can spare none", w.id));
    }
    let earlier = books.moves_of(group);
    if let Some(first) = earlier.len().checked_sub(room.max(1)).and_then(|i| earlier.get(i))
        && !action.needs.contains(first)
    {
        wrong.push(format!("doesn't wait for action {first}, though group {group} can spare only {}", room.max(1)));
    }
    wrong
}

/// What speaks against putting the workload on a node.
fn arrives(
    action: &Action,
    w: &Workload,
    to: &NodeId,
    state: &FleetState,
    policy: &Policy,
    books: &Books<'_>,
) -> Vec<String> {
    let Some(node) = state.nodes.get(to) else { return vec![format!("puts {} on {to}, which doesn't exist", w.id)] };
    let mut wrong = Vec::new();
    if let Some(why) = nodes::closed(action, node, policy, state, books) {
        wrong.push(format!("puts {} on {to}, which {why}", w.id));
    }
    if !w.admits(node) {
        wrong.push(format!("puts {} on {to} against its labels or taints", w.id));
    }
    let room = node.allocatable();
    let used = books.with(to, w);
    let mut wanted = used.requests.clone();
    if policy.basis == Basis::Forecast {
        wanted.cpu_milli = 0;
        if used.level > room.cpu_milli as f64 * (1.0 + ROUNDING) + 1.0 {
            wrong.push(format!(
                "puts {} on {to}, where {:.0} m of {} m CPU would be used",
                w.id, used.level, room.cpu_milli
            ));
        }
    }
    // a resource that the newcomer doesn't ask for may have been short before: that is not its doing
    if w.requests.cpu_milli == 0 {
        wanted.cpu_milli = 0;
    }
    if w.requests.memory == 0 {
        wanted.memory = 0;
    }
    wanted.named.retain(|name, _| w.requests.named.get(name).is_some_and(|n| *n > 0));
    if let Some(name) = wanted.lacks(&room) {
        wrong.push(format!("puts {} on {to}, which has too little {name}", w.id));
    }
    let same = |o: &&Workload| o.id != w.id && o.group.is_some() && o.group == w.group;
    for spread in &w.spread {
        let there = match spread.over {
            Over::Node => books.on(to).filter(same).count(),
            Over::Zone => books.in_zone(node.zone.as_deref()).filter(same).count(),
        };
        if there >= spread.at_most as usize {
            wrong.push(format!("puts {} on {to} beside {there} of its group, {} are allowed", w.id, spread.at_most));
        }
    }
    let avoids = |a: &Workload, b: &Workload| b.group.as_ref().is_some_and(|g| a.avoid.contains(g));
    if let Some(other) = books.on(to).find(|o| o.id != w.id && (avoids(w, o) || avoids(o, w))) {
        wrong.push(format!("puts {} on {to} beside {}, which it avoids", w.id, other.id));
    }
    wrong
}

/// What is wrong with the figures of the whole plan.
fn whole(plan: &Plan, state: &FleetState, books: &Books<'_>) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let mut say = |what: String| wrong.push(Violation { action: None, what });
    let differs = |a: f64, b: f64| (a - b).abs() > ROUNDING * a.abs().max(b.abs()) + 1e-3;
    if books.scope_is_whole(plan, state) {
        if differs(plan.before_w, state.watts()) {
            say(format!("says {:.3} W before, the state has {:.3} W", plan.before_w, state.watts()));
        }
        let after = books.watts();
        if differs(plan.after_w, after) {
            say(format!("says {:.3} W after, its actions lead to {after:.3} W", plan.after_w));
        }
    }
    if plan.after_w < plan.bound_w * (1.0 - ROUNDING) - 1e-3 {
        say(format!("is at {:.3} W, below its bound of {:.3} W", plan.after_w, plan.bound_w));
    }
    wrong
}
