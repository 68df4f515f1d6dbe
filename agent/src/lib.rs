//! The Ebbtide node agent: where this machine's electricity goes.
//!
//! Flow is one way: `source` + `usage` → `sampler` → `attribution` → `ledger` → `snapshot` → `export`.

pub mod clock;
pub mod export;
pub mod host;
pub mod source;
pub mod tasks;
pub mod workload;
