//! What keeps a node from being switched, whatever that would save.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::problem::{N, Problem};
use super::reason::Hold;
use crate::state::Time;
use crate::state::node::PowerState;

/// Why each node can't be powered off; `None` if it can.
pub(crate) fn against_off(problem: &Problem<'_>, facts: &Facts<'_>) -> Vec<Option<Hold>> {
    let mut wakes: BTreeMap<&str, Time> = BTreeMap::new();
    for p in &problem.nodes {
        if matches!(facts.nodes[p.fact].power, PowerState::On | PowerState::TurningOn)
            && let Some(at) = facts.last_switched(p.fact)
        {
            let last = wakes.entry(&p.node.pool).or_default();
            *last = at.max(*last);
        }
    }
    (0..problem.nodes.len()).map(|n| hold(problem, facts, n, &wakes)).collect()
}

fn hold(problem: &Problem<'_>, facts: &Facts<'_>, n: N, wakes: &BTreeMap<&str, Time>) -> Option<Hold> {
    let (node, fact, policy, now) = (problem.nodes[n].node, problem.nodes[n].fact, problem.policy, problem.now);
    if facts.nodes[fact].power != PowerState::On {
        return Some(Hold::NotOn);
    }
    if !facts.fresh(fact) {
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
    if let Some(left_s) = left(policy.min_on_s as f64, now, facts.since(fact)) {
        return Some(Hold::MinOn { left_s });
    }
    if let Some(left_s) = facts.last_switched(fact).and_then(|at| left(policy.payback_s(node), now, at)) {
        return Some(Hold::Payback { left_s });
    }
    let last_wake = wakes.get(node.pool.as_str()).copied();
    if let Some(left_s) = last_wake.and_then(|at| left(policy.sleep_after_s as f64, now, at)) {
        return Some(Hold::JustWoken { left_s });
    }
    if facts.nodes.iter().any(|f| f.switched && f.power == PowerState::On && f.node.pool == node.pool) {
        return Some(Hold::JustWoken { left_s: policy.sleep_after_s });
    }
    (facts.switched_today(fact) >= policy.switches_per_day as usize).then_some(Hold::SwitchBudget)
}

/// Whether a node that is off may be powered on. Waiting work overrules the minimum off time.
pub(crate) fn can_wake(problem: &Problem<'_>, n: N) -> bool {
    let p = &problem.nodes[n];
    !p.lit && p.node.switchable && !p.node.cordoned
}

/// Seconds left of `least` since `start`; `None` if it is over.
fn left(least: f64, now: Time, start: Time) -> Option<u64> {
    let left = least - now.since(start);
    (left > 0.0).then(|| seconds(left))
}

#[allow(clippy::cast_possible_truncation, reason = "a span of time")]
fn seconds(s: f64) -> u64 {
    s.ceil().max(0.0) as u64
}
