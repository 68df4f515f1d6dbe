//! A fleet's state in the form that packing works on: numbers in rows, names only for ties.
//!
//! Nodes are put in an order that doesn't depend on their names as long as anything else tells them apart, so that
//! renaming nodes changes no plan's cost.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ebbtide_proto::NodeId;

use super::facts::{FN, FW, Facts};
use super::order;
use crate::model::demand::{ERRORS, Forecast};
use crate::policy::{Basis, Policy};
use crate::state::node::{Node, PowerState};
use crate::state::resources::Resources;
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
#[derive(Clone)]
pub(crate) struct PNode<'a> {
    pub(crate) fact: FN,
    pub(crate) node: &'a Node,
    /// Class of labels and taints.
    pub(crate) class: usize,
    /// What workloads may use, by resource.
    pub(crate) room: Rc<[u64]>,
    /// Index of its zone; nodes without one share the last.
    pub(crate) zone: usize,
    /// Whether it is on, heard of, and open: workloads may be put on it.
    pub(crate) open: bool,
    /// Whether it is on or about to be: it draws power.
    pub(crate) lit: bool,
}

/// A workload.
#[derive(Clone)]
pub(crate) struct PWork<'a> {
    pub(crate) fact: FW,
    pub(crate) work: &'a Workload,
    /// Class of selector and tolerations.
    pub(crate) class: usize,
    /// What it is, as a number that its name has no part in.
    content: u64,
    /// What it needs, by resource.
    pub(crate) need: Rc<[u64]>,
    /// Where it runs.
    pub(crate) home: Option<N>,
    /// Index of its group.
    pub(crate) group: Option<usize>,
    /// Groups that must not be beside it.
    pub(crate) avoid: Rc<[usize]>,
    /// Most members of its group on a node, and in a zone.
    pub(crate) per_node: u32,
    pub(crate) per_zone: u32,
    /// Whether it can be moved now.
    pub(crate) movable: bool,
    /// Whether it belongs to its node and ends with it.
    pub(crate) of_node: bool,
    /// Joules that moving it costs, what it is worth undisturbed included.
    pub(crate) move_j: f64,
    /// Thousandths of a CPU it will use.
    pub(crate) level: f64,
    /// What is known of its use, if forecasts are gone by.
    pub(crate) forecast: Option<Rc<Forecast>>,
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
    /// Thousandths of a CPU that are usually asked for soon, beyond what is now.
    pub(crate) foreseen: f64,
    /// Weight of [`PWork::doubt`] against the node's own errors, in samples.
    pub(crate) prior_samples: f64,
}

