//! An order of nodes and workloads that doesn't come from their names, so that renaming them changes no plan's cost.
//!
//! What a workload is goes into a number, what a node is and what runs on it into another. Nodes with the same number
//! are twins, down to what runs on them: taking one for the other leads to the same fleet, and names decide. Among
//! workloads that are alike, the place of their node decides, and names only among those on one node.

use super::facts::Facts;
use super::problem::{PNode, PWork};
use crate::digest::{GOLDEN, mix};

/// Mixes numbers into one: a running sum, mixed after each.
struct Mix(u64);

impl Mix {
    fn add(&mut self, v: u64) {
        self.0 = mix(self.0.wrapping_add(v).wrapping_add(GOLDEN));
    }

    fn float(&mut self, v: f64) {
        self.add(v.to_bits());
    }

    fn text(&mut self, text: &str) {
        self.add(text.len() as u64);
        for chunk in text.as_bytes().chunks(8) {
            self.add(chunk.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)));
        }
    }
}

/// What the workload is, besides its name and its node's.
pub(crate) fn content_of_work(facts: &Facts<'_>, work: &PWork<'_>) -> u64 {
    let mut mix = Mix(work.class as u64);
    for need in work.need.iter() {
        mix.add(*need);
    }
    mix.float(work.level);
    if let Some(f) = &work.forecast {
        mix.float(f64::from(f.latest));
        mix.add(u64::from(f.known));
        for v in f.errors.iter().chain(&f.recent) {
            mix.add(u64::from(v.to_bits()));
        }
    }
    let w = work.work;
    mix.add(work.group.map_or(0, |g| g as u64 + 1));
    for g in work.avoid.iter() {
        mix.add(*g as u64);
    }
    mix.add(u64::from(work.per_node));
    mix.add(u64::from(work.per_zone));
    mix.add(u64::from(w.priority.cast_unsigned()));
    mix.add(u64::from(w.stays) | u64::from(w.per_node) << 1 | u64::from(work.movable) << 2);
    for v in [w.migration.megabytes, w.migration.seconds, w.migration.joules] {
        mix.float(v);
    }
    mix.add(if facts.works[work.fact].moved { facts.now.ms() } else { w.moved.map_or(0, |t| t.ms()) });
    mix.0
}

/// What the node is, besides its name and what runs on it.
pub(crate) fn content_of_node(facts: &Facts<'_>, node: &PNode<'_>) -> u64 {
    let mut mix = Mix(node.class as u64);
    for room in node.room.iter() {
        mix.add(*room);
    }
    let n = node.node;
    mix.add(n.capacity.cpu_milli);
    mix.add(n.reserved_use_milli);
    for v in n.curve.knots() {
        mix.float(*v);
    }
    for v in [n.curve.error(), n.off_watts, n.boot.joules(), n.boot.seconds(0.99), n.boot.shutdown_s] {
        mix.float(v);
    }
    mix.text(&n.pool);
    mix.add(node.zone as u64);
    let flags = [node.open, node.lit, n.cordoned, n.switchable, n.wake_proven, facts.fresh(node.fact)];
    mix.add(flags.iter().fold(0, |sum, f| sum << 1 | u64::from(*f)));
    mix.add(facts.nodes[node.fact].power as u64);
    mix.add(facts.since(node.fact).ms());
    mix.add(facts.last_switched(node.fact).map_or(0, |t| t.ms()));
    mix.add(facts.switched_today(node.fact) as u64);
    for lock in &facts.policy.interlocks {
        mix.add(u64::from(lock.nodes.matches(n)));
    }
    mix.0
}

/// A number for a set of numbers, whatever their order.
pub(crate) fn of_set(so_far: u64, one: u64) -> u64 {
    let mut mix = Mix(0);
    mix.add(one);
    so_far.wrapping_add(mix.0)
}
