//! Snapshots become batches: what a frame tells. Pure.
//!
//! A frame covers one workload interval. The node's series have a value at each node interval within it; workloads
//! have one, at its end. All living workloads are in each frame, so that one that idles can be told from one that is
//! gone; one that ended is in the first frame after its end and in no other. Values are the ledger's totals.
//!
//! A zone that doesn't answer has no values. If it comes back, the frame ends early: a series has no holes in a frame.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::convert::{MAX_LABEL_NAME, MAX_LABELS, MAX_TEXT};
use ebbtide_proto::frame::{Batch, Column};
use ebbtide_proto::series::{Metric, SeriesKey, WorkloadInfo, ZoneInfo};
use ebbtide_proto::{Energy, WorkloadId, WorkloadKind, ZoneId};

use super::ticks::Ticks;
use crate::snapshot::{GroupRow, RowView, Snapshot, ZoneState, ZoneView};
use crate::source::Zone;
use crate::source::discover::Role;

/// The kinds of workloads that are told if nothing else is asked for.
pub const LEVELS: [WorkloadKind; 6] = [
    WorkloadKind::Pod,
    WorkloadKind::Namespace,
    WorkloadKind::Container,
    WorkloadKind::Unit,
    WorkloadKind::Vm,
    WorkloadKind::User,
];

/// More series of workloads than this are not in a frame; those that used most CPU time of late are.
const MOST_SERIES: usize = 16_000;
/// More moments than this are not in a frame.
const MOST_TICKS: usize = 3000;

/// What is told, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time between two moments of the node's series.
    pub node_interval: Duration,
    /// Time between two moments of the workloads' series, which is the time that a frame covers.
    pub workload_interval: Duration,
    /// Kinds of workloads that are told.
    pub levels: BTreeSet<WorkloadKind>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_interval: Duration::from_secs(1),
            workload_interval: Duration::from_secs(10),
            levels: BTreeSet::from(LEVELS),
        }
    }
}

/// Collects snapshots into batches. Their numbers are given later, by the spool.
#[derive(Debug)]
pub struct Batcher {
    options: Options,
    ticks: Ticks,
    /// When the next moment of the node, and of the workloads, is due, on the clock that goes on in sleep.
    node_due: u64,
    workloads_due: u64,
    running: Running,
    zones: Vec<(Arc<Zone>, Arc<ZoneInfo>)>,
    infos: HashMap<WorkloadId, Known>,
    frames: u64,
    told_of_limit: bool,
}

/// The frame that is being filled.
#[derive(Debug, Default)]
struct Running {
    moments: Vec<u64>,
    columns: Vec<NodeColumn>,
    /// The last snapshot that was taken, and whether it is a moment of the node.
    last: Option<Arc<Snapshot>>,
    told: bool,
    /// Figures of workloads that ended since the frame before.
    ended: HashMap<WorkloadId, Figures>,
}

#[derive(Debug)]
struct NodeColumn {
    key: SeriesKey,
    first: u32,
    values: Vec<u64>,
}

