//! A workload as the planner sees it.

use std::collections::BTreeMap;

use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use super::Time;
use super::affinity::Affinity;
use super::node::{Node, Taint};
use super::resources::Resources;
use crate::model::demand::Demand;
use crate::model::migration::Migration;

/// Tolerates taints with this key, and this value if one is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; empty tolerates every taint.
    #[serde(default)]
    pub key: String,
    /// The taint's value; `None` tolerates any.
    #[serde(default)]
    pub value: Option<String>,
}

impl Toleration {
    /// Whether it covers `taint`.
    pub fn covers(&self, taint: &Taint) -> bool {
        (self.key.is_empty() || self.key == taint.key) && self.value.as_ref().is_none_or(|v| *v == taint.value)
    }
}

/// Over what the members of a group are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// Nodes.
    Node,
    /// Zones.
    Zone,
}

/// At most so many members of the workload's group in one place; one per node is anti-affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// What a place is.
    pub over: Over,
    /// The most members in one.
    pub at_most: u32,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its identity.
    pub id: WorkloadId,
    /// What is set aside for it.
    pub requests: Resources,
    /// What it uses, as far as known.
    #[serde(default)]
    pub demand: Demand,
    /// Where it runs; `None` while it waits for a node.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// What makes others its siblings: a deployment, a stateful set, …
    #[serde(default)]
    pub group: Option<String>,
    /// Labels a node must have.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// What else it asks of a node's labels.
    #[serde(default, skip_serializing_if = "Affinity::is_empty")]
    pub affinity: Affinity,
    /// Taints that it puts up with.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// How members of the group are spread.
    #[serde(default)]
    pub spread: Vec<Spread>,
    /// Groups that must not be on the same node.
    #[serde(default)]
    pub avoid: Vec<String>,
    /// Larger is placed first.
    #[serde(default)]
    pub priority: i32,
    /// Must stay where it is (annotation `do-not-disrupt`, local data, a bare pod).
    #[serde(default)]
    pub stays: bool,
    /// Belongs to its node and ends with it (daemon sets): never moved, never in the way of powering off.
    #[serde(default)]
    pub per_node: bool,
    /// What moving it takes.
    #[serde(default)]
    pub migration: Migration,
    /// When it last came to a node: was placed, or moved.
    #[serde(default)]
    pub moved: Option<Time>,
}

impl Workload {
    /// A workload that waits for a node and has no wishes.
    pub fn new(id: WorkloadId, requests: Resources) -> Self {
        Self {
            id,
            requests,
            demand: Demand::default(),
            node: None,
            group: None,
            selector: BTreeMap::new(),
            affinity: Affinity::default(),
            tolerations: Vec::new(),
            spread: Vec::new(),
            avoid: Vec::new(),
            priority: 0,
            stays: false,
            per_node: false,
            migration: Migration::default(),
            moved: None,
        }
    }

    /// Whether labels and taints allow `node`.
    pub fn admits(&self, node: &Node) -> bool {
        self.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && self.affinity.admits(&node.labels)
            && node.taints.iter().all(|taint| self.tolerations.iter().any(|t| t.covers(taint)))
    }

    /// All that [`Workload::admits`] goes by: workloads with the same wishes may be on the same nodes.
    pub fn wishes(&self) -> (&BTreeMap<String, String>, &Affinity, &[Toleration]) {
        (&self.selector, &self.affinity, &self.tolerations)
    }

    /// Thousandths of a CPU that it is expected to use: measured if known, else what it requests.
    pub fn expected_milli(&self) -> f64 {
        self.demand.level().unwrap_or(self.requests.cpu_milli as f64)
    }
}
