//! What happens to a fleet, and the one function that changes its state.

use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use super::node::{Node, PowerState};
use super::resources::Resources;
use super::workload::Workload;
use super::{FleetState, Time};
use crate::model::learn::Reading;

/// Milliseconds of a day.
pub(crate) const DAY_MS: u64 = 86_400_000;

/// Something that happened, at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Inventory described a node; replaces what was known, except what was learned.
    NodeSeen(Box<Node>),
    /// Inventory has no such node any more.
    NodeGone {
        /// Which.
        node: NodeId,
    },
    /// A node is, or no longer is, on.
    NodePower {
        /// Which.
        node: NodeId,
        /// Its state.
        power: PowerState,
    },
    /// A node gave a sign of life.
    NodeHeard {
        /// Which.
        node: NodeId,
    },
    /// What a node keeps from workloads changed.
    NodeReserved {
        /// Which.
        node: NodeId,
        /// Not for workloads.
        reserved: Resources,
        /// CPU that this part really uses, in thousandths.
        used_milli: u64,
    },
    /// A node was closed to, or opened for, new workloads.
    NodeCordoned {
        /// Which.
        node: NodeId,
        /// Closed?
        cordoned: bool,
    },
    /// A workload was described; replaces what was known, except what was learned.
    WorkloadSeen(Box<Workload>),
    /// A workload ended.
    WorkloadGone {
        /// Which.
        workload: WorkloadId,
    },
    /// A workload runs on a node, or waits for one.
    WorkloadBound {
        /// Which.
        workload: WorkloadId,
        /// Where.
        node: Option<NodeId>,
    },
    /// CPU that a workload used since the last time, in thousandths.
    WorkloadUsed {
        /// Which.
        workload: WorkloadId,
        /// Thousandths of a CPU.
        cpu_milli: f64,
    },
    /// A node's power and load were read together.
    NodeRead {
        /// Which.
        node: NodeId,
        /// The figures.
        reading: Reading,
    },
    /// A boot came to its end.
    NodeBooted {
        /// Which.
        node: NodeId,
        /// How long it took, in seconds.
        seconds: f64,
        /// What it took, in joules.
        joules: f64,
    },
    /// A group of workloads may lack at most this many members at once.
    Budget {
        /// The group.
        group: String,
        /// Members that may be away at the same time.
        away: u32,
    },
    /// What workloads ask for now counts for what they usually ask for at this hour.
    Counted,
    /// Inventory has told everything it knows.
    Synced,
}

impl FleetState {
    /// Takes in what happened at `at`. Returns whether the event made sense: one that names what doesn't exist, or
    /// figures that can't be, changes nothing but [`FleetState::refused`].
    pub fn apply(&mut self, at: Time, event: Event) -> bool {
        self.now = self.now.max(at);
        let known = self.apply_known(at, event);
        if !known {
            self.refused += 1;
        }
        known
    }

    fn apply_known(&mut self, at: Time, event: Event) -> bool {
        match event {
            Event::NodeSeen(mut node) => {
                if let Some(old) = self.nodes.get(&node.id) {
                    node.switched.clone_from(&old.switched);
                    node.last = old.was();
                    node.boot = old.boot.clone();
                    if old.power == node.power {
                        node.since = old.since;
                    }
                } else if node.since == Time::ZERO {
                    node.since = at;
                }
                node.heard = node.heard.max(at);
                if let Some(curve) = self.learned_curve(&node) {
                    node.curve = curve;
                }
                self.nodes.insert(node.id.clone(), *node);
                true
            }
            Event::NodeGone { node } => {
                self.curves.forget(&node);
                self.nodes.remove(&node).is_some()
            }
            Event::NodePower { node, power } => self.node(&node, |n| {
                if n.power != power {
                    if matches!(power, PowerState::Off | PowerState::On) {
                        // what isn't known of the time between makes it no less of a switch
                        if n.was().is_some_and(|was| was != power) {
                            n.switched.retain(|t| t.ms() + DAY_MS > at.ms());
                            n.switched.push(at);
                        }
                        n.last = Some(power);
                    } else {
                        n.last = n.was();
                    }
                    n.power = power;
                    n.since = at;
                }
                n.heard = at;
            }),
            Event::NodeHeard { node } => self.node(&node, |n| n.heard = at),
            Event::NodeReserved { node, reserved, used_milli } => self.node(&node, |n| {
                n.reserved = reserved;
                n.reserved_use_milli = used_milli;
            }),
            Event::NodeCordoned { node, cordoned } => self.node(&node, |n| n.cordoned = cordoned),
            Event::WorkloadSeen(mut workload) => {
                if let Some(old) = self.workloads.get(&workload.id) {
                    workload.demand = old.demand.clone();
                    workload.moved = old.moved;
                    self.places.remove(old);
                }
                self.places.add(&workload);
                self.workloads.insert(workload.id.clone(), *workload);
                true
            }
            Event::WorkloadGone { workload } => match self.workloads.remove(&workload) {
                Some(old) => {
                    self.places.remove(&old);
                    true
                }
                None => false,
            },
            Event::WorkloadBound { workload, node } => match self.workloads.get_mut(&workload) {
                Some(w) => {
                    // it came to a node, started or moved, and shall have its rest
                    if node.is_some() && w.node != node {
                        w.moved = Some(at);
                    }
                    self.places.remove(w);
                    w.node = node;
                    self.places.add(w);
                    true
                }
                None => false,
            },
            Event::WorkloadUsed { workload, cpu_milli } => match self.workloads.get_mut(&workload) {
                Some(w) => w.demand.observe(at, cpu_milli),
                None => false,
            },
            Event::NodeRead { node, reading } => self.read(at, &node, reading),
            Event::NodeBooted { node, seconds, joules } => {
                self.nodes.get_mut(&node).is_some_and(|n| n.boot.observe(seconds, joules))
            }
            Event::Budget { group, away } => {
                self.budgets.insert(group, away);
                true
            }
            Event::Counted => {
                let asked = self.asked_milli();
                self.asked.observe(at, asked);
                true
            }
            Event::Synced => {
                self.synced = true;
                true
            }
        }
    }

    fn node(&mut self, id: &NodeId, change: impl FnOnce(&mut Node)) -> bool {
        self.nodes.get_mut(id).map(change).is_some()
    }

    fn read(&mut self, at: Time, id: &NodeId, reading: Reading) -> bool {
        let Some(node) = self.nodes.get_mut(id) else { return false };
        node.heard = at;
        let accepted = self.curves.observe(node, reading);
        if accepted && let Some(curve) = self.curves.curve(node) {
            node.curve = curve;
        }
        accepted
    }

    fn learned_curve(&self, node: &Node) -> Option<crate::model::curve::PowerCurve> {
        self.curves.curve(node)
    }
}
