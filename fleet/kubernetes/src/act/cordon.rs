//! Closing a node to new pods, and opening it again, under our mark.
//!
//! A node that is closed without our mark is somebody else's and stays as it is. Each change names the version that was
//! looked at, so that nothing is changed that wasn't seen. It is a merge patch rather than a JSON patch with a test: the
//! server answers a stale version with 409, and a failed test with 422, which any malformed patch gets, too.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Failed, Hands, MANAGER, code};
use crate::convert::Rules;
use crate::convert::node::{self, ClusterNode, Cordon, Mark, cordon, mark};
use crate::names;

/// How often others may be faster; a kubelet writes its node's status every few minutes.
const TRIES: u32 = 5;

/// What closing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It is closed now.
    Now,
    /// We had closed it before.
    Before,
}

/// For what a node is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold<'a> {
    /// Who may open it again, in words of the caller's.
    pub holder: &'a str,
    /// Why, for people.
    pub reason: &'a str,
    /// Under which leadership.
    pub generation: u64,
}

impl Hands {
    /// A node as the server has it now, past everything that is remembered.
    ///
    /// # Errors
    /// If there is none, or the server doesn't answer.
    pub async fn node(&self, node: &str) -> Result<ClusterNode, Failed> {
        let found = self.look(node).await?;
        node::node(&found, &Rules::default()).ok_or_else(|| Failed::Gone { what: format!("node {node}") })
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Closes `node`, or makes the mark of one that we closed say who holds it now.
    ///
    /// # Errors
    /// If it is somebody else's, a later leader's, or the server refuses.
    pub async fn cordon(&self, node: &str, hold: &Hold<'_>, now_ms: u64) -> Result<Closed, Failed> {
        let Hold { holder, reason, generation } = *hold;
        let wanted = Mark {
            by: self.identity.clone(),
            generation,
            reason: reason.to_owned(),
            since_ms: now_ms,
            holder: holder.to_owned(),
        };
        let text = serde_json::to_string(&wanted).unwrap_or_default();
        let foreign = |why| Failed::Foreign { node: node.to_owned(), why };
        for _ in 0..TRIES {
            let found = self.look(node).await?;
            let notes = found.metadata.annotations.clone().unwrap_or_default();
            if [names::DO_NOT_DISRUPT, names::MAINTENANCE].iter().any(|k| notes.get(*k).is_some_and(|v| v != "false")) {
                return Err(foreign("it is annotated to be left alone"));
            }
            match cordon(&found) {
                Cordon::Foreign => return Err(foreign("it was closed by hand")),
                Cordon::Ours(has) if has.generation > generation => return Err(superseded(node, generation, &has)),
                Cordon::Ours(has) if has.holder == holder => return Ok(Closed::Before),
                Cordon::Ours(_) | Cordon::Open => {
                    // a mark on an open node is left over from somebody who opened it by hand
                    let change = json!({"spec": {"unschedulable": true},
                        "metadata": {"annotations": {names::CORDONED_BY: text}}});
                    if self.change(&found, change, "close").await? {
                        return Ok(Closed::Now);
                    }
                }
            }
        }
        Err(Failed::Contended { what: format!("node {node}") })
    }

    /// Opens `node` if we closed it for a holder of which `is_it` is true. Returns whether it did; a node that others
    /// closed, or that is held for something else, stays closed.
    ///
    /// # Errors
    /// If a later leader closed it, or the server refuses.
    pub async fn uncordon(&self, node: &str, is_it: impl Fn(&str) -> bool, generation: u64) -> Result<bool, Failed> {
        for _ in 0..TRIES {
            let found = self.look(node).await?;
            let left_over = found.metadata.annotations.as_ref().and_then(mark);
            let change = match (cordon(&found), left_over) {
                (Cordon::Foreign, _) | (Cordon::Open, None) => return Ok(false),
                (Cordon::Ours(has), _) if has.generation > generation => {
                    return Err(superseded(node, generation, &has));
                }
                (Cordon::Ours(has), _) if !is_it(&has.holder) => return Ok(false),
                (Cordon::Ours(_), _) => {
                    json!({"spec": {"unschedulable": null}, "metadata": {"annotations": {names::CORDONED_BY: null}}})
                }
                (Cordon::Open, Some(_)) => json!({"metadata": {"annotations": {names::CORDONED_BY: null}}}),
            };
            if self.change(&found, change, "open").await? {
                return Ok(true);
            }
        }
        Err(Failed::Contended { what: format!("node {node}") })
    }

    /// Nodes that carry our mark: what a leader that comes after another has to finish or undo.
    ///
    /// # Errors
    /// If the server doesn't answer.
    pub async fn closed_by_us(&self) -> Result<Vec<(String, Mark)>, Failed> {
        let failed = |e| Failed::api("list nodes".to_owned(), e);
        let all = self.nodes().list_metadata(&Default::default()).await.map_err(failed)?;
        let marked = |meta: kube::api::ObjectMeta| Some((meta.name?, mark(&meta.annotations?)?));
        Ok(all.items.into_iter().filter_map(|o| marked(o.metadata)).collect())
    }

    async fn look(&self, node: &str) -> Result<Node, Failed> {
        self.nodes().get(node).await.map_err(|e| Failed::api(format!("look at node {node}"), e))
    }

    /// Changes a node as it was found; `false` if it no longer is.
    async fn change(&self, found: &Node, mut change: Value, what: &str) -> Result<bool, Failed> {
        let name = found.metadata.name.as_deref().unwrap_or("");
        change["metadata"]["resourceVersion"] = found.metadata.resource_version.clone().into();
        change["metadata"]["uid"] = found.metadata.uid.clone().into();
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match self.nodes().patch(name, &parameters, &Patch::Merge(change)).await {
            Ok(_) => Ok(true),
            Err(error) if code(&error) == Some(409) => Ok(false),
            Err(error) => Err(Failed::api(format!("{what} node {name}"), error)),
        }
    }
}

fn superseded(node: &str, ours: u64, has: &Mark) -> Failed {
    Failed::Superseded { node: node.to_owned(), ours, theirs: has.generation }
}
