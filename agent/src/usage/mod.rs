//! Who ran. A [`UsageReader`] tells at each sample how much CPU time every task used since the last one.
//!
//! `table` holds the tasks, `procfs` reads them from `/proc`, `stat` parses its texts, `cpu` tells how busy
//! each CPU was. Nothing here knows of energy.

pub mod cpu;
pub mod procfs;
pub mod stat;
pub mod table;

use std::io;

use crate::clock::Moment;
use table::{Delta, TaskTable};

/// How a reader comes to know who ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Files below `/proc`.
    #[default]
    Procfs,
    /// The kernel's own records, read by BPF programs.
    Bpf,
}

impl Method {
    /// The name in configuration, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Procfs => "procfs",
            Self::Bpf => "bpf",
        }
    }
}

/// What a reader can do, and what it missed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How it reads.
    pub method: Method,
    /// Whether its deltas carry [`table::Events`].
    pub counters: bool,
    /// Ends of tasks that were not told because a buffer was full.
    pub lost_exits: u64,
    /// CPU time of those, in nanoseconds. It was used by somebody, and is charged to [`table::TaskClass::Unseen`].
    pub lost_ns: u64,
}

/// Reads who ran.
pub trait UsageReader: Send {
    /// Brings `table` up to date and pushes one [`Delta`] per task that ran since the last sample.
    ///
    /// The first sample only takes stock: what ran before is nobody's. `forks` is the kernel's count of forks
    /// since boot, if it is known; as long as it stands still there is no new task to look for.
    fn sample(
        &mut self,
        now: Moment,
        forks: Option<u64>,
        table: &mut TaskTable,
        out: &mut Vec<Delta>,
    ) -> io::Result<()>;

    /// How it reads, and what it missed.
    fn status(&self) -> Status;
}
