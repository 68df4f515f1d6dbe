//! What every exporter reads: one immutable picture per sample, published behind an atomic pointer.
//!
//! Rows are plain columns with one figure per zone, so that ten thousand processes cost a few large copies and no
//! small ones. What doesn't change between samples (labels, zones) is shared.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use ebbtide_proto::{BootId, Energy, NodeId, Power, WorkloadId};
use serde::Serialize;
use tokio::sync::Notify;

use crate::attribution::IdlePolicy;
use crate::attribution::floor::Floor;
use crate::clock::Moment;
use crate::ledger::ZoneAccount;
use crate::source::discover::Role;
use crate::source::{Quality, Zone};
use crate::usage::Status;
use crate::usage::table::TaskClass;

/// Who measures, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node's name.
    pub name: NodeId,
    /// Its present boot, if the kernel tells.
    pub boot: Option<BootId>,
    /// Its processor, for people.
    pub cpu_model: String,
    /// Logical CPUs that are online.
    pub cpus: usize,
    /// Processor packages.
    pub sockets: u32,
    /// What is done with idle energy.
    pub idle_policy: IdlePolicy,
}

/// Whether a zone answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneState {
    /// Read once; energy shows from the second reading on.
    Starting,
    /// Answers.
    Live,
    /// Stopped answering a short while ago: figures are the last ones known.
    Stale,
    /// Has not answered for long, or never: no figures.
    Absent,
}

/// One zone at one sample.
#[derive(Clone, Debug)]
pub struct ZoneView {
    /// The zone.
    pub zone: Arc<Zone>,
    /// Whether it counts towards the node's total.
    pub role: Role,
    /// Whether it answers.
    pub state: ZoneState,
    /// Its account since the first sample of this boot.
    pub account: ZoneAccount,
    /// Mean power since the sample before; absent if unknown.
    pub power: Option<Power>,
    /// What it draws when nothing runs.
    pub floor: Option<Floor>,
}

/// How it is known who ran, and what was missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How usage is read, and what was lost since the agent started.
    pub status: Status,
    /// Ends of tasks were lost since the sample before: somebody's CPU time is in nobody's name.
    pub incomplete: bool,
}

impl Usage {
    /// How good the division among tasks is, however good the zones are.
    pub fn quality(&self) -> Quality {
        if self.incomplete { Quality::Scaled } else { Quality::Measured }
    }
}

/// What a machine draws at its input beyond the zones that make up the node: board, fans, disks, losses of its supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Mean power between the last two readings of the input; absent if the zones claim more than the input and its
    /// error leave.
    pub power: Option<Power>,
    /// How far that may be off.
    pub error: Power,
    /// Energy since the agent started.
    pub energy: Energy,
    /// The worst quality among the input and the zones.
    pub quality: Quality,
}

impl ZoneView {
    /// How good its figures are now.
    pub fn quality(&self) -> Quality {
        match self.state {
            ZoneState::Stale | ZoneState::Absent => Quality::Stale,
            _ => self.zone.quality,
        }
    }

    /// Whether it was ever read: its account says something.
    pub fn has_account(&self) -> bool {
        self.shown() || self.account != ZoneAccount::default()
    }

    /// Whether there is anything to show.
    pub fn shown(&self) -> bool {
        self.state != ZoneState::Absent
    }
}

/// What is known of a task beside figures. Shared between samples; texts are rendered once.
#[derive(Debug, Default)]
pub struct TaskLabels {
    /// Process id as shown: digits, or `412+` for unseen children of 412 (`412+1` … where they were in several
    /// control groups).
    pub pid: String,
    /// The kernel's name for it.
    pub comm: String,
    /// Program, if names are wanted and it can be read.
    pub exe: String,
    /// Command line, if names are wanted and it can be read.
    pub cmdline: String,
    /// Container id, if it is in one.
    pub container: String,
    /// VM id, if it is one.
    pub vm: String,
    /// The workloads it belongs to, innermost first.
    pub workloads: Vec<WorkloadId>,
    /// Label sets in the form of each page, made when a page first needs them.
    pub rendered: [OnceLock<Box<str>>; 3],
}

/// One task at one sample.
#[derive(Clone, Debug)]
pub struct TaskRow {
    /// What is known of it.
    pub labels: Arc<TaskLabels>,
    /// What kind of consumer it is.
    pub class: TaskClass,
    /// Whether it is gone.
    pub ended: bool,
    /// CPU time since it was first seen, in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time in the last interval, in nanoseconds.
    pub cpu_last_ns: u64,
    /// Resident memory in bytes when it last ran.
    pub resident: u64,
}

/// One workload at one sample.
#[derive(Clone, Debug)]
pub struct GroupRow {
    /// Which.
    pub id: WorkloadId,
    /// What is known of it, by label name.
    pub labels: Arc<Vec<(&'static str, String)>>,
    /// Whether its last task is gone.
    pub ended: bool,
    /// Living tasks.
    pub tasks: u32,
    /// CPU time since it was first seen, in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time in the last interval, in nanoseconds.
    pub cpu_last_ns: u64,
    /// Its label set, made when a page first needs it.
    pub rendered: Arc<OnceLock<Box<str>>>,
}

/// Rows of one kind with their figures.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Zones per row.
    pub zones: usize,
    /// Energy so far, `zones` figures per row.
    pub energy: Vec<Energy>,
    /// Of that, shares of idle energy.
    pub idle: Vec<Energy>,
    /// What the last interval added.
    pub last: Vec<Energy>,
}

