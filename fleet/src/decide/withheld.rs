//! What is kept from plans: nodes that are closed, and capacity that somebody outside needs. A layer over whatever
//! describes nodes, so that it holds wherever they are described. Pure.

use std::collections::BTreeMap;

use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::resources::Resources;
use ebbtide_proto::NodeId;

/// All that is kept from plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Nodes that plans neither fill, empty nor switch; by whom, in words.
    pub closed: BTreeMap<NodeId, String>,
    /// Nodes of which workloads may use a part only.
    pub free: BTreeMap<NodeId, Free>,
}

/// The part of a node that workloads may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Thousandths of a CPU; `None`: as many as otherwise.
    pub cpu_milli: Option<u64>,
    /// Bytes of memory; `None`: as many as otherwise.
    pub memory: Option<u64>,
    /// By whom, until when and why, in words.
    pub why: String,
}

impl Withheld {
    /// What is kept of a node, in words.
    pub fn of(&self, node: &NodeId) -> Vec<String> {
        let closed = self.closed.get(node).cloned();
        closed.into_iter().chain(self.free.get(node).map(|free| free.why.clone())).collect()
    }
}

/// A node as it was described, without what is withheld.
#[derive(Clone, Debug)]
struct Described {
    cordoned: bool,
    capacity: Resources,
    reserved: Resources,
    used_milli: u64,
}

/// Lays what is withheld over what is described.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    nodes: BTreeMap<NodeId, Described>,
    withheld: Withheld,
}

impl Layer {
    /// An event of whoever describes nodes, with what is withheld.
    pub(super) fn over(&mut self, event: Event) -> Event {
        match event {
            Event::NodeSeen(mut node) => {
                self.nodes.insert(node.id.clone(), Described::of(&node));
                node.cordoned |= self.withheld.closed.contains_key(&node.id);
                node.reserved = self.reserved(&node.id, &node.capacity, &node.reserved);
                Event::NodeSeen(node)
            }
            Event::NodeCordoned { node, cordoned } => {
                if let Some(known) = self.nodes.get_mut(&node) {
                    known.cordoned = cordoned;
                }
                let closed = self.withheld.closed.contains_key(&node);
                Event::NodeCordoned { node, cordoned: cordoned || closed }
            }
            Event::NodeReserved { node, reserved, used_milli } => {
                let Some(known) = self.nodes.get_mut(&node) else {
                    return Event::NodeReserved { node, reserved, used_milli };
                };
                (known.reserved, known.used_milli) = (reserved.clone(), used_milli);
                let capacity = known.capacity.clone();
                let reserved = self.reserved(&node, &capacity, &reserved);
                Event::NodeReserved { node, reserved, used_milli }
            }
            Event::NodeGone { node } => {
                self.nodes.remove(&node);
                Event::NodeGone { node }
            }
            other => other,
        }
    }

    /// From now on this is withheld; what changes by it.
    pub(super) fn change(&mut self, withheld: Withheld) -> Vec<Event> {
        let before = std::mem::replace(&mut self.withheld, withheld);
        let mut events = Vec::new();
        for (id, known) in &self.nodes {
            let closed = |w: &Withheld| known.cordoned || w.closed.contains_key(id);
            if closed(&before) != closed(&self.withheld) {
                events.push(Event::NodeCordoned { node: id.clone(), cordoned: closed(&self.withheld) });
            }
            if before.free.get(id) != self.withheld.free.get(id) {
                let reserved = self.reserved(id, &known.capacity, &known.reserved);
                events.push(Event::NodeReserved { node: id.clone(), reserved, used_milli: known.used_milli });
            }
        }
        events
    }

    /// What is not for workloads: the described part, or all but what is said to be free, whichever is more.
    fn reserved(&self, id: &NodeId, capacity: &Resources, described: &Resources) -> Resources {
        let mut reserved = described.clone();
        if let Some(free) = self.withheld.free.get(id) {
            let rest = |all: u64, free: Option<u64>| free.map_or(0, |free| all.saturating_sub(free));
            reserved.cpu_milli = reserved.cpu_milli.max(rest(capacity.cpu_milli, free.cpu_milli));
            reserved.memory = reserved.memory.max(rest(capacity.memory, free.memory));
        }
        reserved
    }
}

