//! The cluster as it is known: small values of its objects, and what of them was told to the planner. Pure.
//!
//! This file keeps what comes in, `tell` makes events of it, `groups` finds out what concerns siblings together.
//! Nothing in here waits, or asks anybody.

mod groups;
mod tell;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ebbtide_planner::state::node::Node;
use ebbtide_proto::{NodeId, WorkloadId};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::convert::Rules;
use crate::convert::node::{self, ClusterNode};
use crate::convert::place::{self, Affinity, Picks};
use crate::convert::pod::{self, Phase, Pod, Template};

/// Namespace and name.
pub type Key = (Arc<str>, Arc<str>);

/// How many may be away of the pods that a disruption budget is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its namespace.
    pub namespace: String,
    /// Its pods.
    pub picks: Picks,
    /// How many more may be away now; none until the server has counted.
    pub allowed: u32,
}

/// A volume as far as it ties a pod to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Volume {
    local: bool,
    affinity: Affinity,
}

/// What is known of pods that have more in common than they show.
#[derive(Debug)]
struct Known {
    pod: Pod,
    template: Arc<Template>,
}

/// What was told of a workload.
#[derive(Debug)]
struct Told {
    digest: u64,
    node: Option<NodeId>,
}

/// The cluster as it is known.
#[derive(Debug)]
pub struct Inventory {
    rules: Rules,
    nodes: BTreeMap<NodeId, ClusterNode>,
    pods: HashMap<Key, Known>,
    /// Where each identity is found.
    by_id: HashMap<WorkloadId, Key>,
    budgets: BTreeMap<Key, Budget>,
    claims: BTreeMap<Key, Option<String>>,
    volumes: BTreeMap<String, Volume>,
    templates: HashMap<u64, Arc<Template>>,
    /// Pods whose news weren't told.
    changed: HashSet<Key>,
    /// Whether anything changed that concerns pods besides their own objects.
    all_changed: bool,
    told_nodes: BTreeMap<NodeId, Node>,
    told: HashMap<WorkloadId, Told>,
    told_groups: BTreeMap<String, u32>,
    told_templates: HashMap<u64, u64>,
    fits: BTreeMap<Affinity, String>,
    synced: bool,
}

/// A digest of anything that can be written for debugging: only compared within this process.
fn digest(of: &impl std::fmt::Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{of:?}").hash(&mut hasher);
    hasher.finish()
}

