//! A cluster of the twin's, a client as an operator would have it, and a planner's state that follows.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "tests")]

use std::time::Duration;

use ebbtide_kubernetes::connect;
use ebbtide_kubernetes::convert::Rules;
use ebbtide_kubernetes::convert::node::ClusterNode;
use ebbtide_kubernetes::watch::Followed;
use ebbtide_kubernetes_twin::{ADMIN, Cluster};
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_runtime::tasks::Tasks;
use kube::Client;
use serde_json::{Value, json};

/// A client of `cluster` out of a kubeconfig for `token`.
pub async fn client_with(cluster: &Cluster, token: &str) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, cluster.kubeconfig(token)).unwrap();
    connect::client(Some(&path), None).await.unwrap()
}

pub async fn client(cluster: &Cluster) -> Client {
    client_with(cluster, ADMIN).await
}

/// What the daemon knows of every node besides: how it is switched and what it draws.
pub fn base(node: &ClusterNode) -> Node {
    Node::new(node.id.clone(), node.capacity.clone(), PowerCurve::line(50.0, 150.0))
}

/// A cluster that is followed into a state.
pub struct Bench {
    pub cluster: Cluster,
    pub followed: Followed,
    pub state: FleetState,
    pub tasks: Tasks,
    at: Time,
}

impl Bench {
    pub async fn new(cluster: Cluster) -> Self {
        let mut tasks = Tasks::new();
        let followed = Followed::start(&client(&cluster).await, Rules::default(), &mut tasks);
        let mut bench = Self { cluster, followed, state: FleetState::new(), tasks, at: Time::from_secs(1) };
        bench.until("everything was listed", |b| b.state.synced).await;
        bench
    }

    /// Takes in news until `seen`.
    pub async fn until(&mut self, what: &str, seen: impl Fn(&Self) -> bool) {
        let mut changes = self.followed.changes();
        let deadline = tokio::time::sleep(Duration::from_secs(60));
        let mut deadline = std::pin::pin!(deadline);
        loop {
            changes.borrow_and_update();
            self.at = self.at.plus_secs(1);
            for event in self.followed.events(&base) {
                let told = format!("{event:?}");
                assert!(self.state.apply(self.at, event), "refused: {told}");
            }
            if seen(self) {
                return;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = &mut deadline => panic!("never seen: {what}; {:#?}", self.state.workloads.keys()),
            }
        }
    }

    /// Pods on a node, as the planner knows.
    pub fn on(&self, node: &str) -> usize {
        self.state.places.on(&ebbtide_proto::NodeId::new(node).unwrap()).count()
    }
}

/// A replica set of pods that ask for a CPU each.
pub fn replica_set(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "template": {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}}}]}}}})
}
