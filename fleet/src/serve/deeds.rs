//! What is being done, and how everything stands, for the dashboard.

use std::sync::Arc;

use ebbtide_executor::operation::OperationId;
use ebbtide_proto::v1;

use crate::act::{Acting, told};
use crate::decide::Plans;
use crate::query::{ControlQueries, QueryError};

/// Who acts, and the fleet that it acts on.
pub(super) struct Deeds {
    /// Who acts.
    pub(super) acting: Acting,
    /// Who knows the fleet.
    pub(super) plans: Arc<Plans>,
}

impl ControlQueries for Deeds {
    fn control(&self) -> v1::ControlState {
        self.acting.board().state(&self.plans)
    }

    fn operations(&self, most: usize) -> Vec<v1::Operation> {
        self.acting.board().newest().take(most).map(told::operation).collect()
    }

    fn operation(&self, id: u64) -> Result<v1::Operation, QueryError> {
        let board = self.acting.board();
        let found = board.operations.get(&OperationId(id)).map(|op| told::operation(op));
        found.ok_or_else(|| QueryError::NotFound { what: "operation", name: id.to_string() })
    }
}
