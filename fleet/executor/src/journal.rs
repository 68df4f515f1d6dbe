//! What is written down before anything happens: enough to begin anew after a crash at any moment.

use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;
use serde::{Deserialize, Serialize};

use crate::command::{Effect, Generation, Key};
use crate::event::Answer;
use crate::operation::{Operation, OperationId, Phase, State};

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number; rises by one.
    pub seq: u64,
    /// Who wrote it.
    pub generation: Generation,
    /// When.
    pub at: Time,
    /// What.
    pub change: Change,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// An operation was taken on.
    Began(Box<Operation>),
    /// An effect will be brought about as soon as this is safe on disk.
    Intends {
        /// Of which operation.
        key: Key,
        /// On which node.
        node: NodeId,
        /// What.
        effect: Effect,
    },
    /// What became of it.
    Happened {
        /// Which effect.
        key: Key,
        /// The answer.
        answer: Answer,
    },
    /// An operation goes on to another phase.
    Turned {
        /// Which.
        operation: OperationId,
        /// The phase.
        phase: Phase,
    },
    /// An operation is over.
    Ended {
        /// Which.
        operation: OperationId,
        /// How.
        state: State,
        /// In words.
        words: String,
    },
    /// An action of a plan is over.
    Settled {
        /// The plan's operation.
        plan: OperationId,
        /// The action.
        action: u32,
        /// Whether it was done.
        done: bool,
    },
    /// A plan was approved.
    Approved {
        /// The plan's operation.
        plan: OperationId,
        /// By whom.
        by: String,
    },
    /// An operation shall end as soon as that is safe.
    Cancelled {
        /// Which.
        operation: OperationId,
        /// Why.
        why: String,
    },
    /// A node is left alone until an operator unlocks it.
    Quarantined {
        /// Which.
        node: NodeId,
        /// Why.
        why: String,
    },
    /// A node isn't left alone any more.
    Freed {
        /// Which.
        node: NodeId,
    },
    /// Nothing new is begun, or it is again.
    Paused {
        /// Why; `None` ends the pause.
        why: Option<String>,
    },
}
