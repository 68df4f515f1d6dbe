//! Names of labels and annotations: ours and those of others that we respect.

/// Who cordoned a node, why and since when, as JSON; a cordon without it is somebody else's.
pub const CORDONED_BY: &str = "ebbtide.dev/cordoned-by";
/// What we are doing with a node.
pub const STATE: &str = "ebbtide.dev/state";
/// Why.
pub const STATE_REASON: &str = "ebbtide.dev/state-reason";
/// Since when.
pub const STATE_SINCE: &str = "ebbtide.dev/state-since";
/// Learned: watts without load.
pub const IDLE_WATTS: &str = "ebbtide.dev/idle-watts";
/// Learned: watts that one more busy core costs.
pub const CORE_WATTS: &str = "ebbtide.dev/watts-per-core";
/// Label: 1 for the most efficient node, counted up.
pub const EFFICIENCY_RANK: &str = "ebbtide.dev/efficiency-rank";
/// On a node: it is neither emptied nor filled nor switched. On a pod: it isn't moved.
pub const DO_NOT_DISRUPT: &str = "ebbtide.dev/do-not-disrupt";
/// On a node: somebody works on it.
pub const MAINTENANCE: &str = "ebbtide.dev/maintenance";
/// Karpenter's word for the same.
pub const KARPENTER_DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
/// The cluster autoscaler's: `false` keeps a pod where it is, `true` gives up its local volumes.
pub const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// The cluster autoscaler's: volumes, with commas between them, that may be lost.
pub const SAFE_VOLUMES: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// The cluster autoscaler's: `true` keeps a node.
pub const SCALE_DOWN_DISABLED: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
/// A node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// A node's name as a label.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// On pods that a node runs of its own accord.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// On the same: what the kubelet calls the pod where the agent sees it.
pub const STATIC_UID: &str = "kubernetes.io/config.hash";
/// On pods of a deployment: the part of the replica set's name that changes.
pub const TEMPLATE_HASH: &str = "pod-template-hash";
/// The prefix of labels that say which nodes a pod's affinity allows; only the planner sees them.
pub const FITS: &str = "ebbtide.dev/fits-";
/// The one that no node has: for affinities that can't be told.
pub const NOWHERE: &str = "ebbtide.dev/fits-nowhere";
