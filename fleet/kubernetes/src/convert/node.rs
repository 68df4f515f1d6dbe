//! A node as its object describes it.

use std::collections::BTreeMap;

use ebbtide_planner::state::node::{Node, PowerState, Taint};
use ebbtide_planner::state::resources::Resources;
use ebbtide_proto::NodeId;
use k8s_openapi::api::core::v1;
use serde::{Deserialize, Serialize};

use super::{Rules, resources};
use crate::names;

/// Our mark on a node that we closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Who: the identity of the leader that did it.
    pub by: String,
    /// The leader's generation.
    pub generation: u64,
    /// Why.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// For what, in the words of whoever closed it: only who says the same opens it again.
    #[serde(default)]
    pub holder: String,
}

/// Whether a node is closed to new pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cordon {
    /// It is open.
    #[default]
    Open,
    /// We closed it.
    Ours(Mark),
    /// Somebody else did: it is none of our business.
    Foreign,
}

/// What planning and acting need of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterNode {
    /// Its name.
    pub id: NodeId,
    /// The identity of this object; a node of the same name that is made anew has another.
    pub uid: String,
    /// Its pool.
    pub pool: String,
    /// Its failure zone.
    pub zone: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Taints that keep pods away, but for those that only say that it is closed or doesn't answer. The effect is a
    /// part of the key, `KEY:EFFECT`, as the planner's taints have none.
    pub taints: Vec<Taint>,
    /// All that it has.
    pub capacity: Resources,
    /// What pods may use of it.
    pub allocatable: Resources,
    /// Whether its kubelet says that it is ready; `None`: it doesn't answer.
    pub ready: Option<bool>,
    /// Whether it is closed.
    pub cordon: Cordon,
    /// Why it is to be left alone altogether, if it is.
    pub hands_off: Option<&'static str>,
    /// Why it is never to be powered off, if it isn't.
    pub stays_on: Option<&'static str>,
}

/// Taints that follow from the node's state, which the planner knows by other ways.
const LIFECYCLE: [&str; 3] =
    ["node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Labels of nodes that run the cluster itself.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

fn says_yes(annotations: &BTreeMap<String, String>, key: &str) -> bool {
    annotations.get(key).is_some_and(|v| v != "false")
}

/// Reads the mark that a node has, if it is ours.
pub fn mark(annotations: &BTreeMap<String, String>) -> Option<Mark> {
    serde_json::from_str(annotations.get(names::CORDONED_BY)?).ok()
}

/// Whether and by whom a node is closed.
pub fn cordon(node: &v1::Node) -> Cordon {
    if !node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        return Cordon::Open;
    }
    match node.metadata.annotations.as_ref().and_then(mark) {
        Some(mark) => Cordon::Ours(mark),
        None => Cordon::Foreign,
    }
}

/// What is needed of `node`; `None` if its name is none.
pub fn node(node: &v1::Node, rules: &Rules) -> Option<ClusterNode> {
    let id = NodeId::new(node.metadata.name.as_deref()?).ok()?;
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let nothing = BTreeMap::new();
    let notes = node.metadata.annotations.as_ref().unwrap_or(&nothing);
    let spec = node.spec.as_ref();
    let status = node.status.as_ref();
    let capacity = resources(status.and_then(|s| s.capacity.as_ref()));
    let allocatable = match status.and_then(|s| s.allocatable.as_ref()) {
        Some(told) => resources(Some(told)),
        None => capacity.clone(),
    };
    let taints = spec.and_then(|s| s.taints.as_ref()).into_iter().flatten();
    let counts = |t: &&v1::Taint| t.effect != "PreferNoSchedule" && !LIFECYCLE.contains(&t.key.as_str());
    let taint =
        |t: &v1::Taint| Taint { key: format!("{}:{}", t.key, t.effect), value: t.value.clone().unwrap_or_default() };
    let conditions = status.and_then(|s| s.conditions.as_ref());
    let ready = conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready"));
    let hands_off = if says_yes(notes, names::MAINTENANCE) {
        Some("it is in maintenance")
    } else if says_yes(notes, names::DO_NOT_DISRUPT) {
        Some("it is annotated do-not-disrupt")
    } else {
        None
    };
    let stays_on = if CONTROL_PLANE.iter().any(|l| labels.contains_key(*l)) {
        Some("it is of the control plane")
    } else if says_yes(notes, names::KARPENTER_DO_NOT_DISRUPT) || says_yes(notes, names::SCALE_DOWN_DISABLED) {
        Some("it is annotated to be kept")
    } else {
        None
    };
    Some(ClusterNode {
        id,
        uid: node.metadata.uid.clone().unwrap_or_default(),
        pool: labels.get(&rules.pool_label).cloned().unwrap_or_default(),
        zone: labels.get(&rules.zone_label).cloned(),
        taints: taints.filter(counts).map(taint).collect(),
        capacity,
        allocatable,
        ready: ready.and_then(|c| match c.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }),
        cordon: cordon(node),
        hands_off,
        stays_on,
        labels,
    })
}

impl ClusterNode {
    /// Puts what Kubernetes knows into `base`, which has what it doesn't: curve, switch, circuit.
    #[must_use]
    pub fn planned(&self, mut base: Node) -> Node {
        base.id = self.id.clone();
        if !self.pool.is_empty() {
            base.pool.clone_from(&self.pool);
        }
        base.zone = self.zone.clone().or(base.zone);
        base.labels.clone_from(&self.labels);
        base.taints.clone_from(&self.taints);
        base.capacity = self.capacity.clone();
        base.reserved = self.capacity.saturating_sub(&self.allocatable);
        // our own cordon is a step of a plan, not somebody's wish
        let foreign = self.cordon == Cordon::Foreign || self.hands_off.is_some();
        base.cordoned = foreign || self.ready == Some(false);
        base.switchable &= self.hands_off.is_none() && self.stays_on.is_none();
        // a kubelet that speaks is a sign of life; one that doesn't says nothing
        base.power = match (self.ready, base.power) {
            (Some(_), _) => PowerState::On,
            (None, known @ (PowerState::Off | PowerState::TurningOff | PowerState::TurningOn)) => known,
            (None, _) => PowerState::Unknown,
        };
        base
    }
}
