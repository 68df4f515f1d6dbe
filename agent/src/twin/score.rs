//! The agent measured against the twin: a scenario is played in simulated time, the sampler reads the fake
//! tree as it would read a machine, and what it says is compared with the truth.
//!
//! `play` makes world and agent run, `balance` checks what must hold at each sample, `compare` makes the figures,
//! `kepler` is the yardstick. This is the one place of the twin that knows how an agent measures.
//!
//! **Process error.** Error of a process = |agent − truth| / truth of its dynamic energy (idle floor left out) over
//! all the time in which the zone's counter could be read without a gap. The mean (MAPE) is over processes that drew
//! at least [`LEAST_SHARE`] of all dynamic energy and used at least [`LEAST_CPU_S`] of CPU time: below that, clock
//! ticks and one sample's length decide. The weighted error is Σ |agent − truth| / Σ truth over the same processes.

pub mod balance;
mod compare;
mod counted;
mod kepler;
mod play;

use std::io;

use serde::Serialize;

use crate::attribution::floor::FloorKind;
use crate::sampler::StartError;
use crate::source::ZoneKind;
use crate::source::discover::Role;

pub use play::{Look, Sample, Setup, score, score_with};

/// A process or workload below this share of all dynamic energy isn't judged.
pub const LEAST_SHARE: f64 = 0.005;
/// A process or workload that used less CPU time than this isn't judged, seconds.
pub const LEAST_CPU_S: f64 = 10.0;

/// Why a scenario can't be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The fake tree can't be written or read.
    #[error("can't keep the fake tree in {path}: {source}")]
    Tree {
        /// Its folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The sampler doesn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The sampler can't read the tree.
    #[error("the sampler can't read the fake tree: {0}")]
    Sample(io::Error),
    /// Whoever looked had seen enough.
    #[error("stopped before the end")]
    Stopped,
}

/// How one scenario went.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// The scenario.
    pub scenario: String,
    /// What it is for.
    pub about: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Running time played, seconds.
    pub seconds: f64,
    /// Samples taken.
    pub samples: u64,
    /// Rules without tolerance that were broken, one sentence each; the first few.
    pub broken: Vec<String>,
    /// How often a rule was broken.
    pub breaches: u64,
    /// The agent's errors.
    pub agent: Accuracy,
    /// The same of Kepler's published formula on the same samples.
    pub kepler: Accuracy,
    /// Zone by zone.
    pub zones: Vec<ZoneScore>,
    /// Workload by workload.
    pub workloads: Vec<WorkloadScore>,
}

/// Errors of dynamic energy, as fractions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Accuracy {
    /// Of processes, in the packages.
    pub cpu: Errors,
    /// Of processes, in memory.
    pub dram: Errors,
    /// Of processes, in all that makes up the node.
    pub node: Errors,
    /// Of workloads by name, ended processes included, in the packages.
    pub workloads: Errors,
    /// Energy of short-lived children that is found under their name, as a fraction of the truth.
    pub storm: Option<f64>,
    /// Largest error of a steady process beside a storm, signed.
    pub beside_storm: Option<f64>,
}

/// A set of errors, as fractions. `None` where nobody was large enough to be judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// How many were judged.
    pub judged: usize,
    /// Mean absolute error.
    pub mape: Option<f64>,
    /// Σ |error| over Σ truth, in energy.
    pub weighted: Option<f64>,
    /// The largest, signed.
    pub worst: Option<f64>,
    /// Whose that is.
    pub worst_of: Option<String>,
}

/// One zone.
#[derive(Clone, Debug, Serialize)]
pub struct ZoneScore {
    /// Its name in the truth.
    pub zone: String,
    /// What it covers.
    pub kind: ZoneKind,
    /// Whether it counts towards the node.
    pub role: Role,
    /// What it really drew, joules.
    pub truth_j: f64,
    /// What the agent counted minus that, joules.
    pub error_j: f64,
    /// Gaps by reason; reasons that didn't occur are left out.
    pub gaps: Vec<(&'static str, u64)>,
    /// Wraps that were followed.
    pub wraps: u64,
    /// Energy that nobody could be found for, joules; that of gaps included.
    pub residual_j: f64,
    /// Truth of the energy that was drawn in gaps, joules.
    pub in_gaps_j: f64,
    /// The idle floor after ten minutes.
    pub floor_at_10_min: Option<FloorScore>,
    /// The idle floor at the end.
    pub floor: Option<FloorScore>,
    /// Idle energy over all time without gap against the truth, as a fraction.
    pub idle_error: Option<f64>,
    /// The same of Kepler's formula.
    pub kepler_idle_error: Option<f64>,
}

/// A floor against the truth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FloorScore {
    /// As the agent says, watts.
    pub watts: f64,
    /// One standard error that the agent states, watts.
    pub stated_error_w: f64,
    /// Where it has it from.
    pub kind: FloorKind,
    /// The truth, watts.
    pub truth_w: f64,
}

impl FloorScore {
    /// Against the truth, as a fraction, signed.
    pub fn error(&self) -> f64 {
        self.watts / self.truth_w - 1.0
    }
}

/// One workload of the scenario.
#[derive(Clone, Debug, Serialize)]
pub struct WorkloadScore {
    /// Its name.
    pub name: String,
    /// CPU time, seconds.
    pub cpu_s: f64,
    /// Dynamic energy in the packages in truth, joules.
    pub truth_j: f64,
    /// By the agent, joules.
    pub agent_j: f64,
    /// By Kepler's formula, joules.
    pub kepler_j: f64,
}

impl Score {
    /// Whether all rules without tolerance held.
    pub fn sound(&self) -> bool {
        self.breaches == 0
    }

    /// The zones of one kind that count towards the node.
    pub fn counted(&self, kind: ZoneKind) -> impl Iterator<Item = &ZoneScore> {
        self.zones.iter().filter(move |z| z.kind == kind && z.role == Role::Total)
    }
}
