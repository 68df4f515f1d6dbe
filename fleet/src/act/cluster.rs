//! Nodes of a Kubernetes cluster: closed, opened and emptied through its API, under the lease's generation. Power and
//! goodbyes are those of plain hosts.

use std::time::Duration;

use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::Mark;
use ebbtide_executor::event::{Answer, Cordon, Sight};
use ebbtide_executor::operation::OperationId;
use ebbtide_kubernetes::act::cordon::Hold;
use ebbtide_kubernetes::act::evict::{Evictee, Eviction};
use ebbtide_kubernetes::act::notes::Deed;
use ebbtide_kubernetes::act::{Failed, Hands};
use ebbtide_kubernetes::convert::node;
use ebbtide_kubernetes::watch::Followed;
use ebbtide_proto::{NodeId, WorkloadId, WorkloadKind};
use ebbtide_runtime::clock;

use super::lead::Lead;

/// The API server has this long to answer a look.
const LOOK: Duration = Duration::from_secs(8);
/// And this long for a change; what isn't answered by then is looked at later.
const CHANGE: Duration = Duration::from_secs(20);
/// The holder of a node that an operator locked.
const LOCK: &str = "lock";

/// Hands on, and eyes for, a cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    followed: Followed,
    hands: Hands,
    lead: Lead,
    /// Whose operations are ours: numbers of operations count within one journal.
    journal: String,
}

impl Cluster {
    /// Acts on what is `followed`, for the operations of `journal`, while this daemon leads.
    pub fn new(followed: Followed, hands: Hands, lead: Lead, journal: String) -> Self {
        Self { followed, hands, lead, journal }
    }

    /// Whether a node is the cluster's; `None` as long as the cluster hasn't told its nodes.
    pub fn has(&self, node: &NodeId) -> Option<bool> {
        let known = self.followed.is_complete();
        known.then(|| self.followed.inventory().node(node).is_some())
    }

    /// Nodes that carry a mark, and whose.
    pub fn marked(&self) -> Vec<(NodeId, Cordon)> {
        let inventory = self.followed.inventory();
        let ours = inventory.nodes().filter(|n| matches!(n.cordon, node::Cordon::Ours(_)));
        ours.map(|n| (n.id.clone(), self.cordon(&n.cordon))).collect()
    }

    fn holder(&self, mark: Mark) -> String {
        match mark {
            Mark::Operation(id) => format!("operation {} of {}", id.0, self.journal),
            Mark::Lock => LOCK.to_owned(),
        }
    }

    /// Whose mark it is. One of another journal is of no operation of ours, which there is no number for but 0.
    fn owner(&self, holder: &str) -> Cordon {
        if holder == LOCK {
            return Cordon::Locked;
        }
        let number = holder.strip_prefix("operation ").and_then(|rest| rest.split_once(" of "));
        let own = number.filter(|(_, journal)| *journal == self.journal).and_then(|(n, _)| n.parse().ok());
        Cordon::Ours(OperationId(own.unwrap_or(0)))
    }

    fn cordon(&self, cordon: &node::Cordon) -> Cordon {
        match cordon {
            node::Cordon::Open => Cordon::Open,
            node::Cordon::Foreign => Cordon::Foreign,
            node::Cordon::Ours(mark) => self.owner(&mark.holder),
        }
    }

