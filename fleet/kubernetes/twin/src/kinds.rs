//! The kinds of objects that there are.

/// A kind of object.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The name in paths.
    pub plural: &'static str,
    /// The name in objects.
    pub name: &'static str,
    /// Whether it lives in a namespace.
    pub namespaced: bool,
}

impl Kind {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The plural with its group, as messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

const fn core(plural: &'static str, name: &'static str, namespaced: bool) -> Kind {
    Kind { group: "", version: "v1", plural, name, namespaced }
}

const fn of(group: &'static str, plural: &'static str, name: &'static str) -> Kind {
    Kind { group, version: "v1", plural, name, namespaced: true }
}

/// Nodes.
pub const NODES: &Kind = &core("nodes", "Node", false);
/// Pods.
pub const PODS: &Kind = &core("pods", "Pod", true);
/// Namespaces.
pub const NAMESPACES: &Kind = &core("namespaces", "Namespace", false);
/// Events; those of `events.k8s.io` are the same objects in other words.
pub const EVENTS: &Kind = &core("events", "Event", true);
/// Settings.
pub const CONFIG_MAPS: &Kind = &core("configmaps", "ConfigMap", true);
/// Service accounts.
pub const SERVICE_ACCOUNTS: &Kind = &core("serviceaccounts", "ServiceAccount", true);
/// Volumes.
pub const VOLUMES: &Kind = &core("persistentvolumes", "PersistentVolume", false);
/// Claims of volumes.
pub const CLAIMS: &Kind = &core("persistentvolumeclaims", "PersistentVolumeClaim", true);
/// Replica sets.
pub const REPLICA_SETS: &Kind = &of("apps", "replicasets", "ReplicaSet");
/// Disruption budgets.
pub const BUDGETS: &Kind = &of("policy", "poddisruptionbudgets", "PodDisruptionBudget");
/// Leases.
pub const LEASES: &Kind = &of("coordination.k8s.io", "leases", "Lease");
/// Events in the words of their own group.
pub const NEW_EVENTS: &Kind = &of("events.k8s.io", "events", "Event");

/// All of them.
pub const ALL: &[&Kind] = &[
    NODES,
    PODS,
    NAMESPACES,
    EVENTS,
    CONFIG_MAPS,
    SERVICE_ACCOUNTS,
    VOLUMES,
    CLAIMS,
    REPLICA_SETS,
    &of("apps", "deployments", "Deployment"),
    &of("apps", "statefulsets", "StatefulSet"),
    &of("apps", "daemonsets", "DaemonSet"),
    &of("batch", "jobs", "Job"),
    BUDGETS,
    LEASES,
    NEW_EVENTS,
];

/// The kind with this plural in this group and version.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter().copied().find(|k| k.group == group && k.version == version && k.plural == plural)
}
