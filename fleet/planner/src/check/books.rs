//! The checker's own books: who is where after each action.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::{NodeId, WorkloadId};

use crate::plan::action::{Action, Do, Plan};
use crate::policy::{Basis, Policy};
use crate::state::FleetState;
use crate::state::node::{Node, PowerState};
use crate::state::resources::Resources;
use crate::state::workload::Workload;

/// What is used on a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Used {
    /// What is set aside.
    pub(super) requests: Resources,
    /// Thousandths of a CPU that are expected to be used.
    pub(super) level: f64,
}

/// The fleet after some actions.
pub(super) struct Books<'a> {
    state: &'a FleetState,
    /// Thousandths of a CPU that will be asked for soon.
    pub(super) foreseen: f64,
    place: BTreeMap<&'a WorkloadId, NodeId>,
    on: BTreeMap<NodeId, BTreeMap<&'a WorkloadId, &'a Workload>>,
    power: BTreeMap<&'a NodeId, PowerState>,
    /// Nodes that the plan powers on, with the number of the action.
    pub(super) woken: BTreeMap<NodeId, u32>,
    /// Nodes that the plan closes.
    pub(super) cordoned: BTreeSet<NodeId>,
    used: BTreeMap<NodeId, Used>,
    /// Actions that close a node or take something off it, in their order.
    empties: BTreeMap<NodeId, Vec<u32>>,
    /// Moves of each group, in their order.
    moves: BTreeMap<&'a str, Vec<u32>>,
    /// Members of each group that waited when the plan was made, with the action that placed them.
    waited: BTreeMap<&'a str, BTreeMap<&'a WorkloadId, Option<u32>>>,
}

impl<'a> Books<'a> {
    pub(super) fn new(plan: &Plan, state: &'a FleetState, policy: &Policy) -> Self {
        let mut books = Self {
            state,
            // counted in requests: with forecasts it is less
            foreseen: if policy.basis == Basis::Requests { state.foreseen_milli(policy, plan.at) } else { 0.0 },
            place: BTreeMap::new(),
            on: BTreeMap::new(),
            power: state.nodes.values().map(|n| (&n.id, n.power)).collect(),
            woken: BTreeMap::new(),
            cordoned: BTreeSet::new(),
            used: BTreeMap::new(),
            empties: BTreeMap::new(),
            moves: BTreeMap::new(),
            waited: BTreeMap::new(),
        };
        for w in state.workloads.values() {
            if let Some(node) = &w.node {
                books.place.insert(&w.id, node.clone());
                books.on.entry(node.clone()).or_default().insert(&w.id, w);
            } else if let Some(group) = &w.group {
                books.waited.entry(group).or_default().insert(&w.id, None);
            }
        }
        for node in state.nodes.keys() {
            books.add_up(node);
        }
        books
    }

    pub(super) fn carry_out(&mut self, action: &Action) {
        match &action.what {
            Do::PowerOn { node } => {
                self.woken.insert(node.clone(), action.id);
                self.switch(node, PowerState::On);
            }
            Do::PowerOff { node } => self.switch(node, PowerState::Off),
            Do::Cordon { node } => {
                self.cordoned.insert(node.clone());
                self.empties.entry(node.clone()).or_default().push(action.id);
            }
            Do::Place { workload, to } => {
                let Some((id, w)) = self.state.workloads.get_key_value(workload) else { return };
                let group = w.group.as_deref().and_then(|group| self.waited.get_mut(group));
                if let Some(placed) = group.and_then(|group| group.get_mut(id)) {
                    *placed = Some(action.id);
                }
                self.bring(id, w, to);
            }
            Do::Move { workload, from, to } => {
                self.empties.entry(from.clone()).or_default().push(action.id);
                let Some((id, w)) = self.state.workloads.get_key_value(workload) else { return };
                if let Some(group) = &w.group {
                    self.moves.entry(group).or_default().push(action.id);
                }
                self.bring(id, w, to);
            }
        }
    }

    fn bring(&mut self, id: &'a WorkloadId, w: &'a Workload, to: &NodeId) {
        if let Some(old) = self.place.insert(id, to.clone()) {
            if let Some(on) = self.on.get_mut(&old) {
                on.remove(id);
            }
            self.add_up(&old);
        }
        self.on.entry(to.clone()).or_default().insert(id, w);
        self.add_up(to);
    }

    fn add_up(&mut self, node: &NodeId) {
        let mut used = Used::default();
        for o in self.on(node) {
            used.requests.add(&o.requests);
            used.level += o.expected_milli();
        }
        self.used.insert(node.clone(), used);
    }

    /// Actions so far that closed the node or took something off it.
    pub(super) fn empties(&self, node: &NodeId) -> &[u32] {
        self.empties.get(node).map_or(&[], Vec::as_slice)
    }

    /// Moves so far of members of the group.
    pub(super) fn moves_of(&self, group: &str) -> &[u32] {
        self.moves.get(group).map_or(&[], Vec::as_slice)
    }

    /// Members of the group that run nowhere, as far as somebody knows who waited for `seen` only.
    pub(super) fn away(&self, group: &str, seen: &[u32]) -> usize {
        let unseen = |placed: &&Option<u32>| placed.is_none_or(|action| !seen.contains(&action));
        self.waited.get(group).map_or(0, |members| members.values().filter(unseen).count())
    }

    fn switch(&mut self, node: &NodeId, power: PowerState) {
        if let Some(state) = self.power.get_mut(node) {
            *state = power;
        }
    }

    pub(super) fn power(&self, node: &NodeId) -> PowerState {
        self.power.get(node).copied().unwrap_or_default()
    }

    /// Who is on a node.
    pub(super) fn on(&self, node: &NodeId) -> impl Iterator<Item = &'a Workload> {
        self.on.get(node).into_iter().flat_map(BTreeMap::values).copied()
    }

    /// Who is in a zone; nodes without one count as one zone.
    pub(super) fn in_zone(&self, zone: Option<&str>) -> impl Iterator<Item = &'a Workload> {
        let nodes = self.state.nodes.values().filter(move |n| n.zone.as_deref() == zone);
        nodes.flat_map(|n| self.on(&n.id))
    }

    /// What would be used on a node if the workload were there too.
    pub(super) fn with(&self, node: &NodeId, w: &Workload) -> Used {
        let mut used = self.used.get(node).cloned().unwrap_or_default();
        if self.place.get(&w.id) != Some(node) {
            used.requests.add(&w.requests);
            used.level += w.expected_milli();
        }
        used
    }

    /// Nodes that are on and open for work.
    pub(super) fn open(&self) -> impl Iterator<Item = &'a Node> {
        let state = self.state;
        state
            .nodes
            .values()
            .filter(|n| self.power(&n.id) == PowerState::On && !n.cordoned && !self.cordoned.contains(&n.id))
    }

    /// What is used on a node.
    pub(super) fn used(&self, node: &NodeId) -> Option<&Used> {
        self.used.get(node)
    }

    /// Watts of the whole fleet.
    pub(super) fn watts(&self) -> f64 {
        let of = |n: &Node| match self.power(&n.id) {
            PowerState::Off => n.off_watts,
            _ => n.watts(self.on(&n.id).map(Workload::expected_milli).sum()),
        };
        self.state.nodes.values().map(of).sum()
    }

    /// Whether the plan speaks of the whole fleet; plans around a change give the watts of their part.
    pub(super) fn scope_is_whole(&self, plan: &Plan, state: &FleetState) -> bool {
        plan.nodes == state.nodes.len()
    }
}
