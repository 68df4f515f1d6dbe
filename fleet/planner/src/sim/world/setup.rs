//! What a world is made of: machines as they truly are, and every workload that will ever come, with its true demand.

use ebbtide_proto::id::{IdError, WorkloadKind};
use ebbtide_proto::{NodeId, WorkloadId};

use super::{START, to_milli};
use crate::model::boot::BootModel;
use crate::model::curve::{KNOTS, PowerCurve};
use crate::model::migration::Migration;
use crate::policy::Policy;
use crate::sim::planetlab::traces::{INTERVAL_S, Trace};
use crate::sim::rng::Rng;
use crate::sim::scenario::{Faults, NodeType, Scenario, Start, Work, WorkKind};
use crate::sim::stream::{exponential, normal, stream};
use crate::state::node::Node;
use crate::state::resources::Resources;
use crate::state::workload::{Over, Spread, Workload};

/// Bytes of a gibibyte.
const GIB: f64 = 1_073_741_824.0;
/// Seconds of a day.
const DAY_S: u64 = 86_400;
/// Megabytes per second of a live migration: half of 1 Gbit/s.
const MIGRATION_MB_S: f64 = 62.5;
/// Times its true mean that a boot takes by what the planner is told at first.
const GUESS: f64 = 1.5;

/// A machine.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// What inventory tells of it.
    pub node: Node,
    /// Watts by load, truly.
    pub truth: PowerCurve,
    /// Mean and standard deviation of a boot, in seconds.
    pub boot_s: (f64, f64),
    /// Watts of a boot.
    pub boot_watts: f64,
    /// Seconds of a shutdown, at idle watts.
    pub shutdown_s: f64,
    /// Where it stands.
    pub site: Option<String>,
}

/// When a workload ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ends {
    /// Not before the world does.
    Never,
    /// At that moment, in seconds, served or not.
    At(u64),
    /// So many seconds after it first ran.
    After(u64),
    /// When this much was done for it, in thousandths of a CPU times seconds; it doesn't mind waiting.
    Done(f64),
}

/// What a workload asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Usage {
    /// A level with a daily wave and noise, all in thousandths of a CPU.
    Wave {
        /// Mean.
        mean: f64,
        /// Height of the wave.
        swing: f64,
        /// Hour of its top.
        peak_h: f64,
        /// Standard deviation of the noise.
        noise: f64,
    },
    /// What was recorded: a figure for every `step_s` since the world began, begun anew when they are over.
    Series {
        /// Seconds between two figures.
        step_s: u64,
        /// Thousandths of a CPU.
        milli: Vec<f32>,
        /// Whether it changes evenly from figure to figure; else each holds until the next.
        even: bool,
    },
}

/// A workload that will come.
#[derive(Clone, Debug)]
pub struct Job {
    /// What inventory will tell of it.
    pub workload: Workload,
    /// When it comes, in seconds.
    pub comes_s: u64,
    /// When it ends.
    pub ends: Ends,
    /// What it asks for.
    pub usage: Usage,
}

/// A world to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Seconds that pass.
    pub duration_s: u64,
    /// Seconds of a step.
    pub step_s: u64,
    /// Seconds between plans.
    pub plan_every_s: u64,
    /// Seconds between frames.
    pub telemetry_every_s: u64,
    /// How the fleet is found. Workloads that name a node already are on it.
    pub start: Start,
    /// Machines.
    pub machines: Vec<MachineSpec>,
    /// Workloads, in the order in which they come.
    pub jobs: Vec<Job>,
    /// Groups whose members may be away, and how many at once.
    pub budgets: Vec<(String, u32)>,
    /// What goes wrong.
    pub faults: Faults,
    /// What the planner is told.
    pub policy: Policy,
}

