//! A fleet's state in the form that packing works on: numbers in rows, names only for ties.
//!
//! Nodes are put in an order that doesn't depend on their names as long as anything else tells them apart, so that
//! renaming nodes changes no plan's cost.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::{NodeId, WorkloadId};

use crate::model::demand::{ERRORS, Forecast};
use crate::policy::{Basis, Policy};
use crate::state::node::{Node, PowerState};
use crate::state::workload::{Over, Workload};
use crate::state::{FleetState, Time};

/// Index of a node in [`Problem::nodes`].
pub(crate) type N = usize;
/// Index of a workload in [`Problem::work`].
pub(crate) type W = usize;

/// CPU's place among the resources.
pub(crate) const CPU: usize = 0;

/// Share of its request that a workload's forecast is off by before any was put to the test, as a standard deviation.
const UNTESTED_SPREAD: f64 = 0.125;
/// Samples that the fleet-wide spread counts for beside a node's own errors.
const PRIOR_SAMPLES: f64 = 4.0;

/// A node.
pub(crate) struct PNode<'a> {
    pub(crate) node: &'a Node,
    /// Class of labels and taints.
    pub(crate) class: usize,
    /// What workloads may use, by resource.
    pub(crate) room: Vec<u64>,
    /// Index of its zone; nodes without one share the last.
    pub(crate) zone: usize,
    /// Whether it is on, heard of, and open: workloads may be put on it.
    pub(crate) open: bool,
    /// Whether it is on or about to be: it draws power.
    pub(crate) lit: bool,
}

/// A workload.
pub(crate) struct PWork<'a> {
    pub(crate) work: &'a Workload,
    /// Class of selector and tolerations.
    pub(crate) class: usize,
    /// What it needs, by resource.
    pub(crate) need: Vec<u64>,
    /// Where it runs.
    pub(crate) home: Option<N>,
    /// Index of its group.
    pub(crate) group: Option<usize>,
    /// Groups that must not be beside it.
    pub(crate) avoid: Vec<usize>,
    /// Most members of its group on a node, and in a zone.
    pub(crate) per_node: u32,
    pub(crate) per_zone: u32,
    /// Whether it can be moved now.
    pub(crate) movable: bool,
    /// Thousandths of a CPU it will use.
    pub(crate) level: f64,
    /// What is known of its use, if forecasts are gone by.
    pub(crate) forecast: Option<Box<Forecast>>,
    /// Variance that is assumed beside its own errors.
    pub(crate) doubt: f64,
}

/// The whole.
pub(crate) struct Problem<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) state: &'a FleetState,
    pub(crate) now: Time,
    pub(crate) dims: usize,
    pub(crate) names: Vec<&'a str>,
    pub(crate) nodes: Vec<PNode<'a>>,
    pub(crate) work: Vec<PWork<'a>>,
    pub(crate) zones: usize,
    pub(crate) groups: Vec<&'a str>,
    admits: Vec<bool>,
    node_classes: usize,
    /// Members of each group that wait for a node, and thus are away.
    pub(crate) away: BTreeMap<&'a str, u32>,
    /// Weight of [`PWork::doubt`] against the node's own errors, in samples.
    pub(crate) prior_samples: f64,
}

