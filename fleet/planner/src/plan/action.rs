//! A plan and what it consists of.

use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::state::Time;
use crate::state::event::Event;
use crate::state::node::PowerState;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Do {
    /// Power a node on.
    PowerOn {
        /// Which.
        node: NodeId,
    },
    /// Put a workload that waits on a node.
    Place {
        /// Which.
        workload: WorkloadId,
        /// Where.
        to: NodeId,
    },
    /// Keep new workloads away from a node.
    Cordon {
        /// Which.
        node: NodeId,
    },
    /// Move a workload, by migration or by evicting it and starting it anew.
    Move {
        /// Which.
        workload: WorkloadId,
        /// Where it is.
        from: NodeId,
        /// Where it shall be.
        to: NodeId,
    },
    /// Power a node off that has nothing left on it.
    PowerOff {
        /// Which.
        node: NodeId,
    },
}

impl Do {
    /// Its kind in a word, as in JSON.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::PowerOn { .. } => "power-on",
            Self::Place { .. } => "place",
            Self::Cordon { .. } => "cordon",
            Self::Move { .. } => "move",
            Self::PowerOff { .. } => "power-off",
        }
    }

    /// What will be known once it is done.
    pub fn effects(&self) -> Vec<Event> {
        match self {
            Self::PowerOn { node } => vec![Event::NodePower { node: node.clone(), power: PowerState::On }],
            Self::Place { workload, to } | Self::Move { workload, to, .. } => {
                vec![Event::WorkloadBound { workload: workload.clone(), node: Some(to.clone()) }]
            }
            Self::Cordon { node } => vec![Event::NodeCordoned { node: node.clone(), cordoned: true }],
            // a node that is off is opened again, so that it can be used when it comes back
            Self::PowerOff { node } => vec![
                Event::NodePower { node: node.clone(), power: PowerState::Off },
                Event::NodeCordoned { node: node.clone(), cordoned: false },
            ],
        }
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Its place in the plan, from 1.
    pub id: u32,
    /// What to do.
    #[serde(flatten)]
    pub what: Do,
    /// Steps that have to be done before.
    pub needs: Vec<u32>,
    /// Seconds from the start of the plan within which it has to be done, else what it needs is undone.
    pub deadline_s: u64,
    /// Watts that it changes the fleet's power by.
    pub watts: f64,
    /// How to undo it.
    pub undo: Undo,
}

/// How an action is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// Power the node off again.
    PowerOff,
    /// Open the node again.
    Uncordon,
    /// Nothing has to be undone: the workload is as well off where it is now.
    Nothing,
    /// Power the node on again.
    PowerOn,
}

/// Watts as they count with a policy's weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighed {
    /// Before.
    pub before_w: f64,
    /// After.
    pub after_w: f64,
    /// What no placement can be below.
    pub bound_w: f64,
}

/// The decision of a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Digest of everything the plan was made from, once it is recorded with that as a `replay::Decision`.
    pub inputs: String,
    /// When it was made.
    pub at: Time,
    /// What to do, in an order of which every prefix is harmless.
    pub actions: Vec<Action>,
    /// Nodes that the plan and its watts are about; fewer than the fleet has if it was made around a change.
    pub nodes: usize,
    /// Watts of these nodes before.
    pub before_w: f64,
    /// Watts after.
    pub after_w: f64,
    /// Watts that no placement can be below.
    pub bound_w: f64,
    /// The same with what euros and grams of CO2 count for, if the policy gives them a weight that differs from zone to
    /// zone: this is what was made as little as possible. `bound_w` is the weaker for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighed: Option<Weighed>,
    /// Joules that doing it costs: migrations and boots.
    pub cost_j: f64,
    /// Workloads that no node has room for.
    pub unplaced: Vec<WorkloadId>,
    /// Why each node and workload was treated as it was.
    pub reasons: Vec<super::reason::Reason>,
    /// Whether planning ran out of the effort it was allowed; the plan is good, but may not be the best.
    pub cut_short: bool,
}

impl Plan {
    /// How far above the bound the fleet is after the plan, as a share of the bound.
    pub fn gap(&self) -> f64 {
        let (after, bound) = self.weighed.map_or((self.after_w, self.bound_w), |w| (w.after_w, w.bound_w));
        if bound > 0.0 { (after / bound - 1.0).max(0.0) } else { 0.0 }
    }

    /// What will be known once everything is done: the plan's effects as events.
    pub fn effects(&self) -> Vec<Event> {
        self.actions.iter().flat_map(|a| a.what.effects()).collect()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Seconds until what is saved has paid for what it costs; `None` if nothing is saved.
    pub fn pays_back_s(&self) -> Option<f64> {
        let saved = self.before_w - self.after_w;
        (saved > 0.0).then(|| self.cost_j / saved)
    }
}
