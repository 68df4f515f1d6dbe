//! What both programs run on: the clocks, and tasks with names and an end.

pub mod clock;
pub mod tasks;
