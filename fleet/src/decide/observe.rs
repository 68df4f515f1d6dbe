//! Turns what agents and devices tell into events of the planner. Pure: what is seen at a moment in, events out.
//!
//! Pods, containers and virtual machines are workloads; everything else that runs on a node belongs to it, and is kept
//! free of workloads as reserved. Nothing is ever concluded from silence: a node whose agent isn't heard keeps its
//! workloads, and is off only if its outlet or BMC says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebbtide_planner::model::learn::Reading;
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Workload;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::series::WorkloadInfo;
use ebbtide_proto::{NodeId, WorkloadId, WorkloadKind};

use super::beneath::{Beneath, Theirs};
use super::inventory::{Inventory, NodeEntry};

/// Forecasts are made from means over so many seconds.
const SAMPLE_S: f64 = 300.0;
/// A node's own use is told again when it differs by so much, in thousandths of a CPU.
pub(super) const OWN_USE_MILLI: u64 = 100;
/// A workload that an agent, still speaking, doesn't tell of for so many seconds has ended.
const ENDED_S: f64 = 180.0;

/// One node, as it is seen at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// Whether its agent streams and what it tells is of now.
    pub fresh: bool,
    /// Watts: at the wall if known, else of its own sensors.
    pub watts: Option<f64>,
    /// Relative error of the watts.
    pub error: f64,
    /// Busy CPUs, in thousandths.
    pub cpu_milli: Option<f64>,
    /// CPUs that it has, if its agent ever told.
    pub cpus: Option<u32>,
    /// Processor packages, likewise; 0: not told.
    pub sockets: u32,
    /// Model of the processor, likewise.
    pub model: String,
    /// What its outlets or its BMC say.
    pub hardware: Option<PowerState>,
    /// Whether something is known that can switch it.
    pub switchable: bool,
    /// Whether a wake of it was seen to work.
    pub wake_proven: bool,
    /// What runs on it.
    pub workloads: Vec<Seen>,
    /// What was moved off it, as whoever did says.
    pub left: Vec<WorkloadId>,
}

/// A pod, container or virtual machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Which.
    pub id: WorkloadId,
    /// As people know it.
    pub name: String,
    /// Busy CPUs, in thousandths.
    pub cpu_milli: Option<f64>,
}

/// Whether it is a workload that can be on one node or another; others belong to theirs.
pub fn is_placed(info: &WorkloadInfo) -> bool {
    match info.id.kind() {
        WorkloadKind::Pod | WorkloadKind::Vm => true,
        // one of a pod's is told with the pod
        WorkloadKind::Container => info.label("pod").is_none(),
        _ => false,
    }
}

/// What a workload has used since the last sample.
pub(super) struct Use {
    since: Time,
    sampled: Option<Time>,
    sum: f64,
    count: f64,
}

impl Use {
    pub(super) fn since(since: Time) -> Self {
        Self { since, sampled: None, sum: 0.0, count: 0.0 }
    }

    /// Takes in a figure; the mean since the last sample, if the next one is due.
    pub(super) fn take(&mut self, at: Time, cpu_milli: Option<f64>) -> Option<f64> {
        if let Some(used) = cpu_milli {
            self.sum += used;
            self.count += 1.0;
        }
        // one value alone may be of any moment; the second round has one to begin with
        let due = self.sampled.is_none_or(|sampled| at.since(sampled) >= SAMPLE_S);
        let sample = (due && self.count > 0.0).then(|| self.sum / self.count)?;
        *self = Self { sampled: Some(at), ..Self::since(self.since) };
        Some(sample)
    }
}

/// What was told of a workload, and its use.
struct Known {
    node: NodeId,
    described: Workload,
    seen: Time,
    usage: Use,
    most: f64,
}

/// Remembers what was told, so that only news are.
pub struct Observer {
    inventory: Inventory,
    /// Its nodes by name.
    managed: Arc<BTreeMap<NodeId, NodeEntry>>,
    nodes: BTreeMap<NodeId, Node>,
    own_use: BTreeMap<NodeId, u64>,
    workloads: BTreeMap<WorkloadId, Known>,
    /// Nodes of a cluster, if one is followed.
    beneath: Option<Beneath>,
    began: Option<Time>,
    heard: BTreeSet<NodeId>,
    synced: bool,
    settle_s: f64,
}

