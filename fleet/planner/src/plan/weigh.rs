//! Plans by more than joules: where a policy gives euros and grams of CO2 a weight, a joule counts for more where it
//! costs or emits more.
//!
//! Planning itself knows joules only. It is given a fleet whose watts are multiplied by what they count for in each
//! node's zone, and what it says is put back into watts here.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::NodeId;

use super::action::{Do, Plan, Weighed};
use super::reason::{Reason, Verdict};
use crate::model::migration::Migration;
use crate::policy::Policy;
use crate::state::FleetState;
use crate::state::node::{Node, PowerState};
use crate::state::workload::Workload;

/// The fleet with watts as they count; `None` if a joule counts for a joule everywhere.
pub(crate) fn weighed(state: &FleetState, policy: &Policy) -> Option<FleetState> {
    if !policy.worth.weighs() {
        return None;
    }
    let mut other = state.clone();
    for node in other.nodes.values_mut() {
        let weight = policy.worth.weight(node.zone.as_deref());
        node.curve = node.curve.times(weight);
        node.off_watts *= weight;
        node.boot = node.boot.times(weight);
    }
    for workload in other.workloads.values_mut() {
        let zone = workload.node.as_ref().and_then(|n| state.nodes.get(n)).and_then(|n| n.zone.as_deref());
        let Migration { seconds, .. } = workload.migration;
        let joules = workload.migration.energy_j() * policy.worth.weight(zone);
        workload.migration = Migration { megabytes: 0.0, seconds, joules };
    }
    Some(other)
}

/// Puts a plan for the weighed fleet back into the watts and joules of `state`; `scope` are the nodes it is about.
pub(crate) fn back(plan: &mut Plan, state: &FleetState, policy: &Policy, scope: Option<&BTreeSet<NodeId>>) {
    let nodes: BTreeMap<&NodeId, &Node> =
        state.nodes.iter().filter(|(id, _)| scope.is_none_or(|scope| scope.contains(*id))).collect();
    let weight = |node: &Node| policy.worth.weight(node.zone.as_deref());
    let weights = || nodes.values().map(|n| weight(n));
    let (least, most) = (weights().fold(f64::INFINITY, f64::min), weights().fold(1.0, f64::max));
    if least < most {
        plan.weighed = Some(Weighed { before_w: plan.before_w, after_w: plan.after_w, bound_w: plan.bound_w });
    }
    plan.bound_w /= most;

    let mut books = Books::new(state, nodes);
    plan.before_w = books.watts();
    plan.after_w = plan.before_w;
    plan.cost_j = 0.0;
    for action in &mut plan.actions {
        let (change, cost_j) = books.carry_out(&action.what);
        action.watts = change;
        plan.after_w += change;
        plan.cost_j += cost_j;
    }
    for reason in &mut plan.reasons {
        let Reason::Node { node, verdict } = reason else { continue };
        let Some(weight) = state.nodes.get(node).map(weight) else { continue };
        match verdict {
            Verdict::PowersOff { idle_w, dynamic_w, cost_j, .. } => {
                *idle_w /= weight;
                *dynamic_w /= weight;
                *cost_j /= weight;
            }
            Verdict::PowersOn { idle_w, .. } => *idle_w /= weight,
            Verdict::NotWorth { saved_w, cost_j } => {
                *saved_w /= weight;
                *cost_j /= weight;
            }
            _ => {}
        }
    }
}

/// Who draws what while a plan is carried out.
struct Books<'a> {
    state: &'a FleetState,
    nodes: BTreeMap<&'a NodeId, (&'a Node, PowerState, f64)>,
}

impl<'a> Books<'a> {
    fn new(state: &'a FleetState, nodes: BTreeMap<&'a NodeId, &'a Node>) -> Self {
        let level = |id: &NodeId| {
            state.places.on(id).filter_map(|w| state.workloads.get(w)).map(Workload::expected_milli).sum()
        };
        let nodes = nodes.into_iter().map(|(id, node)| (id, (node, node.power, level(id)))).collect();
        Self { state, nodes }
    }

    fn watts(&self) -> f64 {
        self.nodes.values().map(drawn).sum()
    }

    /// Watts that the action changes, and joules that it costs.
    fn carry_out(&mut self, what: &Do) -> (f64, f64) {
        match what {
            Do::PowerOn { node } => self.change(node, |(node, power, _)| {
                *power = PowerState::On;
                node.boot.joules()
            }),
            Do::PowerOff { node } => self.change(node, |(node, power, _)| {
                *power = PowerState::Off;
                node.boot.joules()
            }),
            Do::Cordon { .. } => (0.0, 0.0),
            Do::Place { workload, to } => {
                let more = self.state.workloads.get(workload).map_or(0.0, Workload::expected_milli);
                self.change(to, |(_, _, level)| {
                    *level += more;
                    0.0
                })
            }
            Do::Move { workload, from, to } => {
                let Some(work) = self.state.workloads.get(workload) else { return (0.0, 0.0) };
                let milli = work.expected_milli();
                let (less, _) = self.change(from, |(_, _, level)| {
                    *level = (*level - milli).max(0.0);
                    0.0
                });
                let (more, _) = self.change(to, |(_, _, level)| {
                    *level += milli;
                    0.0
                });
                (less + more, work.migration.energy_j())
            }
        }
    }

