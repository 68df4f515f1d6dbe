//! Who tells joules. Each file here reads one kind of sensor; discovery ranks them.
//!
//! A source hands out [`Zone`]s once and a [`Reading`] per zone at each sample. It knows nothing of
//! processes and keeps no totals: wraps and resets are `counter.rs`, sharing out is `attribution/`.

pub mod battery;
pub mod discover;
pub mod hwmon;
pub mod integrate;
pub mod model;
pub mod outlet;
pub mod perf_rapl;
pub mod points;
pub mod powercap;
pub mod scmi;
pub mod wall;

use std::fmt;
use std::io;

pub use ebbtide_proto::series::{Quality, ZoneKind};
use ebbtide_proto::{Power, Ratio, ZoneId};
pub use ebbtide_runtime::counter::{CounterShape, Reading};
use serde::Serialize;

use crate::clock::Moment;

/// Which reader a zone comes from; the name in metrics, JSON and `zones`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// `/sys/class/powercap`, RAPL.
    Powercap,
    /// `/sys/class/powercap/arm-scmi`, firmware power of ARM machines.
    Scmi,
    /// The perf PMU `power`.
    PerfRapl,
    /// `/sys/class/hwmon`.
    Hwmon,
    /// `/sys/class/power_supply`, a discharging battery.
    Battery,
    /// The machine's outlets or BMC, as the fleet reads them.
    Outlet,
    /// A load curve; no sensor at all.
    Model,
}

impl SourceKind {
    /// All readers, best first.
    pub const ALL: [Self; 7] =
        [Self::Powercap, Self::Scmi, Self::PerfRapl, Self::Hwmon, Self::Battery, Self::Outlet, Self::Model];

    /// The name in metrics, JSON and `zones`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Powercap => "powercap",
            Self::Scmi => "scmi",
            Self::PerfRapl => "perf-rapl",
            Self::Hwmon => "hwmon",
            Self::Battery => "battery",
            Self::Outlet => "outlet",
            Self::Model => "model",
        }
    }
}

/// One thing whose energy is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Stable over reboots, unique on the node, e.g. `powercap/package-0/dram`.
    pub id: ZoneId,
    /// The kernel's own name, unique on the node: `package-0`, `dram`, `dram-1`, `ina226_u76`.
    pub name: String,
    /// What it covers.
    pub kind: ZoneKind,
    /// The zone that this one belongs to, if any. Its energy includes this one's, except that RAPL packages leave
    /// out their memory.
    pub parent: Option<ZoneId>,
    /// The processor package it belongs to.
    pub socket: Option<u32>,
    /// Who reads it.
    pub source: SourceKind,
    /// The file or device it is read from, for people.
    pub path: String,
    /// How good its figures are while it answers.
    pub quality: Quality,
    /// Relative error that its figures are known or estimated to have.
    pub error: Ratio,
    /// How its counter behaves.
    pub counter: CounterShape,
    /// What it draws when nothing runs, where that is known without learning it (load curves).
    pub idle: Option<Power>,
}

impl Zone {
    /// Takes from `other` what a reading may change; whether anything did.
    pub fn goes_as(&mut self, other: &Self) -> bool {
        let same = (self.quality, self.error, self.idle) == (other.quality, other.error, other.idle);
        if same && self.path == other.path {
            return false;
        }
        (self.quality, self.error, self.idle) = (other.quality, other.error, other.idle);
        self.path.clone_from(&other.path);
        true
    }
}

/// Why a zone gave no reading.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file or device couldn't be read.
    #[error("can't read {path}: {source}")]
    Io {
        /// What was read.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It was read, but what it said is not a figure.
    #[error("{path} holds {found:?}, which is not a number")]
    Nonsense {
        /// What was read.
        path: String,
        /// The start of what it held.
        found: String,
    },
    /// It says of itself that it has no figure now (off, no data, not discharging).
    #[error("{path} has no figure now: {why}")]
    Absent {
        /// What was read.
        path: String,
        /// Why.
        why: String,
    },
}

/// A reader of one or more zones.
pub trait Source: Send {
    /// The zones in the order in which [`Source::read`] reports them. Which they are does not change; what each reading
    /// may change is how good their figures are: path, quality, error and idle power.
    fn zones(&self) -> &[Zone];

    /// Reads every zone once and pushes one result per zone, in order. `now` is the sample's time;
    /// a source whose reading takes noticeable time stamps the reading itself.
    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>);
}

/// Something that discovery looked at and left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// What was looked at.
    pub what: String,
    /// Why it isn't used.
    pub why: String,
    /// The command or setting that would help, if one would.
    pub fix: Option<String>,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        match &self.fix {
            Some(fix) => write!(f, " (fix: {fix})"),
            None => Ok(()),
        }
    }
}

/// What one reader found on this machine.
#[derive(Default)]
pub struct Found {
    /// Ready to read.
    pub sources: Vec<Box<dyn Source>>,
    /// Looked at and left out.
    pub skipped: Vec<Skipped>,
}

impl Found {
    /// Adds what another reader found.
    pub fn merge(&mut self, other: Self) {
        self.sources.extend(other.sources);
        self.skipped.extend(other.skipped);
    }

    /// Notes something left out.
    pub fn skip(&mut self, what: impl Into<String>, why: impl Into<String>, fix: Option<&str>) {
        self.skipped.push(Skipped { what: what.into(), why: why.into(), fix: fix.map(str::to_owned) });
    }
}
