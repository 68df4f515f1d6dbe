//! Orders that can be given, and by whom. Whether they are carried out is decided by who takes them.

use ebbtide_proto::identity::Role;
use ebbtide_proto::v1::PoolMode;

use crate::ingest::Peer;

/// Somebody who looks at the fleet and may want something of it.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// For the audit trail.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The connection that they came over, by which whoever takes orders knows them.
    pub peer: Peer,
}

/// What can be ordered; as the calls of `ebbtide.v1.Control`, where each is described.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the messages in control.proto")]
pub enum Order {
    Pause { why: String },
    Resume,
    SetMode { pool: String, mode: PoolMode },
    Approve { plan: u64 },
    Reorchestrate,
    Cancel { operation: u64 },
    PowerOff { node: String },
    PowerOn { node: String },
    Evacuate { node: String, lock: bool },
    Lock { node: String, why: String },
    Unlock { node: String },
    SetCapacity { node: String, cpu_milli: Option<u64>, memory: Option<u64>, for_ms: u64, why: String },
    ClearCapacity { node: String },
}

impl Order {
    /// The role that it takes.
    pub fn needs(&self) -> Role {
        if matches!(self, Self::SetMode { .. }) { Role::Admin } else { Role::Operator }
    }
}

/// Why an order wasn't taken, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each has the reason in words")]
pub enum Refusal {
    #[error("{0}")]
    NotPermitted(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Senseless(String),
    /// It may be given later, or once something else is so.
    #[error("{0}")]
    NotNow(String),
    #[error("{0}")]
    Broken(String),
}

/// Who takes orders.
#[tonic::async_trait]
pub trait Orders: Send + Sync {
    /// Gives an order; the operation that it became, if it is one.
    ///
    /// # Errors
    /// If it isn't taken.
    async fn give(&self, by: &Visitor, order: Order) -> Result<Option<u64>, Refusal>;
}
