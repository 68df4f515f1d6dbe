//! Why: one reason for every node that was considered, and for every workload that found no place.

use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

/// What is decided about one thing, and the terms that decided it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum Reason {
    /// A node.
    Node {
        /// Which.
        node: NodeId,
        /// What was decided and why.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// A workload.
    Workload {
        /// Which.
        workload: WorkloadId,
        /// What was decided and why.
        #[serde(flatten)]
        verdict: Verdict,
    },
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// The node is emptied and powered off.
    PowersOff {
        /// Workloads that move away.
        moves: u32,
        /// Watts of idling that end, on the careful side.
        idle_w: f64,
        /// Watts that the moved workloads change elsewhere minus here.
        dynamic_w: f64,
        /// Joules of moving, disruption and a later boot.
        cost_j: f64,
    },
    /// The node is powered on.
    PowersOn {
        /// Who needs it.
        for_whom: Need,
        /// Watts that it adds idle, on the careful side.
        idle_w: f64,
        /// Seconds until it is up, in 95 of 100 boots.
        boot_s: f64,
    },
    /// The node stays on: it can't or mustn't be powered off.
    Held {
        /// By what.
        by: Hold,
    },
    /// The node stays on: one of its workloads can't leave.
    Pinned {
        /// The first such workload.
        workload: WorkloadId,
        /// Why it can't leave.
        why: Pin,
    },
    /// The node stays on: emptying it saves less than it costs.
    NotWorth {
        /// Watts saved.
        saved_w: f64,
        /// Joules it costs.
        cost_j: f64,
    },
    /// The node stays on: a workload of it would fit nowhere else.
    NoRoom {
        /// The first such workload.
        workload: WorkloadId,
        /// The other nodes, by what ruled them out.
        ruled_out: Vec<RuledOut>,
    },
    /// The node is relieved: what it runs doesn't fit it any more.
    Relieved {
        /// Workloads that leave.
        moves: u32,
    },
    /// The node has too much on it, and nothing of it fits elsewhere.
    Overloaded,
    /// The node stays off: nothing needs it.
    NotNeeded,
    /// The workload waits: no node has room for it.
    Waits {
        /// All nodes, by what ruled them out.
        ruled_out: Vec<RuledOut>,
    },
}

/// Nodes that something ruled out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuledOut {
    /// What ruled them out.
    pub by: String,
    /// How many.
    pub nodes: u32,
    /// Some of them.
    pub such_as: Vec<NodeId>,
}

/// Who needs a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "need", rename_all = "kebab-case")]
pub enum Need {
    /// Workloads that wait.
    Waiting {
        /// How many of them go there.
        workloads: u32,
        /// Nodes that are on and were ruled out, for the first of them.
        ruled_out: Vec<RuledOut>,
    },
    /// A node that has too much on it.
    Overload {
        /// Which.
        node: NodeId,
    },
    /// The reserve that shall stay free.
    Reserve,
    /// What is usually asked for by the time that it will be back.
    Foreseen {
        /// Thousandths of a CPU beyond what is asked for now.
        cpu_milli: u64,
    },
    /// Workloads that run elsewhere and take fewer watts there.
    Cheaper {
        /// How many of them move there.
        workloads: u32,
    },
    /// An interlock that wants more nodes on.
    Interlock {
        /// Its name.
        name: String,
    },
}

/// What keeps a node on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "kebab-case")]
pub enum Hold {
    /// Nothing can switch it.
    NotSwitchable,
    /// Nobody has seen it wake.
    WakeUnproven,
    /// It isn't known to be on.
    NotOn,
    /// Somebody closed it: what happens to it is theirs to decide.
    Cordoned,
    /// Nothing was heard of it lately.
    Silent {
        /// For so many seconds.
        seconds: u64,
    },
    /// It was powered on a short while ago.
    MinOn {
        /// Seconds until it may go off.
        left_s: u64,
    },
    /// It was switched a short while ago, and that hasn't paid yet.
    Payback {
        /// Seconds until it has.
        left_s: u64,
    },
    /// A node of its pool was powered on a short while ago.
    JustWoken {
        /// Seconds until nodes of the pool may go off.
        left_s: u64,
    },
    /// It was switched too often today.
    SwitchBudget,
    /// An interlock of the policy.
    Interlock {
        /// Its name.
        name: String,
    },
    /// Without it, the reserve would be too small.
    Reserve,
    /// Its workloads' disruption budget is used up.
    Budget {
        /// The group.
        group: String,
    },
    /// It takes workloads in this plan.
    Receives,
}

/// Why a workload can't leave its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pin {
    /// It mustn't be disturbed.
    Stays,
    /// It was moved a short while ago.
    JustMoved,
}