impl<'a> Problem<'a> {
    /// Takes stock.
    pub(crate) fn new(state: &'a FleetState, policy: &'a Policy, now: Time, scope: Option<&BTreeSet<NodeId>>) -> Self {
        let works: Vec<&Workload> = in_scope(state, scope);
        let names = resource_names(&works);
        let order = node_order(state, &works, scope);
        let index: BTreeMap<_, N> = order.iter().enumerate().map(|(i, n)| (&n.id, i)).collect();
        let mut zones: Vec<&str> = order.iter().filter_map(|n| n.zone.as_deref()).collect();
        zones.sort_unstable();
        zones.dedup();
        let used: BTreeSet<&str> = works.iter().flat_map(|w| w.selector.keys().map(String::as_str)).collect();
        let (node_class, node_kinds) = classes(order.iter().map(|n| {
            // labels that nobody selects by tell no nodes apart: a name of each node's own would make every one a class
            let labels: Vec<_> = n.labels.iter().filter(|(key, _)| used.contains(key.as_str())).collect();
            (labels, &n.taints)
        }));
        let (work_class, work_kinds) = classes(works.iter().map(|w| (&w.selector, &w.tolerations)));
        let mut admits = Vec::with_capacity(node_kinds.len() * work_kinds.len());
        for &w in &work_kinds {
            admits.extend(node_kinds.iter().map(|&n| works[w].admits(order[n])));
        }
        let mut groups: Vec<&str> = works.iter().filter_map(|w| w.group.as_deref()).collect();
        groups.extend(works.iter().flat_map(|w| w.avoid.iter().map(String::as_str)));
        groups.sort_unstable();
        groups.dedup();

        let nodes: Vec<PNode<'a>> = order
            .iter()
            .zip(node_class)
            .map(|(&node, class)| PNode {
                node,
                class,
                room: names
                    .iter()
                    .map(|name| amount(&node.capacity, name).saturating_sub(amount(&node.reserved, name)))
                    .collect(),
                zone: node.zone.as_deref().and_then(|z| zones.binary_search(&z).ok()).unwrap_or(zones.len()),
                open: node.power == PowerState::On && !node.cordoned && fresh(node, policy, now),
                lit: !matches!(node.power, PowerState::Off),
            })
            .collect();
        let group_of = |name: &str| groups.binary_search(&name).ok();
        let mut work: Vec<PWork<'a>> = works
            .iter()
            .zip(work_class)
            .map(|(&w, class)| {
                let home = w.node.as_ref().and_then(|id| index.get(id).copied());
                let place = |over: Over| w.spread.iter().filter(|s| s.over == over).map(|s| s.at_most).min();
                PWork {
                    work: w,
                    class,
                    need: names.iter().map(|name| amount(&w.requests, name)).collect(),
                    home,
                    group: w.group.as_deref().and_then(group_of),
                    avoid: w.avoid.iter().filter_map(|g| group_of(g)).collect(),
                    per_node: place(Over::Node).unwrap_or(u32::MAX),
                    per_zone: place(Over::Zone).unwrap_or(u32::MAX),
                    movable: home.is_some_and(|n| fresh(nodes[n].node, policy, now))
                        && !w.stays
                        && !w.per_node
                        && w.moved.is_none_or(|at| now.since(at) >= policy.min_stay_s as f64),
                    level: w.expected_milli(),
                    forecast: (policy.basis == Basis::Forecast).then(|| w.demand.forecast()).flatten().map(Box::new),
                    doubt: 0.0,
                }
            })
            .collect();
        let mut away: BTreeMap<&str, u32> = BTreeMap::new();
        for group in works.iter().filter(|w| w.node.is_none()).filter_map(|w| w.group.as_deref()) {
            *away.entry(group).or_default() += 1;
        }
        let prior_samples = spread_doubt(&mut work, policy);
        let node_classes = node_kinds.len();
        Self {
            policy,
            state,
            now,
            dims: names.len(),
            names,
            nodes,
            work,
            zones: zones.len() + 1,
            groups,
            admits,
            node_classes,
            away,
            prior_samples,
        }
    }

    /// Whether labels and taints of the classes agree.
    pub(crate) fn class_admits(&self, work_class: usize, node_class: usize) -> bool {
        self.admits[work_class * self.node_classes + node_class]
    }

    /// Whether labels and taints let the workload onto the node.
    pub(crate) fn admits(&self, w: W, n: N) -> bool {
        self.class_admits(self.work[w].class, self.nodes[n].class)
    }
}

/// Workloads to plan for: all, or those that wait and those on nodes in scope.
fn in_scope<'a>(state: &'a FleetState, scope: Option<&BTreeSet<NodeId>>) -> Vec<&'a Workload> {
    let Some(scope) = scope else { return state.workloads.values().collect() };
    let mut ids: Vec<&WorkloadId> =
        scope.iter().flat_map(|n| state.places.on(n)).chain(state.places.waiting()).collect();
    ids.sort_unstable();
    ids.iter().filter_map(|id| state.workloads.get(*id)).collect()
}

/// Nodes that a change of `changed` may concern: these, the fullest that still have room, the emptiest, and some that
/// are off.
pub(crate) fn neighbourhood(state: &FleetState, changed: &[NodeId]) -> BTreeSet<NodeId> {
    /// Nodes of each sort.
    const EACH: usize = 32;
    let mut open: Vec<(u64, &NodeId)> = Vec::new();
    let mut off: Vec<(u64, &NodeId)> = Vec::new();
    for node in state.nodes.values() {
        let capacity = node.allocatable();
        let share = |free: u64, all: u64| free.saturating_mul(1000).checked_div(all).unwrap_or(1000);
        match node.power {
            PowerState::On if !node.cordoned => {
                let free = capacity.saturating_sub(state.places.used(&node.id));
                open.push((
                    share(free.cpu_milli, capacity.cpu_milli).min(share(free.memory, capacity.memory)),
                    &node.id,
                ));
            }
            PowerState::Off => off.push((node.curve.full().to_bits() / capacity.cpu_milli.max(1), &node.id)),
            _ => {}
        }
    }
    open.sort_unstable();
    off.sort_unstable();
    let roomy = open.partition_point(|(free, _)| *free < 20);
    let fullest = open.iter().skip(roomy).take(EACH);
    let emptiest = open.iter().rev().take(EACH);
    let near = fullest.chain(emptiest).chain(off.iter().take(EACH)).map(|(_, id)| (*id).clone());
    near.chain(changed.iter().filter(|id| state.nodes.contains_key(*id)).cloned()).collect()
}

