//! Kubernetes' objects become what planning needs, and no more. Pure.
//!
//! `node` and `pod` read objects into small values of their own; `place` has the rules by which a node takes a pod.
//! What can't be told to the planner exactly is told so that it does less: a pod stays where it is, and says why.

pub mod node;
pub mod place;
pub mod pod;

use std::collections::BTreeMap;

use ebbtide_planner::state::resources::Resources;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use crate::{names, quantity};

/// What an operator says about the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rules {
    /// The label that names a node's pool.
    pub pool_label: String,
    /// The label that names a node's failure zone.
    pub zone_label: String,
    /// Whether pods with an `emptyDir` may be moved, which loses what is in it.
    pub empty_dirs_move: bool,
    /// Whether pods of jobs may be moved, which loses their work so far.
    pub jobs_move: bool,
    /// Namespaces whose pods stay unless a disruption budget says how many may be away.
    pub kept_namespaces: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            pool_label: "ebbtide.dev/pool".to_owned(),
            zone_label: names::ZONE.to_owned(),
            empty_dirs_move: false,
            jobs_move: false,
            kept_namespaces: vec!["kube-system".to_owned()],
        }
    }
}

/// Quantities as the planner counts them. What is no quantity is left out.
pub(crate) fn resources(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
    let mut found = Resources::default();
    for (name, Quantity(text)) in quantities.into_iter().flatten() {
        match name.as_str() {
            "cpu" => found.cpu_milli = quantity::milli(text).unwrap_or(0),
            "memory" => found.memory = quantity::whole(text).unwrap_or(0),
            _ => {
                if let Some(amount) = quantity::whole(text) {
                    found.named.insert(name.clone(), amount);
                }
            }
        }
    }
    found
}

/// The larger of each amount.
pub(crate) fn largest(a: Resources, b: &Resources) -> Resources {
    let mut most = a;
    most.cpu_milli = most.cpu_milli.max(b.cpu_milli);
    most.memory = most.memory.max(b.memory);
    for (name, amount) in &b.named {
        let have = most.named.entry(name.clone()).or_default();
        *have = (*have).max(*amount);
    }
    most
}
