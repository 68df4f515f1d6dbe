//! Who is in the fleet, who is connected, and what is wrong with whom.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ebbtide_proto::{BootId, NodeId, WorkloadId, v1};
use tokio::sync::watch;

use super::NodeLive;

/// When a node counts as silent.
#[derive(Clone, Copy, Debug)]
pub struct Staleness {
    /// Nothing was told for so long, in milliseconds.
    pub after_ms: u64,
    /// What it tells is older than this, in milliseconds: it is catching up.
    pub behind_ms: u64,
}

impl Default for Staleness {
    fn default() -> Self {
        Self { after_ms: 30_000, behind_ms: 30_000 }
    }
}

/// Why a node was refused, or is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Short, for metrics: `clock`, `two-agents`.
    pub reason: &'static str,
    /// For people: what, and what to do.
    pub text: String,
    /// When it was seen last.
    pub at_ms: u64,
}

/// What is known of a node beside its figures.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    /// The number of the connection it streams on.
    pub connected: Option<u64>,
    /// Its spool.
    pub spool: u64,
    /// The boot that its Hello named.
    pub boot: Option<BootId>,
    /// Where it connects from.
    pub address: Option<IpAddr>,
    /// What machine it is.
    pub machine: Option<Arc<v1::Machine>>,
    /// Version of its agent.
    pub version: Arc<str>,
    /// The daemon's clock when something came last; 0: not since the start.
    pub heard_ms: u64,
    /// It said Goodbye, when, and why.
    pub goodbye: Option<(u64, String)>,
    /// What is wrong.
    pub trouble: Option<Trouble>,
    /// Since when it is connected or not.
    pub since_ms: u64,
    /// Whether its agent may shut the machine down, as its last Hello said.
    pub shuts_down: bool,
}

/// A node: presence and figures.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) presence: Presence,
    pub(super) figures: NodeLive,
    /// Workloads that have left, as whoever moved them says, and what the node had told until then, in its own time.
    pub(super) left: BTreeMap<WorkloadId, u64>,
    /// Ends the connection it streams on.
    end: Option<watch::Sender<bool>>,
}

/// An agent that wants to stream.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// As whom.
    pub node: NodeId,
    /// Its spool.
    pub spool: u64,
    /// Its boot.
    pub boot: Option<BootId>,
    /// From where.
    pub address: Option<IpAddr>,
    /// What machine it is.
    pub machine: v1::Machine,
    /// Version of the agent.
    pub version: String,
    /// Whether it may shut its machine down.
    pub shuts_down: bool,
}

/// A node's place in the fleet, held while its agent is connected.
#[derive(Debug)]
pub struct Claim {
    live: Arc<Live>,
    node: NodeId,
    entry: Arc<Mutex<Entry>>,
    connection: u64,
    ended: watch::Receiver<bool>,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Live {
    nodes: RwLock<BTreeMap<NodeId, Arc<Mutex<Entry>>>>,
    connections: AtomicU64,
    /// When nodes count as silent.
    pub staleness: Staleness,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // whoever panicked while holding it left figures of one node half updated, no more
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// No nodes yet.
    pub fn new(staleness: Staleness) -> Self {
        Self { staleness, ..Self::default() }
    }

    /// Knows of a node that was here before the daemon started.
    pub fn remember(&self, node: NodeId, now_ms: u64, today_uj: u64) {
        let entry = self.entry(&node);
        let mut entry = locked(&entry);
        entry.figures.begin_day(now_ms, today_uj);
        entry.presence.since_ms = now_ms;
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this node is known.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).contains_key(node)
    }

    /// Lets an agent stream as a node. Another connection of the same agent is ended; another agent is not.
    pub fn claim(self: &Arc<Self>, arrival: Arrival, now_ms: u64) -> Result<Claim, Trouble> {
        let entry = self.entry(&arrival.node);
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let (end, ended) = watch::channel(false);
        {
            let mut held = locked(&entry);
            let Entry { presence, end: held_end, .. } = &mut *held;
            let same = presence.spool == arrival.spool || (presence.boot.is_some() && presence.boot == arrival.boot);
            let heard = now_ms.saturating_sub(presence.heard_ms) < self.staleness.after_ms;
            if presence.connected.is_some() && heard && !same {
                let from = |address: Option<IpAddr>| address.map_or("an unknown address".to_owned(), |a| a.to_string());
                let text = format!(
                    "two agents call themselves {}: one at {} streams, one at {} was refused; give each node a name of its own",
                    arrival.node,
                    from(presence.address),
                    from(arrival.address),
                );
                let trouble = Trouble { reason: "two-agents", text, at_ms: now_ms };
                presence.trouble = Some(trouble.clone());
                return Err(trouble);
            }
            if let Some(end) = held_end.replace(end) {
                end.send_replace(true);
            }
            *presence = Presence {
                connected: Some(connection),
                spool: arrival.spool,
                boot: arrival.boot,
                address: arrival.address,
                machine: Some(Arc::new(arrival.machine)),
                version: arrival.version.into(),
                shuts_down: arrival.shuts_down,
                heard_ms: now_ms,
                goodbye: None,
                trouble: None,
                since_ms: now_ms,
            };
        }
        Ok(Claim { live: Arc::clone(self), node: arrival.node, entry, connection, ended })
    }

