//! Who is on which node: kept beside the workloads, so that a change of one node needn't look at all of them.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::{NodeId, WorkloadId};

use super::resources::Resources;
use super::workload::Workload;

/// Workloads by node, with what they need together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    by_node: BTreeMap<NodeId, (BTreeSet<WorkloadId>, Resources)>,
    waiting: BTreeSet<WorkloadId>,
    nothing: Resources,
}

impl Places {
    /// Counts all workloads anew.
    pub fn of<'a>(workloads: impl Iterator<Item = &'a Workload>) -> Self {
        let mut places = Self::default();
        for w in workloads {
            places.add(w);
        }
        places
    }

    /// Takes note of a workload.
    pub(super) fn add(&mut self, w: &Workload) {
        match &w.node {
            Some(node) => {
                let (ids, used) = self.by_node.entry(node.clone()).or_default();
                if ids.insert(w.id.clone()) {
                    used.add(&w.requests);
                }
            }
            None => {
                self.waiting.insert(w.id.clone());
            }
        }
    }

    /// Forgets a workload as it was noted.
    pub(super) fn remove(&mut self, w: &Workload) {
        match &w.node {
            Some(node) => {
                if let Some((ids, used)) = self.by_node.get_mut(node)
                    && ids.remove(&w.id)
                {
                    *used = used.saturating_sub(&w.requests);
                }
            }
            None => {
                self.waiting.remove(&w.id);
            }
        }
    }

    /// Workloads on a node.
    pub fn on(&self, node: &NodeId) -> impl Iterator<Item = &WorkloadId> {
        self.by_node.get(node).into_iter().flat_map(|(ids, _)| ids)
    }

    /// Workloads that wait for a node.
    pub fn waiting(&self) -> impl Iterator<Item = &WorkloadId> {
        self.waiting.iter()
    }

    /// What the workloads on a node need together.
    pub fn used(&self, node: &NodeId) -> &Resources {
        self.by_node.get(node).map_or(&self.nothing, |(_, used)| used)
    }
}
