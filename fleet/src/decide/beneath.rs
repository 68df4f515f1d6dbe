//! Nodes of a Kubernetes cluster. What they are and what runs on them is the cluster's word; what they draw, how busy
//! they are, and whether something can switch them is told by agents and devices. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebbtide_kubernetes::convert::node::ClusterNode;
use ebbtide_planner::model::learn::Reading;
use ebbtide_planner::state::Time;
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::resources::Resources;
use ebbtide_proto::{NodeId, WorkloadId, WorkloadKind};

use super::inventory::{self, NodeEntry};
use super::observe::{OWN_USE_MILLI, Sight, Use, own_use};

/// What a cluster tells at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Theirs {
    /// Its nodes, with their CPUs in thousandths.
    pub nodes: BTreeMap<NodeId, u64>,
    /// Whether it has told everything at least once.
    pub complete: bool,
    /// Whether it still tells: without that nothing is heard of its nodes.
    pub fresh: bool,
}

/// A node without what its cluster knows of it.
struct Base {
    node: Node,
    /// Whether its agent streams.
    speaks: bool,
}

/// What lies beneath a cluster's nodes.
#[derive(Default)]
pub struct Beneath {
    theirs: Theirs,
    /// What an operator wrote down of nodes.
    entries: Arc<BTreeMap<NodeId, NodeEntry>>,
    bases: BTreeMap<NodeId, Base>,
    usage: BTreeMap<WorkloadId, Use>,
}

impl Beneath {
    /// Whether a node is the cluster's.
    pub fn has(&self, node: &NodeId) -> bool {
        self.theirs.nodes.contains_key(node)
    }

    /// Whether the cluster has told everything at least once.
    pub fn is_complete(&self) -> bool {
        self.theirs.complete
    }

    /// Takes in which nodes are the cluster's, and what is seen of them.
    pub fn look(&mut self, theirs: Theirs, entries: &Arc<BTreeMap<NodeId, NodeEntry>>, seen: &BTreeMap<NodeId, Sight>) {
        self.theirs = theirs;
        self.entries = Arc::clone(entries);
        let nothing = Sight::default();
        let mut bases = BTreeMap::new();
        for (id, milli) in &self.theirs.nodes {
            let sight = seen.get(id).unwrap_or(&nothing);
            let entry = self.entry(id);
            let told = self.bases.get(id).map_or(0, |b| b.node.reserved_use_milli);
            if let Some(node) = base(&entry, *milli, sight, told) {
                bases.insert(id.clone(), Base { node, speaks: sight.fresh });
            }
        }
        self.bases = bases;
    }

    fn entry(&self, id: &NodeId) -> NodeEntry {
        let written = self.entries.get(id).cloned();
        written.unwrap_or_else(|| NodeEntry { name: id.to_string(), ..NodeEntry::default() })
    }

    /// What Kubernetes doesn't know of a node.
    pub fn base(&self, node: &ClusterNode) -> Node {
        match self.bases.get(&node.id) {
            Some(base) => base.node.clone(),
            // it came since the last look: nothing is known that could switch it
            None => {
                let entry = NodeEntry { switchable: Some(false), ..self.entry(&node.id) };
                let milli = node.capacity.cpu_milli;
                base(&entry, milli, &Sight::default(), 0).unwrap_or_else(|| {
                    Node::new(node.id.clone(), Resources::default(), inventory::usual(milli as f64 / 1000.0))
                })
            }
        }
    }

    /// What devices say of a node's power.
    pub fn power(&self, node: &NodeId) -> Option<PowerState> {
        self.bases.get(node).map(|base| base.node.power)
    }

    /// Whether the cluster's word that it hears a node is enough. One that can be switched has to be heard by its agent,
    /// too: without that it can't be powered off in order.
    pub fn is_heard(&self, node: &NodeId) -> bool {
        self.bases.get(node).is_none_or(|b| b.speaks || !b.node.switchable)
    }

