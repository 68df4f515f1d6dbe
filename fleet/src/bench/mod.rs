//! `ebbtide-fleet bench`: what the daemon costs. `ingest` runs it, `load` makes up the counters, `agents` sends them;
//! `query` asks about days that were made up; `daemon` is the process that is measured.

mod agents;
mod daemon;
mod ingest;
mod load;
mod query;

pub use ingest::ingest;
pub use query::query;
