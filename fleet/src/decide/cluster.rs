//! What a Kubernetes cluster tells goes into the same state as what agents tell: at each round, and in between as it
//! comes, so that whoever acts sees at once what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_kubernetes::watch::Followed;
use ebbtide_planner::model::boot::BootModel;
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::{NodeId, WorkloadId};
use ebbtide_runtime::tasks::{self, Shutdown};

use super::answer::workload;
use super::beneath::Theirs;
use super::observe::{Observer, Sight};
use super::withheld::Layer;
use super::{Plans, Work, locked, now_ms};

/// News are collected for so long before they are taken in.
const COLLECT: Duration = Duration::from_millis(500);
/// What is known of nodes that are gone is kept for so long.
const KEPT_S: f64 = 86_400.0;

/// How a cluster is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Nodes that it has.
    pub nodes: usize,
    /// Pods that are known.
    pub pods: usize,
    /// Kinds of objects that were never listed, or whose watch has been broken for too long.
    pub missing: Vec<&'static str>,
    /// How often watches broke.
    pub breaks: u64,
}

impl Heard {
    fn of(followed: &Followed) -> Self {
        let mut missing = followed.unlisted();
        missing.extend(followed.stale());
        let (nodes, pods) = {
            let inventory = followed.inventory();
            (inventory.nodes().count(), inventory.pods())
        };
        Self { nodes, pods, missing, breaks: followed.counts().0 }
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missing.as_slice() {
            [] => write!(f, "{} nodes and {} pods are followed", self.nodes, self.pods),
            kinds => write!(f, "nothing is heard of its {}; the daemon's log says why", kinds.join(", ")),
        }
    }
}

/// The cluster that is followed.
pub(super) struct Cluster {
    followed: Followed,
    /// Nodes that are gone: how they were switched and how they boot. What comes back under the same name is the same machine.
    gone: BTreeMap<NodeId, (Time, Vec<Time>, BootModel)>,
    /// Nodes that didn't run when the cluster deleted them, and since when. They stay in the state as they were: they can
    /// still be woken, and register anew.
    away: BTreeMap<NodeId, Time>,
    waiting: BTreeSet<WorkloadId>,
}

impl Cluster {
    pub(super) fn is_complete(&self) -> bool {
        self.followed.is_complete()
    }

    /// Why there is no plan before it was listed.
    pub(super) fn missing(&self) -> String {
        match self.followed.unlisted().as_slice() {
            [] => "the Kubernetes cluster was just listed".to_owned(),
            kinds => format!(
                "the Kubernetes cluster hasn't told its {} yet; the daemon's log says if the API server refuses",
                kinds.join(", ")
            ),
        }
    }

    fn theirs(&self, state: &FleetState) -> Theirs {
        // in this order: once everything was listed, all nodes are there
        let complete = self.followed.is_complete();
        let away = self.away.keys().filter_map(|id| Some((id.clone(), state.nodes.get(id)?.capacity.cpu_milli)));
        let inventory = self.followed.inventory();
        let nodes = away.chain(inventory.nodes().map(|n| (n.id.clone(), n.capacity.cpu_milli))).collect();
        Theirs { nodes, complete, fresh: self.followed.stale().is_empty() }
    }

    /// Takes in what is new. Returns whether there was anything.
    fn take_in(&mut self, at: Time, observer: &mut Observer, layer: &mut Layer, state: &mut FleetState) -> bool {
        // before the first look at a whole cluster nothing is known that lies beneath it
        let Some(beneath) = observer.beneath().filter(|b| b.is_complete()) else { return false };
        let events = self.followed.events(&|node| beneath.base(node));
        let any = !events.is_empty();
        for event in events {
            let event = match event {
                // the observer says so, once it has heard its own nodes, too
                Event::Synced => continue,
                Event::NodeHeard { node } if !beneath.is_heard(&node) => continue,
                Event::NodeGone { node } if state.nodes.get(&node).is_some_and(can_come_back) => {
                    self.away.insert(node, at);
                    continue;
                }
                Event::NodeGone { node } => {
                    if let Some(old) = state.nodes.get(&node) {
                        self.gone.insert(node.clone(), (at, old.switched.clone(), old.boot.clone()));
                    }
                    Event::NodeGone { node }
                }
                Event::NodeSeen(mut node) if !state.nodes.contains_key(&node.id) => {
                    if let Some((_, switched, boot)) = self.gone.remove(&node.id) {
                        (node.switched, node.boot) = (switched, boot);
                    }
                    Event::NodeSeen(node)
                }
                Event::NodeSeen(mut node) if self.away.remove(&node.id).is_some() => {
                    // that it is on is news, which may count as a switch
                    let before = state.nodes.get(&node.id).map_or(PowerState::Unknown, |old| old.power);
                    let (id, power) = (node.id.clone(), std::mem::replace(&mut node.power, before));
                    state.apply(at, layer.over(Event::NodeSeen(node)));
                    Event::NodePower { node: id, power }
                }
                other => other,
            };
            state.apply(at, layer.over(event));
        }
        for (node, _) in self.away.extract_if(.., |_, gone| at.since(*gone) >= KEPT_S) {
            state.apply(at, layer.over(Event::NodeGone { node }));
        }
        self.gone.retain(|_, (gone, ..)| at.since(*gone) < KEPT_S);
        any
    }

