//! The checker's own books: who is where after each action.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::{NodeId, WorkloadId};

use crate::plan::action::{Action, Do, Plan};
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
    place: BTreeMap<&'a WorkloadId, NodeId>,
    on: BTreeMap<NodeId, BTreeSet<&'a WorkloadId>>,
    power: BTreeMap<&'a NodeId, PowerState>,
    /// Nodes that the plan powers on, with the number of the action.
    pub(super) woken: BTreeMap<NodeId, u32>,
    /// Nodes that the plan closes.
    pub(super) cordoned: BTreeSet<NodeId>,
}

impl<'a> Books<'a> {
    pub(super) fn new(state: &'a FleetState) -> Self {
        let mut books = Self {
            state,
            place: BTreeMap::new(),
            on: BTreeMap::new(),
            power: state.nodes.values().map(|n| (&n.id, n.power)).collect(),
            woken: BTreeMap::new(),
            cordoned: BTreeSet::new(),
        };
        for w in state.workloads.values() {
            if let Some(node) = &w.node {
                books.place.insert(&w.id, node.clone());
                books.on.entry(node.clone()).or_default().insert(&w.id);
            }
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
            }
            Do::Place { workload, to } | Do::Move { workload, to, .. } => {
                let Some((id, _)) = self.state.workloads.get_key_value(workload) else { return };
                if let Some(old) = self.place.insert(id, to.clone())
                    && let Some(on) = self.on.get_mut(&old)
                {
                    on.remove(id);
                }
                self.on.entry(to.clone()).or_default().insert(id);
            }
        }
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
        self.on.get(node).into_iter().flatten().filter_map(|id| self.state.workloads.get(*id))
    }

    /// Who is in a zone; nodes without one count as one zone.
    pub(super) fn in_zone(&self, zone: Option<&str>) -> impl Iterator<Item = &'a Workload> {
        let nodes = self.state.nodes.values().filter(move |n| n.zone.as_deref() == zone);
        nodes.flat_map(|n| self.on(&n.id))
    }

    /// What would be used on a node if the workload were there too.
    pub(super) fn with(&self, node: &NodeId, w: &Workload) -> Used {
        let mut used = Used::default();
        for o in self.on(node).filter(|o| o.id != w.id).chain([w]) {
            used.requests.add(&o.requests);
            used.level += o.expected_milli();
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
    pub(super) fn used(&self, node: &NodeId) -> Used {
        let mut used = Used::default();
        for o in self.on(node) {
            used.requests.add(&o.requests);
            used.level += o.expected_milli();
        }
        used
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
