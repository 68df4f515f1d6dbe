//! What speaks against powering a node off, by the fleet as it is now and not as a plan thought it would be.

use ebbtide_planner::policy::{Basis, Policy};
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::NodeId;

use crate::node::is_within;
use crate::switches::Switches;

/// The fleet, with what only the executor knows of it.
pub(crate) struct Now<'a> {
    pub(crate) now: Time,
    pub(crate) fleet: &'a FleetState,
    pub(crate) policy: &'a Policy,
    pub(crate) switches: &'a Switches,
    /// Nodes that can't be counted on: being emptied or switched, or left alone.
    pub(crate) away: &'a dyn Fn(&NodeId) -> bool,
}

impl Now<'_> {
    /// What speaks against it; `None` if nothing does.
    pub(crate) fn against_off(&self, id: &NodeId) -> Option<String> {
        if !self.fleet.synced {
            return Some("inventory isn't complete".to_owned());
        }
        let Some(node) = self.fleet.nodes.get(id) else { return Some("there is no such node".to_owned()) };
        if node.power != PowerState::On {
            return Some("it isn't known to be on".to_owned());
        }
        if !node.switchable {
            return Some("nothing can power it off and on".to_owned());
        }
        if !node.wake_proven {
            return Some("nobody has seen it wake; prove its wake path first".to_owned());
        }
        if !self.is_fresh(node) {
            return Some(format!("nothing was heard of it for {:.0} s", self.now.since(node.heard)));
        }
        let on = self.now.since(node.since);
        if on < self.policy.min_on_s as f64 {
            return Some(format!("it is on for {on:.0} s only"));
        }
        if let Some(why) = self.switches.against(node, self.policy, self.now) {
            return Some(why);
        }
        for lock in self.policy.interlocks.iter().filter(|lock| lock.nodes.matches(node)) {
            let left = self.stay(id).filter(|n| lock.nodes.matches(n)).count();
            if lock.keep.is_none_or(|keep| left < keep as usize) {
                return Some(format!("interlock {} keeps it on", lock.name));
            }
        }
        (!self.reserve_holds(id)).then(|| "without it the reserve would be too small".to_owned())
    }

    fn is_fresh(&self, node: &Node) -> bool {
        is_within(self.now, node.heard, self.policy.stale_after_s)
    }

    /// Nodes that are there for work when `off` is not.
    fn stay(&self, off: &NodeId) -> impl Iterator<Item = &Node> {
        self.fleet.nodes.values().filter(move |n| {
            n.id != *off && n.power == PowerState::On && !n.cordoned && self.is_fresh(n) && !(self.away)(&n.id)
        })
    }

    /// Whether the others have the room that the policy wants free, in CPU and in memory.
    fn reserve_holds(&self, off: &NodeId) -> bool {
        let wanted = self.policy.reserve;
        if wanted.nodes == 0 && wanted.cpu <= 0.0 {
            return true;
        }
        let expected = (self.policy.basis == Basis::Forecast).then(|| self.fleet.expected_use());
        let (mut cpu, mut memory) = (Vec::new(), Vec::new());
        for node in self.stay(off) {
            let (room, used) = (node.allocatable(), self.fleet.places.used(&node.id));
            let busy = expected.as_ref().map(|e| e.get(&node.id).copied().unwrap_or(0.0));
            cpu.push((room.cpu_milli as f64, busy.unwrap_or(used.cpu_milli as f64)));
            memory.push((room.memory as f64, used.memory as f64));
        }
        let holds = |mut list: Vec<(f64, f64)>, share: f64| {
            list.sort_by(|a, b| b.1.total_cmp(&a.1));
            let (room, used) = list.iter().fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1));
            let fails: f64 = list.iter().take(wanted.nodes as usize).map(|x| x.1).sum();
            room - used + 1e-6 >= fails.max(share * room)
        };
        holds(cpu, wanted.cpu) && holds(memory, 0.0)
    }
}
