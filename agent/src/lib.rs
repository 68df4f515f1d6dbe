//! The Ebbtide node agent: where this machine's electricity goes.
//!
//! Flow is one way: `source` + `usage` → `sampler` → `attribution` → `ledger` → `snapshot` → `export`.

pub mod cli;
pub mod clock;
pub mod config;
pub mod host;
pub mod source;
