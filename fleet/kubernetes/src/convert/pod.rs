//! A pod as its object describes it.

use std::collections::BTreeMap;

use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Toleration;
use ebbtide_proto::{NodeId, WorkloadId, WorkloadKind};
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::place::{self, Affinity, Picks};
use super::{Rules, largest, resources};
use crate::names;

/// What makes pods siblings, and whether they come back when they are evicted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Nobody: whoever evicts it loses it.
    Nobody,
    /// It belongs to its node: of a daemon set, or started by the node itself.
    Node,
    /// A controller that replaces it: kind and name, a deployment rather than its replica set.
    Controller(String, String),
}

/// Over what pods keep apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Across {
    /// Nodes.
    Nodes,
    /// Zones.
    Zones,
}

/// Pods that must not be in the same place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Apart {
    /// What a place is.
    pub across: Across,
    /// Which pods.
    pub from: Picks,
    /// In these namespaces; empty: the pod's own.
    pub namespaces: Vec<String>,
}

/// Pods of which one place may have at most so many more than another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Even {
    /// What a place is.
    pub across: Across,
    /// How many more.
    pub skew: u32,
    /// Which pods.
    pub of: Picks,
}

/// What is the same for all pods of a template; kept once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The namespace.
    pub namespace: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// Whose they are.
    pub owner: Owner,
    /// What is set aside for one, a place among the node's pods included.
    pub requests: Resources,
    /// Labels that the node must have.
    pub selector: BTreeMap<String, String>,
    /// What the node must be besides.
    pub affinity: Affinity,
    /// Taints that it puts up with, see [`place::tolerations`].
    pub tolerations: Vec<Toleration>,
    /// Keeps apart from these.
    pub apart: Vec<Apart>,
    /// Is spread evenly.
    pub even: Vec<Even>,
    /// Larger is placed first.
    pub priority: i32,
    /// Why it can't be moved, if it can't.
    pub stays: Option<&'static str>,
    /// Whether somebody said that it may be moved whatever namespace it is in.
    pub safe: bool,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has a node.
    On(NodeId),
    /// It has one, and was told to end.
    Ending(NodeId),
    /// No node takes it.
    Unschedulable,
    /// It takes no room, or is just being placed.
    Elsewhere,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// What the agents call it.
    pub id: WorkloadId,
    /// Its identity in the API.
    pub uid: String,
    /// Where it is.
    pub phase: Phase,
    /// Its claims of volumes.
    pub claims: Box<[String]>,
}

fn annotation<'a>(pod: &'a v1::Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Sidecars are init containers that go on.
fn goes_on(container: &v1::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the scheduler counts for a pod.
///
/// Source: <https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers>
pub fn requests(pod: &v1::Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let granted = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let asks = |c: &v1::Container| {
        let asked = resources(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
        // until a resize is through, the larger of both is set aside
        let status = granted.and_then(|all| all.iter().find(|s| s.name == c.name));
        let given = status.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
        largest(asked, &resources(given))
    };
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut one = asks(container);
        if goes_on(container) {
            sidecars.add(&one);
            starting = largest(starting, &sidecars);
        } else {
            one.add(&sidecars);
            starting = largest(starting, &one);
        }
    }
    let mut running = sidecars;
    for container in &spec.containers {
        running.add(&asks(container));
    }
    let mut all = largest(running, &starting);
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    for (name, _) in whole.into_iter().flatten() {
        let told = resources(whole);
        match name.as_str() {
            "cpu" => all.cpu_milli = told.cpu_milli,
            "memory" => all.memory = told.memory,
            _ => {}
        }
    }
    all.add(&resources(spec.overhead.as_ref()));
    all.named.insert("pods".to_owned(), 1);
    all
}

/// Whose a pod is. A deployment is known by its replica set's name, which ends in the hash that is in a label.
fn owner(pod: &v1::Pod) -> Owner {
    if annotation(pod, names::MIRROR).is_some() {
        return Owner::Node;
    }
    let of = |o: &&OwnerReference| o.controller == Some(true);
    let Some(owner) = pod.metadata.owner_references.iter().flatten().find(of) else { return Owner::Nobody };
    let hash = pod.metadata.labels.as_ref().and_then(|l| l.get(names::TEMPLATE_HASH));
    match owner.kind.as_str() {
        "DaemonSet" | "Node" => Owner::Node,
        "ReplicaSet" => match hash.and_then(|h| owner.name.strip_suffix(h.as_str())?.strip_suffix('-')) {
            Some(deployment) => Owner::Controller("Deployment".to_owned(), deployment.to_owned()),
            None => Owner::Controller("ReplicaSet".to_owned(), owner.name.clone()),
        },
        kind => Owner::Controller(kind.to_owned(), owner.name.clone()),
    }
}

/// Volumes that are lost with the node.
fn local_volume(pod: &v1::Pod, spec: &v1::PodSpec, rules: &Rules) -> Option<&'static str> {
    let spared = annotation(pod, names::SAFE_VOLUMES).unwrap_or("");
    let volumes = spec.volumes.iter().flatten();
    volumes.filter(|v| !spared.split(',').any(|s| s.trim() == v.name)).find_map(|v| {
        if v.host_path.is_some() {
            Some("it uses a path of its node")
        } else if v.empty_dir.is_some() && !rules.empty_dirs_move {
            Some("what is in its emptyDir would be lost")
        } else {
            None
        }
    })
}