impl Setup {
    /// Makes the world of a scenario; `traces` are those of `kind = "trace"`.
    ///
    /// # Errors
    /// If a name can't be one.
    pub fn of(scenario: &Scenario, seed: u64, traces: &[Trace]) -> Result<Self, IdError> {
        let mut machines = Vec::new();
        for kind in &scenario.nodes {
            for i in 0..kind.count {
                machines.push(machine(kind, i, seed)?);
            }
        }
        let mut jobs = Vec::new();
        for work in &scenario.work {
            jobs.extend(generate(work, scenario.duration_s, seed, traces)?);
        }
        jobs.sort_by(|a, b| a.comes_s.cmp(&b.comes_s).then_with(|| a.workload.id.cmp(&b.workload.id)));
        let grouped = scenario.work.iter().filter(|w| w.per_node.is_some());
        Ok(Self {
            duration_s: scenario.duration_s,
            step_s: scenario.step_s,
            plan_every_s: scenario.plan_every_s,
            telemetry_every_s: scenario.telemetry_every_s,
            start: scenario.start,
            machines,
            jobs,
            budgets: grouped.map(|w| (w.name.clone(), w.away)).collect(),
            faults: scenario.faults,
            policy: scenario.policy.clone(),
        })
    }
}

fn resources(cpu: f64, memory_gib: f64, named: &std::collections::BTreeMap<String, u64>) -> Resources {
    let mut r = Resources::new(to_milli(cpu * 1000.0), to_milli(memory_gib * GIB));
    r.named.clone_from(named);
    r
}

fn machine(kind: &NodeType, i: u32, seed: u64) -> Result<MachineSpec, IdError> {
    let id = NodeId::new(&format!("{}-{i:03}", kind.name))?;
    // chips and power supplies of one type differ: one factor for the whole machine
    let factor = (1.0 + kind.spread * normal(&mut stream(seed, "chip", id.as_str()))).max(0.5);
    // the file was checked; a curve that isn't one would have been refused
    let told = kind.curve().unwrap_or_else(|_| PowerCurve::line(0.0, 0.0));
    let truth = PowerCurve::eleven(std::array::from_fn::<f64, KNOTS, _>(|k| told.knots()[k] * factor));
    let boot_watts = kind.boot.watts.unwrap_or(told.full()) * factor;
    let mut node = Node::new(id, resources(kind.cpu, kind.memory_gib, &kind.resources), told);
    node.pool.clone_from(&kind.pool);
    node.zone.clone_from(&kind.zone);
    node.labels.clone_from(&kind.labels);
    if let Some(site) = &kind.site {
        node.labels.insert("site".to_owned(), site.clone());
    }
    node.taints.clone_from(&kind.taints);
    node.switchable = kind.switchable;
    node.twin = Some(kind.name.clone());
    node.off_watts = kind.off_watts;
    let guess_s = kind.boot.mean_s * GUESS;
    node.boot = BootModel::guess(guess_s, guess_s * boot_watts, kind.boot.shutdown_s);
    Ok(MachineSpec {
        node,
        truth,
        boot_s: (kind.boot.mean_s, kind.boot.spread_s),
        boot_watts,
        shutdown_s: kind.boot.shutdown_s,
        site: kind.site.clone(),
    })
}

fn job(work: &Work, name: &str, comes_s: u64, ends: Ends) -> Result<Job, IdError> {
    let kind = if work.migrate_mb > 0.0 { WorkloadKind::Vm } else { WorkloadKind::Pod };
    let mut w = Workload::new(WorkloadId::new(kind, name)?, resources(work.cpu, work.memory_gib, &work.resources));
    w.selector.clone_from(&work.selector);
    if let Some(site) = &work.site {
        w.selector.insert("site".to_owned(), site.clone());
    }
    w.tolerations.clone_from(&work.tolerations);
    w.priority = work.priority;
    if let Some(at_most) = work.per_node {
        w.group = Some(work.name.clone());
        w.spread.push(Spread { over: Over::Node, at_most });
    }
    w.migration = if work.migrate_mb > 0.0 {
        Migration::live(work.migrate_mb, MIGRATION_MB_S)
    } else {
        Migration { seconds: work.restart_s, ..Migration::default() }
    };
    let milli = work.cpu * 1000.0;
    let swing = if work.kind == WorkKind::Daily { work.swing * milli } else { 0.0 };
    let usage = Usage::Wave { mean: work.used * milli, swing, peak_h: work.peak_h, noise: work.noise * milli };
    Ok(Job { workload: w, comes_s, ends, usage })
}

/// Share of the daily wave at `s` seconds, from -1 to 1.
pub(super) fn wave(s: u64, peak_h: f64) -> f64 {
    let hour = (START.ms() / 1000 + s) as f64 / 3600.0;
    ((hour - peak_h) * std::f64::consts::TAU / 24.0).cos()
}

