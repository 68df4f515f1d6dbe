//! `ebbtide-fleet bench`: what the daemon costs. `ingest` runs it, `load` makes up the counters, `agents` sends them;
//! `query` asks about days that were made up; `plan` plans made-up fleets; `daemon` is the process that is measured, `scratch` the folder
//! that they work in.

mod agents;
mod daemon;
mod ingest;
mod load;
mod plan;
mod query;
mod scratch;

pub use ingest::ingest;
pub use plan::measure as plan;
pub use query::query;