    /// Notes that a node was refused.
    pub fn trouble(&self, node: &NodeId, trouble: Trouble) {
        let entry = self.entry(node);
        let mut entry = locked(&entry);
        if entry.presence.connected.is_none() {
            entry.presence.trouble = Some(trouble);
        }
    }

    /// All nodes, by name. Entries are locked one by one, so that no reader holds up who writes.
    pub(super) fn each(&self, mut look: impl FnMut(&NodeId, &Entry)) {
        let nodes: Vec<_> = {
            let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
            nodes.iter().map(|(id, entry)| (id.clone(), Arc::clone(entry))).collect()
        };
        for (id, entry) in nodes {
            look(&id, &locked(&entry));
        }
    }

    /// One node.
    pub(super) fn one<T>(&self, node: &NodeId, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        let entry = Arc::clone(self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(node)?);
        let entry = locked(&entry);
        Some(look(&entry))
    }

    /// Whether a node's agent is connected, and when it was heard last, in milliseconds since 1970.
    pub fn heard(&self, node: &NodeId) -> Option<(bool, u64)> {
        self.one(node, |entry| (entry.presence.connected.is_some(), entry.presence.heard_ms))
    }

    /// Workloads have left a node, as whoever moved them says; all if none are named. They count as gone until the node's
    /// agent tells that they ran later.
    pub fn left(&self, node: &NodeId, workload: Option<&WorkloadId>) {
        let entry = self.entry(node);
        let mut entry = locked(&entry);
        let told_ms = entry.figures.last_ms;
        let all = entry.figures.workloads();
        let gone = all.iter().map(|(info, _)| &info.id).filter(|id| workload.is_none_or(|w| w == *id));
        let gone: Vec<WorkloadId> = gone.cloned().collect();
        entry.left.retain(|id, _| all.iter().any(|(info, _)| info.id == *id));
        entry.left.extend(gone.into_iter().map(|id| (id, told_ms)));
    }

    /// How many agents are connected.
    pub fn connected(&self) -> usize {
        let mut n = 0;
        self.each(|_, entry| n += usize::from(entry.presence.connected.is_some()));
        n
    }

    fn entry(&self, node: &NodeId) -> Arc<Mutex<Entry>> {
        if let Some(entry) = self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(node) {
            return Arc::clone(entry);
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(nodes.entry(node.clone()).or_default())
    }
}

impl Claim {
    /// The node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Changes the node's figures.
    pub fn update(&self, now_ms: u64, change: impl FnOnce(&mut NodeLive)) {
        let mut entry = locked(&self.entry);
        if entry.presence.connected == Some(self.connection) {
            entry.presence.heard_ms = now_ms;
            change(&mut entry.figures);
        }
    }

    /// Series that the node has.
    pub fn series(&self) -> usize {
        locked(&self.entry).figures.series_count()
    }

    /// Notes that the agent left on purpose.
    pub fn goodbye(&self, now_ms: u64, reason: String) {
        let mut entry = locked(&self.entry);
        if entry.presence.connected == Some(self.connection) {
            entry.presence.goodbye = Some((now_ms, reason));
        }
    }

    /// Notes what is wrong with what the agent sends.
    pub fn trouble(&self, trouble: Trouble) {
        locked(&self.entry).presence.trouble = Some(trouble);
    }

    /// Returns when another connection of the same agent took over.
    pub async fn taken_over(&self) {
        let mut ended = self.ended.clone();
        // an error means that the place was given to somebody else, too
        drop(ended.wait_for(|ended| *ended).await);
    }

    /// The agent is gone.
    pub fn leave(&self, now_ms: u64) {
        let mut entry = locked(&self.entry);
        if entry.presence.connected == Some(self.connection) {
            entry.presence.connected = None;
            entry.presence.since_ms = now_ms;
            entry.end = None;
        }
    }

    /// The fleet it belongs to.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}
