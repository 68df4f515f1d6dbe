//! The fleet as the planner knows it: nodes, workloads, and what was learned about them.
//!
//! [`FleetState::apply`] is the only thing that changes it. No clock, no I/O: every event carries its moment.

pub mod affinity;
pub mod event;
pub mod node;
pub mod places;
pub mod resources;
pub mod workload;

use std::collections::BTreeMap;

use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::model::demand::Season;
use crate::model::learn::Curves;
use crate::policy::Policy;
use node::{Node, PowerState};
use places::Places;
use workload::Workload;

/// Seconds that a node is woken earlier than its slowest boot asks for: decisions and the cluster take their time, too.
const SPARE_S: f64 = 120.0;

/// A moment in milliseconds since the Unix epoch, or since the start of a simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// The start of time.
    pub const ZERO: Self = Self(0);

    /// `ms` milliseconds after the start.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// `s` seconds after the start.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1000))
    }

    /// Milliseconds since the start.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// Seconds from `earlier` until `self`; 0 if it is later.
    pub fn since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1000.0
    }

    /// This moment and `s` seconds.
    pub const fn plus_secs(self, s: u64) -> Self {
        Self(self.0.saturating_add(s.saturating_mul(1000)))
    }
}

/// Everything that plans are made from, besides the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct FleetState {
    /// The latest moment of any event.
    pub now: Time,
    /// Whether inventory has told everything at least once.
    pub synced: bool,
    /// Nodes by name.
    #[serde(with = "listed")]
    pub nodes: BTreeMap<NodeId, Node>,
    /// Workloads by identity.
    #[serde(with = "listed")]
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// By group, how many members may be away at once; groups that aren't named may lack one.
    pub budgets: BTreeMap<String, u32>,
    /// What was learned about power.
    pub curves: Curves,
    /// CPU that workloads ask for, by hour of the day.
    #[serde(skip_serializing_if = "Season::is_empty")]
    pub asked: Season,
    /// Events that made no sense.
    pub refused: u64,
    /// Workloads by node; made anew from the workloads when a state is read back.
    #[serde(skip)]
    pub places: Places,
}

/// A state as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    now: Time,
    synced: bool,
    #[serde(with = "listed")]
    nodes: BTreeMap<NodeId, Node>,
    #[serde(with = "listed")]
    workloads: BTreeMap<WorkloadId, Workload>,
    budgets: BTreeMap<String, u32>,
    curves: Curves,
    #[serde(default)]
    asked: Season,
    refused: u64,
}

impl From<Stored> for FleetState {
    fn from(s: Stored) -> Self {
        let places = Places::of(s.workloads.values());
        Self {
            now: s.now,
            synced: s.synced,
            nodes: s.nodes,
            workloads: s.workloads,
            budgets: s.budgets,
            curves: s.curves,
            asked: s.asked,
            refused: s.refused,
            places,
        }
    }
}

impl FleetState {
    /// An empty fleet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets that anything was switched or moved: the fleet is found as it is.
    pub fn settle(&mut self) {
        for node in self.nodes.values_mut() {
            node.switched.clear();
            node.since = Time::ZERO;
        }
        for workload in self.workloads.values_mut() {
            workload.moved = None;
        }
    }

    /// Thousandths of a CPU that workloads ask for, those that wait included, and those aside that come with their node.
    pub fn asked_milli(&self) -> f64 {
        self.workloads.values().filter(|w| !w.per_node).map(|w| w.requests.cpu_milli as f64).sum()
    }

    /// Thousandths of a CPU that will be asked for beyond what is, by the time that any node that may be off could be
    /// back, whichever are off now.
    pub fn foreseen_milli(&self, policy: &Policy, now: Time) -> f64 {
        if !policy.reserve.foresee || self.asked.is_empty() {
            return 0.0;
        }
        let switched = self.nodes.values().filter(|n| n.switchable && !n.cordoned);
        let boot_s = switched.map(|n| n.boot.seconds(0.95)).fold(0.0, f64::max);
        self.asked.rise(now, boot_s + SPARE_S, self.asked_milli())
    }

    /// Thousandths of a CPU that workloads are expected to use, by node.
    pub fn expected_use(&self) -> BTreeMap<&NodeId, f64> {
        let mut used = BTreeMap::new();
        for w in self.workloads.values() {
            if let Some(node) = &w.node {
                *used.entry(node).or_insert(0.0) += w.expected_milli();
            }
        }
        used
    }

    /// Watts of all nodes as they are now, by the curves.
    pub fn watts(&self) -> f64 {
        let used = self.expected_use();
        let of = |n: &Node| match n.power {
            PowerState::Off => n.off_watts,
            _ => n.watts(used.get(&n.id).copied().unwrap_or(0.0)),
        };
        self.nodes.values().map(of).sum()
    }
}

/// Maps as lists of their values, which carry their keys.
mod listed {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Node, NodeId, Workload, WorkloadId};

    /// What has a key in itself.
    pub(super) trait Keyed {
        type Key: Ord;
        fn key(&self) -> Self::Key;
    }

    impl Keyed for Node {
        type Key = NodeId;
        fn key(&self) -> NodeId {
            self.id.clone()
        }
    }

    impl Keyed for Workload {
        type Key = WorkloadId;
        fn key(&self) -> WorkloadId {
            self.id.clone()
        }
    }

    pub(super) fn serialize<S: Serializer, T: Keyed + Serialize>(
        map: &BTreeMap<T::Key, T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Keyed + Deserialize<'de>>(
        from: D,
    ) -> Result<BTreeMap<T::Key, T>, D::Error> {
        Ok(Vec::<T>::deserialize(from)?.into_iter().map(|v| (v.key(), v)).collect())
    }
}
