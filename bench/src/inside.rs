//! The parts of a cycle one by one, called as a library: collection, attribution, rendering.
//!
//! CPU time of this process, which has one thread while this is measured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_agent::attribution::weights::{Demand, Load, Loads, spread};
use ebbtide_agent::attribution::{Attribution, Basis, IdlePolicy, Interval, ZoneInterval, attribute};
use ebbtide_agent::clock::{self, Moment};
use ebbtide_agent::config::words::Word;
use ebbtide_agent::config::{Label, NameStyle, Processes};
use ebbtide_agent::export::negotiate::Format;
use ebbtide_agent::export::pages::Pages;
use ebbtide_agent::export::{View, kepler, own};
use ebbtide_agent::host::HostRoot;
use ebbtide_agent::ledger::Columns;
use ebbtide_agent::sampler::{Options, Sampler};
use ebbtide_agent::snapshot::Published;
use ebbtide_agent::source::powercap;
use ebbtide_agent::usage::UsageReader as _;
use ebbtide_agent::usage::cpu::{CpuMeter, Topology};
use ebbtide_agent::usage::procfs::ProcfsReader;
use ebbtide_agent::usage::stat::{CpuTicks, MachineStat};
use ebbtide_agent::usage::table::{Task, TaskClass, TaskIx, TaskTable};
use ebbtide_proto::{Energy, NodeId, WorkloadKind};

use crate::figures::median;

/// Time between two collections, so that those who work have worked.
pub(crate) const BETWEEN: Duration = Duration::from_millis(100);

/// Cost of one collection of all tasks, in microseconds per task.
pub(crate) struct Collection {
    pub(crate) tasks: usize,
    /// The first collection, when all is new.
    pub(crate) first: f64,
    /// Nobody was born since the last one.
    pub(crate) steady: f64,
    /// Somebody was: the folder is listed.
    pub(crate) listed: f64,
    /// `stat`, `cgroup` and `cmdline` of each process with the `procfs` crate.
    pub(crate) plain: f64,
}

impl Collection {
    /// CPU time of a plain scan of all processes, in milliseconds.
    pub(crate) fn plain_ms(&self) -> f64 {
        self.plain * self.tasks as f64 / 1e3
    }
}

/// Collects `rounds` times in each way.
pub(crate) fn collection(rounds: usize) -> anyhow::Result<Collection> {
    let mut reader = ProcfsReader::open(&HostRoot::new("/"), false).context("can't open /proc")?;
    let mut table = TaskTable::default();
    let mut deltas = Vec::new();
    let mut collect = |forks| -> anyhow::Result<(f64, usize)> {
        deltas.clear();
        let (outcome, micros) = cpu_micros(|| reader.sample(clock::now(), forks, &mut table, &mut deltas));
        outcome.context("can't read /proc")?;
        Ok((micros / table.living().max(1) as f64, table.living()))
    };
    let (first, _) = collect(Some(0))?;
    let (mut steady, mut listed, mut plain, mut tasks) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // as many that don't count as a new task needs until it is left alone
    for round in 0..rounds + 4 {
        std::thread::sleep(BETWEEN);
        let quiet = collect(Some(0))?.0;
        std::thread::sleep(BETWEEN);
        // another count of forks makes it look for new tasks
        let (new, living) = collect(Some(round as u64 + 1))?;
        let back = collect(Some(0))?.0;
        if round >= 4 {
            steady.push(quiet);
            listed.push(new);
            tasks = living;
        }
        std::hint::black_box(back);
    }
    for _ in 0..rounds.min(3) {
        let (seen, micros) = cpu_micros(plain_scan);
        plain.push(micros / seen?.max(1) as f64);
    }
    let middle = |v: &[f64]| median(v).context("nothing was collected");
    Ok(Collection { tasks, first, steady: middle(&steady)?, listed: middle(&listed)?, plain: middle(&plain)? })
}

/// What a tool does that reads three files of each process; how many processes there were.
fn plain_scan() -> anyhow::Result<usize> {
    let mut seen = 0;
    for process in procfs::process::all_processes()? {
        // a process may end while it is read
        let Ok(process) = process else { continue };
        let read = (process.stat(), process.cgroups(), process.cmdline());
        seen += usize::from(read.0.is_ok());
        std::hint::black_box(&read);
    }
    Ok(seen)
}

