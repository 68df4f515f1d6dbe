//! Acts on plans and on operators' orders. Deciding what to do next is the crate `ebbtide-executor`, which knows no I/O;
//! here it is given a journal, eyes and hands.
//!
//! `journal` is the file that it writes before anything happens, `hosts` brings effects about on plain hosts and sees
//! what is, `hooks` runs the operator's commands that `drain` empties them by, `cluster` does so on a Kubernetes cluster's
//! nodes, `reach` knows which of both it is. `lead` says whether this daemon is the one that acts, `window` when pools act by
//! themselves, `driver` carries events and commands between them, `told` puts operations into the words of the API.
//! `notes` writes on a cluster's nodes, `wishes` reads its ConfigMap, `extend` tells its scheduler.

pub mod cluster;
mod drain;
mod driver;
pub mod extend;
pub mod hooks;
pub mod hosts;
pub mod journal;
pub mod lead;
pub mod notes;
mod reach;
mod settings;
pub mod told;
pub mod window;
pub mod wishes;

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Generation, Mark};
use ebbtide_executor::event::Ask;
use ebbtide_executor::operation::{Operation, OperationId, Task};
use ebbtide_executor::settings::Mode;
use ebbtide_planner::plan::action::Plan;
use ebbtide_proto::NodeId;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::driver::Driver;
pub use self::journal::{Journal, JournalError};
pub use self::reach::Reach;
pub use self::settings::ActConfig;
use self::window::Hours;

/// Orders that wait to be taken.
const WAITING: usize = 32;

/// How everything stands.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Operations that go on, or ended not long ago, by number.
    pub operations: BTreeMap<OperationId, Arc<Operation>>,
    /// Nodes that are left alone until somebody has looked, and why.
    pub quarantined: BTreeMap<NodeId, String>,
    /// Nodes that are closed, and for whom.
    pub closed: BTreeMap<NodeId, Mark>,
    /// Operations that ended since the daemon started, by how.
    pub ended: BTreeMap<&'static str, u64>,
    /// What pools may do.
    pub modes: BTreeMap<String, Mode>,
    /// Whether it is time to act in pools, those that have windows.
    pub hours: BTreeMap<String, Hours>,
    /// Why nothing new is begun.
    pub paused: Option<String>,
    /// Which leader this is.
    pub generation: Generation,
    /// Whether it leads.
    pub leads: bool,
}

impl Board {
    /// The plan that is being carried out.
    pub fn under_way(&self) -> Option<&Plan> {
        let parts = self.operations.values().filter(|op| op.is_live());
        let plan = parts.filter_map(|op| op.part_of).map(|(plan, _)| plan).next()?;
        match &self.operations.get(&plan)?.task {
            Task::Plan { plan } => Some(plan),
            _ => None,
        }
    }
}

/// What somebody wants.
pub(crate) struct Order {
    by: String,
    why: String,
    what: Wanted,
    accepted: oneshot::Sender<Option<OperationId>>,
}

enum Wanted {
    Ask(Ask),
    Mode { pool: String, mode: Mode },
}

/// Why an order wasn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untaken {
    /// Too many wait.
    #[error("too many orders wait to be taken; try again")]
    Busy,
    /// It stops, or doesn't lead.
    #[error("this daemon does not act now; its log says why")]
    Away,
}

/// The way to the driver, and what it tells. Cheap to share.
#[derive(Clone)]
pub struct Acting {
    orders: mpsc::Sender<Order>,
    board: watch::Receiver<Arc<Board>>,
    journal: Journal,
}

impl Acting {
    /// How everything stands.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board.borrow())
    }

    /// Told each time that something changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Board>> {
        self.board.clone()
    }

    /// Gives an order; the operation that it became, once that is safe on disk.
    ///
    /// # Errors
    /// See [`Untaken`].
    pub async fn ask(&self, by: &str, why: &str, what: Ask) -> Result<OperationId, Untaken> {
        self.order(by, why, Wanted::Ask(what)).await?.ok_or(Untaken::Away)
    }

    /// Sets what a pool may do; done when it is safe on disk.
    ///
    /// # Errors
    /// See [`Untaken`].
    pub async fn set_mode(&self, by: &str, pool: &str, mode: Mode) -> Result<(), Untaken> {
        self.order(by, "", Wanted::Mode { pool: pool.to_owned(), mode }).await.map(drop)
    }

    async fn order(&self, by: &str, why: &str, what: Wanted) -> Result<Option<OperationId>, Untaken> {
        let (accepted, answer) = oneshot::channel();
        let order = Order { by: by.to_owned(), why: why.to_owned(), what, accepted };
        self.orders.try_send(order).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Untaken::Busy,
            mpsc::error::TrySendError::Closed(_) => Untaken::Away,
        })?;
        answer.await.map_err(|_| Untaken::Away)
    }

    /// The latest lines of the audit, the newest first.
    ///
    /// # Errors
    /// If the file can't be read.
    pub async fn audited(&self, node: String, since_ms: u64, most: u32) -> Result<Vec<AuditEntry>, JournalError> {
        self.journal.with("read the audit", move |journal| journal.audited(&node, since_ms, most)).await
    }
}