/// The workloads of a generator that come within `duration_s`.
fn generate(work: &Work, duration_s: u64, seed: u64, traces: &[Trace]) -> Result<Vec<Job>, IdError> {
    let mut times = Vec::new();
    match work.kind {
        WorkKind::Steady | WorkKind::Daily => times.extend((0..work.count).map(|_| (0, Ends::Never))),
        WorkKind::Scaled => scaled(work, duration_s, &mut times),
        WorkKind::Poisson => poisson(work, duration_s, &mut stream(seed, "arrivals", &work.name), &mut times),
        WorkKind::Batch => batch(work, duration_s, &mut stream(seed, "arrivals", &work.name), &mut times),
        WorkKind::Trace => times.extend(traces.iter().map(|_| (0, Ends::Never))),
    }
    let named = |(i, (comes_s, ends))| job(work, &format!("{}-{i:05}", work.name), comes_s, ends);
    let mut jobs = times.into_iter().enumerate().map(named).collect::<Result<Vec<Job>, IdError>>()?;
    if work.kind == WorkKind::Trace {
        for (job, trace) in jobs.iter_mut().zip(traces) {
            record(job, trace);
        }
    }
    Ok(jobs)
}

/// A VM of the published experiments: as large as its type, busy as its file says.
fn record(job: &mut Job, trace: &Trace) {
    job.workload.requests.cpu_milli = to_milli(trace.mips);
    job.workload.migration = Migration::live(trace.memory_mb, MIGRATION_MB_S);
    // the last point is there twice for the sake of interpolation: a day is over before it
    let day = &trace.points[..trace.points.len().saturating_sub(1)];
    #[allow(clippy::cast_possible_truncation, reason = "thousandths of a CPU need no more digits")]
    let milli = day.iter().map(|u| (u * trace.mips) as f32).collect();
    job.usage = Usage::Series { step_s: to_milli(INTERVAL_S), milli, even: true };
}

/// Replicas that come and go with demand; the latest to come is the first to go.
fn scaled(work: &Work, duration_s: u64, times: &mut Vec<(u64, Ends)>) {
    /// Seconds between two looks at how many are wanted.
    const LOOK_S: usize = 300;
    let (low, high) = (f64::from(work.low), f64::from(work.count));
    let wanted = |s: u64| to_milli((low + (high - low) * (1.0 + wave(s, work.peak_h)) / 2.0).round());
    let mut up: Vec<u64> = Vec::new();
    for s in (0..duration_s).step_by(LOOK_S) {
        let wanted = wanted(s);
        while up.len() as u64 > wanted {
            let Some(since) = up.pop() else { break };
            times.push((since, Ends::At(s)));
        }
        while (up.len() as u64) < wanted {
            up.push(s);
        }
    }
    times.extend(up.into_iter().map(|since| (since, Ends::Never)));
}

/// Arrivals at a rate that follows the day: drawn at the densest rate, and thinned out (Lewis & Shedler 1979).
fn poisson(work: &Work, duration_s: u64, rng: &mut Rng, times: &mut Vec<(u64, Ends)>) {
    let densest = work.per_hour * (1.0 + work.swing);
    let mut at = 0.0;
    loop {
        at += exponential(rng, 3600.0 / densest);
        let s = to_milli(at);
        if s >= duration_s {
            break;
        }
        let rate = work.per_hour * (1.0 + work.swing * wave(s, work.peak_h));
        let life = exponential(rng, work.life_s).max(1.0);
        if rng.unit() * densest < rate {
            times.push((s, Ends::After(to_milli(life))));
        }
    }
}

/// Jobs of every day. Jobs of a kind are not alike: they take half to one and a half of the mean.
fn batch(work: &Work, duration_s: u64, rng: &mut Rng, times: &mut Vec<(u64, Ends)>) {
    for day in 0..=duration_s / DAY_S {
        for _ in 0..work.count {
            let s = day * DAY_S + to_milli(work.at_h * 3600.0 + rng.unit() * work.over_s);
            let run_s = work.run_s * (0.5 + rng.unit());
            if s < duration_s {
                times.push((s, Ends::Done(run_s * work.used * work.cpu * 1000.0)));
            }
        }
    }
}
