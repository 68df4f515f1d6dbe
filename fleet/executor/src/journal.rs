//! What is written down before anything happens: enough to begin anew after a crash at any moment.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;
use serde::{Deserialize, Serialize};

use crate::command::{Effect, Generation, Key};
use crate::event::Answer;
use crate::operation::{Operation, OperationId, Phase, State};
use crate::switches::DAY_MS;

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

/// Numbers of the records that nobody who begins anew needs any more: of operations that ended more than `kept_s` seconds
/// ago and switched nothing within a day, and what was taken back since. Of the rest the executor begins as it would of all.
pub fn needless(records: &[Record], now: Time, kept_s: u64) -> BTreeSet<u64> {
    let old = |at: Time, ms: u64| at.ms().saturating_add(ms) < now.ms();
    let mut ended: BTreeMap<OperationId, Time> = BTreeMap::new();
    let mut wanted: BTreeSet<OperationId> = BTreeSet::new();
    let mut parts: Vec<(OperationId, OperationId)> = Vec::new();
    let mut last: Option<OperationId> = None;
    for record in records {
        match &record.change {
            Change::Began(op) => {
                // the next operation's number is found by the highest
                last = last.max(Some(op.id));
                parts.extend(op.part_of.map(|(plan, _)| (plan, op.id)));
            }
            Change::Intends { key, effect, .. } if effect.switches() && !old(record.at, DAY_MS) => {
                wanted.insert(key.operation);
            }
            Change::Ended { operation, .. } => {
                ended.insert(*operation, record.at);
            }
            _ => {}
        }
    }
    wanted.extend(last);
    // a plan that goes on has to know what became of its parts
    wanted.extend(parts.into_iter().filter(|(plan, _)| !ended.contains_key(plan)).map(|(_, part)| part));
    let over = |id: &OperationId| {
        !wanted.contains(id) && ended.get(id).is_some_and(|at| old(*at, kept_s.saturating_mul(1000)))
    };
    let (mut pause, mut quarantine) = (None, BTreeMap::new());
    let mut needless = BTreeSet::new();
    for record in records {
        let superseded = match &record.change {
            Change::Paused { .. } => pause.replace(record.seq),
            Change::Quarantined { node, .. } | Change::Freed { node } => quarantine.insert(node, record.seq),
            _ => None,
        };
        needless.extend(superseded);
        if record.change.operation().is_some_and(|id| over(&id)) {
            needless.insert(record.seq);
        }
    }
    // the next record's number is found by the last
    if let Some(record) = records.last() {
        needless.remove(&record.seq);
    }
    needless
}

impl Change {
    /// The operation that it is about.
    fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Began(op) => Some(op.id),
            Self::Intends { key, .. } | Self::Happened { key, .. } => Some(key.operation),
            Self::Turned { operation, .. } | Self::Ended { operation, .. } | Self::Cancelled { operation, .. } => {
                Some(*operation)
            }
            Self::Settled { plan, .. } | Self::Approved { plan, .. } => Some(*plan),
            Self::Quarantined { .. } | Self::Freed { .. } | Self::Paused { .. } => None,
        }
    }
}
