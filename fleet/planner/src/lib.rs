//! Decides which nodes a fleet needs. Pure: values in, values out; time, randomness and files come from outside.
//!
//! `state` is changed by events only → `model` learns from them → `plan` makes a plan → `check` proves it harmless →
//! `explain` tells why. `sim` drives all of it on a virtual clock.

pub mod digest;
pub mod model;
pub mod plan;
pub mod policy;
pub mod sim;
pub mod state;
