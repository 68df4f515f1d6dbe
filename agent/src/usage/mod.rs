//! Who ran. A [`UsageReader`] tells at each sample how much CPU time every task used since the last one.
//!
//! `table` holds the tasks, `bpf` has them from the kernel, `procfs` reads them from `/proc`, `stat` parses its texts,
//! `cpu` tells how busy each CPU was. Nothing here knows of energy.

pub mod bpf;
pub mod cpu;
pub mod procfs;
pub mod stat;
pub mod table;

use std::io;

use crate::clock::Moment;
use crate::host::HostRoot;
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

/// How the operator wants usage to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// By BPF if that works here, else from `/proc`.
    #[default]
    Auto,
    /// By BPF or not at all.
    Bpf,
    /// From `/proc`.
    Procfs,
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

    /// Whether it can read with the rights that this thread has now.
    fn readable(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// How it reads, and what it missed.
    fn status(&self) -> Status;
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// How to read.
    pub choice: Choice,
    /// Whether hardware counters are to be read.
    pub counters: bool,
    /// Whether threads are told apart also in `/proc`.
    pub threads: bool,
}

/// A reader, and why it isn't a better one.
pub struct Opened {
    /// The reader.
    pub reader: Box<dyn UsageReader>,
    /// Why BPF isn't used, where it was to be if possible.
    pub without_bpf: Option<bpf::Unusable>,
    /// Why counters aren't used, where they were asked for.
    pub without_counters: Option<bpf::Unusable>,
}

/// Why no reader could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// BPF was asked for and nothing else.
    #[error(
        "usage is set to \"bpf\", which doesn't work here ({0}); it needs CAP_BPF and CAP_PERFMON, and Linux 5.8 with BTF; \"auto\" falls back to /proc"
    )]
    Bpf(#[source] bpf::Unusable),
    /// `/proc` can't be read.
    #[error("can't read {path}; is it mounted? --root names another root")]
    Proc {
        /// Where.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens the best reader that `wish` allows on the machine below `host`.
pub fn open(host: &HostRoot, wish: Wish) -> Result<Opened, OpenError> {
    let mut without_bpf = None;
    if wish.choice != Choice::Procfs {
        match bpf::BpfReader::open(host, wish.counters) {
            Ok((reader, without_counters)) => {
                return Ok(Opened { reader: Box::new(reader), without_bpf: None, without_counters });
            }
            Err(why) if wish.choice == Choice::Bpf => return Err(OpenError::Bpf(why)),
            Err(why) => without_bpf = Some(why),
        }
    }
    let reader = procfs::ProcfsReader::open(host, wish.threads)
        .map_err(|source| OpenError::Proc { path: host.proc("").display().to_string(), source })?;
    let without_counters = wish.counters.then_some(bpf::Unusable::NotBpf);
    Ok(Opened { reader: Box::new(reader), without_bpf, without_counters })
}
