//! What is counted: zones, workloads, and the series that a frame has values of.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Ratio, WorkloadId, ZoneId};

/// How far a figure can be trusted; the larger, the less. It travels with each figure to the last table and plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// A sensor counted it.
    Measured,
    /// A sensor's reading, scaled or integrated from power.
    Scaled,
    /// No sensor: a load curve.
    Modelled,
    /// The sensor stopped answering; the figure is the last one known.
    Stale,
}

impl Quality {
    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Scaled => "scaled",
            Self::Modelled => "modelled",
            Self::Stale => "stale",
        }
    }

    /// The mark in tables: nothing, `~` or `?`.
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Measured => "",
            Self::Scaled | Self::Modelled => "~",
            Self::Stale => "?",
        }
    }
}

/// What part of the machine a zone covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneKind {
    /// The whole platform as the processor sees it (RAPL `psys`).
    Psys,
    /// One processor package or die.
    Package,
    /// The cores of a package; part of it.
    Core,
    /// Graphics or the rest of a client package; part of it.
    Uncore,
    /// Memory of one socket.
    Dram,
    /// One accelerator.
    Gpu,
    /// A board, module or rail that holds processor and more.
    Board,
    /// The whole machine at its input: battery, power supply, outlet.
    Wall,
    /// Something else that has a sensor.
    Other,
}

impl ZoneKind {
    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Psys => "psys",
            Self::Package => "package",
            Self::Core => "core",
            Self::Uncore => "uncore",
            Self::Dram => "dram",
            Self::Gpu => "gpu",
            Self::Board => "board",
            Self::Wall => "wall",
            Self::Other => "other",
        }
    }

    /// What its energy is called in a ledger of the node.
    pub const fn component(self) -> Component {
        match self {
            Self::Package | Self::Core => Component::Cpu,
            Self::Dram => Component::Dram,
            Self::Gpu | Self::Uncore => Component::Gpu,
            Self::Psys | Self::Board | Self::Wall | Self::Other => Component::Rest,
        }
    }
}

/// A line of a node's ledger: `wall = cpu + dram + gpu + rest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// Processor packages.
    Cpu,
    /// Memory.
    Dram,
    /// Accelerators.
    Gpu,
    /// Everything else, and machines of which only the whole is known.
    Rest,
}

impl Component {
    /// All of them, in the order of the ledger.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Dram, Self::Gpu, Self::Rest];

    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Dram => "dram",
            Self::Gpu => "gpu",
            Self::Rest => "rest",
        }
    }
}

/// What a series counts. Whole numbers that only grow while an agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Microjoules of a zone, or of a workload's share of a zone, its share of idle included.
    Energy,
    /// Of that, in microjoules: what a zone would have drawn idle, or a workload's share of that.
    IdleEnergy,
    /// Nanoseconds of CPU time of a workload, or of the whole node.
    CpuTime,
    /// Microjoules of a zone that nobody could be found for.
    Residual,
    /// Times that a zone's counter could not be followed.
    Gaps,
    /// Microjoules of a zone's idle energy that were given to no workload.
    Unallocated,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Energy, Self::IdleEnergy, Self::CpuTime, Self::Residual, Self::Gaps, Self::Unallocated];
}

/// One thing whose energy is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneInfo {
    /// Stable over reboots, unique on the node.
    pub id: ZoneId,
    /// Short, unique on the node: `package-0`.
    pub name: Arc<str>,
    /// What it covers.
    pub kind: ZoneKind,
    /// The processor package it belongs to.
    pub socket: Option<u32>,
    /// What tells its energy, such as `powercap`.
    pub source: Arc<str>,
    /// How good its figures are while it answers.
    pub quality: Quality,
    /// Relative error that is expected.
    pub error: Ratio,
    /// Whether it is one of the zones whose sum is the node's energy.
    pub counts: bool,
}

/// A workload on a node and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadInfo {
    /// Which.
    pub id: WorkloadId,
    /// Such as namespace and pod.
    pub labels: Labels,
}

impl WorkloadInfo {
    /// The text of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

/// Names and texts, sorted. In one piece, since a fleet may have a million of them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<str>);

/// Ends each name and each text; in neither it means anything.
const END: u8 = 0;

impl Labels {
    /// Name and text of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        let mut part = move || {
            // texts are short: looking at each byte is quicker than starting a search
            let end = rest.bytes().position(|byte| byte == END)?;
            let part = rest.get(..end)?;
            rest = rest.get(end + 1..)?;
            Some(part)
        };
        std::iter::from_fn(move || Some((part()?, part()?)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self("".into())
    }
}

impl<N: AsRef<str> + Ord, V: AsRef<str> + Ord> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(labels: I) -> Self {
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort();
        let mut text = String::new();
        for (name, value) in &labels {
            for part in [name.as_ref(), value.as_ref()] {
                let part: &str = part;
                part.split(char::from(END)).for_each(|piece| text.push_str(piece));
                text.push(char::from(END));
            }
        }
        Self(text.into())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// What a series is of: the node or a workload, all of it or one zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// What is counted.
    pub metric: Metric,
    /// Of which zone.
    pub zone: Option<ZoneId>,
    /// Of which workload; none: the node itself.
    pub workload: Option<WorkloadId>,
}

impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workload {
            Some(workload) => write!(f, "{workload}")?,
            None => f.write_str("node")?,
        }
        if let Some(zone) = &self.zone {
            write!(f, " {zone}")?;
        }
        write!(f, " {:?}", self.metric)
    }
}
