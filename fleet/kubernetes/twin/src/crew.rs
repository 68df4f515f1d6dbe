//! Who works in a cluster besides the server: node lifecycle, replica sets, a scheduler, kubelets, budgets.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::budget;
use crate::fit;
use crate::kinds::{LEASES, NAMESPACES, NODES, PODS, REPLICA_SETS, SERVICE_ACCOUNTS};
use crate::patch::object;
use crate::store::key;
use crate::world::{World, micros};

/// Chooses a node for a pod among all nodes; the third argument are all pods.
pub type Choose = dyn Fn(&Value, &[Arc<Value>], &[Arc<Value>]) -> Option<String> + Send;

/// Who is at work.
#[derive(Default)]
pub struct Crew {
    /// The scheduler; without one, pods wait.
    pub scheduler: Option<Box<Choose>>,
    /// Whether nodes run what is bound to them.
    pub kubelets: bool,
    /// Nodes whose kubelet doesn't speak.
    pub silent: BTreeSet<String>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("kubelets", &self.kubelets).field("silent", &self.silent).finish_non_exhaustive()
    }
}

const LIFECYCLE: [&str; 3] =
    ["node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

impl Crew {
    /// Everybody does what there is to do.
    pub fn step(world: &mut World) {
        accounts(world);
        lifecycle(world);
        replicas(world);
        kubelets(world);
        schedule(world);
        kubelets(world);
        budget::count(world);
    }
}

/// Each namespace has a service account.
fn accounts(world: &mut World) {
    for (at, _) in world.every(NAMESPACES) {
        if world.store.get(&key(SERVICE_ACCOUNTS, &at.2, "default")).is_none() {
            let made = json!({"metadata": {"name": "default"}});
            drop(world.create(SERVICE_ACCOUNTS, &at.2, made, "kube-controller-manager", false));
        }
    }
}

/// The state of a node's condition `Ready`.
fn ready(node: &Value) -> &str {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
    ready.and_then(|c| c["status"].as_str()).unwrap_or("Unknown")
}

fn lifecycle(world: &mut World) {
    let time = world.time();
    for (at, node) in world.every(NODES) {
        let silent = world.crew.silent.contains(&at.2);
        let mut wanted: Vec<&str> = Vec::new();
        if node["spec"]["unschedulable"] == true {
            wanted.push(LIFECYCLE[0]);
        }
        match if silent { "Unknown" } else { ready(&node) } {
            "True" => {}
            "False" => wanted.push(LIFECYCLE[1]),
            _ => wanted.push(LIFECYCLE[2]),
        }
        world.edit(&at, |node| {
            let notes = object(object(&mut node["metadata"]).entry("annotations").or_insert_with(|| json!({})));
            notes.entry("node.alpha.kubernetes.io/ttl").or_insert_with(|| "0".into());
            if silent {
                let unknown = json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
                    "message": "Kubelet stopped posting node status."});
                crate::patch::strategic(node, &json!({"status": {"conditions": [unknown]}}));
            }
            let spec = object(&mut node["spec"]);
            let mut taints = spec.get("taints").and_then(Value::as_array).cloned().unwrap_or_default();
            let key = |t: &Value| t["key"].as_str().unwrap_or("").to_owned();
            taints.retain(|t| !LIFECYCLE.contains(&key(t).as_str()) || wanted.contains(&key(t).as_str()));
            for name in &wanted {
                if !taints.iter().any(|t| key(t) == *name) {
                    taints.push(json!({"key": name, "effect": "NoSchedule", "timeAdded": time}));
                }
            }
            if taints.is_empty() {
                spec.remove("taints");
            } else {
                spec.insert("taints".to_owned(), taints.into());
            }
        });
    }
}

/// Replica sets have as many pods as they want.
fn replicas(world: &mut World) {
    for (at, set) in world.every(REPLICA_SETS) {
        let wants = set["spec"]["replicas"].as_u64().unwrap_or(1);
        let uid = &set["metadata"]["uid"];
        let there = world.store.all(PODS, &at.1).filter(|(_, p)| {
            p["metadata"]["ownerReferences"][0]["uid"] == *uid
                && p["metadata"]["deletionTimestamp"].is_null()
                && !matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        });
        let have = there.count() as u64;
        if set["spec"]["template"].is_null() {
            continue;
        }
        for _ in have..wants {
            let mut pod = set["spec"]["template"].clone();
            pod["metadata"]["generateName"] = format!("{}-", at.2).into();
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": at.2, "uid": uid, "controller": true, "blockOwnerDeletion": true}]);
            // a template that can't be made is the test's mistake and shows as missing pods
            drop(world.create(PODS, &at.1, pod, "kube-controller-manager", false));
        }
    }
}

