//! One operation per node at a time.

use std::collections::BTreeMap;

use ebbtide_proto::NodeId;

use crate::operation::OperationId;

/// Who works on which node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases(BTreeMap<NodeId, OperationId>);

impl Leases {
    /// The operation that works on a node.
    pub(crate) fn holder(&self, node: &NodeId) -> Option<OperationId> {
        self.0.get(node).copied()
    }

    /// Takes the node for an operation; `false` if another has it.
    pub(crate) fn take(&mut self, node: &NodeId, op: OperationId) -> bool {
        *self.0.entry(node.clone()).or_insert(op) == op
    }

    /// Gives back what an operation has.
    pub(crate) fn release(&mut self, op: OperationId) {
        self.0.retain(|_, holder| *holder != op);
    }
}
