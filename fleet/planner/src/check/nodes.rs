//! Rules about nodes: what may be switched, closed and filled.

use ebbtide_proto::NodeId;

use super::books::Books;
use crate::plan::action::{Action, Plan};
use crate::policy::{Basis, Interlock, Policy};
use crate::state::node::{Node, PowerState};
use crate::state::{FleetState, Time};

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

pub(super) fn is_fresh(node: &Node, policy: &Policy, now: Time) -> bool {
    node.power == PowerState::Off || now.since(node.heard) <= policy.stale_after_s as f64
}

pub(super) fn power_on(state: &FleetState, id: &NodeId) -> Vec<String> {
    let Some(node) = state.nodes.get(id) else { return vec![format!("powers on {id}, which doesn't exist")] };
    let mut wrong = Vec::new();
    if node.power != PowerState::Off {
        wrong.push(format!("powers on {id}, which isn't known to be off"));
    }
    if !node.switchable {
        wrong.push(format!("powers on {id}, which nothing can switch"));
    }
    if node.cordoned {
        wrong.push(format!("powers on {id}, which somebody closed"));
    }
    wrong
}

pub(super) fn cordon(state: &FleetState, id: &NodeId) -> Vec<String> {
    match state.nodes.get(id) {
        None => vec![format!("closes {id}, which doesn't exist")],
        Some(node) if node.cordoned => vec![format!("closes {id}, which somebody else closed")],
        Some(_) => Vec::new(),
    }
}

/// Why a node takes no work; `None` if it does.
pub(super) fn closed(
    action: &Action,
    node: &Node,
    policy: &Policy,
    state: &FleetState,
    books: &Books<'_>,
) -> Option<String> {
    if node.cordoned || books.cordoned.contains(&node.id) {
        return Some("is closed".to_owned());
    }
    if books.power(&node.id) != PowerState::On {
        return Some("isn't on".to_owned());
    }
    match books.woken.get(&node.id) {
        Some(wake) if !action.needs.contains(wake) => {
            Some(format!("is powered on by action {wake}, but it doesn't wait for that"))
        }
        Some(_) => None,
        None if !is_fresh(node, policy, state.now) => Some("nothing was heard of lately".to_owned()),
        None => None,
    }
}

pub(super) fn power_off(
    action: &Action,
    id: &NodeId,
    plan: &Plan,
    state: &FleetState,
    policy: &Policy,
    books: &Books<'_>,
) -> Vec<String> {
    let Some(node) = state.nodes.get(id) else { return vec![format!("powers off {id}, which doesn't exist")] };
    let now = plan.at;
    let mut wrong = Vec::new();
    let mut rule = |broken: bool, why: String| {
        if broken {
            wrong.push(format!("powers off {id}, {why}"));
        }
    };
    rule(books.power(id) != PowerState::On, "which isn't known to be on".to_owned());
    rule(node.cordoned, "which somebody else closed".to_owned());
    rule(!books.cordoned.contains(id), "which is still open".to_owned());
    rule(!is_fresh(node, policy, now), "of which nothing was heard lately".to_owned());
    rule(!node.switchable, "which nothing can switch".to_owned());
    rule(!node.wake_proven, "which nobody has seen wake".to_owned());
    rule(now.since(node.since) < policy.min_on_s as f64, format!("on for {:.0} s only", now.since(node.since)));
    let (last, pays) = (node.switched.last().map(|at| now.since(*at)), policy.payback_s(node));
    if let Some(ago) = last {
        rule(ago < pays, format!("switched {ago:.0} s ago, which takes {pays:.0} s to pay"));
    }
    let today = node.switched.iter().filter(|t| t.ms().saturating_add(DAY_MS) > now.ms()).count();
    rule(today >= policy.switches_per_day as usize, format!("switched {today} times in 24 h"));
    for w in books.on(id).filter(|w| !w.per_node) {
        rule(true, format!("on which {} runs", w.id));
    }
    for other in books.empties(id) {
        rule(!action.needs.contains(other), format!("without waiting for action {other}"));
    }
    let just_woken = state
        .nodes
        .values()
        .filter(|n| n.pool == node.pool && matches!(n.power, PowerState::On | PowerState::TurningOn))
        .any(|n| n.switched.last().is_some_and(|at| now.since(*at) < policy.sleep_after_s as f64));
    rule(just_woken, "shortly after a node of its pool was powered on".to_owned());
    let waking = books.woken.keys().any(|w| state.nodes.get(w).is_some_and(|n| n.pool == node.pool));
    rule(waking, "while nodes of its pool are powered on".to_owned());
    for lock in policy.interlocks.iter().filter(|lock| lock.nodes.matches(node)) {
        rule(breaks(lock, policy, books, id, now), format!("against interlock {}", lock.name));
    }
    rule(!reserve(policy, books, id, now), "so that the reserve is too small".to_owned());
    wrong
}

fn breaks(lock: &Interlock, policy: &Policy, books: &Books<'_>, off: &NodeId, now: Time) -> bool {
    let left = books.open().filter(|n| n.id != *off && is_fresh(n, policy, now) && lock.nodes.matches(n)).count();
    lock.keep.is_none_or(|keep| left < keep as usize)
}

/// Whether enough room is left without the node that goes off.
fn reserve(policy: &Policy, books: &Books<'_>, off: &NodeId, now: Time) -> bool {
    let wanted = policy.reserve;
    if wanted.nodes == 0 && wanted.cpu <= 0.0 && books.foreseen <= 0.0 {
        return true;
    }
    let mut cpu: Vec<(f64, f64)> = Vec::new();
    let mut memory: Vec<(f64, f64)> = Vec::new();
    for node in books.open().filter(|n| n.id != *off && is_fresh(n, policy, now)) {
        let Some(used) = books.used(&node.id) else { continue };
        let room = node.allocatable();
        let cpu_used = if policy.basis == Basis::Forecast { used.level } else { used.requests.cpu_milli as f64 };
        cpu.push((room.cpu_milli as f64, cpu_used));
        memory.push((room.memory as f64, used.requests.memory as f64));
    }
    let holds = |list: &mut Vec<(f64, f64)>, share: f64, more: f64| {
        list.sort_by(|a, b| b.1.total_cmp(&a.1));
        let room: f64 = list.iter().map(|x| x.0).sum();
        let used: f64 = list.iter().map(|x| x.1).sum();
        let fails: f64 = list.iter().take(wanted.nodes as usize).map(|x| x.1).sum();
        room - used - more + 1e-6 >= fails.max(share * room)
    };
    holds(&mut cpu, wanted.cpu, books.foreseen) && holds(&mut memory, 0.0, 0.0)
}