fn across(topology_key: &str, rules: &Rules) -> Option<Across> {
    match topology_key {
        names::HOSTNAME => Some(Across::Nodes),
        key if key == rules.zone_label => Some(Across::Zones),
        _ => None,
    }
}

/// Keeping apart and evenness, as far as they can be told; or why they can't.
fn spread(spec: &v1::PodSpec, rules: &Rules) -> Result<(Vec<Apart>, Vec<Even>), &'static str> {
    let affinity = spec.affinity.as_ref();
    let together = affinity.and_then(|a| a.pod_affinity.as_ref());
    if together
        .and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref())
        .is_some_and(|t| !t.is_empty())
    {
        return Err("it has to be where other pods are");
    }
    let mut apart = Vec::new();
    let terms = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    for term in terms.and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref()).into_iter().flatten()
    {
        let across = across(&term.topology_key, rules).ok_or("it keeps apart by a label that planning doesn't know")?;
        let keyed = |keys: &Option<Vec<String>>| keys.as_ref().is_some_and(|k| !k.is_empty());
        if term.namespace_selector.is_some() || keyed(&term.match_label_keys) || keyed(&term.mismatch_label_keys) {
            return Err("it keeps apart from pods that planning can't name");
        }
        let from = Picks::of(term.label_selector.as_ref());
        apart.push(Apart { across, from, namespaces: term.namespaces.clone().unwrap_or_default() });
    }
    let mut even = Vec::new();
    for c in spec.topology_spread_constraints.iter().flatten().filter(|c| c.when_unsatisfiable == "DoNotSchedule") {
        let across = across(&c.topology_key, rules).ok_or("it is spread by a label that planning doesn't know")?;
        let skew = u32::try_from(c.max_skew).unwrap_or(1);
        even.push(Even { across, skew, of: Picks::of(c.label_selector.as_ref()) });
    }
    Ok((apart, even))
}

/// Reads a pod; `None` if it has no name or no identity.
pub fn pod(pod: &v1::Pod, rules: &Rules) -> Option<(Pod, Template)> {
    let uid = pod.metadata.uid.clone()?;
    let namespace = pod.metadata.namespace.clone()?;
    let spec = pod.spec.as_ref()?;
    // the kubelet, and so the agent, knows pods of its own by another identity
    let seen_as = annotation(pod, names::STATIC_UID).filter(|_| annotation(pod, names::MIRROR).is_some());
    let id = WorkloadId::new(WorkloadKind::Pod, seen_as.unwrap_or(&uid)).ok()?;
    let status = pod.status.as_ref();
    let over = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let node = spec.node_name.as_deref().and_then(|n| NodeId::new(n).ok());
    let conditions = status.and_then(|s| s.conditions.as_ref());
    let refused = conditions.is_some_and(|all| {
        all.iter()
            .any(|c| c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable"))
    });
    let ending = pod.metadata.deletion_timestamp.is_some();
    let phase = match node {
        _ if over => Phase::Elsewhere,
        Some(node) if ending => Phase::Ending(node),
        Some(node) => Phase::On(node),
        None if refused && !ending => Phase::Unschedulable,
        None => Phase::Elsewhere,
    };
    let owner = owner(pod);
    let safe = annotation(pod, names::SAFE_TO_EVICT) == Some("true");
    let kept = annotation(pod, names::SAFE_TO_EVICT) == Some("false")
        || [names::DO_NOT_DISRUPT, names::KARPENTER_DO_NOT_DISRUPT]
            .iter()
            .any(|key| annotation(pod, key).is_some_and(|v| v != "false"));
    let (apart, even, unknown) = match spread(spec, rules) {
        Ok((apart, even)) => (apart, even, None),
        Err(why) => (Vec::new(), Vec::new(), Some(why)),
    };
    let host_port = |c: &v1::Container| c.ports.iter().flatten().any(|p| p.host_port.is_some_and(|n| n > 0));
    let claims = spec.volumes.iter().flatten().filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        // the claim of an ephemeral volume is named after pod and volume
        (None, Some(_)) => Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or(""), v.name)),
        (None, None) => None,
    });
    let stays = if kept {
        Some("it is annotated to stay")
    } else if owner == Owner::Nobody {
        Some("nothing would start it again")
    } else if matches!(&owner, Owner::Controller(kind, _) if kind == "Job") && !rules.jobs_move && !safe {
        Some("its job would begin anew")
    } else if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        Some("it has devices of its node")
    } else if spec.containers.iter().any(host_port) {
        Some("it uses ports of its node")
    } else if let Some(why) = local_volume(pod, spec, rules).filter(|_| !safe) {
        Some(why)
    } else {
        unknown
    };
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    // these differ from pod to pod of one set, and nobody selects by them
    for own in ["statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"] {
        labels.remove(own);
    }
    let mut template = Template {
        labels,
        owner,
        requests: requests(pod),
        selector: spec.node_selector.clone().unwrap_or_default(),
        affinity: place::required(spec),
        tolerations: place::tolerations(spec),
        apart,
        even,
        priority: spec.priority.unwrap_or(0),
        stays,
        safe,
        namespace,
    };
    if template.owner == Owner::Node {
        // each is tied to its node by its name; that it is there says as much
        template.selector.clear();
        (template.affinity, template.apart, template.even) = (Vec::new(), Vec::new(), Vec::new());
    }
    Some((Pod { id, uid, phase, claims: claims.collect() }, template))
}
