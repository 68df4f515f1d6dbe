//! How patient the executor is, how much it does at once, and by what it switches each node.

use std::collections::BTreeMap;

use ebbtide_proto::NodeId;
use serde::{Deserialize, Serialize};

use crate::command::Way;

/// What may be done of one's own accord in a pool. An operator's own orders are carried out in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing.
    #[default]
    Observe,
    /// Plans that an operator approved.
    Recommend,
    /// Plans.
    Auto,
}

/// How much may happen at once in a pool, a zone or on a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limit {
    /// Nodes that are emptied, powered off or on at the same time.
    pub at_once: usize,
    /// Nodes that are switched within a minute.
    pub per_minute: usize,
    /// Nodes that boot at the same time.
    pub boots: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Self { at_once: 4, per_minute: 4, boots: 2 }
    }
}

/// One way to wake a node, and how long to believe in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// The way.
    pub way: Way,
    /// Seconds until a sign of life is due.
    pub patience_s: u64,
    /// Times that it is tried.
    pub tries: u32,
}

/// By what a node is switched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// To shut it down, the best first: agent, BMC.
    pub off: Vec<Way>,
    /// To wake it, the best first.
    pub on: Vec<Rung>,
    /// Whether its outlet is switched off once it is down.
    pub cut: bool,
}

/// Patience, limits and ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Limits of each pool.
    pub pool: Limit,
    /// Limits of each failure zone.
    pub zone: Limit,
    /// Limits of each circuit.
    pub circuit: Limit,
    /// By what each node is switched: the driver knows, not the file.
    #[serde(skip)]
    pub ways: BTreeMap<NodeId, Ways>,
    /// Seconds within which a plan has to be taken up.
    pub fresh_s: u64,
    /// Seconds that a plan may wait for approval.
    pub approval_s: u64,
    /// Seconds after which a command without an answer has landed or never will.
    pub answer_s: u64,
    /// Seconds between two looks at a node.
    pub look_s: u64,
    /// Seconds after which a look says nothing about now.
    pub look_age_s: u64,
    /// Seconds that bindings made before a node was closed take to show.
    pub settle_s: u64,
    /// Workloads that leave one node at the same time; of a group, as many as it may lack.
    pub moves_at_once: usize,
    /// Seconds that an operator's operation on a node may take.
    pub drain_s: u64,
    /// Seconds without a word after which an agent has fallen silent.
    pub silent_s: u64,
    /// Seconds within which an agent that streams has spoken.
    pub streams_s: u64,
    /// Seconds beyond what shutting down usually takes until it has to be confirmed.
    pub confirm_s: u64,
    /// Seconds beyond what a boot usually takes until the node has to be back.
    pub boot_s: u64,
    /// Watts below which an outlet gives nothing.
    pub off_w: f64,
    /// Seconds between two requests to plan anew.
    pub replan_s: u64,
    /// Operations that are over and still shown.
    pub kept: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pool: Limit::default(),
            zone: Limit { at_once: 8, per_minute: 8, boots: 4 },
            circuit: Limit { at_once: 8, per_minute: 4, boots: 2 },
            ways: BTreeMap::new(),
            fresh_s: 60,
            approval_s: 3600,
            answer_s: 30,
            look_s: 5,
            look_age_s: 10,
            settle_s: 10,
            moves_at_once: 4,
            drain_s: 1800,
            silent_s: 30,
            streams_s: 20,
            confirm_s: 120,
            boot_s: 120,
            off_w: 5.0,
            replan_s: 60,
            kept: 1000,
        }
    }
}
