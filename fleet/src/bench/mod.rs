//! `ebbtide-fleet bench`: what the daemon costs. `ingest` runs it, `load` makes up the counters, `agents` sends them.

mod agents;
mod ingest;
mod load;

pub use ingest::ingest;
