//! Who did what to which node, why, and what came of it.

use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;
use serde::{Deserialize, Serialize};

use crate::operation::{OperationId, Who};

/// One line of the audit: one for each effect as it is asked for, one for what came of it, one for each operation's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Time,
    /// On whose behalf.
    pub who: Who,
    /// What was done, in words.
    pub what: String,
    /// Why, in words.
    pub why: String,
    /// The node.
    pub node: Option<NodeId>,
    /// The operation that it belongs to.
    pub operation: OperationId,
    /// What came of it; `None` as long as it isn't known.
    pub result: Option<String>,
}
