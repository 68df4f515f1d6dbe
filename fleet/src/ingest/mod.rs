//! What agents send: checked, put in order, made durable, then acknowledged.
//!
//! `session` is one agent's connection as a state machine without I/O, `committer` the one thread that writes to the
//! store for all of them, `counts` what happened so far, `directives` what agents
//! are told to do. An agent can cost itself its connection, nobody else theirs:
//! frames, series and memory are bounded per node, and who sends faster than the disk writes has to wait.

mod committer;
mod counts;
mod directives;
mod session;

pub use committer::{Committer, Safe, Submitter};
pub use counts::{Counts, Reason};
pub use directives::{Directives, Line, Untold};
pub use session::{Limits, Outcome, Peer, Refusal, Session};
