//! The extender's messages: `k8s.io/kube-scheduler/extender/v1`, whose fields have their Go names.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::view::{Asked, Verdict};
use crate::convert::Rules;
use crate::convert::pod::{self, Owner};

/// `ExtenderArgs`.
#[derive(Debug, Deserialize)]
pub struct Arguments<'a> {
    /// The pod.
    #[serde(rename = "Pod", alias = "pod")]
    pub pod: Box<v1::Pod>,
    /// Nodes as objects, if the extender isn't `nodeCacheCapable`.
    #[serde(rename = "Nodes", alias = "nodes", borrow, default)]
    pub nodes: Option<Nodes<'a>>,
    /// Nodes by name, if it is.
    #[serde(rename = "NodeNames", alias = "nodenames", alias = "nodeNames", default)]
    pub node_names: Option<Vec<String>>,
}

/// `NodeList`, of which only names are read.
#[derive(Debug, Deserialize)]
pub struct Nodes<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
}

/// `NodeList`, with the objects as they came.
#[derive(Debug, Serialize)]
pub struct NodesBack<'a> {
    metadata: BTreeMap<(), ()>,
    items: Vec<&'a RawValue>,
}

/// `ExtenderFilterResult`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct FilterResult<'a> {
    /// Nodes that are left, as objects.
    pub nodes: Option<NodesBack<'a>>,
    /// The same by name.
    pub node_names: Option<Vec<String>>,
    /// Nodes that are not, and why; preempting pods there may help.
    pub failed_nodes: BTreeMap<String, String>,
    /// The same where that doesn't help.
    pub failed_and_unresolvable_nodes: BTreeMap<String, String>,
    /// What went wrong; the scheduler gives up then, unless the extender is `ignorable`.
    pub error: String,
}

/// `HostPriority`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostPriority {
    /// The node.
    pub host: String,
    /// 0 to 10, more is better.
    pub score: i64,
}

impl<'a> Arguments<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// By what the pod that asks is known.
    pub fn pod_id(&self) -> &str {
        let meta = &self.pod.metadata;
        meta.uid.as_deref().or(meta.name.as_deref()).unwrap_or("")
    }

    fn items(&self) -> &[&'a RawValue] {
        self.nodes.as_ref().and_then(|n| n.items.as_deref()).unwrap_or(&[])
    }

    /// The names of all nodes; one that can't be read has an empty one.
    pub fn names(&self) -> Vec<String> {
        if let Some(names) = &self.node_names {
            return names.clone();
        }
        let name = |raw: &&RawValue| {
            serde_json::from_str::<Named<'_>>(raw.get()).map(|n| n.metadata.name.into_owned()).unwrap_or_default()
        };
        self.items().iter().map(name).collect()
    }

    /// What is asked for.
    pub fn asked(&self, rules: &Rules) -> Asked {
        match pod::pod(&self.pod, rules) {
            Some((_, template)) => Asked {
                per_node: template.owner == Owner::Node,
                group: match &template.owner {
                    Owner::Controller(kind, name) => Some(format!("{}/{kind}/{name}", template.namespace)),
                    _ => None,
                },
                requests: template.requests,
            },
            None => Asked { per_node: false, group: None, requests: pod::requests(&self.pod) },
        }
    }

    /// The answer to a filter.
    pub fn answer(&'a self, names: &[String], verdicts: Vec<Verdict>) -> FilterResult<'a> {
        let mut result = FilterResult::default();
        let mut kept = Vec::with_capacity(names.len());
        for (at, (name, verdict)) in names.iter().zip(verdicts).enumerate() {
            match verdict {
                Verdict::Fits => kept.push(at),
                Verdict::Full(why) => drop(result.failed_nodes.insert(name.clone(), why)),
                Verdict::Leaves(why) => drop(result.failed_and_unresolvable_nodes.insert(name.clone(), why)),
            }
        }
        if self.node_names.is_some() {
            result.node_names = Some(kept.iter().filter_map(|at| names.get(*at).cloned()).collect());
        } else {
            let items = kept.iter().filter_map(|at| self.items().get(*at).copied()).collect();
            result.nodes = Some(NodesBack { metadata: BTreeMap::new(), items });
        }
        result
    }
}
