//! What `check` looks at, as plain values.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ebbtide_proto::{Power, Ratio};

use crate::source::discover::Role;
use crate::source::{Skipped, SourceKind, ZoneKind};

/// Everything that conclusions are drawn from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The machine.
    pub machine: Machine,
    /// The readers that may be used, best first.
    pub readers: Vec<Reader>,
    /// The packages that both powercap and perf tell.
    pub cross: Vec<Cross>,
    /// The load curve that is or would be used; `Err` says why there is none.
    pub model: Option<Result<Curve, String>>,
    /// Who ran.
    pub usage: Usage,
    /// Control groups; `None` if they are not mounted.
    pub cgroup: Option<CgroupVersion>,
    /// Programs of other users' processes.
    pub names: Names,
    /// The kubelet, if it is to be asked.
    pub kubelet: Option<Kubelet>,
    /// The fleet daemon, if there is to be one.
    pub fleet: Option<Fleet>,
    /// The state folder.
    pub state: State,
    /// The metrics page.
    pub listen: Listen,
    /// The clocks.
    pub clock: Clock,
    /// What this process may do.
    pub rights: Rights,
}

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Its processor, for people; empty if it doesn't tell.
    pub cpu: String,
    /// Its board, where firmware names it.
    pub board: Option<String>,
    /// Processor packages.
    pub sockets: u32,
    /// CPUs online.
    pub cpus: usize,
    /// Whether it could have RAPL.
    pub x86: bool,
    /// The hypervisor it is a guest of.
    pub guest_of: Option<String>,
    /// Whether its kernel is a real-time one.
    pub real_time: bool,
    /// The kernel's release, such as `6.8.0-45-generic`.
    pub kernel: Option<String>,
}

/// What one reader found.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Which.
    pub kind: SourceKind,
    /// What it tells.
    pub zones: Vec<ZoneFact>,
    /// What it left out.
    pub skipped: Vec<Skipped>,
}

/// A zone that was found.
#[derive(Clone, Debug)]
pub struct ZoneFact {
    /// Its name.
    pub name: String,
    /// What it covers.
    pub kind: ZoneKind,
    /// What it is to the node's total.
    pub role: Role,
    /// The package it belongs to.
    pub socket: Option<u32>,
    /// Why it doesn't answer now, if it doesn't.
    pub silent: Option<String>,
}

/// A package that was measured with powercap and perf at the same time.
#[derive(Clone, Debug)]
pub struct Cross {
    /// Its name.
    pub zone: String,
    /// perf over powercap; `None` if there was too little energy to tell.
    pub ratio: Option<Ratio>,
}

/// A load curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What was recognised.
    pub of: String,
    /// Power without load.
    pub idle: Power,
    /// Power with all CPUs busy.
    pub full: Power,
    /// How far it may be off.
    pub error: Ratio,
}

/// What `/proc` tells of processes.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Why it can't be read at all.
    pub unreadable: Option<String>,
    /// Processes and kernel threads in it.
    pub processes: u64,
    /// Its mount option `hidepid`, unless that is off.
    pub hidepid: Option<String>,
    /// Whether process 1 can be read.
    pub init_readable: bool,
    /// Name of process 1.
    pub init: Option<String>,
    /// Whether run time is told in nanoseconds.
    pub schedstat: bool,
    /// How many files the agent may have open.
    pub open_files: u64,
    /// Whether `kthreadd` is in it, which only the machine's own `/proc` has.
    pub kthreadd: bool,
    /// The number of its pid namespace.
    pub pid_namespace: Option<u64>,
    /// Whether it tells control groups.
    pub cgroups: bool,
    /// Whether BPF does it better.
    pub bpf: Bpf,
}

/// Whether BPF can tell who ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bpf {
    /// It isn't to be used.
    #[default]
    Unwanted,
    /// It can.
    Works {
        /// If hardware counters are wanted: why they can't be used, if so.
        counters: Option<Result<(), String>>,
    },
    /// It can't.
    Unusable {
        /// What was said.
        why: String,
        /// What is missing.
        lack: Lack,
    },
}

/// What BPF lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Rights.
    Rights,
    /// A description of the kernel's types.
    Btf,
    /// The kernel is locked down so far that its memory can't be read.
    Lockdown,
    /// A view of all of the machine.
    View,
    /// Something of the kernel.
    Kernel,
}

/// Which control groups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Only v1.
    V1,
    /// v1 controllers and a v2 tree.
    Hybrid,
    /// Only v2.
    V2,
}

/// Whether programs of other users' processes can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `Some(false)` if the kernel denies it, `None` if there was nothing to try it on.
    pub readable: Option<bool>,
    /// Whether metrics with the path of the program are wanted.
    pub wanted: bool,
}

/// The kubelet's answer.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// Where it was asked.
    pub url: String,
    /// The number of pods, or what went wrong.
    pub pods: Result<usize, String>,
    /// Whether it failed for lack of rights.
    pub denied: bool,
}

/// The fleet daemon.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Where it is.
    pub address: String,
    /// This node's certificate, unless the fleet is told in plain text.
    pub certificate: Option<Certificate>,
    /// Whether it can be connected to, or what went wrong.
    pub reached: Result<(), String>,
}

/// This node's certificate for the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// It is good until then.
    Good {
        /// For people.
        until: String,
        /// Less than a third of its time is left.
        ends_soon: bool,
        /// None of it is.
        ended: bool,
    },
    /// There is none.
    None,
    /// It can't be used.
    Unusable {
        /// Why.
        why: String,
        /// Whether that is lack of rights.
        denied: bool,
    },
}

/// The state folder.
#[derive(Clone, Debug, Default)]
pub enum State {
    /// None is used.
    #[default]
    Off,
    /// Usable, or in use by a running agent.
    Usable {
        /// Where.
        folder: PathBuf,
        /// Whether it is there already.
        exists: bool,
        /// Zones whose idle floor was learned.
        floors: usize,
        /// Whether an agent uses it now.
        held: bool,
    },
    /// Not usable.
    Unusable {
        /// Where.
        folder: PathBuf,
        /// What the kernel said.
        why: String,
        /// Whether that is lack of rights.
        denied: bool,
    },
}

/// The address of the metrics page.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// What listening there would give.
    pub port: Port,
}

/// What listening at an address gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// Nobody is there.
    Free,
    /// An agent serves its metrics there.
    Agent,
    /// Another program is there.
    Taken,
    /// It needs more rights.
    Denied,
    /// It can't be; why.
    Unusable(String),
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, 9883).into(), port: Port::Free }
    }
}

/// The clocks.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Time asleep since boot.
    pub slept: Duration,
    /// Seconds since 1970.
    pub wall: u64,
    /// What the kernel takes time from: `tsc`, `arch_sys_counter`, `hpet` …
    pub source: Option<String>,
}

/// What this process may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Effective user.
    pub uid: u32,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
}

impl Facts {
    /// What a reader found, if it may be used.
    pub fn reader(&self, kind: SourceKind) -> Option<&Reader> {
        self.readers.iter().find(|r| r.kind == kind)
    }

    /// All zones.
    pub fn zones(&self) -> impl Iterator<Item = (SourceKind, &ZoneFact)> {
        self.readers.iter().flat_map(|r| r.zones.iter().map(|z| (r.kind, z)))
    }
}

impl ZoneFact {
    /// Whether it counts towards the node and answers.
    pub fn counts(&self) -> bool {
        self.role == Role::Total && self.silent.is_none()
    }
}
