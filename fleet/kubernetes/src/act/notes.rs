//! What is written down in the cluster: on nodes for people and other schedulers, and as events.

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};

use super::{Failed, Hands, MANAGER};
use crate::names;

/// What is known of a node, for others to read. What is absent is removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// Watts without load, and watts that one more busy core costs.
    pub curve: Option<(f64, f64)>,
    /// Its place among all nodes, 1 being the most efficient.
    pub rank: Option<u32>,
    /// What is done with it, why, and since when in milliseconds since 1970.
    pub state: Option<(String, String, u64)>,
}

/// Something that was done, for the list of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed<'a> {
    /// What was done, such as `PowerOff`.
    pub action: &'a str,
    /// Why in a word, such as `Consolidated`.
    pub reason: &'a str,
    /// Why in a sentence.
    pub note: &'a str,
    /// Whether somebody should look.
    pub warning: bool,
}

fn moment(ms: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default()
}

impl Hands {
    /// Writes `notes` onto a node. They are ours: whoever else wrote them is overruled.
    ///
    /// # Errors
    /// If there is no such node, or the server refuses.
    pub async fn note(&self, node: &str, notes: &Notes) -> Result<(), Failed> {
        let mut annotations = Map::new();
        let mut labels = Map::new();
        if let Some((idle, core)) = notes.curve {
            annotations.insert(names::IDLE_WATTS.to_owned(), format!("{idle:.1}").into());
            annotations.insert(names::CORE_WATTS.to_owned(), format!("{core:.2}").into());
        }
        if let Some(rank) = notes.rank {
            labels.insert(names::EFFICIENCY_RANK.to_owned(), rank.to_string().into());
        }
        if let Some((state, reason, since_ms)) = &notes.state {
            annotations.insert(names::STATE.to_owned(), state.as_str().into());
            annotations.insert(names::STATE_REASON.to_owned(), reason.as_str().into());
            annotations.insert(names::STATE_SINCE.to_owned(), moment(*since_ms).to_string().into());
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        let failed = |e| Failed::api(format!("annotate node {node}"), e);
        // an apply makes what isn't there: a node that was removed must not come back by this
        let there = nodes.get_metadata(node).await.map_err(failed)?;
        let mut meta = json!({"name": node, "uid": there.metadata.uid});
        for (kind, values) in [("annotations", annotations), ("labels", labels)] {
            if !values.is_empty() {
                meta[kind] = values.into();
            }
        }
        let applied: Value = json!({"apiVersion": "v1", "kind": "Node", "metadata": meta});
        let parameters = PatchParams::apply(MANAGER).force();
        nodes.patch(node, &parameters, &Patch::Apply(applied)).await.map_err(failed)?;
        Ok(())
    }

    /// Puts a deed on the list of a node's events.
    ///
    /// # Errors
    /// If the server refuses; nothing depends on it.
    pub async fn tell(&self, node: &str, deed: &Deed<'_>, now_ms: u64) -> Result<(), Failed> {
        // events of things that live nowhere are kept there
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let event = Event {
            metadata: ObjectMeta { generate_name: Some("ebbtide-".to_owned()), ..ObjectMeta::default() },
            action: Some(deed.action.to_owned()),
            reason: Some(deed.reason.to_owned()),
            // the server refuses longer ones
            note: Some(deed.note.chars().take(1000).collect()),
            type_: Some(if deed.warning { "Warning" } else { "Normal" }.to_owned()),
            event_time: Some(MicroTime(moment(now_ms))),
            reporting_controller: Some("ebbtide.dev/fleet".to_owned()),
            reporting_instance: Some(self.identity.clone()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                // as the kubelet does: the list of a node's events is found by this
                uid: Some(node.to_owned()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        };
        let done = events.create(&PostParams::default(), &event).await;
        done.map(drop).map_err(|e| Failed::api(format!("write an event of node {node}"), e))
    }
}
