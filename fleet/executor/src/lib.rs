//! Carries out plans and operators' orders. Sans I/O: [`Executor::step`] is told what happened and says what to do; a
//! driver does it. Safety comes before savings.
//!
//! - *Journal before effect.* A [`command::Command::Do`] comes only after its intent was confirmed to be on disk.
//!   [`Executor::resume`] begins anew from the journal: what was in flight is looked at, not repeated.
//! - *One leader.* Every command and answer bears a generation; those of others count for nothing.
//! - *A plan is an intent.* What can't be taken back is looked at right before it happens, and by the fleet as it is now.
//! - *If nobody leads, everything stays on.*
//!
//! `node/` decides what an operation does next (pure); `executor/` journals, gates and sends it, and takes plans apart;
//! `rules.rs`, `limits.rs` and `switches.rs` say what may happen now.

pub mod audit;
pub mod command;
pub mod event;
pub mod executor;
pub mod journal;
pub mod operation;
pub mod settings;
pub mod switches;
pub mod words;

mod leases;
mod limits;
mod node;
mod rules;

pub use executor::Executor;