impl<'a> Problem<'a> {
    /// Takes stock.
    pub(crate) fn new(facts: &Facts<'a>) -> Self {
        let (state, policy) = (facts.state, facts.policy);
        let names = resource_names(facts);
        let mut zones: Vec<&str> = facts.nodes.iter().filter_map(|f| f.node.zone.as_deref()).collect();
        zones.sort_unstable();
        zones.dedup();
        let used: BTreeSet<&str> = facts
            .works
            .iter()
            .flat_map(|f| f.work.selector.keys().map(String::as_str).chain(f.work.affinity.keys()))
            .collect();
        let (node_class, node_kinds) = classes(facts.nodes.iter().map(|f| {
            // labels that nobody selects by tell no nodes apart: a name of each node's own would make every one a class
            let labels: Vec<_> = f.node.labels.iter().filter(|(key, _)| used.contains(key.as_str())).collect();
            (labels, &f.node.taints)
        }));
        let (work_class, work_kinds) = classes(facts.works.iter().map(|f| f.work.wishes()));
        let mut admits = Vec::with_capacity(node_kinds.len() * work_kinds.len());
        for &w in &work_kinds {
            admits.extend(node_kinds.iter().map(|&n| facts.works[w].work.admits(facts.nodes[n].node)));
        }
        let mut groups: Vec<&str> = facts.works.iter().filter_map(|f| f.work.group.as_deref()).collect();
        groups.extend(facts.works.iter().flat_map(|f| f.work.avoid.iter().map(String::as_str)));
        groups.sort_unstable();
        groups.dedup();

        let node = |(fact, class): (FN, usize)| {
            let node = facts.nodes[fact].node;
            let reserved = amounts(&node.reserved, &names);
            PNode {
                fact,
                node,
                class,
                room: amounts(&node.capacity, &names).iter().zip(reserved).map(|(a, b)| a.saturating_sub(b)).collect(),
                zone: node.zone.as_deref().and_then(|z| zones.binary_search(&z).ok()).unwrap_or(zones.len()),
                open: facts.open(fact),
                lit: facts.nodes[fact].power != PowerState::Off,
            }
        };
        let mut nodes: Vec<PNode<'a>> = node_class.into_iter().enumerate().map(node).collect();
        let group_of = |name: &str| groups.binary_search(&name).ok();
        let work = |(fact, class): (FW, usize)| {
            let w = facts.works[fact].work;
            let place = |over: Over| w.spread.iter().filter(|s| s.over == over).map(|s| s.at_most).min();
            PWork {
                fact,
                work: w,
                class,
                content: 0,
                need: amounts(&w.requests, &names).into(),
                home: facts.works[fact].home,
                group: w.group.as_deref().and_then(group_of),
                avoid: w.avoid.iter().filter_map(|g| group_of(g)).collect(),
                per_node: place(Over::Node).unwrap_or(u32::MAX),
                per_zone: place(Over::Zone).unwrap_or(u32::MAX),
                movable: facts.movable(fact),
                of_node: w.per_node,
                move_j: w.migration.energy_j() + policy.disruption_j,
                level: w.expected_milli(),
                forecast: (policy.basis == Basis::Forecast).then(|| w.demand.forecast()).flatten().map(Rc::new),
                doubt: 0.0,
            }
        };
        let mut work: Vec<PWork<'a>> = work_class.into_iter().enumerate().map(work).collect();
        for w in &mut work {
            w.content = order::content_of_work(facts, w);
        }
        put_in_order(facts, &mut nodes, &mut work);
        let away = away(&work);
        let prior_samples = spread_doubt(&mut work, policy);
        let node_classes = node_kinds.len();
        Self {
            foreseen: foreseen(facts),
            policy,
            state,
            now: facts.now,
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

    /// The same fleet once it is as `facts` say: what a plan's steps change is taken anew, the rest is kept.
    pub(crate) fn after(&self, facts: &Facts<'a>) -> Self {
        let (mut nodes, mut work) = (self.nodes.clone(), self.work.clone());
        for p in &mut nodes {
            p.open = facts.open(p.fact);
            p.lit = facts.nodes[p.fact].power != PowerState::Off;
        }
        for w in &mut work {
            let could = std::mem::replace(&mut w.movable, facts.movable(w.fact));
            w.home = facts.works[w.fact].home;
            if facts.works[w.fact].moved || w.movable != could {
                w.content = order::content_of_work(facts, w);
            }
        }
        put_in_order(facts, &mut nodes, &mut work);
        let away = away(&work);
        Self {
            nodes,
            work,
            away,
            names: self.names.clone(),
            groups: self.groups.clone(),
            admits: self.admits.clone(),
            ..*self
        }
    }

    /// Whether labels and taints of the classes agree.
    pub(crate) fn class_admits(&self, work_class: usize, node_class: usize) -> bool {
        self.admits[work_class * self.node_classes + node_class]
    }

    /// Whether the workload is bound to a node that is off: it runs nowhere, and comes back with its node.
    pub(crate) fn is_dark(&self, w: W) -> bool {
        self.work[w].home.is_some_and(|n| !self.nodes[n].lit)
    }

    /// Whether labels and taints let the workload onto the node.
    pub(crate) fn admits(&self, w: W, n: N) -> bool {
        self.class_admits(self.work[w].class, self.nodes[n].class)
    }
}

/// Thousandths of a CPU that are free on nodes which are no part of the problem.
fn room_beside(facts: &Facts<'_>) -> f64 {
    let state = facts.state;
    if facts.nodes.len() == state.nodes.len() {
        return 0.0;
    }
    let within: BTreeSet<&NodeId> = facts.nodes.iter().map(|f| &f.node.id).collect();
    let beside = state.nodes.values().filter(|n| n.power == PowerState::On && !n.cordoned && !within.contains(&n.id));
    let heard = beside.filter(|n| facts.now.since(n.heard) <= facts.policy.stale_after_s as f64);
    let free = |n: &Node| n.allocatable().cpu_milli.saturating_sub(state.places.used(&n.id).cpu_milli);
    heard.map(|n| free(n) as f64).sum()
}

/// What is foreseen, counted as the policy counts CPU.
fn foreseen(facts: &Facts<'_>) -> f64 {
    let (state, policy) = (facts.state, facts.policy);
    let all = state.foreseen_milli(policy, facts.now);
    if all <= 0.0 {
        return 0.0;
    }
    let asked = (all - room_beside(facts)).max(0.0);
    if policy.basis != Basis::Forecast {
        return asked;
    }
    let used: f64 = state.workloads.values().filter(|w| !w.per_node).map(Workload::expected_milli).sum();
    let share = used / state.asked_milli();
    if share.is_finite() { asked * share } else { asked }
}

/// Nodes that a change of `changed` may concern: these, the fullest that still have room, the emptiest, and some that
/// are off.
pub(crate) fn neighbourhood(state: &FleetState, changed: &[NodeId]) -> BTreeSet<NodeId> {
    /// Nodes of each sort.
    const EACH: usize = 32;
    let mut open: Vec<(u64, &NodeId)> = Vec::new();
    let mut off: Vec<(u64, &NodeId)> = Vec::new();
    for node in state.nodes.values() {
        // thousandths that are free of what workloads may use
        let share = |all: u64, reserved: u64, used: u64| {
            let all = all.saturating_sub(reserved);
            all.saturating_sub(used).saturating_mul(1000).checked_div(all).unwrap_or(1000)
        };
        let (all, reserved) = (&node.capacity, &node.reserved);
        match node.power {
            PowerState::On if !node.cordoned => {
                let used = state.places.used(&node.id);
                let cpu = share(all.cpu_milli, reserved.cpu_milli, used.cpu_milli);
                open.push((cpu.min(share(all.memory, reserved.memory, used.memory)), &node.id));
            }
            PowerState::Off => {
                let cpu = all.cpu_milli.saturating_sub(reserved.cpu_milli);
                off.push((node.curve.full().to_bits() / cpu.max(1), &node.id));
            }
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

/// Amounts of the named resources; `names` are CPU, memory, and others in the order of their names.
fn amounts(r: &Resources, names: &[&str]) -> Vec<u64> {
    let mut all = Vec::with_capacity(names.len());
    all.extend([r.cpu_milli, r.memory]);
    let mut known = r.named.iter().peekable();
    for name in &names[2..] {
        while known.next_if(|(k, _)| k.as_str() < *name).is_some() {}
        all.push(known.next_if(|(k, _)| k.as_str() == *name).map_or(0, |(_, v)| *v));
    }
    all
}

/// CPU, memory, and whatever else any workload asks for.
fn resource_names<'a>(facts: &Facts<'a>) -> Vec<&'a str> {
    let mut named: Vec<&str> = Vec::new();
    for name in facts.works.iter().flat_map(|f| f.work.requests.named.keys()) {
        if let Err(place) = named.binary_search(&name.as_str()) {
            named.insert(place, name);
        }
    }
    ["cpu", "memory"].into_iter().chain(named).collect()
}

/// Members of each group that wait for a node.
fn away<'a>(work: &[PWork<'a>]) -> BTreeMap<&'a str, u32> {
    let mut away: BTreeMap<&str, u32> = BTreeMap::new();
    for group in work.iter().filter(|w| w.home.is_none()).filter_map(|w| w.work.group.as_deref()) {
        *away.entry(group).or_default() += 1;
    }
    away
}

