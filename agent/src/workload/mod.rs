//! Which workload a process belongs to: control group -> container, pod, unit, user, machine; command line -> VM.
//!
//! `cgroup` and `vm` are pure parsers, called once per new control group or process. `kubelet` knows the names of
//! this node's pods and keeps them fresh in the background; whoever looks one up never waits for the network.
//! Nothing here reads `/proc`, keeps energy, or decides which level is shown: that is `usage/`, the ledger and
//! `export/`.

pub mod cgroup;
pub mod vm;

pub use cgroup::{CgroupIdentity, Container, Pod, Qos, Runtime};
pub use vm::{Hypervisor, Manager, Vm};