impl Observer {
    /// Knows nothing yet. Nodes of the inventory are waited for, for `settle_s` seconds.
    pub fn new(inventory: Inventory, settle_s: f64) -> Self {
        let managed = inventory.node.iter().filter_map(|entry| Some((NodeId::new(&entry.name).ok()?, entry.clone())));
        Self {
            managed: Arc::new(managed.collect()),
            inventory,
            nodes: BTreeMap::new(),
            own_use: BTreeMap::new(),
            workloads: BTreeMap::new(),
            beneath: None,
            began: None,
            heard: BTreeSet::new(),
            synced: false,
            settle_s,
        }
    }

    /// Goes on from a state of the past: what was learned stays, but nobody is where they were until they are seen
    /// there. Nodes that were not heard of for `forget_s` seconds are forgotten unless the inventory names them.
    pub fn resume(&mut self, state: &mut FleetState, at: Time, forget_s: f64) {
        state.synced = false;
        let named = |id: &NodeId| self.managed.contains_key(id);
        let nodes: Vec<(NodeId, bool)> =
            state.nodes.values().map(|n| (n.id.clone(), named(&n.id) || at.since(n.heard) < forget_s)).collect();
        for (node, keep) in nodes {
            let event = match keep {
                true => Event::NodePower { node, power: PowerState::Unknown },
                false => Event::NodeGone { node },
            };
            state.apply(at, event);
        }
        let lost: Vec<WorkloadId> = state
            .workloads
            .values()
            .filter(|w| w.node.as_ref().is_none_or(|n| !state.nodes.contains_key(n)))
            .map(|w| w.id.clone())
            .collect();
        for workload in lost {
            state.apply(at, Event::WorkloadGone { workload });
        }
        for w in state.workloads.values() {
            let Some(node) = w.node.clone() else { continue };
            let described = Workload::new(w.id.clone(), Resources::default());
            let most = w.requests.cpu_milli as f64;
            let known = Known { node, described, seen: at, usage: Use::since(at), most };
            self.workloads.insert(w.id.clone(), known);
        }
    }

    /// Seconds until it no longer waits for nodes that were not heard of; 0: it doesn't wait.
    pub fn settles_in(&self, at: Time) -> f64 {
        let waits = self.began.map_or(self.settle_s, |began| (self.settle_s - at.since(began)).max(0.0));
        if self.synced { 0.0 } else { waits }
    }

    /// Takes in which nodes are a cluster's. What was a workload there without the cluster's word is none any more, but
    /// for virtual machines, and what `pod` knows.
    pub fn follow(
        &mut self,
        theirs: Theirs,
        seen: &BTreeMap<NodeId, Sight>,
        pod: &dyn Fn(&WorkloadId) -> bool,
    ) -> Vec<Event> {
        let mut beneath = self.beneath.take().unwrap_or_default();
        beneath.look(theirs, &self.managed, seen);
        self.nodes.retain(|id, _| !beneath.has(id));
        let mut gone = Vec::new();
        self.workloads.retain(|id, known| {
            let stays = !beneath.has(&known.node) || id.kind() == WorkloadKind::Vm;
            if !stays && !pod(id) {
                gone.push(Event::WorkloadGone { workload: id.clone() });
            }
            stays
        });
        self.beneath = Some(beneath);
        gone
    }

    /// What lies beneath the nodes of the cluster that is followed.
    pub fn beneath(&mut self) -> Option<&mut Beneath> {
        self.beneath.as_mut()
    }