/// What was made of a workload's labels.
#[derive(Debug)]
struct Known {
    labels: Arc<Vec<(&'static str, String)>>,
    info: Arc<WorkloadInfo>,
    /// Number of the last frame that it was in.
    frame: u64,
    /// Its CPU time when its end was told.
    over: Option<u64>,
}

/// The totals of one workload.
#[derive(Debug)]
struct Figures {
    info: Arc<WorkloadInfo>,
    cpu_ns: u64,
    cpu_last_ns: u64,
    zones: Vec<(usize, Energy, Energy)>,
}

impl Batcher {
    /// With nothing collected yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ticks: Ticks::default(),
            node_due: 0,
            workloads_due: 0,
            running: Running::default(),
            zones: Vec::new(),
            infos: HashMap::new(),
            frames: 0,
            told_of_limit: false,
        }
    }

    /// What is told, and how often.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Changes the intervals, from the next moment on.
    pub fn set_intervals(&mut self, node: Duration, workload: Duration) {
        let (was_node, was_workload) = (ns(self.options.node_interval), ns(self.options.workload_interval));
        self.options.node_interval = node;
        self.options.workload_interval = workload.max(node);
        self.node_due = self.node_due.saturating_sub(was_node).saturating_add(ns(node));
        self.workloads_due = self.workloads_due.saturating_sub(was_workload).saturating_add(ns(workload));
    }

    /// Takes a snapshot; a frame comes back if one is full, or has to end before this snapshot.
    pub fn take(&mut self, snapshot: &Arc<Snapshot>) -> Option<Batch> {
        if snapshot.seq == 0 || self.running.last.as_ref().is_some_and(|last| last.seq == snapshot.seq) {
            return None;
        }
        self.note_zones(snapshot);
        self.note_ended(snapshot);
        let now = snapshot.at.boot;
        // a sample that is a little early is this moment's
        let slack = ns(snapshot.dt.min(self.options.node_interval)) / 2;
        let frame_is_due = now.saturating_add(slack) >= self.workloads_due;
        if now.saturating_add(slack) < self.node_due && !frame_is_due {
            self.running.last = Some(Arc::clone(snapshot));
            self.running.told = false;
            return None;
        }
        self.node_due = next_due(self.node_due, now, ns(self.options.node_interval));
        let mut before = None;
        if self.ticks.must_restart(snapshot.at) || self.comes_back(snapshot) {
            before = self.cut();
        }
        let at = self.ticks.next(snapshot.at);
        self.tell_node(snapshot, at);
        self.running.last = Some(Arc::clone(snapshot));
        if before.is_some() {
            return before;
        }
        if frame_is_due || self.running.moments.len() >= MOST_TICKS {
            self.workloads_due = next_due(self.workloads_due, now, ns(self.options.workload_interval));
            return self.finish();
        }
        None
    }

    /// Ends the frame now: the last snapshot is its last moment. `None` if nothing was collected since the frame before.
    pub fn flush(&mut self) -> Option<Batch> {
        let last = self.running.last.clone()?;
        if !self.running.told && !self.comes_back(&last) && !self.ticks.must_restart(last.at) {
            let at = self.ticks.next(last.at);
            self.tell_node(&last, at);
        }
        self.workloads_due = last.at.boot.saturating_add(ns(self.options.workload_interval));
        self.finish()
    }

    fn note_zones(&mut self, snapshot: &Snapshot) {
        let same = self.zones.len() == snapshot.zones.len()
            && self.zones.iter().zip(&snapshot.zones).all(|((known, _), view)| Arc::ptr_eq(known, &view.zone));
        if !same {
            let before = std::mem::take(&mut self.zones);
            let told = |view: &ZoneView| {
                let new = zone_info(view);
                let old = before.iter().map(|(_, info)| info).find(|info| info.id == new.id);
                old.filter(|old| is_as_told(old, &new)).map_or_else(|| Arc::new(new.clone()), Arc::clone)
            };
            self.zones = snapshot.zones.iter().map(|view| (Arc::clone(&view.zone), told(view))).collect();
        }
    }

    /// Remembers the figures of workloads whose rows may be gone when the frame ends.
    fn note_ended(&mut self, snapshot: &Snapshot) {
        for row in snapshot.groups.iter().filter(|r| r.row.ended) {
            let told = self.infos.get(&row.row.id).is_some_and(|known| known.over == Some(row.row.cpu_ns));
            if told || !self.options.levels.contains(&row.row.id.kind()) {
                continue;
            }
            let figures = self.figures(&row, snapshot);
            self.running.ended.insert(row.row.id.clone(), figures);
        }
    }

    /// Whether a zone answers again that was silent within this frame.
    fn comes_back(&self, snapshot: &Snapshot) -> bool {
        let next = u32::try_from(self.running.moments.len()).unwrap_or(u32::MAX);
        let ended = |c: &NodeColumn| c.first + u32::try_from(c.values.len()).unwrap_or(u32::MAX) < next;
        let answers = |id: &ZoneId| snapshot.zones.iter().any(|z| z.zone.id == *id && known(z));
        self.running.columns.iter().any(|c| ended(c) && c.key.zone.as_ref().is_some_and(answers))
    }

    fn tell_node(&mut self, snapshot: &Snapshot, at: u64) {
        let index = u32::try_from(self.running.moments.len()).unwrap_or(u32::MAX);
        self.running.moments.push(at);
        self.running.told = true;
        let columns = &mut self.running.columns;
        let mut add = |metric, zone: Option<&Arc<ZoneInfo>>, value| {
            let same = |c: &&mut NodeColumn| c.key.metric == metric && c.key.zone.as_ref() == zone.map(|z| &z.id);
            match columns.iter_mut().find(same) {
                Some(column) => column.values.push(value),
                None => columns.push(NodeColumn {
                    key: SeriesKey { metric, zone: zone.map(|z| z.id.clone()), workload: None },
                    first: index,
                    values: vec![value],
                }),
            }
        };
        for (view, (_, info)) in snapshot.zones.iter().zip(&self.zones).filter(|(view, _)| known(view)) {
            let account = &view.account;
            add(Metric::Energy, Some(info), account.total.uj());
            add(Metric::IdleEnergy, Some(info), account.idle.uj());
            add(Metric::Unallocated, Some(info), account.unallocated.uj());
            add(Metric::Residual, Some(info), account.residual.uj());
            add(Metric::Gaps, Some(info), account.gaps.iter().sum());
        }
        add(Metric::CpuTime, None, snapshot.busy_ns);
    }

    /// The frame so far, without workloads.
    fn cut(&mut self) -> Option<Batch> {
        let moments = std::mem::take(&mut self.running.moments);
        let columns = std::mem::take(&mut self.running.columns);
        if moments.is_empty() {
            return None;
        }
        let mut batch = Batch { ticks: moments, ..Batch::default() };
        batch.boot = self.running.last.as_ref().and_then(|last| last.node.boot);
        batch.zones = self.zones.iter().map(|(_, info)| Arc::clone(info)).collect();
        for column in columns {
            push(&mut batch, column.key, column.first, &column.values);
        }
        self.frames += 1;
        Some(batch)
    }

    /// The frame with the workloads as they are in the last snapshot.
    fn finish(&mut self) -> Option<Batch> {
        let last = self.running.last.clone()?;
        let mut batch = self.cut()?;
        let at = u32::try_from(batch.ticks.len()).unwrap_or(u32::MAX).saturating_sub(1);
        for figures in self.workloads(&last) {
            let id = &figures.info.id;
            let key = |metric, zone: Option<usize>| SeriesKey {
                metric,
                zone: zone.and_then(|z| self.zones.get(z)).map(|(_, info)| info.id.clone()),
                workload: Some(id.clone()),
            };
            push(&mut batch, key(Metric::CpuTime, None), at, &[figures.cpu_ns]);
            for &(zone, energy, idle) in &figures.zones {
                push(&mut batch, key(Metric::Energy, Some(zone)), at, &[energy.uj()]);
                if idle > Energy::ZERO {
                    push(&mut batch, key(Metric::IdleEnergy, Some(zone)), at, &[idle.uj()]);
                }
            }
            batch.workloads.push(figures.info);
        }
        Some(batch)
    }

    /// The workloads of a frame: those that live, and those that ended since the frame before.
    fn workloads(&mut self, snapshot: &Snapshot) -> Vec<Figures> {
        let mut all: Vec<Figures> = Vec::new();
        let mut ended = std::mem::take(&mut self.running.ended);
        for row in snapshot.groups.iter().filter(|r| !r.row.ended) {
            if !self.options.levels.contains(&row.row.id.kind()) {
                continue;
            }
            ended.remove(&row.row.id);
            all.push(self.figures(&row, snapshot));
        }
        for (id, figures) in ended {
            if let Some(known) = self.infos.get_mut(&id) {
                (known.frame, known.over) = (self.frames, Some(figures.cpu_ns));
            }
            all.push(figures);
        }
        for row in snapshot.groups.iter().filter(|r| r.row.ended) {
            // until its row goes it must be remembered that its end was told
            if let Some(known) = self.infos.get_mut(&row.row.id) {
                known.frame = self.frames;
            }
        }
        self.infos.retain(|_, known| known.frame == self.frames);
        self.bounded(all)
    }

    fn bounded(&mut self, mut all: Vec<Figures>) -> Vec<Figures> {
        let per_workload = 1 + 2 * self.zones.len();
        let most = MOST_SERIES / per_workload;
        if all.len() > most {
            if !std::mem::replace(&mut self.told_of_limit, true) {
                tracing::warn!(
                    "{} workloads are too many for a frame; the fleet is told of {most}: fewer fleet-levels would help",
                    all.len()
                );
            }
            all.sort_by(|a, b| b.cpu_last_ns.cmp(&a.cpu_last_ns).then_with(|| a.info.id.cmp(&b.info.id)));
            all.truncate(most);
        }
        all
    }

    fn figures(&mut self, row: &RowView<'_, GroupRow>, snapshot: &Snapshot) -> Figures {
        let group = row.row;
        let frame = self.frames;
        let fresh =
            || Known { labels: Arc::clone(&group.labels), info: Arc::new(workload_info(group)), frame, over: None };
        let known = self.infos.entry(group.id.clone()).or_insert_with(fresh);
        known.frame = frame;
        if !Arc::ptr_eq(&known.labels, &group.labels) && known.labels != group.labels {
            known.info = Arc::new(workload_info(group));
        }
        known.labels = Arc::clone(&group.labels);
        let counts = |(_, view): &(usize, &ZoneView)| view.role == Role::Total && self::known(view);
        let zones = snapshot
            .zones
            .iter()
            .enumerate()
            .filter(counts)
            .filter_map(|(z, _)| Some((z, *row.energy.get(z)?, *row.idle.get(z)?)));
        Figures {
            info: Arc::clone(&known.info),
            cpu_ns: group.cpu_ns,
            cpu_last_ns: group.cpu_last_ns,
            zones: zones.collect(),
        }
    }
}

