//! Worlds on a virtual clock that drive the production planner.

pub mod edgelimit;
pub mod generate;
pub mod planetlab;
pub mod rng;