    /// What is new at `at`. `seen` are all nodes that are known; nodes of the inventory are told of in any case.
    pub fn observe(&mut self, at: Time, seen: &BTreeMap<NodeId, Sight>) -> Vec<Event> {
        let mut events = Vec::new();
        // half of a cluster looks like one with much room
        if self.beneath.as_ref().is_some_and(|beneath| !beneath.is_complete()) {
            return events;
        }
        if self.began.is_none() {
            self.began = Some(at);
            events.extend(
                self.inventory.away.iter().map(|(group, away)| Event::Budget { group: group.clone(), away: *away }),
            );
        }
        let nothing = Sight::default();
        let entries = Arc::clone(&self.managed);
        for (id, entry) in &*entries {
            let sight = seen.get(id).unwrap_or(&nothing);
            if self.is_theirs(id) {
                self.heard.insert(id.clone());
                continue;
            }
            self.node(at, id, entry, true, sight, &mut events);
        }
        for (id, sight) in seen {
            if self.is_theirs(id) {
                let vms = sight.workloads.iter().filter(|w| sight.fresh && w.id.kind() == WorkloadKind::Vm);
                vms.for_each(|vm| self.workload(at, id, false, vm, &mut events));
                continue;
            }
            if entries.contains_key(id) {
                continue;
            }
            let entry = NodeEntry { name: id.to_string(), ..NodeEntry::default() };
            self.node(at, id, &entry, false, sight, &mut events);
        }
        self.end_workloads(at, seen, &mut events);
        let some = !self.heard.is_empty() || self.beneath.is_some();
        let all = entries.keys().all(|id| self.heard.contains(id)) && some;
        // the first round tells of nodes before all of their workloads are known
        let rounds = self.began.is_some_and(|began| at > began);
        if !self.synced && rounds && (all || self.settles_in(at) <= 0.0) {
            self.synced = true;
            events.push(Event::Synced);
        }
        events
    }

    fn is_theirs(&self, id: &NodeId) -> bool {
        self.beneath.as_ref().is_some_and(|beneath| beneath.has(id))
    }

    fn node(
        &mut self,
        at: Time,
        id: &NodeId,
        entry: &NodeEntry,
        managed: bool,
        sight: &Sight,
        events: &mut Vec<Event>,
    ) {
        // of a node without CPUs nothing can be said
        if entry.cpus.is_none() && sight.cpus.is_none() {
            return;
        }
        let Ok(mut node) = entry.node(sight.cpus, &sight.model) else { return };
        node.sockets = sight.sockets.max(1);
        // what nobody put into our hands is neither emptied nor filled
        node.cordoned = !managed;
        node.switchable = managed && entry.switchable.unwrap_or(sight.switchable);
        node.wake_proven = sight.wake_proven || entry.wake_proven;
        node.power = match sight.hardware {
            // an agent that speaks is the best sign of life
            _ if sight.fresh => PowerState::On,
            Some(off @ (PowerState::Off | PowerState::TurningOff | PowerState::TurningOn)) => off,
            _ => PowerState::Unknown,
        };
        let power = node.power;
        let described = Node { power: PowerState::Unknown, ..node.clone() };
        let reserved = node.reserved.clone();
        if self.nodes.get(id) != Some(&described) {
            self.nodes.insert(id.clone(), described);
            self.own_use.remove(id);
            events.push(Event::NodeSeen(Box::new(node)));
        } else {
            events.push(Event::NodePower { node: id.clone(), power });
        }
        if !sight.fresh {
            return;
        }
        self.heard.insert(id.clone());
        events.push(Event::NodeHeard { node: id.clone() });
        let cpus = entry.cpus.or(sight.cpus.map(f64::from)).unwrap_or(0.0);
        if let (Some(watts), Some(busy)) = (sight.watts, sight.cpu_milli)
            && cpus > 0.0
        {
            // rounding may take a busy node a little above all of its CPUs
            let load = (busy / (cpus * 1000.0)).min(1.0);
            events.push(Event::NodeRead { node: id.clone(), reading: Reading { watts, load, error: sight.error } });
        }
        self.own_use(id, &reserved, sight, events);
        for one in &sight.workloads {
            self.workload(at, id, managed, one, events);
        }
    }

    /// What the node uses for itself is not for workloads.
    fn own_use(&mut self, id: &NodeId, reserved: &Resources, sight: &Sight, events: &mut Vec<Event>) {
        let Some(own) = own_use(sight) else { return };
        let told = self.own_use.get(id).copied();
        if told.is_some_and(|told| told.abs_diff(own) < OWN_USE_MILLI) {
            return;
        }
        self.own_use.insert(id.clone(), own);
        let mut reserved = reserved.clone();
        reserved.cpu_milli = reserved.cpu_milli.max(own);
        events.push(Event::NodeReserved { node: id.clone(), reserved, used_milli: own });
    }

