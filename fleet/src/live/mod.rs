//! The fleet as it was last heard: nodes, their zones and workloads, with power now.
//!
//! `node` is one node's figures, `registry` all of them and who is connected, `view` turns them into answers. Written
//! by `ingest` alone; everyone else reads. Nothing in here reads a clock or a file: what is true after a restart of
//! the daemon is told again by the agents.

mod node;
mod registry;
mod view;

pub use node::{LONGEST_STEP_MS, Meter, NodeLive, Rejoined};
pub use registry::{Arrival, Claim, Live, Presence, Staleness, Trouble};
pub use view::Load;