impl Described {
    fn of(node: &Node) -> Self {
        Self {
            cordoned: node.cordoned,
            capacity: node.capacity.clone(),
            reserved: node.reserved.clone(),
            used_milli: node.reserved_use_milli,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_planner::model::curve::PowerCurve;
    use ebbtide_planner::plan::plan;
    use ebbtide_planner::policy::Policy;
    use ebbtide_planner::state::node::PowerState;
    use ebbtide_planner::state::workload::Workload;
    use ebbtide_planner::state::{FleetState, Time};

    fn id() -> NodeId {
        NodeId::new("a").unwrap()
    }

    fn seen(cordoned: bool) -> Event {
        let mut node = Node::new(id(), Resources::new(8000, 64 << 30), PowerCurve::line(60.0, 140.0));
        (node.cordoned, node.reserved) = (cordoned, Resources::new(500, 1 << 30));
        Event::NodeSeen(Box::new(node))
    }

    fn closed() -> Withheld {
        Withheld { closed: [(id(), "ada".to_owned())].into(), ..Withheld::default() }
    }

    fn free(cpu_milli: Option<u64>, memory: Option<u64>) -> Withheld {
        let free = Free { cpu_milli, memory, why: "ada".to_owned() };
        Withheld { free: [(id(), free)].into(), ..Withheld::default() }
    }

    struct Bench(Layer, FleetState);

    impl Bench {
        fn tell(&mut self, event: Event) {
            let event = self.0.over(event);
            assert!(self.1.apply(Time::from_secs(1), event));
        }

        fn withhold(&mut self, withheld: Withheld) -> usize {
            let events = self.0.change(withheld);
            let count = events.len();
            assert!(events.into_iter().all(|event| self.1.apply(Time::from_secs(1), event)));
            count
        }

        fn node(&self) -> (bool, u64, u64) {
            let node = &self.1.nodes[&id()];
            let free = node.allocatable();
            (node.cordoned, free.cpu_milli, free.memory >> 30)
        }
    }

    #[test]
    fn what_is_withheld_holds_whenever_and_however_a_node_is_described_and_ends_without_a_trace() {
        for withheld_first in [false, true] {
            let mut b = Bench(Layer::default(), FleetState::new());
            if withheld_first {
                assert_eq!(b.withhold(closed()), 0, "a node that nobody has described yet");
            }
            b.tell(seen(false));
            if !withheld_first {
                assert_eq!(b.node(), (false, 7500, 63));
                assert_eq!(b.withhold(closed()), 1);
            }
            assert_eq!(b.node(), (true, 7500, 63));
            b.tell(Event::NodeCordoned { node: id(), cordoned: false });
            b.tell(seen(false));
            assert!(b.node().0, "described anew, it is still closed");
            assert_eq!(b.withhold(closed()), 0);
            b.withhold(free(Some(2000), None));
            assert_eq!(b.node(), (false, 2000, 63));
            b.tell(Event::NodeReserved { node: id(), reserved: Resources::new(7000, 0), used_milli: 10 });
            assert_eq!(b.node(), (false, 1000, 64), "what the node needs for itself counts if it is more");
            b.withhold(free(Some(9000), Some(8 << 30)));
            assert_eq!(b.node(), (false, 1000, 8));
            b.withhold(Withheld::default());
            assert_eq!(b.node(), (false, 1000, 64));
            b.tell(seen(true));
            b.withhold(closed());
            assert_eq!(b.withhold(Withheld::default()), 0, "somebody else has it closed, too");
            assert!(b.node().0);
        }
    }

    #[test]
    fn work_that_does_not_fit_any_more_wakes_a_node() {
        let mut b = Bench(Layer::default(), FleetState::new());
        b.tell(seen(false));
        let other = NodeId::new("b").unwrap();
        let mut dark = Node::new(other.clone(), Resources::new(8000, 64 << 30), PowerCurve::line(60.0, 140.0));
        dark.power = PowerState::Off;
        b.tell(Event::NodeSeen(Box::new(dark)));
        let mut web = Workload::new("pod/web".parse().unwrap(), Resources::new(2000, 1 << 30));
        web.node = Some(id());
        b.tell(Event::WorkloadSeen(Box::new(web)));
        b.tell(Event::Synced);
        let does = |b: &Bench| -> Vec<&'static str> {
            let made = plan(&b.1, &Policy::default(), b.1.now).unwrap();
            made.actions.iter().map(|a| a.what.word()).collect()
        };
        assert!(does(&b).is_empty(), "{:?}", does(&b));
        b.withhold(free(Some(1000), None));
        assert_eq!(does(&b), ["power-on", "move"]);
        b.withhold(Withheld::default());
        assert!(does(&b).is_empty(), "{:?}", does(&b));
    }
}
