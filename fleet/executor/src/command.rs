//! What the executor asks of the driver.
//!
//! The driver's part of the bargain: records are written in the order in which they come; an effect lands within
//! [`crate::settings::Settings::answer_s`] of its command, or never; a command of a generation that no longer leads is
//! thrown away; what was asked for and already stands is left as it is and answered with `Done`.

use std::fmt;

use ebbtide_planner::state::Time;
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::audit::AuditEntry;
use crate::journal::Record;
use crate::operation::OperationId;

/// Which leader: each that takes the lease has a higher number than all before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// One effect of one operation; the same effect tried again has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The operation.
    pub operation: OperationId,
    /// The step of it, from 1.
    pub step: u32,
}

/// By what a node is switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Its agent; off only.
    Agent,
    /// Its baseboard management controller.
    Bmc,
    /// A wake-on-LAN packet; on only.
    Wol,
    /// The outlet that feeds it; on only, [`Effect::OutletOff`] is the other direction.
    Outlet,
}

/// For whom a node is closed; written on the node beside the cordon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// An operation, for as long as it lasts.
    Operation(OperationId),
    /// An operator's lock, until it is taken away.
    Lock,
}

/// Something that changes the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
pub enum Effect {
    /// Closes an open node, or one with a mark of the executor's, and writes the mark on it. A node that somebody
    /// else closed is refused.
    Cordon {
        /// The mark.
        mark: Mark,
    },
    /// Opens a node that carries exactly this mark, else refuses.
    Uncordon {
        /// The mark.
        mark: Mark,
    },
    /// Asks a workload to leave, by eviction or migration.
    Evict {
        /// Which.
        workload: WorkloadId,
        /// Where it should run next: a wish, the scheduler decides.
        to: Option<NodeId>,
        /// Its group, if it has one.
        group: Option<String>,
        /// Members of the group that ran before, itself included.
        members: usize,
    },
    /// Puts a workload that waits on the node.
    Place {
        /// Which.
        workload: WorkloadId,
    },
    /// Tells the agent that the end is near: it delivers what it has spooled and has it acknowledged.
    TellGoodbye,
    /// Shuts the machine down in order. Refused by whoever carries it out if work runs on the node.
    Shutdown {
        /// By what.
        way: Way,
    },
    /// Takes the power away from a machine that is down.
    OutletOff,
    /// Powers the machine on.
    PowerOn {
        /// By what.
        way: Way,
    },
}

/// What can be said about taking an effect back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeBack {
    /// This undoes it.
    By(Effect),
    /// It can't, or needn't be, for this reason.
    No(&'static str),
}

impl Effect {
    /// Whether it puts the world back as it was: allowed while nothing new may be begun.
    pub const fn restores(&self) -> bool {
        matches!(self, Self::Uncordon { .. })
    }

    /// Whether it can't be taken back while it happens: the node is looked at once more right before.
    pub const fn irreversible(&self) -> bool {
        matches!(self, Self::Shutdown { .. } | Self::OutletOff)
    }

    /// Whether it changes if a machine runs.
    pub const fn switches(&self) -> bool {
        matches!(self, Self::Shutdown { .. } | Self::PowerOn { .. })
    }

    /// How it is undone, or why not.
    pub fn undo(&self) -> TakeBack {
        match self {
            Self::Cordon { mark } => TakeBack::By(Self::Uncordon { mark: *mark }),
            Self::Uncordon { .. } => TakeBack::No("an open node is the normal state"),
            Self::Evict { .. } => TakeBack::No("the workload is as well off where it runs now"),
            Self::Place { .. } => TakeBack::No("the workload waited and runs now"),
            Self::TellGoodbye => TakeBack::No("the agent has delivered what it had and goes on"),
            Self::Shutdown { .. } => TakeBack::By(Self::PowerOn { way: Way::Bmc }),
            Self::OutletOff => TakeBack::By(Self::PowerOn { way: Way::Outlet }),
            Self::PowerOn { .. } => TakeBack::No("powering a node off is an operation of its own, with all its checks"),
        }
    }
}

/// Something for the driver to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Write a record, then answer `Journalled`.
    Journal {
        /// Who writes; a store refuses all but the latest.
        generation: Generation,
        /// What.
        record: Box<Record>,
    },
    /// Bring an effect about, then answer `Answered`.
    Do {
        /// Who asks.
        generation: Generation,
        /// What this is the execution of.
        key: Key,
        /// The node that it is about.
        node: NodeId,
        /// What.
        effect: Effect,
        /// When it was asked for.
        at: Time,
    },
    /// Ask everything that knows of the node, past all caches, then answer `Seen`.
    Look {
        /// Who asks.
        generation: Generation,
        /// Which.
        node: NodeId,
        /// Number of the look, for the answer.
        look: u64,
    },
    /// Make a new plan soon.
    Replan {
        /// Who asks.
        generation: Generation,
        /// What has changed.
        why: String,
    },
    /// Write down who did what and why.
    Audit(AuditEntry),
    /// An operator's order became this operation. Told to the operator once the records before it are written.
    Accepted {
        /// The order's number.
        ticket: u64,
        /// The operation.
        operation: OperationId,
    },
    /// An operation has something new to show.
    Changed(OperationId),
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.operation, self.step)
    }
}
