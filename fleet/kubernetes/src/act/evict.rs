//! Moving pods away by the Eviction API, which keeps to disruption budgets, and seeing what is left.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use kube::core::Status;
use serde_json::json;

use super::{Failed, Hands, code};
use crate::convert::Rules;
use crate::convert::pod::{self, Owner};

/// One pod, as an eviction names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evictee {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity: a pod of the same name that came after it is another.
    pub uid: String,
}

/// What an eviction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The pod was told to end.
    Told,
    /// It is there no longer.
    Gone,
    /// A budget forbids it for now.
    Refused {
        /// When to ask again, in seconds, if the server said so.
        retry_s: Option<u32>,
        /// What the server said.
        why: String,
    },
}

/// A pod that is still on a node and doesn't belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub pod: Evictee,
    /// Whether it was told to end.
    pub ending: bool,
}

impl Hands {
    /// Evicts a pod; it has `grace_s` seconds, or as many as it asks for.
    ///
    /// # Errors
    /// If the server refuses for another reason than a budget, or doesn't answer.
    pub async fn evict(&self, pod: &Evictee, grace_s: Option<u32>) -> Result<Eviction, Failed> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        // written out here: kube's own sends `delete_options`, which the server doesn't know and leaves out
        let mut options = json!({"preconditions": {"uid": pod.uid}});
        if let Some(s) = grace_s {
            options["gracePeriodSeconds"] = s.into();
        }
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace}, "deleteOptions": options});
        let answer: Result<Status, _> =
            pods.create_subresource("eviction", &pod.name, &PostParams::default(), &eviction).await;
        let error = match answer {
            Ok(_) => return Ok(Eviction::Told),
            Err(error) => error,
        };
        match (code(&error), &error) {
            (Some(404 | 409), _) => Ok(Eviction::Gone),
            (Some(429), kube::Error::Api(status)) => {
                let details = status.details.as_ref();
                let cause = details.and_then(|d| d.causes.iter().find(|c| c.reason == "DisruptionBudget"));
                Ok(Eviction::Refused {
                    retry_s: details.map(|d| d.retry_after_seconds).filter(|s| *s > 0),
                    why: cause.map_or_else(|| status.message.clone(), |c| c.message.clone()),
                })
            }
            _ => Err(Failed::api(format!("evict pod {}/{}", pod.namespace, pod.name), error)),
        }
    }

    /// Pods on a node that would be lost if it went dark now. What belongs to the node doesn't count, what is ending does.
    /// Asked of the server, not of what is remembered: this is what a power-off relies on.
    ///
    /// # Errors
    /// If the server doesn't answer.
    pub async fn left_on(&self, node: &str) -> Result<Vec<Left>, Failed> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let here = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
        let listed = pods.list(&ListParams::default().fields(&here)).await;
        let listed = listed.map_err(|e| Failed::api(format!("list pods of node {node}"), e))?;
        let rules = Rules::default();
        let mut left = Vec::new();
        for object in listed.items {
            // one that can't be read is there nevertheless
            if pod::pod(&object, &rules).is_some_and(|(_, t)| t.owner == Owner::Node) {
                continue;
            }
            let meta = object.metadata;
            left.push(Left {
                pod: Evictee {
                    namespace: meta.namespace.unwrap_or_default(),
                    name: meta.name.unwrap_or_default(),
                    uid: meta.uid.unwrap_or_default(),
                },
                ending: meta.deletion_timestamp.is_some(),
            });
        }
        Ok(left)
    }
}