impl<T> Rows<T> {
    /// No rows.
    pub fn new(zones: usize) -> Self {
        Self { rows: Vec::new(), zones, energy: Vec::new(), idle: Vec::new(), last: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: T, energy: &[Energy], idle: &[Energy], last: &[Energy]) {
        self.rows.push(row);
        self.energy.extend_from_slice(energy);
        self.idle.extend_from_slice(idle);
        self.last.extend_from_slice(last);
    }

    /// Row `i` with its figures by zone.
    pub fn get(&self, i: usize) -> Option<RowView<'_, T>> {
        let range = i * self.zones..(i + 1) * self.zones;
        Some(RowView {
            row: self.rows.get(i)?,
            energy: self.energy.get(range.clone())?,
            idle: self.idle.get(range.clone())?,
            last: self.last.get(range)?,
        })
    }

    /// All rows with their figures.
    pub fn iter(&self) -> impl Iterator<Item = RowView<'_, T>> {
        (0..self.rows.len()).filter_map(|i| self.get(i))
    }
}

/// One row with its figures by zone.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a, T> {
    /// The row.
    pub row: &'a T,
    /// Energy so far.
    pub energy: &'a [Energy],
    /// Of that, shares of idle energy.
    pub idle: &'a [Energy],
    /// What the last interval added.
    pub last: &'a [Energy],
}

/// What the agent itself costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelfCost {
    /// CPU time of the agent, user and system.
    pub cpu: Duration,
    /// CPU time that the last sample took.
    pub sample_cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Energy that was attributed to the agent, if its process was seen.
    pub energy: Option<Energy>,
    /// Samples that began more than half an interval late.
    pub late: u64,
    /// Processes and kernel threads that live.
    pub living: usize,
}

/// The machine at one sample.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Number of the sample; the first is 1.
    pub seq: u64,
    /// When it was taken.
    pub at: Moment,
    /// Time since the sample before, sleep not included.
    pub dt: Duration,
    /// Who measures.
    pub node: Arc<NodeInfo>,
    /// The zones.
    pub zones: Vec<ZoneView>,
    /// Energy of the node: sum of its zones with [`Role::Total`].
    pub node_energy: Energy,
    /// Mean power of the node since the sample before.
    pub node_power: Option<Power>,
    /// What the whole machine draws beyond that, where its input is measured.
    pub rest: Option<Rest>,
    /// Share of CPU time in which something ran, 0 to 1.
    pub utilisation: f64,
    /// CPU time in which something ran, of all CPUs, in nanoseconds since the first sample of this boot.
    pub busy_ns: u64,
    /// Tasks that have a row of their own.
    pub tasks: Rows<TaskRow>,
    /// What tasks without a row of their own used, by zone.
    pub other_tasks: Vec<Energy>,
    /// Workloads.
    pub groups: Rows<GroupRow>,
    /// How it is known who ran.
    pub usage: Usage,
    /// What the agent costs.
    pub own: SelfCost,
}

impl Snapshot {
    /// Before the first sample.
    pub fn empty(node: Arc<NodeInfo>) -> Self {
        Self {
            seq: 0,
            at: Moment::default(),
            dt: Duration::ZERO,
            node,
            zones: Vec::new(),
            node_energy: Energy::ZERO,
            node_power: None,
            rest: None,
            utilisation: 0.0,
            busy_ns: 0,
            tasks: Rows::new(0),
            other_tasks: Vec::new(),
            groups: Rows::new(0),
            usage: Usage::default(),
            own: SelfCost::default(),
        }
    }

    /// Sum over the zones that make up the node.
    pub fn over_node(&self, by_zone: &[Energy]) -> Energy {
        let total = |(z, e): (&ZoneView, &Energy)| (z.role == Role::Total).then_some(*e);
        self.zones.iter().zip(by_zone).filter_map(total).sum()
    }

    /// The worst quality among the zones that make up the node; `None` if there is no such zone.
    pub fn quality(&self) -> Option<Quality> {
        self.zones.iter().filter(|z| z.role == Role::Total).map(ZoneView::quality).max()
    }

    /// Mean power that `energy` amounts to over the last interval.
    pub fn power(&self, energy: Energy) -> Option<Power> {
        energy.over(self.dt)
    }
}

/// Where the latest snapshot is found. Cloning gives another handle on the same place.
#[derive(Clone)]
pub struct Published(Arc<Place>);

struct Place {
    latest: ArcSwap<Snapshot>,
    fresh: Notify,
}

impl Published {
    /// A place that holds `first`.
    pub fn new(first: Snapshot) -> Self {
        Self(Arc::new(Place { latest: ArcSwap::from_pointee(first), fresh: Notify::new() }))
    }

    /// The latest snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.latest.load_full()
    }

    /// Puts a newer one there.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        self.0.latest.store(snapshot);
        self.0.fresh.notify_waiters();
    }

    /// The latest snapshot, once it is another one than number `seq`. Safe to drop and call again.
    pub async fn after(&self, seq: u64) -> Arc<Snapshot> {
        loop {
            let fresh = self.0.fresh.notified();
            let latest = self.load();
            if latest.seq != seq {
                return latest;
            }
            fresh.await;
        }
    }
}
