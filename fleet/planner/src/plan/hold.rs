//! What keeps a node from being switched, whatever that would save.

use std::collections::BTreeMap;

use super::problem::{N, Problem, fresh};
use super::reason::Hold;
use crate::state::Time;
use crate::state::node::{Node, PowerState};

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// Why each node can't be powered off; `None` if it can.
pub(crate) fn against_off(problem: &Problem<'_>) -> Vec<Option<Hold>> {
    let mut wakes: BTreeMap<&str, Time> = BTreeMap::new();
    for p in &problem.nodes {
        if matches!(p.node.power, PowerState::On | PowerState::TurningOn)
            && let Some(&at) = p.node.switched.last()
        {
            let last = wakes.entry(&p.node.pool).or_default();
            *last = at.max(*last);
        }
    }
    (0..problem.nodes.len()).map(|n| hold(problem, n, &wakes)).collect()
}

fn hold(problem: &Problem<'_>, n: N, wakes: &BTreeMap<&str, Time>) -> Option<Hold> {
    let (node, policy, now) = (problem.nodes[n].node, problem.policy, problem.now);
    if node.power != PowerState::On {
        return Some(Hold::NotOn);
    }
    if !fresh(node, policy, now) {
        return Some(Hold::Silent { seconds: seconds(now.since(node.heard)) });
    }
    if !node.switchable {
        return Some(Hold::NotSwitchable);
    }
    if node.cordoned {
        return Some(Hold::Cordoned);
    }
    if !node.wake_proven {
        return Some(Hold::WakeUnproven);
    }
    if let Some(lock) = policy.interlocks.iter().find(|lock| lock.keep.is_none() && lock.nodes.matches(node)) {
        return Some(Hold::Interlock { name: lock.name.clone() });
    }
    if let Some(left_s) = left(policy.min_on_s, now, node.since) {
        return Some(Hold::MinOn { left_s });
    }
    let last_wake = wakes.get(node.pool.as_str()).copied();
    if let Some(left_s) = last_wake.and_then(|at| left(policy.sleep_after_s, now, at)) {
        return Some(Hold::JustWoken { left_s });
    }
    (switched_today(node, now) >= policy.switches_per_day as usize).then_some(Hold::SwitchBudget)
}

/// Whether a node that is off may be powered on. Waiting work overrules the minimum off time.
pub(crate) fn can_wake(problem: &Problem<'_>, n: N) -> bool {
    let node = problem.nodes[n].node;
    node.power == PowerState::Off && node.switchable && !node.cordoned
}

fn switched_today(node: &Node, now: Time) -> usize {
    node.switched.iter().filter(|t| t.ms().saturating_add(DAY_MS) > now.ms()).count()
}

/// Seconds left of `least` since `start`; `None` if it is over.
fn left(least: u64, now: Time, start: Time) -> Option<u64> {
    let left = least as f64 - now.since(start);
    (left > 0.0).then(|| seconds(left))
}

#[allow(clippy::cast_possible_truncation, reason = "a span of time")]
fn seconds(s: f64) -> u64 {
    s.ceil().max(0.0) as u64
}