/// Whether a zone's total is known at this moment.
fn known(view: &ZoneView) -> bool {
    matches!(view.state, ZoneState::Live | ZoneState::Starting)
}

fn push(batch: &mut Batch, key: SeriesKey, first: u32, values: &[u64]) {
    let series = u32::try_from(batch.series.len()).unwrap_or(u32::MAX);
    batch.columns.push(Column { series, first, len: u32::try_from(values.len()).unwrap_or(u32::MAX) });
    batch.series.push(key);
    batch.values.extend_from_slice(values);
}

/// The due time after `due`, on the same grid unless that has fallen behind.
fn next_due(due: u64, now: u64, every: u64) -> u64 {
    let next = due.saturating_add(every);
    if due == 0 || next.saturating_add(every / 2) <= now { now.saturating_add(every) } else { next }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// `text` as the wire takes it: no control characters, and at most `max` bytes.
fn plain(text: &str, max: usize) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).collect();
    out.truncate(out.floor_char_boundary(max));
    out
}

/// Whether a zone is what was told of it. Its expected error is learned and moves a little all the time; each time that
/// it is told, a series ends and another one begins.
fn is_as_told(old: &ZoneInfo, new: &ZoneInfo) -> bool {
    let (told, is) = (u64::from(old.error.ppm()), u64::from(new.error.ppm()));
    ZoneInfo { error: old.error, ..new.clone() } == *old && is.abs_diff(told) * 5 <= told
}

fn zone_info(view: &ZoneView) -> ZoneInfo {
    let zone = &view.zone;
    ZoneInfo {
        id: zone.id.clone(),
        name: plain(&zone.name, MAX_TEXT).into(),
        kind: zone.kind,
        socket: zone.socket,
        source: zone.source.as_str().into(),
        quality: zone.quality,
        error: zone.error,
        counts: view.role == Role::Total,
    }
}

fn workload_info(group: &GroupRow) -> WorkloadInfo {
    let labels = group.labels.iter().take(MAX_LABELS);
    let labels = labels.map(|(name, text)| (plain(name, MAX_LABEL_NAME), plain(text, MAX_TEXT))).collect();
    WorkloadInfo { id: group.id.clone(), labels }
}

#[cfg(test)]
mod tests;