/// Pods that are bound start; pods that were told to end do.
fn kubelets(world: &mut World) {
    if !world.crew.kubelets {
        return;
    }
    let time = world.time();
    for (at, pod) in world.every(PODS) {
        let Some(node) = pod["spec"]["nodeName"].as_str() else { continue };
        if world.crew.silent.contains(node) || world.store.get(&key(NODES, "", node)).is_none() {
            continue;
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            world.store.remove(&at);
        } else if pod["status"]["phase"] == "Pending" {
            world.edit(&at, |pod| {
                let condition = |kind: &str| {
                    json!({"type": kind, "status": "True", "lastProbeTime": null,
                    "lastTransitionTime": time})
                };
                let all: Vec<Value> =
                    ["Ready", "ContainersReady", "Initialized", "PodScheduled"].map(condition).to_vec();
                pod["status"]["phase"] = "Running".into();
                pod["status"]["conditions"] = all.into();
            });
        }
    }
}

fn schedule(world: &mut World) {
    let Some(choose) = world.crew.scheduler.take() else { return };
    let nodes: Vec<Arc<Value>> = world.every(NODES).into_values().collect();
    for (at, pod) in waiting(world) {
        let pods: Vec<Arc<Value>> = world.every(PODS).into_values().collect();
        match choose(&pod, &nodes, &pods) {
            Some(node) => drop(world.bind(&at.1, &at.2, &node)),
            None => unschedulable(world, &at, nodes.len()),
        }
    }
    world.crew.scheduler = Some(choose);
}

/// Pods that the default scheduler has to place.
pub fn waiting(world: &World) -> Vec<(crate::store::Key, Arc<Value>)> {
    let waits = |p: &Value| {
        p["spec"]["nodeName"].is_null()
            && p["spec"]["schedulerName"] == "default-scheduler"
            && p["metadata"]["deletionTimestamp"].is_null()
            && p["spec"]["schedulingGates"].as_array().is_none_or(Vec::is_empty)
    };
    world.every(PODS).into_iter().filter(|(_, p)| waits(p)).collect()
}

/// Says of a pod that no node takes it.
pub fn unschedulable(world: &mut World, at: &crate::store::Key, nodes: usize) {
    let time = world.time();
    world.edit(at, |pod| {
        if pod["status"]["conditions"][0]["reason"] != "Unschedulable" {
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "observedGeneration": 1,
                "status": "False", "lastProbeTime": null, "lastTransitionTime": time, "reason": "Unschedulable",
                "message": format!("0/{nodes} nodes are available: {nodes} Insufficient cpu. no new claims to \
                    deallocate, preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for \
                    scheduling.")}]);
        }
    });
}

/// The first node, by name, that takes the pod.
pub fn first_fit(pod: &Value, nodes: &[Arc<Value>], pods: &[Arc<Value>]) -> Option<String> {
    let node = nodes.iter().find(|n| ready(n) == "True" && fit::takes(n, pod, pods))?;
    node["metadata"]["name"].as_str().map(str::to_owned)
}

/// Nodes whose kubelets speak renew their leases.
pub fn heartbeat(world: &mut World) {
    let now = micros(world.now_ms);
    for (at, _) in world.every(NODES) {
        if world.crew.silent.contains(&at.2) {
            continue;
        }
        let lease = key(LEASES, "kube-node-lease", &at.2);
        if world.store.get(&lease).is_none() {
            let made = json!({"metadata": {"name": at.2}, "spec": {"holderIdentity": at.2,
                "leaseDurationSeconds": 40}});
            drop(world.create(LEASES, "kube-node-lease", made, "kubelet", false));
        }
        world.edit(&lease, |l| l["spec"]["renewTime"] = now.clone().into());
    }
}
