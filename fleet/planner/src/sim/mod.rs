//! Worlds on a virtual clock that drive the production planner.

pub mod planetlab;