/// Key of an object; `None` if it has no name.
pub fn key(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<Key> {
    Some((meta.namespace.as_deref().unwrap_or("").into(), meta.name.as_deref()?.into()))
}

impl Inventory {
    /// Knows nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            nodes: BTreeMap::new(),
            pods: HashMap::new(),
            by_id: HashMap::new(),
            budgets: BTreeMap::new(),
            claims: BTreeMap::new(),
            volumes: BTreeMap::new(),
            templates: HashMap::new(),
            changed: HashSet::new(),
            all_changed: true,
            told_nodes: BTreeMap::new(),
            told: HashMap::new(),
            told_groups: BTreeMap::new(),
            told_templates: HashMap::new(),
            fits: BTreeMap::new(),
            synced: false,
        }
    }

    /// A node.
    pub fn node(&self, id: &NodeId) -> Option<&ClusterNode> {
        self.nodes.get(id)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &ClusterNode> {
        self.nodes.values()
    }

    /// Namespace and name of a workload's pod.
    pub fn pod(&self, id: &WorkloadId) -> Option<(&Key, &Pod, &Template)> {
        let key = self.by_id.get(id)?;
        self.pods.get(key).map(|known| (key, &known.pod, &*known.template))
    }

    /// How many pods are known.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// How many different pods are known: what memory grows with.
    pub fn templates(&self) -> usize {
        self.templates.len()
    }

    /// Takes in a node.
    pub fn put_node(&mut self, object: &v1::Node) {
        let Some(node) = node::node(object, &self.rules) else { return };
        let zone = |n: &ClusterNode| n.zone.clone();
        if self.nodes.get(&node.id).map(zone) != Some(zone(&node)) {
            self.all_changed = true;
        }
        self.nodes.insert(node.id.clone(), node);
    }

    /// Takes in a pod.
    pub fn put_pod(&mut self, object: &v1::Pod) {
        let Some(key) = key(&object.metadata) else { return };
        let Some((pod, template)) = pod::pod(object, &self.rules) else { return };
        if pod.phase == Phase::Elsewhere {
            self.drop_pod(&key);
            return;
        }
        let template = self.shared(template);
        if self.pods.get(&key).is_some_and(|k| k.pod == pod && Arc::ptr_eq(&k.template, &template)) {
            return;
        }
        // the name may be a new pod's
        if self.pods.get(&key).is_some_and(|k| k.pod.id != pod.id) {
            self.drop_pod(&key);
        }
        self.by_id.insert(pod.id.clone(), key.clone());
        self.changed.insert(key.clone());
        self.pods.insert(key, Known { pod, template });
    }

    /// The one copy of a template.
    fn shared(&mut self, template: Template) -> Arc<Template> {
        let mut at = digest(&template);
        loop {
            match self.templates.get(&at) {
                Some(same) if **same == template => return Arc::clone(same),
                Some(_) => at = at.wrapping_add(1),
                None => break,
            }
        }
        let template = Arc::new(template);
        self.templates.insert(at, Arc::clone(&template));
        template
    }

    /// Takes in a disruption budget.
    pub fn put_budget(&mut self, object: &PodDisruptionBudget) {
        let Some(key) = key(&object.metadata) else { return };
        let status = object.status.as_ref();
        let counted = status.and_then(|s| s.observed_generation) >= object.metadata.generation;
        let allowed = status.filter(|_| counted).and_then(|s| s.disruptions_allowed);
        let allowed = allowed.map_or(0, |n| u32::try_from(n).unwrap_or(0));
        let picks = Picks::of(object.spec.as_ref().and_then(|s| s.selector.as_ref()));
        self.budgets.insert(key.clone(), Budget { namespace: key.0.to_string(), picks, allowed });
    }

    /// Takes in a claim of a volume.
    pub fn put_claim(&mut self, object: &v1::PersistentVolumeClaim) {
        let Some(key) = key(&object.metadata) else { return };
        let volume = object.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|v| !v.is_empty());
        if self.claims.get(&key) != Some(&volume) {
            self.claims.insert(key, volume);
            self.all_changed = true;
        }
    }

    /// Takes in a volume.
    pub fn put_volume(&mut self, object: &v1::PersistentVolume) {
        let (Some(name), Some(spec)) = (object.metadata.name.clone(), &object.spec) else { return };
        let required = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
        let local = spec.local.is_some() || spec.host_path.is_some();
        let volume = Volume { local, affinity: required.map(place::terms).into_iter().collect() };
        if self.volumes.get(&name) != Some(&volume) {
            self.volumes.insert(name, volume);
            self.all_changed = true;
        }
    }

    /// Forgets a node.
    pub fn drop_node(&mut self, key: &Key) {
        if let Ok(id) = NodeId::new(&key.1) {
            self.nodes.remove(&id);
        }
    }

    /// Forgets a pod.
    pub fn drop_pod(&mut self, key: &Key) {
        if let Some(known) = self.pods.remove(key) {
            // its identity may be in use again: static pods keep theirs
            if self.by_id.get(&known.pod.id) == Some(key) {
                self.by_id.remove(&known.pod.id);
            }
            self.changed.insert(key.clone());
        }
    }

    /// Forgets a budget.
    pub fn drop_budget(&mut self, key: &Key) {
        self.budgets.remove(key);
    }

    /// Forgets a claim.
    pub fn drop_claim(&mut self, key: &Key) {
        self.all_changed |= self.claims.remove(key).is_some();
    }

    /// Forgets a volume.
    pub fn drop_volume(&mut self, key: &Key) {
        self.all_changed |= self.volumes.remove(&*key.1).is_some();
    }

    /// Forgets nodes that aren't in a complete list.
    pub fn keep_nodes(&mut self, listed: &HashSet<Key>) {
        let names: HashSet<&str> = listed.iter().map(|k| &*k.1).collect();
        self.nodes.retain(|id, _| names.contains(id.as_str()));
    }

    /// Forgets pods that aren't in a complete list.
    pub fn keep_pods(&mut self, listed: &HashSet<Key>) {
        let gone: Vec<Key> = self.pods.keys().filter(|k| !listed.contains(*k)).cloned().collect();
        for key in gone {
            self.drop_pod(&key);
        }
    }

    /// Forgets budgets that aren't in a complete list.
    pub fn keep_budgets(&mut self, listed: &HashSet<Key>) {
        self.budgets.retain(|k, _| listed.contains(k));
    }

    /// Forgets claims that aren't in a complete list.
    pub fn keep_claims(&mut self, listed: &HashSet<Key>) {
        let before = self.claims.len();
        self.claims.retain(|k, _| listed.contains(k));
        self.all_changed |= self.claims.len() != before;
    }

    /// Forgets volumes that aren't in a complete list.
    pub fn keep_volumes(&mut self, listed: &HashSet<Key>) {
        let names: HashSet<&str> = listed.iter().map(|k| &*k.1).collect();
        let before = self.volumes.len();
        self.volumes.retain(|name, _| names.contains(name.as_str()));
        self.all_changed |= self.volumes.len() != before;
    }
}
