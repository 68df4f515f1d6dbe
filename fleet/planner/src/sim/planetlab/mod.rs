//! PlanetLab's traces in CloudSim's accounting.
pub mod baseline;
pub mod driver;
pub mod traces;
pub mod world;