/// Whether the node was heard of lately enough to act on what is known of it. A node that is off is silent by nature.
pub(crate) fn fresh(node: &Node, policy: &Policy, now: Time) -> bool {
    node.power == PowerState::Off || now.since(node.heard) <= policy.stale_after_s as f64
}

/// Gives every workload the variance that the fleet's forecasts have had per request, and says how many samples that
/// counts for. Before anything was measured it is a guess.
fn spread_doubt(work: &mut [PWork<'_>], policy: &Policy) -> f64 {
    if policy.basis == Basis::Requests {
        return 0.0;
    }
    let (mut squares, mut sizes) = (0.0, 0.0);
    for w in work.iter() {
        let Some(f) = &w.forecast else { continue };
        let request = w.work.requests.cpu_milli as f64;
        for e in &f.errors[ERRORS - (f.known as usize).min(ERRORS)..] {
            squares += f64::from(*e) * f64::from(*e);
            sizes += request * request;
        }
    }
    // a guess that counts for as much as a hundred workloads' samples
    let guess_weight = 100.0 * 1e6;
    let ratio = (squares + guess_weight * UNTESTED_SPREAD * UNTESTED_SPREAD) / (sizes + guess_weight);
    for w in work.iter_mut() {
        let request = w.work.requests.cpu_milli as f64;
        // one that nobody has measured counts with all it asks for: there is nothing beyond to be unsure of
        w.doubt = if w.forecast.is_some() { ratio * request * request } else { 0.0 };
    }
    PRIOR_SAMPLES
}

fn amount(r: &crate::state::resources::Resources, name: &str) -> u64 {
    match name {
        "cpu" => r.cpu_milli,
        "memory" => r.memory,
        named => r.named.get(named).copied().unwrap_or(0),
    }
}

/// CPU, memory, and whatever else any workload asks for.
fn resource_names<'a>(works: &[&'a Workload]) -> Vec<&'a str> {
    let mut named: Vec<&str> = Vec::new();
    for name in works.iter().flat_map(|w| w.requests.named.keys()) {
        if let Err(place) = named.binary_search(&name.as_str()) {
            named.insert(place, name);
        }
    }
    ["cpu", "memory"].into_iter().chain(named).collect()
}

/// Nodes by what they are and what runs on them; by name only if nothing else differs.
fn node_order<'a>(state: &'a FleetState, works: &[&'a Workload], scope: Option<&BTreeSet<NodeId>>) -> Vec<&'a Node> {
    let mut first: BTreeMap<_, _> = BTreeMap::new();
    for w in works {
        if let Some(node) = &w.node {
            first.entry(node).or_insert(&w.id);
        }
    }
    let mut nodes: Vec<&Node> = state.nodes.values().filter(|n| scope.is_none_or(|s| s.contains(&n.id))).collect();
    let watts_per_cpu = |n: &Node| n.curve.costs_at_most(1.0) / (n.capacity.cpu_milli.max(1) as f64);
    nodes.sort_by(|a, b| {
        watts_per_cpu(a)
            .total_cmp(&watts_per_cpu(b))
            .then_with(|| a.capacity.cpu_milli.cmp(&b.capacity.cpu_milli))
            .then_with(|| a.capacity.memory.cmp(&b.capacity.memory))
            .then_with(|| a.capacity.named.cmp(&b.capacity.named))
            .then_with(|| (a.power, &a.pool, &a.zone, a.since).cmp(&(b.power, &b.pool, &b.zone, b.since)))
            .then_with(|| (&a.labels, &a.taints).cmp(&(&b.labels, &b.taints)))
            .then_with(|| first.get(&a.id).cmp(&first.get(&b.id)))
            .then_with(|| a.id.cmp(&b.id))
    });
    nodes
}

/// Numbers equal things: the class of each, and the index of one member of each class.
fn classes<T: Ord>(items: impl Iterator<Item = T>) -> (Vec<usize>, Vec<usize>) {
    let mut known: BTreeMap<T, usize> = BTreeMap::new();
    let (mut class, mut example) = (Vec::new(), Vec::new());
    for (i, item) in items.enumerate() {
        let next = known.len();
        let number = *known.entry(item).or_insert(next);
        if number == next {
            example.push(i);
        }
        class.push(number);
    }
    (class, example)
}
