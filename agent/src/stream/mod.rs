//! What the agent tells the fleet, and how nothing of it is lost or told twice.
//!
//! `batch` makes frames of snapshots (pure), `ticks` their moments (pure), `spool` keeps them until the fleet has them,
//! `session` speaks the protocol (pure: events in, commands out), `client` gives it a network and a clock. Only
//! `client` does I/O on the network, only `spool/files.rs` on the disk. Nothing here knows the sampler.

pub mod batch;
pub mod random;
pub mod session;
pub mod spool;
pub mod ticks;
