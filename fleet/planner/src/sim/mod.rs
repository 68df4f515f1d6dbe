//! Worlds on a virtual clock that drive the production planner.

pub mod carbon;
mod cards;
pub mod edgelimit;
pub mod generate;
pub mod history;
pub mod load;
pub mod openb;
pub mod planetlab;
pub mod plot;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod stream;
pub mod world;
