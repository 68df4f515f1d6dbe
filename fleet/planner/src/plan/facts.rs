//! What a plan starts from, and what will be known once its steps are done: a state's nodes and workloads, with what
//! was decided so far laid over them.
//!
//! A plan is made in rounds. Each sees the fleet as it will be after the rounds before, by the very rules that the next
//! plan would apply; the last finds nothing to do, and so will the next plan.

use std::collections::{BTreeSet, HashMap};

use ebbtide_proto::NodeId;

use crate::policy::Policy;
use crate::state::event::DAY_MS;
use crate::state::node::{Node, PowerState};
use crate::state::workload::Workload;
use crate::state::{FleetState, Time};

/// Index of a node in [`Facts::nodes`]: the same in all rounds.
pub(crate) type FN = usize;
/// Index of a workload in [`Facts::works`].
pub(crate) type FW = usize;

/// A node, and what was decided of it.
#[derive(Clone)]
pub(crate) struct NodeFact<'a> {
    pub(crate) node: &'a Node,
    pub(crate) power: PowerState,
    /// Switched by the plan itself, at its moment.
    pub(crate) switched: bool,
}

/// A workload, and what was decided of it.
#[derive(Clone)]
pub(crate) struct WorkFact<'a> {
    pub(crate) work: &'a Workload,
    /// Where it is; `None` if it waits, or is somewhere that isn't known.
    pub(crate) home: Option<FN>,
    /// Moved or placed by the plan itself.
    pub(crate) moved: bool,
}

/// The whole.
#[derive(Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) state: &'a FleetState,
    pub(crate) policy: &'a Policy,
    pub(crate) now: Time,
    pub(crate) nodes: Vec<NodeFact<'a>>,
    pub(crate) works: Vec<WorkFact<'a>>,
}

impl<'a> Facts<'a> {
    /// The state as it is: all of it, or the nodes in scope, what is on them and what waits.
    pub(crate) fn new(state: &'a FleetState, policy: &'a Policy, now: Time, scope: Option<&BTreeSet<NodeId>>) -> Self {
        let fact = |node: &'a Node| NodeFact { node, power: node.power, switched: false };
        let nodes: Vec<NodeFact<'a>> = match scope {
            None => state.nodes.values().map(fact).collect(),
            Some(scope) => scope.iter().filter_map(|id| state.nodes.get(id)).map(fact).collect(),
        };
        let index: HashMap<&NodeId, FN> = nodes.iter().enumerate().map(|(i, n)| (&n.node.id, i)).collect();
        let fact = |work: &'a Workload| WorkFact {
            work,
            home: work.node.as_ref().and_then(|id| index.get(id).copied()),
            moved: false,
        };
        let mut works: Vec<WorkFact<'a>> = match scope {
            None => state.workloads.values().map(fact).collect(),
            Some(scope) => {
                let ids = scope.iter().flat_map(|n| state.places.on(n)).chain(state.places.waiting());
                ids.filter_map(|id| state.workloads.get(id)).map(fact).collect()
            }
        };
        // what runs on a node that nobody knows is nobody's concern
        works.retain(|w| w.home.is_some() || w.work.node.is_none());
        Self { state, policy, now, nodes, works }
    }

    /// Notes that a node is switched.
    pub(crate) fn switch(&mut self, n: FN, power: PowerState) {
        self.nodes[n].power = power;
        self.nodes[n].switched = true;
    }

    /// Notes that a workload comes to a node.
    pub(crate) fn bring(&mut self, w: FW, n: FN) {
        self.works[w].home = Some(n);
        self.works[w].moved = true;
    }

    /// Whether the workload can be moved: nothing binds it to its node, and it has had its rest. What this plan moved
    /// is not moved again by it, even if workloads need no rest.
    pub(crate) fn movable(&self, w: FW) -> bool {
        let WorkFact { work, home, moved } = &self.works[w];
        home.is_some_and(|n| self.fresh(n) && self.nodes[n].power != PowerState::Off)
            && !moved
            && !work.stays
            && !work.per_node
            && work.moved.is_none_or(|at| self.now.since(at) >= self.policy.min_stay_s as f64)
    }

    /// Whether the node was heard of lately enough to act on what is known of it. A node that is off is silent by
    /// nature.
    pub(crate) fn fresh(&self, n: FN) -> bool {
        let fact = &self.nodes[n];
        fact.switched
            || fact.power == PowerState::Off
            || self.now.since(fact.node.heard) <= self.policy.stale_after_s as f64
    }

    /// Whether workloads may be put on the node: it is on, heard of, and not closed.
    pub(crate) fn open(&self, n: FN) -> bool {
        let fact = &self.nodes[n];
        fact.power == PowerState::On && !fact.node.cordoned && self.fresh(n)
    }

    /// Since when the node is on, or off.
    pub(crate) fn since(&self, n: FN) -> Time {
        if self.nodes[n].switched { self.now } else { self.nodes[n].node.since }
    }

    /// When the node was last switched.
    pub(crate) fn last_switched(&self, n: FN) -> Option<Time> {
        if self.nodes[n].switched { Some(self.now) } else { self.nodes[n].node.switched.last().copied() }
    }

    /// Times that the node was switched within 24 hours.
    pub(crate) fn switched_today(&self, n: FN) -> usize {
        let before = &self.nodes[n].node.switched;
        let today = |t: &&Time| t.ms().saturating_add(DAY_MS) > self.now.ms();
        before.iter().filter(today).count() + usize::from(self.nodes[n].switched)
    }
}
