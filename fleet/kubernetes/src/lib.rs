//! A Kubernetes cluster as inventory and actuator.
//!
//! `watch` follows the cluster, `convert` makes small values of its objects (pure), `inventory` keeps them and tells the
//! planner what is new (pure). `act` closes nodes, evicts pods, leaves notes, and knows who leads. `extender` is asked by
//! the scheduler where pods shall go. `connect` makes the client that all of them use.

pub mod act;
pub mod connect;
pub mod convert;
pub mod extender;
pub mod inventory;
pub mod names;
pub mod quantity;
pub mod watch;
