//! A node as the planner sees it.

use std::collections::BTreeMap;

use ebbtide_proto::NodeId;
pub use ebbtide_proto::PowerState;
use serde::{Deserialize, Serialize};

use super::Time;
use super::resources::Resources;
use crate::model::boot::BootModel;
use crate::model::curve::PowerCurve;

/// Keeps workloads away that don't tolerate it; as Kubernetes' `NoSchedule`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub value: String,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// The pool that it belongs to; modes are set by pool.
    #[serde(default)]
    pub pool: String,
    /// The failure zone that it stands in.
    #[serde(default)]
    pub zone: Option<String>,
    /// Labels that workloads may select by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints that workloads must tolerate.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// All that it has.
    pub capacity: Resources,
    /// What is not for workloads: the system's share, a radio unit's RAN load.
    #[serde(default)]
    pub reserved: Resources,
    /// CPU that the reserved part really uses, in thousandths; for power only.
    #[serde(default)]
    pub reserved_use_milli: u64,
    /// Processor packages.
    #[serde(default = "one")]
    pub sockets: u32,
    /// The circuit that feeds it; boots are staggered by circuit.
    #[serde(default)]
    pub circuit: Option<String>,
    /// Nodes with the same text are twins: what one teaches about power is a prior for the others.
    #[serde(default)]
    pub twin: Option<String>,
    /// Whether it is on.
    #[serde(default)]
    pub power: PowerState,
    /// Since when it is in that state.
    #[serde(default)]
    pub since: Time,
    /// Whether new workloads are kept away.
    #[serde(default)]
    pub cordoned: bool,
    /// Whether anything can power it off and on.
    #[serde(default)]
    pub switchable: bool,
    /// Whether a wake has been seen to work.
    #[serde(default)]
    pub wake_proven: bool,
    /// Power by load.
    pub curve: PowerCurve,
    /// Watts while it is off (standby).
    #[serde(default)]
    pub off_watts: f64,
    /// How long a boot takes and what it costs.
    #[serde(default)]
    pub boot: BootModel,
    /// When it was last heard of.
    #[serde(default)]
    pub heard: Time,
    /// When it was switched, the latest last; entries of more than a day ago are dropped.
    #[serde(default)]
    pub switched: Vec<Time>,
    /// Whether it was on or off when that was known for sure last; between both may lie a time in which nobody knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<PowerState>,
}

fn one() -> u32 {
    1
}

impl Node {
    /// A node that is on, with nothing special about it.
    pub fn new(id: NodeId, capacity: Resources, curve: PowerCurve) -> Self {
        Self {
            id,
            pool: String::new(),
            zone: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            capacity,
            reserved: Resources::default(),
            reserved_use_milli: 0,
            sockets: 1,
            circuit: None,
            twin: None,
            power: PowerState::On,
            since: Time::ZERO,
            cordoned: false,
            switchable: true,
            wake_proven: true,
            curve,
            off_watts: 0.0,
            boot: BootModel::default(),
            heard: Time::ZERO,
            switched: Vec::new(),
            last: None,
        }
    }

    /// Whether it was on or off before something else is told.
    pub(crate) fn was(&self) -> Option<PowerState> {
        self.last.or(match self.power {
            PowerState::On | PowerState::TurningOff => Some(PowerState::On),
            PowerState::Off | PowerState::TurningOn => Some(PowerState::Off),
            PowerState::Unknown => None,
        })
    }

    /// What workloads may use.
    pub fn allocatable(&self) -> Resources {
        self.capacity.saturating_sub(&self.reserved)
    }

    /// Load between 0 and 1 when workloads use `milli` thousandths of a CPU.
    pub fn load(&self, milli: f64) -> f64 {
        if self.capacity.cpu_milli == 0 {
            return 0.0;
        }
        ((milli + self.reserved_use_milli as f64) / self.capacity.cpu_milli as f64).clamp(0.0, 1.0)
    }

    /// Watts while on, with workloads that use `milli` thousandths of a CPU.
    pub fn watts(&self, milli: f64) -> f64 {
        self.curve.watts(self.load(milli))
    }
}
