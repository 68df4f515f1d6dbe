//! The vocabulary that the node agent and the fleet daemon share: units, identities, and the wire between them.
//!
//! Nothing in here decides anything and nothing does I/O. Energy is a whole number of
//! microjoules from the hardware counter to the last report, so that sums are exact;
//! watts are derived where a person looks.

pub mod convert;
pub mod frame;
pub mod id;
pub mod identity;
pub mod power;
pub mod series;
pub mod units;
pub mod v1;

pub use id::{BootId, IdError, NodeId, WorkloadId, WorkloadKind, ZoneId};
pub use power::PowerState;
pub use units::{Energy, Power, Ratio};
