//! Worlds on a virtual clock that drive the production planner.

pub mod carbon;
pub mod edgelimit;
pub mod generate;
pub mod load;
pub mod planetlab;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod stream;
pub mod world;
