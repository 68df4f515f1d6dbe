//! What the executor is told.

use ebbtide_planner::plan::action::Plan;
use ebbtide_planner::state::node::PowerState;
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::command::{Generation, Key};
use crate::operation::{Free, OperationId};
use crate::settings::Mode;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed, or the fleet's state has changed. At least every few seconds while operations live.
    Tick,
    /// A record is safe on disk, and all before it.
    Journalled {
        /// Whose record.
        generation: Generation,
        /// Its number.
        seq: u64,
    },
    /// A record couldn't be written. The executor stops; it begins anew with `resume` from what is on disk.
    JournalFailed {
        /// Whose record.
        generation: Generation,
    },
    /// What became of an effect.
    Answered {
        /// Whose command.
        generation: Generation,
        /// Which.
        key: Key,
        /// The answer.
        answer: Answer,
    },
    /// A node as it is seen now.
    Seen {
        /// Which.
        node: NodeId,
        /// The look that this answers; `None` if the driver tells of its own accord, as it does whenever it sees a
        /// mark on a node: at the start, and when one appears.
        look: Option<u64>,
        /// What was seen.
        sight: Box<Sight>,
    },
    /// The planner made a plan.
    Planned(Box<Plan>),
    /// An operator wants something.
    Asked {
        /// Number by which the order is answered.
        ticket: u64,
        /// Who.
        by: String,
        /// Why, in the operator's words; may be empty.
        why: String,
        /// What.
        what: Ask,
    },
    /// What may be done of one's own accord in a pool.
    Mode {
        /// The pool.
        pool: String,
        /// The mode.
        mode: Mode,
    },
    /// A maintenance window of a pool opened, or closed.
    Window {
        /// The pool.
        pool: String,
        /// Whether plans may be acted upon now.
        open: bool,
    },
    /// Another leads now, or may.
    LeaseLost,
}

/// An operator's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// Power a node on.
    PowerOn {
        /// Which.
        node: NodeId,
    },
    /// Empty a node and power it off.
    PowerOff {
        /// Which.
        node: NodeId,
    },
    /// Empty a node.
    Evacuate {
        /// Which.
        node: NodeId,
        /// Keep it closed afterwards.
        lock: bool,
    },
    /// Keep new workloads away from a node.
    Lock {
        /// Which.
        node: NodeId,
    },
    /// Take a lock, or a quarantine, away.
    Unlock {
        /// Which.
        node: NodeId,
    },
    /// Carry out a plan that waits for consent.
    Approve {
        /// The plan's operation.
        plan: OperationId,
    },
    /// Keep workloads to a part of a node.
    SetCapacity {
        /// Which.
        node: NodeId,
        /// The part.
        free: Free,
        /// For how long, in seconds; `None` until it is cleared.
        for_s: Option<u64>,
    },
    /// Give workloads all of a node again.
    ClearCapacity {
        /// Which.
        node: NodeId,
    },
    /// Make a new plan now.
    Reorchestrate,
    /// End an operation as soon as that is safe.
    Cancel {
        /// Which.
        operation: OperationId,
    },
    /// Begin nothing new anywhere.
    Pause,
    /// Go on after a pause.
    Resume,
}

/// What became of an effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Done, or it stood so already.
    Done,
    /// For certain not done, and why; it may be asked for again.
    Refused {
        /// Why.
        why: String,
        /// Seconds to wait before asking again.
        retry_after_s: Option<u64>,
    },
    /// What it was about doesn't exist any more.
    Gone,
    /// For certain not done: it couldn't be.
    Failed {
        /// Why.
        why: String,
    },
    /// It may have been done, or may still happen for a while.
    Unknown {
        /// Why that isn't known.
        why: String,
    },
    /// It was never asked for: a last look spoke against it.
    Withdrawn {
        /// What.
        why: String,
    },
}

impl Answer {
    /// Whether the effect may have happened.
    pub const fn may_have_happened(&self) -> bool {
        matches!(self, Self::Done | Self::Unknown { .. })
    }
}

/// Who closed a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cordon {
    /// Nobody: it is open.
    Open,
    /// An operation of the executor's.
    Ours(OperationId),
    /// An operator, through the executor.
    Locked,
    /// Somebody else.
    Foreign,
}

/// A node as it is seen now. `None` and `Unknown`: couldn't be asked, which is never taken for a good sign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// Whether it is closed and by whom; `None` if the cluster couldn't be asked.
    pub cordon: Option<Cordon>,
    /// Whether the cluster thinks it ready.
    pub ready: Option<bool>,
    /// Who else holds it: a maintenance label, another controller's annotation.
    pub held: Option<String>,
    /// Workloads on it that don't end with the node, straight from the cluster.
    pub workloads: Option<Vec<WorkloadId>>,
    /// Seconds since its agent spoke last, by a clock that nobody sets; `None` if it never did.
    pub agent_ago_s: Option<f64>,
    /// What its BMC says.
    pub bmc: PowerState,
    /// What the outlet that feeds it says.
    pub outlet: PowerState,
    /// What the outlet gives, in watts.
    pub outlet_w: Option<f64>,
}