    /// Whether a pod waits for a node that didn't before.
    fn has_new_waiting(&mut self, state: &FleetState) -> bool {
        let waiting: BTreeSet<WorkloadId> = state.places.waiting().cloned().collect();
        let new = waiting.iter().any(|id| !self.waiting.contains(id));
        self.waiting = waiting;
        new
    }
}

/// Whether a node that its cluster has deleted is one that doesn't run, and can be woken.
fn can_come_back(node: &Node) -> bool {
    node.power != PowerState::On && node.switchable && node.wake_proven
}

impl Work {
    /// What the cluster and the agents on its nodes tell.
    pub(super) fn cluster_round(&mut self, at: Time, seen: &BTreeMap<NodeId, Sight>) {
        let Self { observer, layer, state, cluster: Some(cluster), .. } = self else { return };
        let follow = |cluster: &Cluster, observer: &mut Observer, layer: &mut Layer, state: &mut FleetState| {
            let theirs = cluster.theirs(state);
            let gone = {
                let inventory = cluster.followed.inventory();
                observer.follow(theirs, seen, &|id| inventory.pod(id).is_some())
            };
            gone.into_iter().for_each(|event| _ = state.apply(at, layer.over(event)));
        };
        follow(cluster, observer, layer, state);
        cluster.take_in(at, observer, layer, state);
        // of a node that came just now agents must not say what it is
        follow(cluster, observer, layer, state);
        cluster.has_new_waiting(state);
        if let Some(beneath) = observer.beneath() {
            // of those that are away, devices tell
            for id in cluster.away.keys() {
                let power = beneath.power(id).filter(|power| state.nodes.get(id).is_some_and(|n| n.power != *power));
                if let Some(power) = power {
                    state.apply(at, layer.over(Event::NodePower { node: id.clone(), power }));
                }
            }
            for event in beneath.events(at, seen, &|id| state.workloads.contains_key(id)) {
                state.apply(at, layer.over(event));
            }
        }
    }
}

impl Plans {
    /// Follows a cluster, too; to be said before the first round.
    pub fn follow(&self, followed: Followed) {
        let cluster = Cluster {
            followed: followed.clone(),
            gone: BTreeMap::new(),
            away: BTreeMap::new(),
            waiting: BTreeSet::new(),
        };
        if self.followed.set(followed).is_ok() {
            locked(&self.work).cluster = Some(cluster);
        }
    }

    /// A workload by its id or, if it is a pod of the cluster, by its namespace and name; or by a part of them.
    pub(super) fn workload(&self, state: &FleetState, name: &str) -> Result<WorkloadId, String> {
        let inventory = self.followed.get().map(Followed::inventory);
        workload(state, name, |id| {
            let ((namespace, name), ..) = inventory.as_ref()?.pod(id)?;
            Some(format!("{namespace}/{name}"))
        })
    }

    /// How the cluster is heard that is followed, if one is.
    pub fn cluster(&self) -> Option<Heard> {
        self.followed.get().map(Heard::of)
    }

    /// Takes in what the cluster has told since; a pod that nobody can place is planned for at once.
    fn hear(&self, at: Time) {
        let mut work = locked(&self.work);
        let Work { observer, layer, state, cluster: Some(cluster), .. } = &mut *work else { return };
        if cluster.is_complete() && observer.beneath().is_none_or(|b| !b.is_complete()) {
            // it was just listed: the round that waited for it needn't wait any longer
            self.plan_now();
            return;
        }
        if cluster.take_in(at, observer, layer, state) {
            let waits = cluster.has_new_waiting(state);
            self.publish(state);
            if waits {
                self.plan_now();
            }
        }
    }
}

/// Takes in what the cluster tells, soon after it does, until the stop.
///
/// # Errors
/// None.
pub async fn hear(plans: Arc<Plans>, followed: Followed, stop: Shutdown) -> anyhow::Result<()> {
    let mut news = followed.changes();
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            changed = news.changed() => if changed.is_err() { return Ok(()) },
        }
        tokio::time::sleep(COLLECT).await;
        news.mark_unchanged();
        let plans = Arc::clone(&plans);
        tasks::blocking("hear the cluster", move || plans.hear(Time::from_ms(now_ms()))).await;
    }
}
