//! Which workload a process belongs to: control group -> container, pod, unit, user, machine; command line -> VM.
//!
//! `cgroup`, `vm` and `pods` are pure parsers, called once per new control group, process or answer. `kubelet` keeps
//! the names of this node's pods fresh; whoever looks one up never waits for the network.
//! Nothing here reads `/proc`, keeps energy, or decides which level is shown: that is `usage/`, the ledger and
//! `export/`.

pub mod cgroup;
pub mod groups;
pub mod kubelet;
pub mod pods;
pub mod vm;

pub use cgroup::{CgroupIdentity, Container, Pod, Qos, Runtime};
pub use kubelet::{Kubelet, KubeletConfig, KubeletError, KubeletNames};
pub use pods::{ContainerName, PodName, PodNames, PodsError};
pub use vm::{Hypervisor, Manager, Vm};
