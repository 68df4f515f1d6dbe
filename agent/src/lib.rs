//! The Ebbtide node agent: where this machine's electricity goes.
//!
//! Flow is one way: `source` + `usage` → `sampler` → `attribution` → `ledger` → `snapshot` → `export`.

pub mod attribution;
pub mod cli;
pub mod command;
pub mod config;
pub mod export;
pub mod host;
pub mod journal;
pub mod ledger;
pub mod perf;
pub mod sampler;
pub mod snapshot;
pub mod source;
pub mod stream;
pub mod twin;
pub mod usage;
pub mod workload;

pub use ebbtide_runtime::{clock, counter, tasks, trapezoid};
