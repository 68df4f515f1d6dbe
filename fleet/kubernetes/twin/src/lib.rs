//! A Kubernetes API server in memory, behind real HTTPS, for tests. It gives the answers that were recorded from a real
//! one (`tests/recorded`), and makes trouble on demand.
//!
//! `cluster` is the handle that tests hold. `server` takes connections, `request` reads paths, `answer` answers, `watch`
//! streams. `world` is what requests do to the objects in `store`; `patch`, `fields`, `select`, `defaults`, `budget` and
//! `failure` are its rules, all pure. `crew` stands for controllers, scheduler and kubelets, `extend` asks a scheduler's
//! extender as the real scheduler would.

pub mod answer;
pub mod budget;
pub mod cluster;
pub mod crew;
pub mod defaults;
pub mod extend;
pub mod failure;
pub mod fields;
pub mod fit;
pub mod kinds;
pub mod patch;
pub mod request;
pub mod rights;
pub mod select;
pub mod server;
pub mod store;
pub mod watch;
pub mod world;

pub use cluster::{ADMIN, Cluster, Trouble};