    /// What agents tell of the cluster's nodes and of pods that the planner knows.
    pub fn events(
        &mut self,
        at: Time,
        seen: &BTreeMap<NodeId, Sight>,
        known: &dyn Fn(&WorkloadId) -> bool,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let mut told = BTreeSet::new();
        for (id, milli) in self.theirs.nodes.iter().filter(|(id, _)| self.bases.contains_key(*id)) {
            let Some(sight) = seen.get(id).filter(|sight| sight.fresh) else { continue };
            // a reading is a sign of life, which is worth nothing while the cluster can't be heard
            if let (Some(watts), Some(busy), true, true) = (sight.watts, sight.cpu_milli, *milli > 0, self.theirs.fresh)
            {
                let load = (busy / *milli as f64).min(1.0);
                events.push(Event::NodeRead { node: id.clone(), reading: Reading { watts, load, error: sight.error } });
            }
            for pod in sight.workloads.iter().filter(|w| w.id.kind() == WorkloadKind::Pod && known(&w.id)) {
                told.insert(pod.id.clone());
                let usage = self.usage.entry(pod.id.clone()).or_insert_with(|| Use::since(at));
                if let Some(cpu_milli) = usage.take(at, pod.cpu_milli) {
                    events.push(Event::WorkloadUsed { workload: pod.id.clone(), cpu_milli });
                }
            }
        }
        self.usage.retain(|id, _| told.contains(id) || known(id));
        events
    }
}

/// What is known of a node besides what its cluster tells. `told` is its own use, as it was told last.
fn base(entry: &NodeEntry, milli: u64, sight: &Sight, told: u64) -> Option<Node> {
    let cpus = u32::try_from(milli.div_ceil(1000)).unwrap_or(u32::MAX);
    let mut node = entry.node(Some(cpus), &sight.model).ok()?;
    node.sockets = sight.sockets.max(1);
    node.switchable = entry.switchable.unwrap_or(sight.switchable);
    node.wake_proven = sight.wake_proven || entry.wake_proven;
    node.power = match sight.hardware {
        Some(off @ (PowerState::Off | PowerState::TurningOff | PowerState::TurningOn)) if !sight.fresh => off,
        _ => PowerState::Unknown,
    };
    let own = own_use(sight).unwrap_or(told);
    node.reserved_use_milli = if told.abs_diff(own) < OWN_USE_MILLI { told } else { own };
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::observe::Seen;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn seen(watts: f64, pods: &[(&str, f64)]) -> Sight {
        let pod = |(name, cpu_milli): &(&str, f64)| Seen {
            id: format!("pod/{name}").parse().unwrap(),
            name: (*name).to_owned(),
            cpu_milli: Some(*cpu_milli),
        };
        Sight {
            fresh: true,
            watts: Some(watts),
            cpu_milli: Some(pods.iter().map(|p| p.1).sum::<f64>() + 250.0),
            switchable: true,
            workloads: pods.iter().map(pod).collect(),
            ..Sight::default()
        }
    }

    fn theirs(fresh: bool) -> Theirs {
        Theirs { nodes: [(id("a"), 4000)].into(), complete: true, fresh }
    }

    #[test]
    fn agents_tell_the_use_of_pods_and_no_pods() {
        let mut beneath = Beneath::default();
        let sights = [(id("a"), seen(60.0, &[("known", 500.0), ("unknown", 250.0)]))].into();
        let known = |id: &WorkloadId| id.to_string() == "pod/known";
        beneath.look(theirs(true), &Arc::default(), &sights);
        let events = beneath.events(Time::from_secs(10), &sights, &known);
        assert!(
            matches!(&events[..], [
            Event::NodeRead { reading, .. },
            Event::WorkloadUsed { workload, cpu_milli },
        ] if (reading.watts, reading.load) == (60.0, 0.25) && known(workload) && *cpu_milli == 500.0),
            "{events:?}"
        );
        assert_eq!(beneath.bases[&id("a")].node.reserved_use_milli, 250);
        assert!(beneath.is_heard(&id("a")));

        // the cluster can't be heard: no reading may pass for a sign of life
        beneath.look(theirs(false), &Arc::default(), &sights);
        let events = beneath.events(Time::from_secs(20), &sights, &known);
        assert!(events.iter().all(|e| matches!(e, Event::WorkloadUsed { .. })), "{events:?}");
    }

    #[test]
    fn what_can_be_switched_has_to_be_heard_by_its_agent() {
        let mut beneath = Beneath::default();
        let silent = Sight { fresh: false, hardware: Some(PowerState::Off), ..seen(60.0, &[]) };
        beneath.look(theirs(true), &Arc::default(), &[(id("a"), silent.clone())].into());
        assert!(!beneath.is_heard(&id("a")));
        assert_eq!(beneath.bases[&id("a")].node.power, PowerState::Off);
        let fixed = Sight { switchable: false, ..silent };
        beneath.look(theirs(true), &Arc::default(), &[(id("a"), fixed)].into());
        assert!(beneath.is_heard(&id("a")));
    }
}
