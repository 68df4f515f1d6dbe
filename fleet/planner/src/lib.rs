//! Decides which nodes a fleet needs. Pure: values in, values out; time, randomness and files come from outside.
//!
//! `state` is changed by events only → `model` learns from them → `plan` makes a plan → `check` proves it harmless →
//! `explain` tells why. `whatif` and `replay` are the same planner on other inputs, or on those of the past. `sim`
//! drives all of it on a virtual clock.

pub mod check;
pub mod digest;
pub mod explain;
pub mod model;
pub mod plan;
pub mod policy;
pub mod replay;
pub mod sim;
pub mod state;
pub mod whatif;
