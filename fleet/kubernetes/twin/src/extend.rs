//! Places waiting pods as the default scheduler does with an extender: filter, prioritize, bind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::cluster::Cluster;
use crate::kinds::{NODES, PODS};
use crate::{crew, fit};

/// How the extender is asked, as its entry in the scheduler's configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Extender {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it knows the nodes by itself and is told only names.
    pub node_cache_capable: bool,
    /// Whether pods are placed without it if it doesn't answer.
    pub ignorable: bool,
}

impl Extender {
    async fn ask(&self, what: &str, body: &Value) -> anyhow::Result<Value> {
        let stream = TcpStream::connect(self.address).await.context("the extender doesn't listen")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(format!("/extender/{what}"))
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))?;
        let answered = async {
            let response = sender.send_request(request).await?;
            anyhow::ensure!(response.status().is_success(), "the extender answered {}", response.status());
            Ok(to_bytes(Body::new(response.into_body()), 16 << 20).await?)
        };
        tokio::select! {
            answer = answered => Ok(serde_json::from_slice(&answer?)?),
            ended = connection => anyhow::bail!("the extender's connection ended: {ended:?}"),
        }
    }

    fn arguments(&self, pod: &Value, nodes: &[Arc<Value>]) -> Value {
        if self.node_cache_capable {
            let names: Vec<&Value> = nodes.iter().map(|n| &n["metadata"]["name"]).collect();
            json!({"Pod": pod, "Nodes": null, "NodeNames": names})
        } else {
            let items: Vec<&Value> = nodes.iter().map(AsRef::as_ref).collect();
            json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null})
        }
    }

    /// The nodes that the extender leaves, with their scores.
    async fn judged(&self, pod: &Value, nodes: &[Arc<Value>]) -> anyhow::Result<BTreeMap<String, i64>> {
        let left = self.ask("filter", &self.arguments(pod, nodes)).await?;
        anyhow::ensure!(left["Error"].as_str().unwrap_or("").is_empty(), "the extender says {}", left["Error"]);
        let names: Vec<String> = if self.node_cache_capable {
            left["NodeNames"].as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect()
        } else {
            let items = left["Nodes"]["items"].as_array().into_iter().flatten();
            items.filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned)).collect()
        };
        let is_left = |n: &&Arc<Value>| names.iter().any(|name| n["metadata"]["name"] == *name.as_str());
        let nodes: Vec<Arc<Value>> = nodes.iter().filter(is_left).cloned().collect();
        let scores = self.ask("prioritize", &self.arguments(pod, &nodes)).await?;
        let mut judged: BTreeMap<String, i64> = names.into_iter().map(|n| (n, 0)).collect();
        for score in scores.as_array().into_iter().flatten() {
            if let Some(at) = score["Host"].as_str().and_then(|host| judged.get_mut(host)) {
                *at = score["Score"].as_i64().unwrap_or(0);
            }
        }
        Ok(judged)
    }
}

impl Cluster {
    /// Places all waiting pods with the extender's help; returns which pod went where.
    ///
    /// # Errors
    /// If the extender can't be asked and isn't ignorable.
    pub async fn schedule_through(&self, extender: &Extender) -> anyhow::Result<Vec<(String, Option<String>)>> {
        let waiting = crew::waiting(&self.change());
        let mut placed = Vec::new();
        for (at, pod) in waiting {
            let pods = self.list(PODS, "");
            let nodes: Vec<Arc<Value>> =
                self.list(NODES, "").into_iter().filter(|n| fit::takes(n, &pod, &pods)).collect();
            let judged = match extender.judged(&pod, &nodes).await {
                Ok(judged) => judged,
                Err(_) if extender.ignorable => {
                    nodes.iter().filter_map(|n| Some((n["metadata"]["name"].as_str()?.to_owned(), 0))).collect()
                }
                Err(error) => return Err(error),
            };
            // the first of the best
            let best = judged.values().max().copied();
            let node = judged.iter().find(|(_, score)| Some(**score) == best).map(|(name, _)| name.clone());
            let mut world = self.change();
            match &node {
                Some(node) => world.bind(&at.1, &at.2, node).map_err(|f| anyhow::anyhow!(f.message))?,
                None => crew::unschedulable(&mut world, &at, nodes.len()),
            }
            placed.push((at.2, node));
        }
        Ok(placed)
    }
}