    fn change(&mut self, id: &NodeId, change: impl FnOnce(&mut (&'a Node, PowerState, f64)) -> f64) -> (f64, f64) {
        let Some(entry) = self.nodes.get_mut(id) else { return (0.0, 0.0) };
        let before = drawn(entry);
        let cost_j = change(entry);
        (drawn(entry) - before, cost_j)
    }
}

fn drawn((node, power, level): &(&Node, PowerState, f64)) -> f64 {
    match power {
        PowerState::Off => node.off_watts,
        _ => node.watts(*level),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use crate::check::check;
    use crate::plan::action::Do;
    use crate::plan::plan;
    use crate::policy::{Policy, Worth, ZoneWorth};
    use crate::sim::generate::{START, Shape, fleet};

    fn by_zone(z0: f64, z1: f64, z2: f64) -> Policy {
        let zone = |carbon| ZoneWorth { carbon: Some(carbon), price: None };
        let zones = [("z0", z0), ("z1", z1), ("z2", z2)].map(|(name, c)| (name.to_owned(), zone(c)));
        Policy {
            worth: Worth { joules_per_gram: 20_000.0, zones: zones.into(), ..Worth::default() },
            ..Policy::default()
        }
    }

    #[test]
    fn work_goes_where_it_emits_least() {
        let shape = Shape { nodes: 30, workloads: 120, asked: 0.25, special: 0.0, placed: true };
        let mut state = fleet(&shape, 3).unwrap();
        // alike but for where they stand
        let one = state.nodes.values().next().unwrap().clone();
        for node in state.nodes.values_mut() {
            (node.capacity, node.curve) = (one.capacity.clone(), one.curve);
        }
        let on = |policy: &Policy| {
            let made = plan(&state, policy, START).unwrap();
            assert_eq!(check(&made, &state, policy), []);
            assert!(made.weighed.is_some() || policy.worth.zones.is_empty());
            let mut after = state.clone();
            for effect in made.effects() {
                after.apply(START, effect);
            }
            assert!((after.watts() - made.after_w).abs() < 1e-6 * made.after_w);
            ["z0", "z1", "z2"].map(|zone| {
                let mine = after.nodes.values().filter(|n| n.zone.as_deref() == Some(zone));
                mine.map(|n| after.places.on(&n.id).count()).sum::<usize>()
            })
        };
        let [clean, dirty, dirtier] = on(&by_zone(20.0, 400.0, 800.0));
        assert!(clean > dirty && dirty >= dirtier, "{clean} {dirty} {dirtier}");
        let [dirtier, dirty, clean] = on(&by_zone(800.0, 400.0, 20.0));
        assert!(clean > dirty && dirty >= dirtier, "{clean} {dirty} {dirtier}");
    }

    #[test]
    fn the_same_weight_everywhere_changes_nothing_but_what_disruption_is_worth() {
        let state = fleet(&Shape { nodes: 20, workloads: 150, ..Shape::default() }, 5).unwrap();
        let plain = Policy { disruption_j: 0.0, ..Policy::default() };
        let worth = Worth { joules_per_euro: 3.0e7, ..Worth::default() };
        let dear = Policy { worth, ..plain.clone() };
        let (a, b) = (plan(&state, &plain, START).unwrap(), plan(&state, &dear, START).unwrap());
        let off =
            |p: &crate::plan::action::Plan| p.actions.iter().filter(|a| matches!(a.what, Do::PowerOff { .. })).count();
        assert!(off(&a) > 3 && off(&a) == off(&b), "{} {}", off(&a), off(&b));
        // prices are found step by step, and steps aren't the same at another scale
        for (a, b) in [(a.before_w, b.before_w), (a.after_w, b.after_w), (a.bound_w, b.bound_w)] {
            assert!((a - b).abs() < 5e-3 * a, "{a} {b}");
        }
        assert_eq!(b.weighed, None);
    }

    #[test]
    fn dear_energy_pays_for_what_cheap_energy_does_not() {
        let state = fleet(&Shape { nodes: 20, workloads: 150, ..Shape::default() }, 5).unwrap();
        let careful = Policy { disruption_j: 3.0e5, ..Policy::default() };
        let worth = Worth { joules_per_euro: 5.0e8, ..Worth::default() };
        let dear = Policy { worth, ..careful.clone() };
        let (a, b) = (plan(&state, &careful, START).unwrap(), plan(&state, &dear, START).unwrap());
        assert!(b.after_w < a.after_w, "{} {}", b.after_w, a.after_w);
    }
}
