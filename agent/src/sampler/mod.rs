//! Reads everything once per interval and makes one snapshot of it.
//!
//! [`Sampler::step`] is one sample: sources and usage are read, energy is attributed and booked, the journal is
//! written, the snapshot is built. It is handed the time, so that twins and tests run it on simulated clocks.
//! `run` calls it from a thread at absolute deadlines, `track` follows a zone, `counted` prices hardware events,
//! `unseen` the CPU time nobody owns up to, `rest` the energy that no zone counts, `seats` where tasks belong, `rows` chooses the tasks that are shown, `view` makes the snapshot,
//! `keep` what outlives the agent.

mod counted;
mod keep;
mod rest;
mod rows;
pub mod run;
mod seats;
mod track;
mod unseen;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::{BootId, Energy, NodeId, Power, WorkloadKind};

use crate::attribution::floor::{Activity, FloorLearner};
use crate::attribution::split::Weight;
use crate::attribution::weights::{self, Demand, Load, Loads};
use crate::attribution::{Attribution, IdlePolicy, Interval, ZoneInterval, attribute};
use crate::clock::{self, Moment};
use crate::config::Processes;
use crate::host::{self, HostRoot};
use crate::journal::{Journal, Kept};
use crate::ledger::Columns;
use crate::snapshot::{NodeInfo, SelfCost, Snapshot, TaskLabels};
use crate::source::discover::{Role, node_zones};
use crate::source::{ReadError, Reading, Source, Zone};
use crate::usage::UsageReader;
use crate::usage::cpu::{CpuMeter, Topology};
use crate::usage::stat::{MachineStat, parse_machine};
use crate::usage::table::{Delta, Task, TaskClass, TaskIx, TaskTable};
use crate::workload::groups::{Groups, Places};
use crate::workload::pods::PodNames;
use crate::workload::vm::Vm;

use counted::Priced;
use rest::Rest;
use rows::Chooser;
use track::Track;
use unseen::Unseen;

/// Samples between two counts of the living.
const SWEEP_EVERY: u64 = 5;
/// Samples between two looks at the agent's own memory.
const OWN_MEMORY_EVERY: u64 = 10;

/// What the sampler is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's name.
    pub node: NodeId,
    /// What is done with idle energy.
    pub idle_policy: IdlePolicy,
    /// Floors that the operator set, by zone name.
    pub idle_floor: BTreeMap<String, Power>,
    /// Which tasks get a row of their own.
    pub processes: Processes,
    /// How long ended tasks and workloads stay in snapshots.
    pub retention: Duration,
    /// How long a silent zone's figures are shown as stale.
    pub stale_after: Duration,
    /// Whether program and command line of tasks are read.
    pub full_names: bool,
    /// Idle power over full power of this class of machine.
    pub idle_share: f64,
    /// Where totals and learned floors are kept; nowhere if `None`.
    pub state: Option<PathBuf>,
    /// Where learned floors are read but nothing is kept, if `state` is `None`.
    pub learned: Option<PathBuf>,
}

/// Takes samples.
pub struct Sampler {
    host: HostRoot,
    options: Options,
    node: Arc<NodeInfo>,
    sources: Vec<Box<dyn Source>>,
    tracks: Vec<Track>,
    priced: Vec<Priced>,
    usage: Box<dyn UsageReader>,
    meter: CpuMeter,
    stat: MachineStat,
    stat_text: Vec<u8>,
    table: TaskTable,
    task_columns: Columns,
    seats: Vec<Seat>,
    groups: Groups,
    group_columns: Columns,
    group_seats: Vec<GroupSeat>,
    vms: HashMap<TaskIx, Vm>,
    unseen: Unseen,
    rest: Rest,
    interrupts_task: TaskIx,
    unseen_task: TaskIx,
    chooser: Chooser,
    journal: Option<Journal>,
    kept: Kept,
    pods: Arc<PodNames>,
    last: Option<Moment>,
    seq: u64,
    own: SelfCost,
    late: u64,
    busy_ns: u64,
    /// Lost ends of tasks until the last sample.
    lost_exits: u64,
    // memory used again at each sample
    readings: Vec<Result<Reading, ReadError>>,
    deltas: Vec<Delta>,
    demands: Vec<Demand>,
    loads: Loads,
    intervals: Vec<ZoneInterval>,
    attribution: Attribution,
    reservations: Vec<Weight>,
    reserved_for: Vec<TaskIx>,
    ran: Vec<TaskIx>,
}

/// What is kept of a task beside the table, by slot.
#[derive(Default)]
struct Seat {
    /// Version of the task that `places` and `labels` were made of, plus one; zero if never.
    version: u32,
    places: Option<Places>,
    labels: Option<Arc<TaskLabels>>,
    cpu_last_ns: u64,
}