/// CPU time of sharing out and booking one sample in which `tasks` tasks ran, in microseconds.
///
/// Four zones, and three workloads above each task.
pub(crate) fn attribution(tasks: usize, rounds: usize) -> anyhow::Result<f64> {
    const CPUS: u32 = 64;
    const GROUPS: usize = 100;
    let second = Duration::from_secs(1);
    let ids: Vec<u32> = (0..CPUS).collect();
    let mut meter = CpuMeter::new(Topology::read(&HostRoot::new("/nowhere"), &ids), 100);
    for (n, not_run) in [(1u32, 0), (2, 20)] {
        let cpus = ids.iter().map(|&cpu| CpuTicks { cpu, not_run, interrupts: 0 }).collect();
        meter.step(Moment::default().plus(second * n), &MachineStat { cpus, forks: None }, second);
    }
    let mut table = TaskTable::default();
    let mut demands = Vec::with_capacity(tasks);
    let mut seed = 1u64;
    for (pid, cpu) in (1..).zip((0..CPUS).cycle()).take(tasks) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let task =
            Task { rss_pages: (seed >> 40) & 0xffff, ..Task::new(pid, 1000 + u64::from(pid), TaskClass::Process) };
        let (order, rss_pages) = (task.order(), task.rss_pages);
        let load = Load { task: table.insert(task), order, rss_pages };
        let threads = seed >> 62 == 0;
        demands.push(Demand { load, cpu_ns: (seed >> 32) & 0xff_ffff, cpu: (!threads).then_some(cpu), events: None });
    }
    let zone = |uj, basis| ZoneInterval {
        energy: Energy::from_uj(uj),
        floor: Energy::from_uj(uj / 3),
        basis,
        gap: false,
        prices: None,
    };
    let zones = [
        zone(91_234_567, Basis::Machine),
        zone(71_234_567, Basis::Machine),
        zone(512_345, Basis::Machine),
        zone(3_456_789, Basis::Memory(None)),
    ];
    let (mut loads, mut shares) = (Loads::new(1), Attribution::default());
    let (mut per_task, mut per_group) = (Columns::new(zones.len()), Columns::new(zones.len()));
    let groups = |task: TaskIx| [task.index() % GROUPS, GROUPS + task.index() % 7, GROUPS + 7];
    let mut sample = || {
        per_task.begin(table.capacity());
        per_group.begin(GROUPS + 8);
        spread(&demands, &meter, 1_000_000_000, &mut loads);
        let interval = Interval { zones: &zones, loads: &loads, policy: IdlePolicy::Unallocated, reservations: &[] };
        attribute(&interval, &mut shares);
        for (z, shares) in shares.zones.iter().enumerate() {
            for (load, &active) in loads.tasks.iter().zip(&shares.active) {
                per_task.add(load.task.index(), z, active, Energy::ZERO);
                for g in groups(load.task) {
                    per_group.add(g, z, active, Energy::ZERO);
                }
            }
        }
    };
    sample();
    let times: Vec<f64> = (0..rounds).map(|_| cpu_micros(&mut sample).1).collect();
    median(&times).context("nothing was attributed")
}

/// Cost of a page.
pub(crate) struct Rendering {
    pub(crate) series: usize,
    pub(crate) bytes: usize,
    /// The first page, which makes the label sets, in nanoseconds per series.
    pub(crate) first: f64,
    /// The pages after it, in nanoseconds per series.
    pub(crate) later: f64,
}

/// Renders the page of the machine as it is now, with series for each process, `rounds` times.
pub(crate) fn rendering(root: &Path, names: NameStyle, rounds: usize) -> anyhow::Result<Rendering> {
    let host = HostRoot::new(root);
    let options = Options {
        node: NodeId::new("bench")?,
        idle_policy: IdlePolicy::Unallocated,
        idle_floor: Default::default(),
        processes: Processes::All,
        retention: Duration::from_secs(60),
        stale_after: Duration::from_secs(10),
        full_names: names != NameStyle::Native,
        idle_share: 0.3,
        state: None,
        learned: None,
    };
    let mut sampler = Sampler::new(
        host.clone(),
        Box::new(ProcfsReader::open(&host, false)?),
        powercap::discover(&host).sources,
        options,
    )?;
    sampler.step(clock::now())?;
    std::thread::sleep(BETWEEN);
    let snapshot = sampler.step(clock::now())?;
    let published = Published::new((*snapshot).clone());
    let view = View {
        names: [names].into(),
        levels: <WorkloadKind as Word>::ALL.iter().copied().collect(),
        labels: Label::ALL.iter().copied().collect(),
        processes: Processes::All,
        series_budget: 0,
        gzip: false,
        processors: kepler::processors(&host),
        own: own::Own::new(None)?,
    };
    let pages = Pages { published, view: Arc::new(view), host };
    let mut text: Vec<u8> = Vec::new();
    let mut page = || {
        let (chunks, micros) = cpu_micros(|| pages.page(Format::Text).collect::<Vec<_>>());
        text.clear();
        chunks.iter().for_each(|chunk| text.extend_from_slice(chunk));
        micros * 1e3
    };
    let first = page();
    let later: Vec<f64> = (0..rounds).map(|_| page()).collect();
    let series = text.split(|&b| b == b'\n').filter(|l| !l.is_empty() && !l.starts_with(b"#")).count();
    let each = series.max(1) as f64;
    let bytes = text.len();
    Ok(Rendering { series, bytes, first: first / each, later: median(&later).context("no page")? / each })
}

/// Runs `work`; its result, and the CPU time it took in microseconds.
pub(crate) fn cpu_micros<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = clock::own_cpu();
    let result = work();
    (result, clock::own_cpu().saturating_sub(before).as_secs_f64() * 1e6)
}