/// Puts nodes in the order of what they are and what runs on them, workloads in the order of what they are and where.
/// Homes of workloads are facts before, and indices after.
fn put_in_order(facts: &Facts<'_>, nodes: &mut [PNode<'_>], work: &mut [PWork<'_>]) {
    let mut content = vec![0_u64; nodes.len()];
    for w in work.iter() {
        if let Some(n) = w.home {
            content[n] = order::of_set(content[n], w.content);
        }
    }
    for p in nodes.iter() {
        content[p.fact] = order::of_set(content[p.fact], order::content_of_node(facts, p));
    }
    let watts_per_cpu = |n: &Node| n.curve.costs_at_most(1.0) / (n.capacity.cpu_milli.max(1) as f64);
    nodes.sort_by_cached_key(|p| {
        let per_cpu = watts_per_cpu(p.node).to_bits();
        (per_cpu, p.node.capacity.cpu_milli, p.node.capacity.memory, content[p.fact], &p.node.id)
    });
    let mut at = vec![0; nodes.len()];
    for (n, p) in nodes.iter().enumerate() {
        at[p.fact] = n;
    }
    for w in work.iter_mut() {
        w.home = w.home.map(|n| at[n]);
    }
    // mostly in order already, but for the first time
    work.sort_by(|a, b| (a.content, a.home).cmp(&(b.content, b.home)).then_with(|| a.work.id.cmp(&b.work.id)));
}

/// Numbers equal things in their own order: the class of each, and the index of one member of each class.
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
    let mut rank = vec![0; known.len()];
    for (r, number) in known.values().enumerate() {
        rank[*number] = r;
    }
    let mut examples = vec![0; example.len()];
    for (number, i) in example.into_iter().enumerate() {
        examples[rank[number]] = i;
    }
    (class.into_iter().map(|number| rank[number]).collect(), examples)
}
