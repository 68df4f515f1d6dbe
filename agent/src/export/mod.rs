//! What leaves the agent: everything here reads the published snapshot and nothing here changes it.
//!
//! Pages: `page` renders families in chunks, `native`, `kepler`, `scaphandre` and `own` say which, `pages` puts
//! them behind URLs, `reference` writes their document. The HTTP side: `http` (listener, connections, limits) and `web_config` (the
//! operator's file) of the runtime, `negotiate` (which format, and the streamed body).

use std::collections::BTreeSet;

use ebbtide_proto::WorkloadKind;

use crate::config::{Label, NameStyle, Processes};

pub mod kepler;
pub mod native;
pub mod negotiate;
pub mod own;
pub mod page;
pub mod pages;
pub mod reference;
pub mod scaphandre;

pub use ebbtide_runtime::{http, web_config};

/// What the operator wants to see on the metrics page.
pub struct View {
    /// Whose names are used.
    pub names: BTreeSet<NameStyle>,
    /// Kinds of workloads that have series.
    pub levels: BTreeSet<WorkloadKind>,
    /// Optional labels that are shown.
    pub labels: BTreeSet<Label>,
    /// Which processes have series.
    pub processes: Processes,
    /// The most series that processes may have on a page; zero for no limit.
    pub series_budget: u32,
    /// Whether pages may be compressed.
    pub gzip: bool,
    /// The CPUs, for Kepler's names.
    pub processors: Vec<kepler::Processor>,
    /// Counts what is served.
    pub own: own::Own,
}

impl View {
    /// Notes that a page was served to its end.
    pub fn served(&self, series: u64) {
        self.own.served(series);
    }
}