    fn workload(&mut self, at: Time, node: &NodeId, managed: bool, seen: &Seen, events: &mut Vec<Event>) {
        let known = self.workloads.entry(seen.id.clone()).or_insert_with(|| Known {
            node: node.clone(),
            described: Workload::new(seen.id.clone(), Resources::default()),
            seen: at,
            usage: Use::since(at),
            most: 0.0,
        });
        known.seen = at;
        let sample = known.usage.take(at, seen.cpu_milli);
        if let Some(mean) = sample {
            known.most = known.most.max(mean);
        }
        let mut workload = self.inventory.described(&seen.id, &seen.name, known.most);
        workload.stays |= !managed;
        workload.node = Some(node.clone());
        let moved = known.node != *node;
        let describe = |w: &Workload| Workload { node: None, ..w.clone() };
        if describe(&known.described) != describe(&workload) || known.described.node.is_none() {
            known.described = workload.clone();
            // where it was is what the planner knows: it has to see that it moved
            workload.node = Some(known.node.clone());
            events.push(Event::WorkloadSeen(Box::new(workload)));
        }
        if moved {
            known.node = node.clone();
            events.push(Event::WorkloadBound { workload: seen.id.clone(), node: Some(node.clone()) });
        }
        if let Some(cpu_milli) = sample {
            events.push(Event::WorkloadUsed { workload: seen.id.clone(), cpu_milli });
        }
    }

    /// Workloads of which an agent that speaks told nothing for a while, and those of nodes that are known to be off.
    fn end_workloads(&mut self, at: Time, seen: &BTreeMap<NodeId, Sight>, events: &mut Vec<Event>) {
        self.workloads.retain(|id, known| {
            let told = |sight: &Sight| sight.fresh || sight.hardware == Some(PowerState::Off);
            let here = seen.get(&known.node);
            let left = here.is_some_and(|sight| sight.left.contains(id));
            let ended = here.is_some_and(told) && (left || at.since(known.seen) >= ENDED_S);
            if ended {
                events.push(Event::WorkloadGone { workload: id.clone() });
            }
            !ended
        });
    }
}

