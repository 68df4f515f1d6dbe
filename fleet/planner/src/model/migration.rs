//! What moving a workload takes: megabytes, seconds, joules.

use serde::{Deserialize, Serialize};

/// Joules per megabyte copied between two hosts: 0.512 J/MB + 20.2 J per migration were measured for live migration
/// of virtual machines (Liu et al., HPDC 2011, doi 10.1145/1996130.1996154).
const JOULES_PER_MB: f64 = 0.512;
const JOULES_PER_MOVE: f64 = 20.2;

/// What moving one workload takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Migration {
    /// Megabytes that are copied; 0 for a restart.
    pub megabytes: f64,
    /// Seconds until it runs on its target.
    pub seconds: f64,
    /// Joules besides the copying: a restart's start-up work.
    pub joules: f64,
}

impl Default for Migration {
    /// A stateless restart: ten seconds, and as many joules as a core needs for them.
    fn default() -> Self {
        Self { megabytes: 0.0, seconds: 10.0, joules: 50.0 }
    }
}

impl Migration {
    /// A live migration of `megabytes` at `mb_per_s`.
    pub fn live(megabytes: f64, mb_per_s: f64) -> Self {
        Self { megabytes, seconds: megabytes / mb_per_s.max(1e-3), joules: 0.0 }
    }

    /// All joules that the move costs.
    pub fn energy_j(&self) -> f64 {
        let copy = if self.megabytes > 0.0 { JOULES_PER_MOVE + JOULES_PER_MB * self.megabytes } else { 0.0 };
        copy + self.joules
    }
}
