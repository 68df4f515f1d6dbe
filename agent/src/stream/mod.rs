//! What the agent tells the fleet, and how nothing of it is lost or told twice.
//!
//! `batch` makes frames of snapshots (pure), `ticks` their moments (pure), `spool` keeps them until the fleet has them,
//! `session` speaks the protocol (pure: events in, commands out), `client` drives it: `connect` is its network,
//! `identity` its certificates, `figures` what it did. Only `connect` does I/O on the network, only `spool/files.rs`
//! writes to the disk. Nothing here knows the sampler.

pub mod batch;
pub mod client;
pub mod connect;
pub mod figures;
pub mod identity;
pub mod random;
pub mod session;
pub mod spool;
pub mod ticks;