/// What is kept of a workload beside its entry, by index.
#[derive(Default)]
struct GroupSeat {
    version: u32,
    rendered: Arc<std::sync::OnceLock<Box<str>>>,
    cpu_last_ns: u64,
    /// What it reserved, in `cpu.weight` units; read when it is first needed.
    reservation: Option<u64>,
}

/// Why sampling can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `/proc` can't be read.
    #[error("can't read {path}; is it mounted? --root names another root")]
    Proc {
        /// Where.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The state folder is taken.
    #[error(transparent)]
    State(#[from] crate::journal::JournalError),
}

impl Sampler {
    /// Starts on a machine with this reader of usage and these sources. Takes no sample yet.
    pub fn new(
        host: HostRoot,
        usage: Box<dyn UsageReader>,
        sources: Vec<Box<dyn Source>>,
        options: Options,
    ) -> Result<Self, StartError> {
        let proc = |source| StartError::Proc { path: host.proc("").display().to_string(), source };
        let mut stat = MachineStat::default();
        let stat_text = std::fs::read(host.proc("stat")).map_err(proc)?;
        parse_machine(&stat_text, &mut stat);
        let ids: Vec<u32> = stat.cpus.iter().map(|c| c.cpu).collect();
        let meter = CpuMeter::new(Topology::read(&host, &ids), rustix::param::clock_ticks_per_second());
        let boot = host::read_line(&host.proc("sys/kernel/random/boot_id")).ok().and_then(|t| t.parse::<BootId>().ok());
        let (journal, kept) = match &options.state {
            None => (None, Kept::default()),
            Some(folder) => match Journal::open(folder, boot) {
                Ok((journal, kept)) => (Some(journal), kept),
                Err(error @ crate::journal::JournalError::Locked { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!("{error}");
                    (None, Kept::default())
                }
            },
        };
        let zones: Vec<Zone> = sources.iter().flat_map(|s| s.zones().iter().cloned()).collect();
        let roles = node_zones(&zones);
        let learned =
            options.state.as_deref().or(options.learned.as_deref()).map(keep::load_floors).unwrap_or_default();
        let mut tracks = Vec::new();
        for (zone, role) in zones.into_iter().zip(roles) {
            let learner = learned
                .get(&zone.id)
                .cloned()
                .unwrap_or_else(|| FloorLearner::new(prior_share(&zone, options.idle_share)));
            let floor = options.idle_floor.get(&zone.name).copied();
            let mut track = Track::new(zone, role, learner, floor);
            if let Some(kept) = kept.zones.get(&track.zone.id) {
                track.resume(kept);
            }
            tracks.push(track);
        }
        for name in options.idle_floor.keys().filter(|n| !tracks.iter().any(|t| t.zone.name == **n)) {
            let known: Vec<&str> = tracks.iter().map(|t| t.zone.name.as_str()).collect();
            tracing::warn!(
                "idle-floor names the zone {name:?}, which this machine doesn't have; it has {}",
                known.join(", ")
            );
        }
        let node = Arc::new(NodeInfo {
            name: options.node.clone(),
            boot,
            cpu_model: cpu_model(&host),
            cpus: meter.topology().cpus.len(),
            sockets: meter.topology().sockets,
            idle_policy: options.idle_policy,
        });
        let mut table = TaskTable::default();
        let interrupts_task = table.insert(Task::new(0, 0, TaskClass::Interrupts));
        let unseen_task = table.insert(Task::new(0, 0, TaskClass::Unseen));
        let n = tracks.len();
        let idle_share = options.idle_share;
        Ok(Self {
            chooser: Chooser::new(options.processes, n),
            host,
            options,
            node,
            sources,
            priced: counted::group(&tracks, idle_share),
            tracks,
            usage,
            meter,
            stat,
            stat_text,
            table,
            task_columns: Columns::new(n),
            seats: Vec::new(),
            groups: Groups::default(),
            group_columns: Columns::new(n),
            group_seats: Vec::new(),
            vms: HashMap::new(),
            unseen: Unseen::default(),
            rest: Rest::default(),
            interrupts_task,
            unseen_task,
            journal,
            busy_ns: kept.busy_ns,
            kept,
            pods: Arc::default(),
            last: None,
            seq: 0,
            own: SelfCost::default(),
            late: 0,
            lost_exits: 0,
            readings: Vec::new(),
            deltas: Vec::new(),
            demands: Vec::new(),
            loads: Loads::new(1),
            intervals: Vec::new(),
            attribution: Attribution::default(),
            reservations: Vec::new(),
            reserved_for: Vec::new(),
            ran: Vec::new(),
        })
    }

    /// Who is measured.
    pub fn node(&self) -> &Arc<NodeInfo> {
        &self.node
    }

    /// Uses these names of pods from now on.
    pub fn name_pods(&mut self, pods: Arc<PodNames>) {
        if !Arc::ptr_eq(&self.pods, &pods) {
            self.pods = pods;
            self.groups.forget_places();
            for seat in &mut self.seats {
                seat.version = 0;
            }
        }
    }

    /// Pods whose names are not known, by uid.
    pub fn unnamed_pods(&self) -> impl Iterator<Item = &str> {
        let pods = self.groups.iter().filter(|(_, g)| g.id.kind() == WorkloadKind::Pod && g.ended.is_none());
        pods.map(|(_, g)| g.id.name()).filter(|uid| self.pods.pod(uid).is_none())
    }

    /// Notes that the sample that comes is late.
    pub fn note_late(&mut self) {
        self.late += 1;
    }

    /// Takes one sample.
    pub fn step(&mut self, now: Moment) -> io::Result<Arc<Snapshot>> {
        let cpu_before = clock::own_cpu();
        let first = self.last.is_none();
        let dt = self.last.map_or(Duration::ZERO, |last| now.since(last));
        self.seq += 1;
        self.read_cpus(now, dt)?;
        self.read_tasks(now, dt, first)?;
        self.read_zones(now);
        self.attribute(dt, first);
        self.book();
        self.retire(now);
        self.last = Some(now);
        self.write_journal(now);
        self.own.cpu = clock::own_cpu();
        self.own.sample_cpu = self.own.cpu.saturating_sub(cpu_before);
        Ok(Arc::new(self.snapshot(now, dt)))
    }

    fn read_cpus(&mut self, now: Moment, dt: Duration) -> io::Result<()> {
        self.stat_text.clear();
        io::Read::read_to_end(
            &mut io::Read::take(std::fs::File::open(self.host.proc("stat"))?, host::READ_LIMIT),
            &mut self.stat_text,
        )?;
        parse_machine(&self.stat_text, &mut self.stat);
        if !self.meter.knows(&self.stat) {
            let ids: Vec<u32> = self.stat.cpus.iter().map(|c| c.cpu).collect();
            self.meter.adopt(Topology::read(&self.host, &ids));
        }
        self.meter.step(now, &self.stat, dt);
        Ok(())
    }

    fn read_tasks(&mut self, now: Moment, dt: Duration, first: bool) -> io::Result<()> {
        self.deltas.clear();
        self.usage.sample(now, self.stat.forks, &mut self.table, &mut self.deltas)?;
        self.demands.clear();
        let mut used = 0u64;
        for d in &self.deltas {
            let Some(task) = self.table.get(d.task) else { continue };
            used = used.saturating_add(d.cpu_ns);
            let load = Load { task: d.task, order: task.order(), rss_pages: task.rss_pages };
            self.demands.push(Demand { load, cpu_ns: d.cpu_ns, cpu: d.cpu, events: d.events });
        }
        let busy = self.meter.last.iter().map(|c| c.busy_ns).sum();
        self.busy_ns = self.busy_ns.saturating_add(busy);
        let interrupts = self.meter.last.iter().map(|c| c.interrupts_ns).sum();
        if !first {
            let slack = 20_000_000 * (self.meter.last.len() as u64 + 1);
            let over = self.unseen.step(busy, interrupts, used, slack);
            for (task, ns) in [(self.interrupts_task, over.interrupts_ns), (self.unseen_task, over.unseen_ns)] {
                if ns > 0 {
                    let order = self.table.get(task).map_or(0, Task::order);
                    self.demands.push(Demand {
                        load: Load { task, order, rss_pages: 0 },
                        cpu_ns: ns,
                        cpu: None,
                        events: None,
                    });
                    if let Some(t) = self.table.get_mut(task) {
                        t.cpu_ns += ns;
                    }
                }
            }
        }
        let dt_ns = u64::try_from(dt.as_nanos()).unwrap_or(u64::MAX);
        weights::spread(&self.demands, &self.meter, dt_ns, &mut self.loads);
        Ok(())
    }

    fn read_zones(&mut self, now: Moment) {
        self.readings.clear();
        for source in &mut self.sources {
            source.read(now, &mut self.readings);
        }
        let zones = self.sources.iter().flat_map(|s| s.zones());
        for ((track, zone), reading) in self.tracks.iter_mut().zip(zones).zip(self.readings.drain(..)) {
            track.take(now, zone, reading);
        }
    }

    fn attribute(&mut self, dt: Duration, first: bool) {
        self.seat_tasks(first);
        self.intervals.clear();
        let meter = &self.meter;
        for track in &mut self.tracks {
            let activity = |socket| Activity::of(meter, socket, dt);
            self.intervals.push(track.interval(dt, meter.topology(), activity));
        }
        for priced in &mut self.priced {
            priced.step(&mut self.tracks, &self.loads, &mut self.intervals);
        }
        self.reservations.clear();
        self.reserved_for.clear();
        if matches!(self.options.idle_policy, IdlePolicy::ByReservation | IdlePolicy::Equal) {
            self.reserve();
        }
        let interval = Interval {
            zones: &self.intervals,
            loads: &self.loads,
            policy: self.options.idle_policy,
            reservations: &self.reservations,
        };
        attribute(&interval, &mut self.attribution);
    }

    /// Books what was attributed.
    fn book(&mut self) {
        self.ran.clear();
        for d in &self.demands {
            let Some(seat) = self.seats.get_mut(d.load.task.index()) else { continue };
            if seat.cpu_last_ns == 0 {
                self.ran.push(d.load.task);
            }
            seat.cpu_last_ns += d.cpu_ns;
            for g in seat.places.iter().flat_map(|p| p.iter()) {
                if let Some(group) = self.groups.get_mut(*g) {
                    group.cpu_ns += d.cpu_ns;
                }
                if let Some(s) = self.group_seats.get_mut(g.index()) {
                    s.cpu_last_ns += d.cpu_ns;
                }
            }
        }
        let by_usage = self.options.idle_policy == IdlePolicy::ByUsage;
        for (z, (shares, track)) in self.attribution.zones.iter().zip(&mut self.tracks).enumerate() {
            track.account.idle += shares.idle_total;
            track.account.unallocated += shares.unallocated;
            track.account.residual += shares.residual;
            let mut add = |task: TaskIx, active: Energy, idle: Energy| {
                if active + idle == Energy::ZERO {
                    return;
                }
                self.task_columns.add(task.index(), z, active, idle);
                let places = self.seats.get(task.index()).and_then(|s| s.places.as_ref());
                for g in places.into_iter().flat_map(|p| p.iter()) {
                    self.group_columns.add(g.index(), z, active, idle);
                }
            };
            for (i, (load, active)) in self.loads.tasks.iter().zip(&shares.active).enumerate() {
                let idle = if by_usage { shares.idle.get(i).copied().unwrap_or_default() } else { Energy::ZERO };
                add(load.task, *active, idle);
            }
            if !by_usage {
                for (task, idle) in self.reserved_for.iter().zip(&shares.idle) {
                    add(*task, Energy::ZERO, *idle);
                }
            }
        }
    }

    /// Lets tasks and workloads go that ended long enough ago.
    fn retire(&mut self, now: Moment) {
        let retention = u64::try_from(self.options.retention.as_nanos()).unwrap_or(u64::MAX);
        if !self.chooser.everyone() {
            let roles: Vec<bool> = self.tracks.iter().map(|t| t.role == Role::Total).collect();
            let rank = |e: &[Energy]| e.iter().zip(&roles).filter(|(_, r)| **r).map(|(e, _)| *e).sum();
            self.chooser.choose(now, &self.ran, &self.task_columns, rank);
            self.chooser.thaw(now, retention);
        }
        let mut expired = Vec::new();
        for (ix, task) in self.table.iter() {
            if let Some(at) = task.ended
                && now.boot.saturating_sub(at.boot) > retention
            {
                expired.push(ix);
            }
        }
        for ix in expired {
            self.table.free(ix);
            self.task_columns.clear(ix.index());
            self.chooser.forget(ix);
            self.vms.remove(&ix);
            if let Some(seat) = self.seats.get_mut(ix.index()) {
                *seat = Seat::default();
            }
        }
        if self.seq % SWEEP_EVERY == 1 {
            let living = self.table.iter().filter(|(_, t)| t.ended.is_none());
            let living = living.filter_map(|(ix, _)| self.seats.get(ix.index())?.places.as_ref());
            let (columns, seats) = (&mut self.group_columns, &mut self.group_seats);
            self.groups.sweep(now, living, |ix| {
                columns.clear(ix.index());
                if let Some(s) = seats.get_mut(ix.index()) {
                    *s = GroupSeat::default();
                }
            });
        }
    }
}

/// Idle share to expect of a zone: the cores of a package draw next to nothing when idle, memory half.
fn prior_share(zone: &Zone, machine: f64) -> f64 {
    use crate::source::ZoneKind as K;
    match zone.kind {
        K::Core | K::Uncore => 0.05,
        K::Dram => 0.5,
        K::Psys | K::Board | K::Wall => (machine * 1.5).min(0.8),
        K::Package | K::Gpu | K::Other => machine,
    }
}

fn cpu_model(host: &HostRoot) -> String {
    let text = host::read_text(&host.proc("cpuinfo")).unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("model name") || l.starts_with("Model"));
    line.and_then(|l| l.split_once(':')).map(|(_, m)| m.trim().to_owned()).unwrap_or_default()
}
