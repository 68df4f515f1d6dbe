//! What is learned about a fleet: power by load, demand to come, how long boots take, what a migration costs.
//!
//! Each model is a value with an `observe` that refuses nonsense. Nothing here knows of plans.

pub mod boot;
pub mod curve;
pub mod demand;
pub mod learn;
pub mod migration;