    /// What the API server says of a node now, put into what devices and agents say. What it doesn't say isn't known.
    pub async fn look(&self, id: &NodeId, sight: Sight) -> Sight {
        let unknown = Sight { cordon: None, ready: None, held: None, workloads: None, ..sight };
        let asked = async { tokio::join!(self.hands.node(id.as_str()), self.hands.left_on(id.as_str())) };
        let Ok((found, left)) = tokio::time::timeout(LOOK, asked).await else {
            tracing::warn!(node = %id, "the API server didn't answer a look in time");
            return unknown;
        };
        let (found, left) = match (found, left) {
            (Ok(found), Ok(left)) => (found, left),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(node = %id, "the API server can't be asked: {:#}", anyhow::Error::from(error));
                return unknown;
            }
        };
        let name = |uid: &str| WorkloadId::new(WorkloadKind::Pod, uid).ok();
        let there: Option<Vec<WorkloadId>> = left.iter().map(|l| name(&l.pod.uid)).collect();
        Sight {
            cordon: Some(self.cordon(&found.cordon)),
            // a kubelet that doesn't speak is as good as one that says that it isn't
            ready: Some(found.ready == Some(true)),
            held: found.hands_off.map(str::to_owned),
            workloads: there,
            ..unknown
        }
    }

    /// Closes a node, or puts another mark on it.
    pub async fn close(&self, id: &NodeId, mark: Mark) -> Answer {
        let Some(generation) = self.lead.generation() else { return deposed() };
        let (holder, reason) = (self.holder(mark), words(mark));
        let hold = Hold { holder: &holder, reason: &reason, generation };
        let now_ms = clock::now().wall / 1_000_000;
        answered(self.hands.cordon(id.as_str(), &hold, now_ms), |_| Answer::Done).await
    }

    /// Opens a node that carries this mark.
    pub async fn open(&self, id: &NodeId, mark: Mark) -> Answer {
        let Some(generation) = self.lead.generation() else { return deposed() };
        let wanted = match mark {
            Mark::Lock => Cordon::Locked,
            Mark::Operation(id) => Cordon::Ours(id),
        };
        let is_it = |holder: &str| self.owner(holder) == wanted;
        let opened = self.hands.uncordon(id.as_str(), is_it, generation);
        // what isn't closed for this needn't be opened; who looks sees how it stands
        answered(opened, |_| Answer::Done).await
    }

    /// Asks a pod to leave.
    pub async fn evict(&self, workload: &WorkloadId) -> Answer {
        if self.lead.generation().is_none() {
            return deposed();
        }
        let evictee = {
            let inventory = self.followed.inventory();
            inventory.pod(workload).map(|((namespace, name), pod, _)| Evictee {
                namespace: namespace.to_string(),
                name: name.to_string(),
                uid: pod.uid.clone(),
            })
        };
        let Some(evictee) = evictee else { return Answer::Gone };
        let said = |eviction| match eviction {
            Eviction::Told => Answer::Done,
            Eviction::Gone => Answer::Gone,
            Eviction::Refused { retry_s, why } => Answer::Refused { why, retry_after_s: retry_s.map(u64::from) },
        };
        answered(self.hands.evict(&evictee, None), said).await
    }

    /// What speaks against shutting a node down, asked of the server now; `None`: nothing.
    pub async fn against_shutdown(&self, id: &NodeId) -> Option<Answer> {
        if self.lead.generation().is_none() {
            return Some(deposed());
        }
        let left = match tokio::time::timeout(LOOK, self.hands.left_on(id.as_str())).await {
            Ok(Ok(left)) => left,
            Ok(Err(error)) => return Some(failed(&anyhow::Error::from(error))),
            Err(_) => return Some(Answer::Failed { why: "the API server can't be asked if it is empty".to_owned() }),
        };
        let first = left.first()?;
        let why = format!("{}/{} runs on it, and {} more", first.pod.namespace, first.pod.name, left.len() - 1);
        Some(Answer::Refused { why, retry_after_s: None })
    }

    /// Puts what was done on the list of a node's events.
    pub async fn tell(&self, entry: &AuditEntry) {
        let (Some(node), Some(result), Some(_)) = (&entry.node, &entry.result, self.lead.generation()) else { return };
        let action: String = entry.what.split(' ').next().unwrap_or("").to_owned();
        let note = format!("{}: {result} ({})", entry.what, entry.why);
        let bad = ["failed", "refused", "quarantined"].iter().any(|word| result.starts_with(word));
        let deed = Deed { action: &camel(&action), reason: "Ebbtide", note: &note, warning: bad };
        if let Err(error) = self.hands.tell(node.as_str(), &deed, entry.at.ms()).await {
            tracing::debug!("{:#}", anyhow::Error::from(error));
        }
    }
}

async fn answered<T>(asked: impl Future<Output = Result<T, Failed>>, said: impl FnOnce(T) -> Answer) -> Answer {
    match tokio::time::timeout(CHANGE, asked).await {
        Ok(Ok(done)) => said(done),
        Ok(Err(error)) if error.is_unknown() => Answer::Unknown { why: format!("{:#}", anyhow::Error::from(error)) },
        Ok(Err(error)) => failed(&anyhow::Error::from(error)),
        Err(_) => Answer::Unknown { why: "the API server didn't answer in time".to_owned() },
    }
}

fn failed(error: &anyhow::Error) -> Answer {
    Answer::Failed { why: format!("{error:#}") }
}

fn deposed() -> Answer {
    Answer::Failed { why: "this daemon doesn't hold the lease any more".to_owned() }
}

fn words(mark: Mark) -> String {
    match mark {
        Mark::Operation(id) => format!("it is emptied; ebbtide operations {} tells more", id.0),
        Mark::Lock => "an operator locked it; ebbtide unlock opens it".to_owned(),
    }
}

/// An action as Kubernetes writes them: one word that begins with a capital.
fn camel(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
