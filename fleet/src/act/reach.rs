//! How a node is reached: through its cluster's API where it is a cluster's, or else as a plain host.

use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Effect, Way};
use ebbtide_executor::event::{Answer, Cordon, Sight};
use ebbtide_proto::NodeId;

use super::cluster::Cluster;
use super::hosts::Hosts;

/// The hands and eyes of the executor.
#[derive(Clone)]
pub struct Reach {
    /// Plain hosts, and the devices and agents of all nodes.
    pub hosts: Hosts,
    /// The cluster that is followed, if one is.
    pub cluster: Option<Cluster>,
}

impl Reach {
    /// A node as it is seen now.
    pub async fn look(&self, node: NodeId) -> Sight {
        let sight = self.hosts.look(node.clone()).await;
        match self.cluster.as_ref().map(|cluster| (cluster, cluster.has(&node))) {
            None | Some((_, Some(false))) => sight,
            Some((cluster, Some(true))) => cluster.look(&node, sight).await,
            // it may be the cluster's: nothing is known of it that could be relied on
            Some((_, None)) => Sight { cordon: None, ready: None, workloads: None, ..sight },
        }
    }

    /// Brings an effect about.
    pub async fn bring_about(&self, node: &NodeId, effect: &Effect) -> Answer {
        let cluster = match self.cluster.as_ref().map(|cluster| (cluster, cluster.has(node))) {
            None | Some((_, Some(false))) => return self.hosts.bring_about(node, effect).await,
            Some((_, None)) => {
                let why = "the Kubernetes cluster wasn't listed yet: this may be one of its nodes".to_owned();
                return Answer::Failed { why };
            }
            Some((cluster, Some(true))) => cluster,
        };
        match effect {
            Effect::Cordon { mark } => cluster.close(node, *mark).await,
            Effect::Uncordon { mark } => cluster.open(node, *mark).await,
            Effect::Evict { workload, .. } => cluster.evict(workload).await,
            // pods are placed by the scheduler, which asks the extender where they are meant to go
            Effect::Place { .. } => Answer::Done,
            Effect::Shutdown { way: Way::Bmc } => match cluster.against_shutdown(node).await {
                Some(against) => against,
                None => self.hosts.soft_off(node).await,
            },
            Effect::TellGoodbye | Effect::Shutdown { .. } | Effect::OutletOff | Effect::PowerOn { .. } => {
                self.hosts.bring_about(node, effect).await
            }
        }
    }

    /// Marks on the cluster's nodes, and whose they are.
    pub fn marked(&self) -> Vec<(NodeId, Cordon)> {
        self.cluster.as_ref().map(Cluster::marked).unwrap_or_default()
    }

    /// Tells the node's cluster what was done.
    pub async fn tell(&self, entry: &AuditEntry) {
        let of = entry.node.as_ref().and_then(|node| self.cluster.as_ref().filter(|c| c.has(node) == Some(true)));
        if let Some(cluster) = of {
            cluster.tell(entry).await;
        }
    }
}
