//! When each node was switched: a node isn't powered off before the last switch has paid for itself.

use std::collections::BTreeMap;

use ebbtide_planner::policy::Policy;
use ebbtide_planner::state::Time;
use ebbtide_planner::state::node::Node;
use ebbtide_proto::NodeId;

use crate::node::is_within;

/// Milliseconds of a day: so long a switch counts against the next one.
pub(crate) const DAY_MS: u64 = 86_400_000;

/// Switches of the last day, by node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Switches(BTreeMap<NodeId, Vec<Time>>);

impl Switches {
    pub(crate) fn note(&mut self, node: &NodeId, at: Time) {
        let list = self.0.entry(node.clone()).or_default();
        list.retain(|t| t.ms().saturating_add(DAY_MS) > at.ms());
        list.push(at);
    }

    /// What speaks against powering the node off now.
    pub(crate) fn against(&self, node: &Node, policy: &Policy, now: Time) -> Option<String> {
        let own = self.0.get(&node.id).map_or(&[][..], Vec::as_slice);
        let wait = policy.payback_s(node);
        let last = own.iter().chain(&node.switched).max();
        if let Some(at) = last
            && now.since(*at) < wait
        {
            return Some(format!("it was switched {:.0} s ago, which takes {wait:.0} s to pay", now.since(*at)));
        }
        let today = |list: &[Time]| list.iter().filter(|t| t.ms().saturating_add(DAY_MS) > now.ms()).count();
        let times = today(own).max(today(&node.switched));
        (times >= policy.switches_per_day as usize).then(|| format!("it was switched {times} times in 24 h"))
    }

    /// Switches within the last minute among some nodes.
    pub(crate) fn lately(&self, now: Time, among: impl Fn(&NodeId) -> bool) -> usize {
        let recent = |t: &&Time| is_within(now, **t, 60);
        self.0.iter().filter(|(node, _)| among(node)).map(|(_, list)| list.iter().filter(recent).count()).sum()
    }
}
