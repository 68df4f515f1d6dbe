//! The vocabulary that the node agent and the fleet daemon share: units and identities.
//!
//! Nothing in here decides anything and nothing does I/O. Energy is a whole number of
//! microjoules from the hardware counter to the last report, so that sums are exact;
//! watts are derived where a person looks.

pub mod id;
pub mod units;

pub use id::{BootId, NodeId, WorkloadId, WorkloadKind, ZoneId};
pub use units::{Energy, Power, Ratio};