/// What a node uses besides its workloads, in thousandths of a CPU.
pub(super) fn own_use(sight: &Sight) -> Option<u64> {
    let theirs: f64 = sight.workloads.iter().filter_map(|w| w.cpu_milli).sum();
    Some(whole((sight.cpu_milli? - theirs).max(0.0)))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and the cast saturates")]
fn whole(v: f64) -> u64 {
    v.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_planner::plan::plan;
    use ebbtide_planner::policy::Policy;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn seen(name: &str, cpu_milli: f64) -> Seen {
        Seen { id: format!("container/{name}").parse().unwrap(), name: name.to_owned(), cpu_milli: Some(cpu_milli) }
    }

    fn sight(watts: f64, workloads: Vec<Seen>) -> Sight {
        let theirs: f64 = workloads.iter().filter_map(|w| w.cpu_milli).sum();
        Sight {
            fresh: true,
            watts: Some(watts),
            error: 0.02,
            cpu_milli: Some(50.0 + theirs),
            cpus: Some(8),
            model: "EPYC".to_owned(),
            switchable: true,
            wake_proven: true,
            workloads,
            ..Sight::default()
        }
    }

    const INVENTORY: &str = "
        [[node]]
        name = 'a'
        watts = [80, 160]
        [[node]]
        name = 'b'
        watts = [80, 160]
        [[workload]]
        name = 'web*'
        cpus = 1
        movable = true
    ";

    struct Bench {
        observer: Observer,
        state: FleetState,
        at: Time,
    }

    impl Bench {
        fn new() -> Self {
            let inventory = Inventory::parse(INVENTORY, "test").unwrap();
            Self { observer: Observer::new(inventory, 60.0), state: FleetState::new(), at: Time::from_secs(10) }
        }

        fn round(&mut self, sights: &[(&str, Sight)]) {
            self.at = self.at.plus_secs(30);
            let seen = sights.iter().map(|(name, sight)| (id(name), sight.clone())).collect();
            for event in self.observer.observe(self.at, &seen) {
                let told = format!("{event:?}");
                assert!(self.state.apply(self.at, event), "refused: {told}");
            }
        }
    }

    #[test]
    fn two_half_empty_nodes_become_one_and_the_state_is_what_was_seen() {
        let mut b = Bench::new();
        for _ in 0..100 {
            b.round(&[
                ("a", sight(85.0, vec![seen("web-1", 500.0), seen("web-2", 500.0)])),
                ("b", sight(85.0, vec![seen("web-3", 200.0)])),
            ]);
        }
        assert!(b.state.synced);
        assert_eq!(b.state.nodes[&id("a")].reserved.cpu_milli, 50);
        assert_eq!(b.state.workloads.len(), 3);
        let w = &b.state.workloads[&"container/web-3".parse().unwrap()];
        assert_eq!((w.requests.cpu_milli, w.node.clone()), (1000, Some(id("b"))));
        assert!((w.expected_milli() - 200.0).abs() < 1.0, "{}", w.expected_milli());
        let p = plan(&b.state, &Policy::default(), b.at).unwrap();
        let does: Vec<&str> = p.actions.iter().map(|a| a.what.word()).collect();
        assert_eq!((does.first(), does.last()), (Some(&"cordon"), Some(&"power-off")), "{does:?}");
        // what runs unbeknown to the inventory holds its node
        b.round(&[
            ("a", sight(100.0, vec![seen("web-1", 500.0), seen("db", 500.0)])),
            ("b", sight(85.0, vec![seen("web-3", 200.0), seen("own", 10.0)])),
        ]);
        let p = plan(&b.state, &Policy::default(), b.at).unwrap();
        assert!(p.actions.iter().all(|a| a.what.word() == "move"), "{:?}", p.actions);
    }

    #[test]
    fn silence_ends_nothing_and_proves_nothing() {
        let mut b = Bench::new();
        for _ in 0..3 {
            b.round(&[("a", sight(100.0, vec![seen("web-1", 500.0)])), ("b", sight(85.0, vec![seen("web-3", 200.0)]))]);
        }
        let silent = Sight { fresh: false, workloads: Vec::new(), ..sight(0.0, Vec::new()) };
        for _ in 0..20 {
            b.round(&[("a", sight(100.0, vec![seen("web-1", 500.0)])), ("b", silent.clone())]);
        }
        assert_eq!(b.state.nodes[&id("b")].power, PowerState::Unknown);
        assert!(b.state.workloads.contains_key(&"container/web-3".parse().unwrap()));
        // its outlet says that it is off: that is known
        b.round(&[("a", sight(100.0, Vec::new())), ("b", Sight { hardware: Some(PowerState::Off), ..silent })]);
        assert_eq!(b.state.nodes[&id("b")].power, PowerState::Off);
        assert!(!b.state.workloads.contains_key(&"container/web-3".parse().unwrap()), "a dark node runs nothing");
        // an agent that speaks and doesn't tell of a workload any more ends it
        for _ in 0..7 {
            b.round(&[("a", sight(100.0, Vec::new()))]);
        }
        assert!(!b.state.workloads.contains_key(&"container/web-1".parse().unwrap()));
    }

    #[test]
    fn what_was_moved_off_a_node_is_gone_at_once_unless_it_is_seen_elsewhere() {
        let mut b = Bench::new();
        let both = || vec![seen("web-1", 500.0), seen("web-2", 500.0)];
        b.round(&[("a", sight(100.0, both())), ("b", sight(85.0, Vec::new()))]);
        let left = both().into_iter().map(|w| w.id).collect();
        let emptied = Sight { left, ..sight(80.0, Vec::new()) };
        b.round(&[("a", emptied), ("b", sight(90.0, vec![seen("web-2", 500.0)]))]);
        let where_is =
            |name: &str| b.state.workloads.get(&format!("container/{name}").parse().unwrap()).map(|w| w.node.clone());
        assert_eq!((where_is("web-1"), where_is("web-2")), (None, Some(Some(id("b")))));
    }

    #[test]
    fn a_node_that_is_not_in_the_inventory_is_never_touched() {
        let mut b = Bench::new();
        for _ in 0..5 {
            b.round(&[
                ("a", sight(100.0, Vec::new())),
                ("b", sight(100.0, Vec::new())),
                ("c", sight(90.0, Vec::new())),
            ]);
        }
        let c = &b.state.nodes[&id("c")];
        assert!(!c.switchable && c.cordoned && b.state.nodes[&id("b")].switchable);
        // nor are workloads put there, or taken from it
        b.round(&[
            ("a", sight(100.0, vec![seen("web-1", 500.0)])),
            ("b", sight(100.0, Vec::new())),
            ("c", sight(20.0, vec![seen("web-2", 10.0)])),
        ]);
        let p = plan(&b.state, &Policy { horizon_s: 86_400, min_on_s: 0, sleep_after_s: 0, ..Policy::default() }, b.at)
            .unwrap();
        let touches = p.actions.iter().any(|a| format!("{:?}", a.what).contains("NodeId(\"c\")"));
        assert!(!touches && !p.is_empty(), "{:?}", p.actions);
    }

    #[test]
    fn a_workload_that_is_seen_elsewhere_has_moved() {
        let mut b = Bench::new();
        b.round(&[("a", sight(100.0, vec![seen("web-1", 500.0)])), ("b", sight(85.0, Vec::new()))]);
        b.round(&[("a", sight(100.0, Vec::new())), ("b", sight(85.0, vec![seen("web-1", 500.0)]))]);
        let w = &b.state.workloads[&"container/web-1".parse().unwrap()];
        assert_eq!((w.node.clone(), w.moved), (Some(id("b")), Some(b.at)));
    }

    #[test]
    fn what_was_learned_outlives_the_daemon_and_where_things_were_does_not() {
        let mut b = Bench::new();
        for _ in 0..40 {
            b.round(&[("a", sight(120.0, vec![seen("web-1", 500.0)])), ("b", sight(85.0, vec![seen("web-3", 200.0)]))]);
        }
        let watts = b.state.nodes[&id("a")].curve.idle();
        assert!(watts > 100.0, "{watts}");
        let mut again = Bench::new();
        again.at = b.at.plus_secs(3600);
        again.state = b.state.clone();
        again.observer.resume(&mut again.state, again.at, 86_400.0);
        assert!(!again.state.synced);
        assert_eq!(again.state.nodes[&id("b")].power, PowerState::Unknown);
        for _ in 0..8 {
            again.round(&[("a", sight(120.0, vec![seen("web-1", 500.0)])), ("b", sight(85.0, Vec::new()))]);
        }
        assert!((again.state.nodes[&id("a")].curve.idle() - watts).abs() < 2.0);
        let left: Vec<String> = again.state.workloads.keys().map(ToString::to_string).collect();
        assert_eq!(left, ["container/web-1"]);
        again.observer = Observer::new(Inventory::default(), 60.0);
        again.observer.resume(&mut again.state, b.at.plus_secs(90_000_000), 86_400.0);
        assert!(again.state.nodes.is_empty() && again.state.workloads.is_empty());
    }

    #[test]
    fn planning_waits_until_everyone_was_heard_or_for_a_minute() {
        let mut b = Bench::new();
        b.round(&[("a", sight(100.0, Vec::new()))]);
        b.round(&[("a", sight(100.0, Vec::new()))]);
        assert!(!b.state.synced);
        b.round(&[("a", sight(100.0, Vec::new()))]);
        assert!(b.state.synced);
        let mut b = Bench::new();
        b.round(&[("a", sight(100.0, Vec::new())), ("b", sight(85.0, Vec::new()))]);
        assert!(!b.state.synced);
        b.round(&[("a", sight(100.0, Vec::new())), ("b", sight(85.0, Vec::new()))]);
        assert!(b.state.synced);
    }
}
